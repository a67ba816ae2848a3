"""The event nearest to a time: ours, or where a gap in what we hold lies there, one that another server of the room names.

GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event and GET /_matrix/federation/v1/timestamp_to_event/{roomId}.
Spec: client-server API, "Room event by timestamp" (v1.6); server-server API, "Retrieving events".

Another server's word only says what to fetch: the answer is always an event that is held, verified and visible to who asks.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import trio

from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import domain_of, is_event_id
from edgeserver.rooms import history
from edgeserver.rooms.event_source import SourceFailed
from edgeserver.store import events, rooms, state, timestamps

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.rooms.history import History, View
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent

log = logging.getLogger(__name__)

LOOKED_AT: Final = 200
"""So many events are looked through for one that may be seen."""
PART: Final = 20
EDGES: Final = 5
"""So many events from the time on are looked at for a gap before them: branches of the graph lie side by side in time."""
SERVERS: Final = 3
PATIENCE: Final = 60.0
"""Seconds for asking others, all in all. What has been taken in by then stays."""
AROUND: Final = 10
"""So many events are taken in with the one that is asked for: a client goes on to show what lies around it."""


class TimestampSource(Protocol):
    """What this needs from the network."""

    async def timestamp_to_event(self, server: str, room_id: str, ts: int, *, backwards: bool) -> tuple[str, int]:
        """That server's nearest event: (event id, origin_server_ts in ms), unverified. Raises `SourceFailed`."""
        ...


class Timestamps:
    """Finds events by time for local users."""

    def __init__(self, db: Database, past: History, source: TimestampSource, server_name: str) -> None:
        self._db = db
        self._history = past
        self._source = source
        self._server_name = server_name

    async def event_at(self, user_id: str, room_id: str, ts: int, *, backwards: bool) -> StoredEvent:
        """The event at or after (or at or before) `ts` (ms) that lies nearest to it and that the user may see.

        Raises M_FORBIDDEN (not their room), M_NOT_FOUND.
        """

        def look(tx: Transaction) -> tuple[StoredEvent | None, list[str]]:
            at = history.view(tx, room_id, user_id)
            found = self._seen(tx, at, user_id, ts, backwards=backwards)
            return found, self._to_ask(tx, at, ts) if found is None or found.event.origin_server_ts != ts else []

        found, servers = await self._db.read(look)
        with trio.move_on_after(PATIENCE):
            for server in servers:
                if await self._fetch_nearer(server, room_id, ts, found, backwards=backwards):
                    found, _ = await self._db.read(look)
                    break
        if found is None:
            raise errors.NotFound(f"There is no event {'before' if backwards else 'after'} that time that you may see.")
        return found

    def _seen(self, tx: Transaction, at: View, user_id: str, ts: int, *, backwards: bool) -> StoredEvent | None:
        def seen(part: list[StoredEvent]) -> list[StoredEvent]:
            held = [stored for stored in part if stored.stream is not None and stored.stream <= at.upto]
            return history.visible(tx, user_id, at.membership, held)

        return first_seen(tx, at.room.number, ts, seen, backwards=backwards)

    def _to_ask(self, tx: Transaction, at: View, ts: int) -> list[str]:
        """Servers to ask, if what we hold has a gap at that time; the likeliest to hold it all, its creator's, first."""
        after = timestamps.nearest(tx, at.room.number, ts, EDGES, backwards=False)
        if not after or not timestamps.beside_a_gap(tx, at.room.number, after):
            return []
        create = state.lookup_event(tx, at.snapshot, "m.room.create")
        servers = [name for name in rooms.servers(tx, at.room.number) if name != self._server_name]
        oldest = None if create is None else domain_of(create.event.sender)
        return sorted(servers, key=lambda name: name != oldest)[:SERVERS]

    async def _fetch_nearer(self, server: str, room_id: str, ts: int, ours: StoredEvent | None, *, backwards: bool) -> bool:
        """Takes in the event that a server names, if it says that it lies nearer than ours; whether there is anything new."""
        try:
            event_id, theirs = await self._source.timestamp_to_event(server, room_id, ts, backwards=backwards)
        except SourceFailed as error:
            log.info("%s names no event of %s for a time: %s", server, room_id, error)
            return False
        in_reach = theirs <= ts if backwards else theirs >= ts
        nearer = ours is None or abs(theirs - ts) < abs(ours.event.origin_server_ts - ts)
        if not (is_event_id(event_id) and in_reach and nearer):
            return False
        return await self._history.backfill(room_id, [event_id], AROUND, servers=[server])


def first_seen(
    tx: Transaction, room: int, ts: int, seen: Callable[[list[StoredEvent]], list[StoredEvent]], *, backwards: bool
) -> StoredEvent | None:
    """The nearest event to a time of those that `seen` lets through; only so many are looked at."""
    numbers = timestamps.nearest(tx, room, ts, LOOKED_AT, backwards=backwards)
    for start in range(0, len(numbers), PART):
        part = numbers[start : start + PART]
        loaded = events.many_by_number(tx, part)
        shown = seen([loaded[number] for number in part])
        if shown:
            return shown[0]
    return None
