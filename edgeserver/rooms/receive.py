"""Receiving: the checks on receipt of a PDU, in the spec's order, then the one write path.

Server-server API, "Checks performed on receipt of a PDU": 1 format, 2 signatures, 3 hash (a mismatch: use the redacted form), 4 auth
against the event's auth events, 5 against the state before it, 6 against the current state (soft failure), 7 by the room's policy server
(soft failure). Before 4, what the event refers to is completed through an `EventSource`; no lock is held meanwhile, so local people keep
talking while a gap takes minutes over a radio.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from edgeserver.matrix.pdu_checks import check_hash, open_pdu
from edgeserver.matrix.verdicts import Dropped
from edgeserver.rooms import state_at
from edgeserver.rooms.placing import MembersKnown, Task, topological, verdict_of
from edgeserver.store import events, rooms
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.matrix.verdicts import Verdict
    from edgeserver.rooms.placing import Placer
    from edgeserver.rooms.policy import PolicyGate
    from edgeserver.rooms.state_at import State
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

log = logging.getLogger(__name__)

GAP_LIMIT = 500
"""At most so many missing events are fetched before an event; what is beyond stays a gap and is filled by paging back."""
GAP_PAGE = 20
GAP_REQUESTS = 2 * GAP_LIMIT // GAP_PAGE
FETCH_LIMIT = 2000
"""At most so many auth or state events are fetched one by one for one event."""


class SourceFailed(Exception):
    """The other server could not be asked, or did not give it."""


class EventSource(Protocol):
    """What rooms need from the network: raw PDUs, unverified. Each method raises `SourceFailed`."""

    async def missing_events(
        self, server: str, room_id: str, earliest: Sequence[str], latest: Sequence[str], limit: int, min_depth: int
    ) -> list[dict[str, Any]]: ...

    async def event(self, server: str, event_id: str) -> dict[str, Any]: ...

    async def state_ids(self, server: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]: ...

    async def state(self, server: str, room_id: str, event_id: str) -> tuple[Sequence[Any], Sequence[Any]]: ...

    async def event_auth(self, server: str, room_id: str, event_id: str) -> list[dict[str, Any]]: ...

    async def backfill(
        self, server: str, room_id: str, from_ids: Sequence[str], limit: int
    ) -> list[dict[str, Any]]: ...


class Verifier(Protocol):
    """Holds the keys: for each event None if every required signature verifies, else why not."""

    async def verify(self, events: Sequence[Event]) -> list[str | None]: ...


class Receiver:
    """Takes in the events of other servers."""

    def __init__(
        self, db: Database, placer: Placer, source: EventSource, verifier: Verifier, policy: PolicyGate | None = None
    ) -> None:
        """`policy` None: rooms' policy servers are not heeded."""
        self._db = db
        self._placer = placer
        self._source = source
        self._verifier = verifier
        self._policy = policy

    async def receive(self, origin: str, pdu: dict[str, Any]) -> Verdict:
        """One PDU that `origin` sent us, through all checks. Anything but Dropped is stored."""
        room_id = pdu.get("room_id") if isinstance(pdu, dict) else None
        room = None if not isinstance(room_id, str) else await self._db.read(lambda tx: rooms.get(tx, room_id))
        if room is None or room.snapshot is None:
            return Dropped("we are not in that room")
        event = open_pdu(pdu, room.rules)
        if isinstance(event, Dropped):
            return event
        if not event.prev_events:
            return Dropped("it names no event before it")
        known = await self._db.read(lambda tx: events.get(tx, event.event_id))
        if known is not None and not known.is_outlier:
            return verdict_of(known)
        (checked,) = await self.checked([event])
        if isinstance(checked, Dropped):
            return checked
        missing = await self._fill_gap(origin, room, checked)
        return await self._take(origin, room, checked, missing)

    async def checked(self, found: Sequence[Event]) -> list[Event | Dropped]:
        """Checks 2 and 3: signatures, then hashes; an event whose hash does not match comes back redacted."""
        failures = await self._verifier.verify(found)
        return [
            (event if check_hash(event) else event.redacted()) if why is None else Dropped(why)
            for event, why in zip(found, failures, strict=True)
        ]

    async def judged_by_policy(self, room: int, event: Event) -> tuple[Event, str | None]:
        """Check 7: see `PolicyGate.judge`."""
        return (event, None) if self._policy is None else await self._policy.judge(room, event)

    async def opened(self, pdus: Iterable[Any], room_id: str, rules: RoomVersion) -> dict[str, Event]:
        """Checks 1 to 3 for PDUs that we asked for: those of this room that pass, by id."""
        found = [event for pdu in pdus if not isinstance(event := open_pdu(pdu, rules), Dropped)]
        ours = list({event.event_id: event for event in found if event.room_id == room_id}.values())
        return {event.event_id: event for event in await self.checked(ours) if not isinstance(event, Dropped)}

    # Gaps in the timeline

    async def _fill_gap(self, origin: str, room: Room, event: Event) -> list[str]:
        """Asks for the events between ours and this one; takes them in, oldest first. Returns prev events still missing."""
        missing = await self._missing_prevs(event)
        if not missing:
            return []
        gathered: dict[str, Event] = {}
        latest = [event.event_id]
        for _ in range(GAP_REQUESTS):
            page = await self._gap_page(origin, room, latest)
            fresh = {event_id: found for event_id, found in page.items() if event_id not in gathered}
            if fresh.keys().isdisjoint(missing):
                break  # nothing, or nothing that was asked for: a list without end is not followed
            gathered.update(fresh)
            edge = {prev for found in (*gathered.values(), event) for prev in found.prev_events} - set(gathered)
            missing = await self._unplaced(edge)
            latest = [
                found.event_id for found in gathered.values() if any(prev in missing for prev in found.prev_events)
            ]
            if not missing or len(gathered) >= GAP_LIMIT:
                break
        for found in topological(gathered, by_prev_events=True):
            if found.event_id != event.event_id:
                await self._take(origin, room, found, await self._missing_prevs(found))
        return await self._missing_prevs(event)

    async def _gap_page(self, origin: str, room: Room, latest: Sequence[str]) -> dict[str, Event]:
        heads = await self._db.read(lambda tx: rooms.by_number(tx, room.number).heads)
        try:
            pdus = await self._source.missing_events(origin, room.room_id, list(heads), list(latest), GAP_PAGE, 0)
        except SourceFailed as error:
            log.info("%s did not fill the gap in %s: %s", origin, room.room_id, error)
            return {}
        found = await self.opened(pdus[:GAP_PAGE], room.room_id, room.rules)
        unplaced = await self._unplaced(found)
        return {event_id: found[event_id] for event_id in unplaced if found[event_id].prev_events}

    async def _missing_prevs(self, event: Event) -> list[str]:
        return await self._unplaced(event.prev_events)

    async def _unplaced(self, event_ids: Collection[str]) -> list[str]:
        """Those of the ids that have no place in the timeline: not held, or held as outliers."""
        placed = await self._db.read(lambda tx: events.held(tx, event_ids))
        return [event_id for event_id in event_ids if not placed.get(event_id)]

    # What the event refers to

    async def _take(self, origin: str, room: Room, event: Event, missing: Sequence[str]) -> Verdict:
        """Completes auth events and, where prev events stay missing, the state there; then places the event."""
        try:
            await self.complete_auth(origin, room.room_id, room.number, room.rules, [event])
            states = [await self._state_after_missing(origin, room, prev) for prev in missing]
        except SourceFailed as error:
            return Dropped(f"what it refers to could not be had from {origin}: {error}")
        event, not_recommended = await self.judged_by_policy(room.number, event)
        lacks_members = room.is_partial and bool(states)
        try:
            return await self._placer.place(
                Task(room.number, event, states, lacks_members=lacks_members, not_recommended=not_recommended)
            )
        except MembersKnown:
            now = await self._db.read(lambda tx: rooms.by_number(tx, room.number))
            return await self._take(origin, now, event, missing)

    async def complete_auth(
        self, origin: str, room_id: str, room: int, rules: RoomVersion, found: Iterable[Event]
    ) -> None:
        """Fetches auth events that are not held, with their own, judges them and stores them as outliers."""
        pending = list(found)
        have: dict[str, Event] = {}
        asked: set[str] = set()
        while wanted := await self._not_held(pending, have):
            fresh = [event_id for event_id in wanted if event_id not in asked]
            if not fresh or len(asked) + len(fresh) > FETCH_LIMIT:
                raise SourceFailed(f"auth event {wanted[0]} is missing")
            asked.update(fresh)
            got = await self._auth_events(origin, room_id, rules, pending, fresh, first=len(asked) == len(fresh))
            have.update(got)
            pending = list(got.values())
        await self._placer.store_outliers(room, have)

    async def _not_held(self, pending: Iterable[Event], have: Mapping[str, Event]) -> list[str]:
        cited = {event_id for event in pending for event_id in event.auth_events} - set(have)
        held = await self._db.read(lambda tx: events.held(tx, cited))
        return sorted(cited - set(held))

    async def _auth_events(
        self, origin: str, room_id: str, rules: RoomVersion, pending: Sequence[Event], wanted: Sequence[str], *, first: bool
    ) -> dict[str, Event]:
        """The whole chain in one request at first, single events for what that left out."""
        if first and len(pending) == 1:
            try:
                pdus = await self._source.event_auth(origin, room_id, pending[0].event_id)
            except SourceFailed:
                pdus = []
            got = await self.opened(pdus, room_id, rules)
            if got:
                held = await self._db.read(lambda tx: events.held(tx, got))
                return {event_id: event for event_id, event in got.items() if event_id not in held}
        return await self.opened([await self._source.event(origin, event_id) for event_id in wanted], room_id, rules)

    async def _state_after_missing(self, origin: str, room: Room, prev: str) -> State:
        """The state after a prev event that could not be had as a timeline event: asked for, verified, not trusted further."""
        await self.fetch_outliers(origin, room, [prev])
        at = await self.state_before_from(origin, room, prev)

        def after(tx: Transaction) -> State:
            stored = events.get(tx, prev)
            if stored is None or stored.event.state_key is None or stored.standing is Standing.REJECTED:
                return at
            return state_at.with_event(at, (stored.event.type, stored.event.state_key), stored.number)

        return await self._db.read(after)

    async def state_before_from(self, origin: str, room: Room, event_id: str) -> State:
        """The state before an event, by another server's word: ids first, then only the events that we lack.

        In a partial room what we have stands in for it: the whole state is what has not been fetched yet.
        """
        if room.is_partial:
            now = await self._db.read(lambda tx: rooms.by_number(tx, room.number))
            assert now.snapshot is not None
            return now.snapshot
        state_ids, auth_ids = await self._source.state_ids(origin, room.room_id, event_id)
        wanted = [*dict.fromkeys([*auth_ids, *state_ids])]
        held = await self._db.read(lambda tx: events.held(tx, wanted))
        lacking = [one for one in wanted if one not in held]
        if len(lacking) > 50:
            pdus, chain = await self._source.state(origin, room.room_id, event_id)
            got = await self.opened([*chain, *pdus], room.room_id, room.rules)
            await self.complete_auth(origin, room.room_id, room.number, room.rules, got.values())
            await self._placer.store_outliers(room.number, got)
        else:
            await self.fetch_outliers(origin, room, lacking)

        def build(tx: Transaction) -> State:
            found = events.many(tx, state_ids)
            wanted_map = {
                (one.event.type, one.event.state_key): one.event.event_id
                for one in found.values()
                if one.event.state_key is not None and one.standing is not Standing.REJECTED
            }
            now = rooms.by_number(tx, room.number)
            assert now.snapshot is not None
            return state_at.nearest(tx, wanted_map, [now.snapshot])

        return await self._db.read(build)

    async def fetch_outliers(self, origin: str, room: Room, wanted: Sequence[str]) -> None:
        """Fetches single events that are not held, with their auth events, and stores them as outliers."""
        if len(wanted) > FETCH_LIMIT:
            raise SourceFailed(f"{len(wanted)} events are missing, which is more than is fetched for one")
        held = await self._db.read(lambda tx: events.held(tx, wanted))
        pdus = [await self._source.event(origin, one) for one in wanted if one not in held]
        got = await self.opened(pdus, room.room_id, room.rules)
        await self.complete_auth(origin, room.room_id, room.number, room.rules, got.values())
        await self._placer.store_outliers(room.number, got)
