"""Rooms that come from elsewhere: the state of a join through another server, invites to local users, and their end.

Events given here have passed the checks that need no state (format, signatures, hash); what needs state is done here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix import auth, canonical_json, errors
from edgeserver.matrix.verdicts import Accepted
from edgeserver.rooms.persist import Placement
from edgeserver.rooms.placing import judge_by_auth_events, standing_of, topological
from edgeserver.store import events, rooms, state
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.rooms.persist import Persister
    from edgeserver.store.database import Database, Transaction
    from edgeserver.wakeups import Wakeups


class Importer:
    """Takes rooms in."""

    def __init__(self, db: Database, persister: Persister, wakeups: Wakeups) -> None:
        self._db = db
        self._persister = persister
        self._wakeups = wakeups

    async def join(
        self, rules: RoomVersion, join: Event, state_events: Sequence[Event], auth_chain: Sequence[Event]
    ) -> None:
        """A join that another server accepted: `state_events` are the state before it, `auth_chain` what authorises them.

        Raises M_FORBIDDEN if that state does not allow the join: the other server has told a tale.
        """
        found = {event.event_id: event for event in (*auth_chain, *state_events)}
        ordered = topological(found)

        def run(tx: Transaction) -> None:
            number = self._room(tx, join.room_id, rules)
            self._store(tx, number, ordered)
            snapshot = self._snapshot(tx, number, state_events)
            room = rooms.by_number(tx, number)
            cited = {(e.type, e.state_key or ""): e for e in state_events}
            verdict = auth.check(join, cited)
            if not isinstance(verdict, Accepted):
                raise errors.Forbidden(f"The state of the room does not allow the join: {verdict.why}.")
            held = events.get(tx, join.event_id)
            if held is not None and not held.is_outlier:
                return
            self._persister.persist(tx, room, join, Placement(snapshot, (join.event_id,)), deliver=False)

        await self._db.write(run)

    def _room(self, tx: Transaction, room_id: str, rules: RoomVersion) -> int:
        """The room's number. Of a room that we are not in, the last word on its version counts: that of the server that lets us join."""
        room = rooms.get(tx, room_id)
        if room is None:
            return rooms.add(tx, room_id, rules)
        if room.snapshot is None and room.rules is not rules:
            rooms.set_version(tx, room.number, rules)
        return room.number

    def _store(self, tx: Transaction, room: int, ordered: Sequence[Event]) -> None:
        for event in ordered:
            if not events.held(tx, [event.event_id]):
                self._persister.outlier(tx, room, event, standing_of(judge_by_auth_events(tx, event)))

    def _snapshot(self, tx: Transaction, room: int, state_events: Sequence[Event]) -> int:
        held = events.many(tx, [event.event_id for event in state_events])
        entries = {
            (one.event.type, one.event.state_key): one.number
            for one in held.values()
            if one.event.state_key is not None and one.standing is not Standing.REJECTED
        }
        return state.root(tx, room, entries)

    async def invite(self, rules: RoomVersion, event: Event, stripped: Sequence[Mapping[str, Any]]) -> None:
        """An invite to (or a knock by) a local user in a room that we need not be in. `stripped` is shown to the user."""

        def run(tx: Transaction) -> None:
            number = self._room(tx, event.room_id, rules)
            room = rooms.by_number(tx, number)
            self._out_of_band(tx, number, event, canonical_json.encode_loose(list(stripped)), joined=room.snapshot is not None)

        await self._db.write(run)

    async def left(self, event: Event) -> None:
        """The end of such an invite: the user declined it, or it was withdrawn."""

        def run(tx: Transaction) -> None:
            room = rooms.get(tx, event.room_id)
            if room is not None:
                self._out_of_band(tx, room.number, event, None, joined=False)

        await self._db.write(run)

    def _out_of_band(
        self, tx: Transaction, room: int, event: Event, stripped: bytes | None, *, joined: bool
    ) -> None:
        user_id = event.state_key
        assert user_id is not None
        known = events.numbers_by_id(tx, [event.event_id])
        number = known.get(event.event_id) or self._persister.outlier(tx, room, event, Standing.ACCEPTED)
        before = rooms.membership(tx, user_id, room)
        if before is not None and before.membership == "join" and joined:
            return  # the room itself tells us of this user
        membership = str(event.content.get("membership"))
        rooms.set_membership(tx, user_id, room, membership, number, tx.stream(), local=True, stripped=stripped)
        tx.on_commit(lambda: self._wakeups.notify([user_id]))
