"""Rooms as the store knows them, told in one line a happening: who joins, who leaves, what becomes encrypted."""

from __future__ import annotations

from typing import Any

from edgeserver.matrix.event import Event
from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.store import events, rooms, state
from edgeserver.store.database import Transaction

RULES = ROOM_VERSIONS["10"]


class RoomStory:
    """One room of server `test`. Every call is one accepted state event that arrives at a new stream position."""

    def __init__(self, tx: Transaction, room_id: str, *, encrypted: bool = True) -> None:
        self.room_id = room_id
        self.room = rooms.add(tx, room_id, RULES)
        self.snapshot = state.root(tx, self.room, {})
        self.happened = 0
        if encrypted:
            self.encrypt(tx)

    def encrypt(self, tx: Transaction) -> int:
        return self._happen(tx, "m.room.encryption", "", {"algorithm": "m.megolm.v1.aes-sha2"})

    def member(self, tx: Transaction, user_id: str, membership: str, **content: Any) -> int:
        number = self._happen(tx, "m.room.member", user_id, {"membership": membership, **content})
        before = rooms.membership(tx, user_id, self.room)
        was_joined = before is not None and before.membership == "join"
        stored = events.by_number(tx, number)
        assert stored is not None
        assert stored.stream is not None
        local = domain_of(user_id) == "test"
        rooms.set_membership(tx, user_id, self.room, membership, number, stored.stream, local=local)
        if was_joined != (membership == "join"):
            rooms.server_joined(tx, self.room, domain_of(user_id), 1 if membership == "join" else -1)
        return number

    def join(self, tx: Transaction, *user_ids: str) -> None:
        for user_id in user_ids:
            self.member(tx, user_id, "join")

    def leave(self, tx: Transaction, *user_ids: str) -> None:
        for user_id in user_ids:
            self.member(tx, user_id, "leave")

    def event(self, tx: Transaction, number: int) -> Event:
        stored = events.by_number(tx, number)
        assert stored is not None
        return stored.event

    def _happen(self, tx: Transaction, event_type: str, state_key: str, content: dict[str, Any]) -> int:
        self.happened += 1
        pdu = {
            "room_id": self.room_id,
            "type": event_type,
            "state_key": state_key,
            "sender": state_key or "@admin:test",
            "content": content,
            "depth": self.happened,
            "origin_server_ts": self.happened,
            "prev_events": [],
            "auth_events": [],
        }
        event = Event.from_pdu(pdu, RULES, event_id=f"$e{self.happened}{self.room_id}")
        key = (event_type, state_key)
        stream, before = tx.stream(), self.snapshot
        number = events.insert(tx, self.room, event, stream=stream, key=state.key_number(tx, key), before=before, after=before)
        self.snapshot = state.derive(tx, self.room, before, {key: number})
        events.set_after(tx, number, self.snapshot)
        rooms.move(tx, self.room, [event.event_id], self.snapshot)
        return number
