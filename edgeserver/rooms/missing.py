"""What events refer to and we do not hold: asked for through an `EventSource`, verified, judged and stored.

Three kinds: the timeline between ours and an event (its prev events), the events that it cites as its authority, and the state before
it where the timeline cannot be had. What another server answers is bounded by an `Allowance`: of requests, and of events taken in.
No lock is held meanwhile, so local people keep talking while a gap takes minutes over a radio.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeserver.rooms import state_at
from edgeserver.rooms.graph import in_order
from edgeserver.rooms.seldom import Seldom
from edgeserver.store import events, rooms
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.rooms.placing import Placer
    from edgeserver.rooms.state_at import State
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

    Opened = Callable[[Iterable[Any], str, RoomVersion, str], Awaitable[dict[str, Event]]]

log = logging.getLogger(__name__)

GAP_LIMIT: Final = 500
"""At most so many missing events are fetched before an event; what is beyond stays a gap and is filled by paging back."""
GAP_PAGE: Final = 20
MAX_REQUESTS: Final = 400
"""Requests that one event, or one transaction's events of one room, may cause."""
MAX_CHAIN: Final = 10_000
"""Events of one answer with an auth chain, or with a room's state, that are looked at."""
MAX_IDS: Final = 100_000
ONE_BY_ONE: Final = 50
"""If more of a state is lacking, the whole is asked for."""


class SourceFailed(Exception):
    """The other server could not be asked, or did not give it."""


class EventSource(Protocol):
    """What rooms need from the network: raw PDUs, unverified. Each method raises `SourceFailed`."""

    async def missing_events(
        self, server: str, room_id: str, earliest: Sequence[str], latest: Sequence[str], limit: int, min_depth: int
    ) -> list[dict[str, Any]]: ...

    async def event(self, server: str, event_id: str) -> dict[str, Any]: ...

    async def state_ids(self, server: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]: ...

    async def state(
        self, server: str, room_id: str, event_id: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]: ...

    async def event_auth(self, server: str, room_id: str, event_id: str) -> list[dict[str, Any]]: ...

    async def backfill(
        self, server: str, room_id: str, from_ids: Sequence[str], limit: int
    ) -> list[dict[str, Any]]: ...


@dataclass(slots=True)
class Allowance:
    """What one server may still make us ask and take in."""

    requests: int = MAX_REQUESTS
    gap_events: int = GAP_LIMIT

    def ask(self) -> None:
        """One request more. Raises `SourceFailed` when there have been enough."""
        if self.requests <= 0:
            raise SourceFailed(f"{MAX_REQUESTS} requests did not complete it")
        self.requests -= 1


class Missing:
    """Completes what events refer to. `opened(pdus, room_id, rules, server)` is `Receiver.opened`."""

    def __init__(self, db: Database, placer: Placer, source: EventSource, opened: Opened) -> None:
        self._db = db
        self._placer = placer
        self._source = source
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
        """The state before an event, by another server's word: ids first, then only the events that we lack."""
        allowance = allowance or Allowance()
        allowance.ask()
        state_ids, auth_ids = await self._source.state_ids(origin, room.room_id, event_id)
        if len(state_ids) + len(auth_ids) > MAX_IDS:
            raise SourceFailed(f"the state holds more than {MAX_IDS} events")
        wanted = [*dict.fromkeys([*auth_ids, *state_ids])]
        held = await self._db.read(lambda tx: events.held(tx, wanted))
        lacking = [one for one in wanted if one not in held]
        if len(lacking) > ONE_BY_ONE:
            await self._whole_state(origin, room, event_id, allowance)
        else:
            await self._fetch_outliers(origin, room, lacking, allowance)

        def build(tx: Transaction) -> State:
            found = events.many(tx, state_ids)
            wanted_map = {
                (one.event.type, one.event.state_key): one.event.event_id
                for one in found.values()
                if one.room == room.number and one.event.state_key is not None and one.standing is not Standing.REJECTED
            }
            now = rooms.by_number(tx, room.number)
            assert now.snapshot is not None
            return state_at.nearest(tx, wanted_map, [now.snapshot])

        return await self._db.read(build)

    async def _whole_state(self, origin: str, room: Room, event_id: str, allowance: Allowance) -> None:
        allowance.ask()
        pdus, chain = await self._source.state(origin, room.room_id, event_id)
        if len(pdus) + len(chain) > MAX_IDS:
            raise SourceFailed(f"the state holds more than {MAX_IDS} events")
        got = await self._opened([*chain, *pdus], room.room_id, room.rules, origin)
        await self.complete_auth(origin, room.room_id, room.number, room.rules, got.values(), allowance)
        await self._placer.store_outliers(room.number, got)

    async def _fetch_outliers(self, origin: str, room: Room, wanted: Sequence[str], allowance: Allowance) -> None:
        """Fetches single events that are not held, with their auth events, and stores them as outliers."""
        held = await self._db.read(lambda tx: events.held(tx, wanted))
        got = await self._single_events(origin, room.room_id, room.rules, [one for one in wanted if one not in held], allowance)
        await self.complete_auth(origin, room.room_id, room.number, room.rules, got.values(), allowance)
        await self._placer.store_outliers(room.number, got)
