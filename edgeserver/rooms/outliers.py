"""Taking in a room's state from another server: thousands of PDUs, checked, judged by what they cite, and stored without a place.

They are gone through twice, a handful at a time: first each is verified and forgotten but for its id and what it cites; then, cited
events first, each is decoded again, judged (check 4 on receipt of a PDU) and stored. So memory holds ids, never a whole room's events.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver.matrix.canonical_json import CanonicalJSONError
from edgeserver.matrix.event import Event
from edgeserver.matrix.pdu_checks import open_pdu
from edgeserver.matrix.verdicts import Dropped, Unready
from edgeserver.rooms.graph import ids_in_order
from edgeserver.rooms.placing import cited, judge_by_auth_events, standing_of
from edgeserver.rooms.verifying import checked
from edgeserver.store import events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.rooms.persist import Persister
    from edgeserver.rooms.verifying import Verifier
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Room

log = logging.getLogger(__name__)

VERIFIED_AT_ONCE: Final = 100
STORED_AT_ONCE: Final = 200
REMEMBERED: Final = 512
"""So many events that others cite again and again (power levels, join rules) are kept at hand while a room is stored."""
OFTEN_CITED: Final = frozenset({"m.room.create", "m.room.power_levels", "m.room.join_rules"})


class Pdus(Protocol):
    """PDUs by their place, each perhaps decoded anew when it is looked at: a list is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Both:
    """Two of them as one, without copying either."""

    def __init__(self, first: Pdus, second: Pdus) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, index: int) -> Any:
        return self._first[index] if index < len(self._first) else self._second[index - len(self._first)]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of PDUs: the event id of each that is held now, None for others; the places of those whose keys could not be had."""

    ids: list[str | None]
    unready: frozenset[int]


@dataclass(slots=True)
class _Pool:
    """What is known of the PDUs after the first pass, by event id."""

    places: dict[str, int] = field(default_factory=dict)
    cites: dict[str, tuple[str, ...]] = field(default_factory=dict)
    redacted: set[str] = field(default_factory=set)
    unready: set[int] = field(default_factory=set)


class OutlierIntake:
    """Stores events that are held as auth events and as state alone."""

    def __init__(self, db: Database, persister: Persister, verifier: Verifier) -> None:
        self._db = db
        self._persister = persister
        self._verifier = verifier

    async def take_in(self, room: Room, pdus: Pdus, witnesses: Sequence[str] = ()) -> Taken:
        """Stores those of the PDUs that are events of the room, and that are not held.

        Each element is looked at up to twice and may be decoded anew each time. What cites an event that is neither here nor held is
        left out: it might be right, but cannot be judged. Ids chosen by their senders (room versions 1 and 2) may form a cycle: left out.
        `witnesses` are servers that may know the keys of servers that do not answer.
        """
        ids: list[str | None] = []
        pool = _Pool()
        for start in range(0, len(pdus), VERIFIED_AT_ONCE):
            ids += await self._first_pass(room, pdus, range(start, min(start + VERIFIED_AT_ONCE, len(pdus))), pool, witnesses)
            await trio.lowlevel.checkpoint()
        order = ids_in_order(pool.cites)
        known: dict[str, StoredEvent] = {}
        for start in range(0, len(order), STORED_AT_ONCE):
            batch = [self._again(room.rules, pdus, pool, event_id) for event_id in order[start : start + STORED_AT_ONCE]]
            await self._db.write(lambda tx, batch=batch: self._store(tx, room.number, batch, known))  # type: ignore[misc]
        return Taken(await self._held_ones(ids), frozenset(pool.unready))

    async def _held_ones(self, ids: list[str | None]) -> list[str | None]:
        held = await self._db.read(lambda tx: events.held(tx, [one for one in ids if one is not None]))
        missing = sum(one is not None and one not in held for one in ids)
        if missing:
            log.info("%d events were left out: they cite what is not known", missing)
        return [one if one in held else None for one in ids]

    async def _first_pass(
        self, room: Room, pdus: Pdus, places: range, pool: _Pool, witnesses: Sequence[str]
    ) -> list[str | None]:
        opened = [_opened(pdus, place, room.rules) for place in places]
        found = [event if event is not None and event.room_id == room.room_id else None for event in opened]
        fresh = {
            event.event_id: place for place, event in zip(places, found, strict=True) if event and event.event_id not in pool.places
        }
        held = await self._db.read(lambda tx: events.held(tx, fresh))
        wanted = [event for place, event in zip(places, found, strict=True) if event and fresh.get(event.event_id) == place]
        wanted = [event for event in wanted if event.event_id not in held]
        failed: set[str] = set()
        for event, verdict in zip(wanted, await checked(self._verifier, wanted, witnesses=witnesses, in_bulk=True), strict=True):
            if isinstance(verdict, Dropped):
                failed.add(event.event_id)
                if isinstance(verdict, Unready):
                    pool.unready.add(fresh[event.event_id])
                continue
            pool.places[event.event_id] = fresh[event.event_id]
            pool.cites[event.event_id] = tuple(cited(verdict))
            if verdict.pdu is not event.pdu:
                pool.redacted.add(event.event_id)
        return [None if event is None or event.event_id in failed else event.event_id for event in found]

    def _again(self, rules: RoomVersion, pdus: Pdus, pool: _Pool, event_id: str) -> Event:
        """An event that passed the checks, decoded once more."""
        pdu = {name: value for name, value in pdus[pool.places[event_id]].items() if name != "unsigned"}
        event = Event.from_pdu(pdu, rules, event_id=event_id)
        return event.redacted() if event_id in pool.redacted else event

    def _store(self, tx: Transaction, room: int, batch: Sequence[Event], known: dict[str, StoredEvent]) -> None:
        held = events.held(tx, [event.event_id for event in batch])
        for event in batch:
            wanted = cited(event)
            found = {event_id: known[event_id] for event_id in wanted if event_id in known}
            found |= events.many(tx, [event_id for event_id in wanted if event_id not in found])
            known.update({event_id: one for event_id, one in found.items() if one.event.type in OFTEN_CITED})
            if event.event_id not in held and len(found) == len(set(wanted)):
                self._persister.outlier(tx, room, event, standing_of(judge_by_auth_events(tx, event, found)))
        while len(known) > REMEMBERED:
            del known[next(iter(known))]


def _opened(pdus: Pdus, place: int, rules: RoomVersion) -> Event | None:
    """Check 1."""
    try:
        event = open_pdu(pdus[place], rules)
    except CanonicalJSONError:
        return None
    return None if isinstance(event, Dropped) else event
