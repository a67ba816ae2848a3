"""A room in a store, for tests of the tables alone: events that are nothing but names."""

from __future__ import annotations

from typing import Any

from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.store import events, rooms, state
from edgeserver.store.database import Transaction

RULES = ROOM_VERSIONS["10"]
ROOM = "!room:test"


def make_event(name: str, *, depth: int = 1, state_key: str | None = None, **more: Any) -> Event:
    pdu: dict[str, Any] = {
        "room_id": ROOM,
        "type": "m.test",
        "sender": "@alice:test",
        "content": {},
        "depth": depth,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
        **more,
    }
    if state_key is not None:
        pdu["state_key"] = state_key
    return Event.from_pdu(pdu, RULES, event_id=f"${name}")


def make_room(tx: Transaction) -> int:
    return rooms.add(tx, ROOM, RULES)


def store(tx: Transaction, room: int, event: Event, stream: int | None = None) -> int:
    key = None if event.state_key is None else state.key_number(tx, (event.type, event.state_key))
    return events.insert(tx, room, event, stream=stream, key=key, before=None, after=None)
