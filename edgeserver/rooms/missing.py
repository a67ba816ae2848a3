"""What events refer to and we do not hold: asked for through an `EventSource`, verified, judged and stored.

Three kinds: the timeline between ours and an event (its prev events), the events that it cites as its authority, and the state before
it where the timeline cannot be had. What another server answers is bounded by an `Allowance`: of requests, and of events taken in.
No lock is held meanwhile, so local people keep talking while a gap takes minutes over a radio.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from edgeserver.rooms import state_at
from edgeserver.rooms.event_source import Allowance, SourceFailed
from edgeserver.rooms.graph import in_order
from edgeserver.rooms.seldom import Seldom
from edgeserver.store import events, rooms
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.rooms.event_source import EventSource
    from edgeserver.rooms.placing import Placer
    from edgeserver.rooms.remote_state import RemoteState
    from edgeserver.rooms.state_at import State
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

    Opened = Callable[[Iterable[Any], str, RoomVersion, str], Awaitable[dict[str, Event]]]

log = logging.getLogger(__name__)

GAP_PAGE: Final = 20
MAX_CHAIN: Final = 10_000
"""Events of one answer with an auth chain that are looked at."""


class Missing:
    """Completes what events refer to. `opened(pdus, room_id, rules, server)` is `Receiver.opened`."""

    def __init__(self, db: Database, placer: Placer, source: EventSource, opened: Opened, remote_state: RemoteState) -> None:
        self._db = db
        self._placer = placer
        self._source = source
        self._remote_state = remote_state
        self._opened = opened
        self._seldom = Seldom(log)

    # The timeline

    async def unplaced(self, room: int, event_ids: Collection[str]) -> list[str]:
        """Those of the ids that have no place in the room's timeline: not held, held as outliers, or of another room."""
        known = await self._db.read(lambda tx: events.whereabouts(tx, event_ids))
        placed = {event_id for event_id, one in known.items() if one.placed and one.room == room}
        return [event_id for event_id in event_ids if event_id not in placed]

    async def gap(self, origin: str, room: Room, event: Event, allowance: Allowance) -> list[Event]:
        """The events between ours and this one, as far as the server gives them: verified, each after those before it."""
        missing = await self.unplaced(room.number, event.prev_events)
        gathered: dict[str, Event] = {}
        latest = [event.event_id]
        while missing and allowance.gap_events > 0:
            page = await self._gap_page(origin, room, latest, allowance)
            fresh = {event_id: found for event_id, found in page.items() if event_id not in gathered}
            if fresh.keys().isdisjoint(missing):
                break  # nothing, or nothing that was asked for: a list without end is not followed
            gathered.update(fresh)
            allowance.gap_events -= len(fresh)
            edge = {prev for found in (*gathered.values(), event) for prev in found.prev_events} - set(gathered)
            missing = await self.unplaced(room.number, edge)
            latest = [found.event_id for found in gathered.values() if any(prev in missing for prev in found.prev_events)]
        gathered.pop(event.event_id, None)
        return in_order(gathered)

    async def _gap_page(self, origin: str, room: Room, latest: Sequence[str], allowance: Allowance) -> dict[str, Event]:
        heads = await self._db.read(lambda tx: rooms.by_number(tx, room.number).heads)
        try:
            allowance.ask()
            pdus = await self._source.missing_events(origin, room.room_id, list(heads), list(latest)[:GAP_PAGE], GAP_PAGE, 0)
        except SourceFailed as error:
            self._seldom.say(origin, "%s did not fill the gap in %s: %s", origin, room.room_id, error)
            return {}
        found = await self._opened(pdus[:GAP_PAGE], room.room_id, room.rules, origin)
        unplaced = await self.unplaced(room.number, found)
        return {event_id: found[event_id] for event_id in unplaced if found[event_id].prev_events}

    # Auth events

    async def complete_auth(
        self, origin: str, room_id: str, room: int, rules: RoomVersion, found: Iterable[Event], allowance: Allowance | None = None
    ) -> None:
        """Fetches auth events that are not held, with their own, judges them and stores them as outliers. Raises `SourceFailed`."""
        allowance = allowance or Allowance()
        pending = list(found)
        have: dict[str, Event] = {}
        asked: set[str] = set()
        while wanted := await self._not_held(pending, have):
            fresh = [event_id for event_id in wanted if event_id not in asked]
            if not fresh:
                raise SourceFailed(f"auth event {wanted[0]} is missing")
            first = not asked
            asked.update(fresh)
            got = await self._auth_events(origin, room_id, rules, pending, fresh, allowance, first=first)
            have.update(got)
            if len(have) > MAX_CHAIN:
                raise SourceFailed(f"its auth chain holds more than {MAX_CHAIN} events that are not known here")
            pending = list(got.values())
        await self._placer.store_outliers(room, have)

    async def _not_held(self, pending: Iterable[Event], have: Mapping[str, Event]) -> list[str]:
        cited = {event_id for event in pending for event_id in event.auth_events} - set(have)
        held = await self._db.read(lambda tx: events.held(tx, cited))
        return sorted(cited - set(held))

    async def _auth_events(
        self,
        origin: str,
        room_id: str,
        rules: RoomVersion,
        pending: Sequence[Event],
        wanted: Sequence[str],
        allowance: Allowance,
        *,
        first: bool,
    ) -> dict[str, Event]:
        """The whole chain in one request at first, single events for what that left out."""
        if first and len(pending) == 1:
            allowance.ask()
            try:
                pdus = await self._source.event_auth(origin, room_id, pending[0].event_id)
            except SourceFailed:
                pdus = []
            got = await self._opened(pdus[:MAX_CHAIN], room_id, rules, origin)
            if got:
                held = await self._db.read(lambda tx: events.held(tx, got))
                return {event_id: event for event_id, event in got.items() if event_id not in held}
        return await self._single_events(origin, room_id, rules, wanted, allowance)

    async def _single_events(
        self, origin: str, room_id: str, rules: RoomVersion, wanted: Iterable[str], allowance: Allowance
    ) -> dict[str, Event]:
        pdus = []
        for event_id in wanted:
            allowance.ask()
            pdus.append(await self._source.event(origin, event_id))
        return await self._opened(pdus, room_id, rules, origin)

    # State

    async def state_after(self, origin: str, room: Room, prev: str, allowance: Allowance) -> State:
        """The state after a prev event that could not be had as a timeline event: asked for, verified, not trusted further."""
        await self._fetch_outliers(origin, room, [prev], allowance)
        at = await self.state_before(origin, room, prev, allowance)

        def after(tx: Transaction) -> State:
            stored = events.get(tx, prev)
            if stored is None or stored.room != room.number or stored.event.state_key is None or stored.standing is Standing.REJECTED:
                return at
            return state_at.with_event(at, (stored.event.type, stored.event.state_key), stored.number)

        return await self._db.read(after)

    async def state_before(self, origin: str, room: Room, event_id: str, allowance: Allowance | None = None) -> State:
        """The state before an event, by another server's word.

        In a partial room what we have stands in for it: the whole state is what has not been fetched yet.
        """
        if room.is_partial:
            now = await self._db.read(lambda tx: rooms.by_number(tx, room.number))
            assert now.snapshot is not None
            return now.snapshot
        entries = (await self._remote_state.before(origin, room, event_id, allowance)).entries

        def express(tx: Transaction) -> State:
            now = rooms.by_number(tx, room.number)
            assert now.snapshot is not None
            return state_at.nearest_of(tx, entries, [now.snapshot])

        return await self._db.read(express)

    async def _fetch_outliers(self, origin: str, room: Room, wanted: Sequence[str], allowance: Allowance) -> None:
        """Fetches single events that are not held, with their auth events, and stores them as outliers."""
        held = await self._db.read(lambda tx: events.held(tx, wanted))
        got = await self._single_events(origin, room.room_id, room.rules, [one for one in wanted if one not in held], allowance)
        await self.complete_auth(origin, room.room_id, room.number, room.rules, got.values(), allowance)
        await self._placer.store_outliers(room.number, got)
