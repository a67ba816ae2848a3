"""What holds of every event in every room version: by property, over random events."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix import canonical_json
from edgeserver.matrix.draft import complete, countersign, template
from edgeserver.matrix.event import Event, content_hash, event_id_of, reference_hash
from edgeserver.matrix.pdu_checks import check_format, check_hash, check_signatures, open_pdu
from edgeserver.matrix.redaction import redact
from edgeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from edgeserver.matrix.signatures import SigningKey, sign_json, verify_json
from edgeserver.matrix.verdicts import ACCEPTED, Dropped
from edgeserver.store import events
from tests.matrix.test_canonical_json import text, values, values_of_old_rooms

ONE, TWO = SigningKey(bytes(32), "ed25519:one"), SigningKey(bytes(31) + b"2", "ed25519:two")
KEYS = {("one.example", ONE.key_id): ONE.verify_key, ("two.example", TWO.key_id): TWO.verify_key}
KEPT_KEYS = [
    "membership", "join_authorised_via_users_server", "third_party_invite", "creator", "room_version", "join_rule", "allow", "ban",
    "events", "users", "invite", "aliases", "history_visibility", "redacts",
]  # fmt: skip
"""Keys of content that a redaction keeps in some event or other, in some version or other."""
TYPES = [
    "m.room.member", "m.room.create", "m.room.join_rules", "m.room.power_levels", "m.room.aliases", "m.room.history_visibility",
    "m.room.redaction", "m.room.message",
]  # fmt: skip


def exactly(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@st.composite
def drafts(draw: st.DrawFn) -> tuple[dict[str, Any], RoomVersion]:
    """A template of an event in a room of any version, with numbers of any kind where the version takes them."""
    rules = draw(st.sampled_from(list(ROOM_VERSIONS.values())))
    said = values if rules.strict_canonical_json else values_of_old_rooms
    kind = draw(st.sampled_from(TYPES))
    content = draw(st.dictionaries(st.sampled_from(KEPT_KEYS) | text, said, max_size=5))
    if draw(st.booleans()):
        content["third_party_invite"] = {"signed": draw(said), "display_name": "x"}
    is_hash_room = rules.room_id_is_create_hash
    room_id = None if is_hash_room and kind == "m.room.create" else "!" + "r" * 43 if is_hash_room else "!r:one.example"
    ids = ["$p:x", "$q:two.example"] if rules.events_name_themselves else ["$" + "p" * 43, "$" + "q" * 43]
    references: list[Any] = [[one, {"sha256": "h" * 43}] for one in ids] if rules.events_name_themselves else ids
    proto = template(
        rules,
        room_id=room_id,
        sender="@a:one.example",
        event_type=kind,
        content=content,
        prev_events=references[: draw(st.integers(0, 2))],
        auth_events=references,
        depth=draw(st.integers(0, 2**53 - 1)),
        origin_server_ts=draw(st.integers(0, 2**53 - 1)),
        state_key=draw(st.none() | text),
        redacts=draw(st.none() | st.just(ids[0])),
        unsigned=draw(st.none() | st.just({"age": 5})),
    )
    more = draw(st.dictionaries(st.sampled_from(["origin", "prev_state", "membership", "x"]), said, max_size=2))
    return {**proto, **more}, rules


@settings(max_examples=120, deadline=None)
@given(drafts())
def test_an_event_travels_and_is_stored_as_it_was_made(drafted: tuple[dict[str, Any], RoomVersion]) -> None:
    proto, rules = drafted
    event = complete(proto, rules, "one.example", ONE)
    without = {name: value for name, value in event.pdu.items() if name != "unsigned"}
    for data in (canonical_json.encode_lenient(without), canonical_json.encode_loose(without)):
        received = open_pdu(canonical_json.decode_exact(data), rules)
        assert isinstance(received, Event)
        assert received == event
        assert exactly(received.pdu) == exactly(without)
        assert check_hash(received)
        assert check_signatures(received, KEYS) == ACCEPTED
    assert exactly(events.decode(events.encode(event.pdu), rules)) == exactly(without)


@settings(max_examples=120, deadline=None)
@given(drafts())
def test_a_redaction_leaves_the_id_the_references_and_the_signatures(drafted: tuple[dict[str, Any], RoomVersion]) -> None:
    proto, rules = drafted
    event = complete(proto, rules, "one.example", ONE)
    left = event.redacted()
    assert left.event_id == event.event_id == event_id_of(left.pdu, rules)
    assert reference_hash(left.pdu, rules) == reference_hash(event.pdu, rules)
    assert (left.prev_events, left.auth_events, left.depth) == (event.prev_events, event.auth_events, event.depth)
    assert exactly(redact(left.pdu, rules)) == exactly(left.pdu)
    assert check_format(left.pdu, rules) == ACCEPTED
    assert check_signatures(left, KEYS) == ACCEPTED
    assert exactly(events.decode(events.encode(left.pdu), rules)) == exactly(left.pdu)


@settings(max_examples=80, deadline=None)
@given(drafts(), text)
def test_what_was_changed_on_the_way_is_seen_and_its_redacted_form_is_still_the_event(
    drafted: tuple[dict[str, Any], RoomVersion], scribble: str
) -> None:
    proto, rules = drafted
    event = complete(proto, rules, "one.example", ONE)
    changed = {**event.pdu, "content": {**event.content, "scribbled": [scribble]}}
    if rules.redaction.keep_create_content and event.type == "m.room.create":
        changed = {**event.pdu, "scribbled": [scribble]}  # nothing of the content may change there
    received = open_pdu(changed, rules)
    assert not isinstance(received, Dropped)
    assert not check_hash(received)
    assert received.redacted().event_id == event.event_id
    assert exactly(received.redacted().pdu) == exactly(event.redacted().pdu)
    assert check_signatures(received.redacted(), KEYS) == ACCEPTED


@settings(max_examples=80, deadline=None)
@given(drafts())
def test_a_second_signature_changes_nothing_but_signatures(drafted: tuple[dict[str, Any], RoomVersion]) -> None:
    proto, rules = drafted
    event = complete(proto, rules, "one.example", ONE)
    both = countersign(event, "two.example", TWO)
    assert both == event
    assert content_hash(both.pdu) == event.pdu["hashes"]["sha256"]
    assert check_hash(both)
    assert check_signatures(both, KEYS) == ACCEPTED
    assert both.pdu["signatures"].keys() == {"one.example", "two.example"}


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(text, values, max_size=4))
def test_any_object_that_was_signed_is_verified(obj: dict[str, Any]) -> None:
    obj.pop("signatures", None)
    signed = sign_json(obj, "one.example", ONE)
    verify_json(canonical_json.decode(canonical_json.encode(signed)), "one.example", ONE.key_id, ONE.verify_key)
