"""What other servers may read of our rooms: events, gaps, state and auth chains.

GET /backfill, POST /get_missing_events, GET /state, /state_ids, /event, /event_auth, /timestamp_to_event.
Spec: server-server API, "Backfilling and retrieving missing events", "Retrieving events", "PDUs" (/event_auth).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.federation.participation import Filter, once_shared_room, pdus_for, placed_event, shared_room
from edgeserver.matrix.errors import NotFound
from edgeserver.rooms.timestamps import first_seen
from edgeserver.store import auth_chain, events, rooms, state
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent

MAX_BACKFILL: Final = 100
MAX_MISSING: Final = 20
MAX_WALK: Final = 20
"""Ids to start a walk from that are looked at."""

Pdus = list[dict[str, Any]]


class History:
    """Answers to servers that are in the room; to others M_FORBIDDEN, and M_NOT_FOUND for what is not known."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def backfill(self, origin: str, room_id: str, from_ids: Sequence[str], limit: int) -> Pdus:
        """The events named and those before them, at most `limit`, the newest first."""

        def read(tx: Transaction) -> Pdus:
            room = shared_room(tx, room_id, origin, whole=False)
            found = _walk_back(tx, room.number, list(from_ids)[:MAX_WALK], min(max(limit, 1), MAX_BACKFILL))
            return pdus_for(tx, found, origin)

        return await self._db.read(read)

    async def missing_events(
        self, origin: str, room_id: str, earliest: Sequence[str], latest: Sequence[str], limit: int, min_depth: int
    ) -> Pdus:
        """The events between `earliest` and `latest`, both left out: at most `limit`, the oldest first."""

        def read(tx: Transaction) -> Pdus:
            room = once_shared_room(tx, room_id, origin, list(latest)[:MAX_WALK], whole=False)
            known = _in_timeline(tx, room.number, list(latest)[:MAX_WALK])
            starts = [prev for stored in known for prev in stored.event.prev_events]
            stop = {*earliest, *latest}
            bound = min(max(limit, 1), MAX_MISSING)
            found = _walk_back(tx, room.number, starts, bound, stop=stop, min_depth=min_depth)
            return pdus_for(tx, reversed(found), origin)

        return await self._db.read(read)

    async def state_ids(self, origin: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]:
        """(the ids of the state before an event, the ids of its auth chain)."""

        def read(tx: Transaction) -> tuple[list[str], list[str]]:
            stored = placed_event(tx, once_shared_room(tx, room_id, origin, [event_id]), event_id)
            assert stored.before is not None
            ids = state.ids(tx, stored.before)
            return ids, auth_chain.chain_ids(tx, ids)

        return await self._db.read(read)

    async def pdus(self, event_ids: Sequence[str]) -> list[bytes]:
        """Events that the asking server may have, as canonical JSON. Few at a time."""
        return await self._db.read(lambda tx: auth_chain.pdus(tx, event_ids))

    async def event(self, origin: str, event_id: str) -> dict[str, Any]:
        """One event, redacted if the server may not see it."""

        def read(tx: Transaction) -> dict[str, Any]:
            stored = events.get(tx, event_id)
            if stored is None or stored.standing is Standing.REJECTED or (stored.is_outlier and not stored.event.is_state):
                raise NotFound("That event is not known here.")  # of a message without a place nobody can say who may see it
            once_shared_room(tx, rooms.by_number(tx, stored.room).room_id, origin, [event_id], whole=False)
            return pdus_for(tx, [stored], origin)[0]

        return await self._db.read(read)

    async def event_auth(self, origin: str, room_id: str, event_id: str) -> list[str]:
        """The ids of the auth chain of an event."""

        def read(tx: Transaction) -> list[str]:
            room = once_shared_room(tx, room_id, origin, [event_id], whole=False)
            stored = events.get(tx, event_id)
            if stored is None or stored.room != room.number or stored.standing is Standing.REJECTED:
                raise NotFound("That event is not known here.")
            return auth_chain.chain_ids(tx, [event_id])

        return await self._db.read(read)

    async def timestamp_to_event(self, origin: str, room_id: str, ts: int, *, backwards: bool) -> StoredEvent:
        """The event at or after (or at or before) `ts` (ms) that lies nearest, of those that we hold and that the server may see.

        Nobody else is asked: the server asks whom it likes.
        """

        def read(tx: Transaction) -> StoredEvent:
            room = shared_room(tx, room_id, origin)
            filter_ = Filter(tx, origin)
            found = first_seen(tx, room.number, ts, lambda part: [one for one in part if filter_.shows(one)], backwards=backwards)
            if found is None:
                raise NotFound(f"There is no event {'before' if backwards else 'after'} that time.")
            return found

        return await self._db.read(read)


def _walk_back(
    tx: Transaction,
    room: int,
    starts: Sequence[str],
    limit: int,
    *,
    stop: Iterable[str] = (),
    min_depth: int = 0,
) -> list[StoredEvent]:
    """Breadth first over prev events: the starts and what is before them, the newest (by depth) first."""
    seen = set(stop)
    found: list[StoredEvent] = []
    wanted = [one for one in dict.fromkeys(starts) if one not in seen]
    while wanted and len(found) < limit:
        seen.update(wanted)
        page = [one for one in _in_timeline(tx, room, wanted) if one.event.depth >= min_depth]
        page.sort(key=lambda one: (-one.depth, one.event.event_id))
        found += page[: limit - len(found)]
        following = [prev for stored in page for prev in stored.event.prev_events]
        wanted = [one for one in dict.fromkeys(following) if one not in seen]
    found.sort(key=lambda one: (-one.depth, one.event.event_id))
    return found


def _in_timeline(tx: Transaction, room: int, event_ids: Sequence[str]) -> list[StoredEvent]:
    return [
        stored
        for stored in events.many(tx, event_ids).values()
        if stored.room == room and not stored.is_outlier and stored.standing is not Standing.REJECTED
    ]
