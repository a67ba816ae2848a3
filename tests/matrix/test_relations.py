"""Relations as events state them, and which edits are valid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeserver.matrix.event import Event
from edgeserver.matrix.relations import Relation, is_replacement, may_root_thread, relation_of
from edgeserver.matrix.room_versions import ROOM_VERSIONS

PARENT = "$parent"


def event(kind: str = "m.room.message", sender: str = "@a:one", state_key: str | None = None, **content: Any) -> Event:
    pdu: dict[str, Any] = {"room_id": "!r:one", "type": kind, "sender": sender, "content": content}
    pdu |= {"depth": 1, "origin_server_ts": 1, "prev_events": [], "auth_events": []}
    pdu |= {} if state_key is None else {"state_key": state_key}
    return Event.from_pdu(pdu, ROOM_VERSIONS["10"], event_id="$x")


def relating(rel_type: Any = "m.replace", event_id: Any = PARENT, **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id, **more}}


def test_a_relation_has_a_type_and_a_parent() -> None:
    assert relation_of(relating("m.annotation", key="👍")) == Relation("m.annotation", PARENT, "👍")
    assert relation_of(relating("org.example.x", key=7)) == Relation("org.example.x", PARENT, None)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"m.relates_to": None},
        {"m.relates_to": []},
        {"m.relates_to": {"m.in_reply_to": {"event_id": PARENT}}},
        relating(rel_type=None),
        relating(rel_type=""),
        relating(rel_type="x" * 256),
        relating(rel_type="a\0b"),
        relating(rel_type="ü"),
        relating(event_id=7),
        relating(event_id="parent"),
        relating(event_id="$" + "x" * 255),
        relating(event_id="$\ud800"),
    ],
)
def test_what_does_not_fit_the_schema_is_no_relation(content: dict[str, Any]) -> None:
    assert relation_of(content) is None
    assert may_root_thread(event(**content))


def test_an_edit_is_valid_if_it_meets_every_criterion() -> None:
    original, new = event(body="old"), {"m.new_content": {"body": "new"}, **relating()}
    edit = event(**new)
    assert is_replacement(edit, original)
    assert is_replacement(event("m.room.encrypted", **relating()), event("m.room.encrypted"))
    assert is_replacement(edit, event(**relating("m.thread", "$root")))  # a message in a thread may be edited
    assert not is_replacement(event(sender="@b:one", **new), original)
    assert not is_replacement(event("m.sticker", **new), original)
    assert not is_replacement(event("m.room.encrypted", **new), original)
    assert not is_replacement(event(state_key="", **new), original)
    assert not is_replacement(edit, event(state_key=""))
    assert not is_replacement(edit, event(**relating("m.replace", "$older")))
    assert not is_replacement(event(**relating()), original)
    assert not is_replacement(event(**{"m.new_content": "text"}, **relating()), original)
    assert not is_replacement(replace(edit, room_id="!other:one"), original)
