"""Events that could not be judged when they came, for want of keys or of what they refer to: asked for again until they can be.

A peer sends an event once, so one that is answered with an error would be lost. It is noted on disk (`store/late_events.py`, so many of
each origin at most), and asked for again after growing pauses, or as soon as its origin or its author's server is heard of.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.pdu_checks import open_pdu
from edgeserver.matrix.verdicts import Dropped, Unready
from edgeserver.rooms.event_source import SourceFailed
from edgeserver.rooms.seldom import Seldom
from edgeserver.store import late_events, rooms
from edgeserver.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.rooms.event_source import EventSource
    from edgeserver.rooms.receive import Receiver
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.late_events import LateEvent
    from edgeserver.store.rooms import Room

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 30.0
LONGEST_PAUSE: Final = 6 * 3600.0
MOST_TRIES: Final = 20
"""Three days and some hours."""
PAGE: Final = 100
PARALLEL: Final = 8
OF_ORIGIN_AT_ONCE: Final = 5
MOST_TIME: Final = 600.0
"""For one event: a server that answers slowly keeps the others' waiting no longer."""
HASTENED_PAUSE: Final = 30.0
MAX_HASTENED: Final = 1024
OTHERS: Final = 2
"""So many of the room's other servers are asked where the origin does not answer."""


class LateEvents:
    """`note` what is to come later; `run` fetches it. Times are seconds here, ms in the store."""

    def __init__(self, db: Database, receiver: Receiver, source: EventSource, server_name: str, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._receiver = receiver
        self._source = source
        self._server_name = server_name
        self._now_ms = now_ms
        self._awaited: set[str] = set()
        self._heard: set[str | None] = set()
        self._hastened: dict[str | None, float] = {}
        self._wake = trio.Event()
        self._seldom = Seldom(log)

    async def note(self, origin: str, room: Room, found: Sequence[Event], pause: float = FIRST_PAUSE) -> None:
        """Events of the room that are to be asked for again, after the pause at the earliest."""
        rows = [(event.event_id, domain_of(event.sender)) for event in found]
        retry_at = self._now_ms() + int(pause * 1000)
        refused = await self._db.write(lambda tx: late_events.put(tx, room.number, origin, rows, retry_at))
        if refused:
            self._seldom.say(origin, "%d events of %s are not asked for again: too many of its wait already", refused, origin)
        self._awaited.update((origin, *(author for _, author in rows)))
        self._wake.set()

    async def settled(self, event_ids: Iterable[str]) -> None:
        """These have been judged meanwhile."""
        ids = list(event_ids)
        await self._db.write(lambda tx: late_events.remove(tx, ids))

    def heard_from(self, server_name: str | None) -> None:
        """A server is there (None: a way to servers at large is): what waits for it is asked for at once."""
        if server_name is None or server_name in self._awaited:
            self._heard.add(server_name)
            self._wake.set()

    async def run(self) -> None:
        """Fetches what is due, for as long as the box runs."""
        self._awaited = await self._db.read(late_events.awaited)
        while True:
            await self._hasten()
            due, at = await self._db.read(self._due)
            if due:
                await self._fetch_all(due)
                continue
            with trio.move_on_after(trio_seconds(at, self._now_ms())):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _hasten(self) -> None:
        heard, self._heard = {one for one in self._heard if self._may_hasten(one)}, set()
        if heard:
            now = self._now_ms()

            def write(tx: Transaction) -> set[str]:
                for server_name in heard:
                    late_events.hasten(tx, server_name, now)
                return late_events.awaited(tx)

            self._awaited = await self._db.write(write)

    def _may_hasten(self, server_name: str | None) -> bool:
        """Once in a while: a server that calls us all the time is not asked all the time for what it does not give."""
        now = trio.current_time()
        if self._hastened.get(server_name, -HASTENED_PAUSE) > now - HASTENED_PAUSE:
            return False
        self._hastened.pop(server_name, None)
        self._hastened[server_name] = now
        if len(self._hastened) > MAX_HASTENED:
            del self._hastened[next(iter(self._hastened))]
        return True

    def _due(self, tx: Transaction) -> tuple[list[LateEvent], int | None]:
        return late_events.due(tx, self._now_ms(), PAGE), late_events.next_time(tx)

    async def _fetch_all(self, due: Sequence[LateEvent]) -> None:
        """One at a time of each origin, a few origins at a time."""
        by_origin: dict[str, list[LateEvent]] = {}
        for late in due:
            by_origin.setdefault(late.origin, []).append(late)
        limit = trio.CapacityLimiter(PARALLEL)

        async def fetch_of(of_origin: list[LateEvent]) -> None:
            async with limit:
                for late in of_origin[:OF_ORIGIN_AT_ONCE]:
                    await self._fetch(late)

        async with trio.open_nursery() as nursery:
            for of_origin in by_origin.values():
                nursery.start_soon(fetch_of, of_origin)

    async def _fetch(self, late: LateEvent) -> None:
        judged = False
        try:
            with trio.move_on_after(MOST_TIME):
                judged = await self._is_judged(late)
        except StoreError:
            raise
        except Exception:  # one event's trouble is not the others'
            log.exception("asking for %s again failed", late.event_id)
        if judged:
            await self.settled([late.event_id])
        else:
            await self._postpone(late)

    async def _is_judged(self, late: LateEvent) -> bool:
        """Asks its origin for the event, then others of the room; whether there is a verdict on it now."""
        room, servers = await self._db.read(lambda tx: self._room_and_servers(tx, late))
        if room is None:
            return False
        for server in servers:
            try:
                verdict = await self._ask(server, room, late)
            except SourceFailed as error:
                log.debug("%s did not give %s: %s", server, late.event_id, error)
                continue
            if not isinstance(verdict, Unready):
                return True
        return False

    def _room_and_servers(self, tx: Transaction, late: LateEvent) -> tuple[Room | None, list[str]]:
        room = rooms.get(tx, late.room_id)
        if room is None or room.snapshot is None:
            return None, []
        others = [name for name in rooms.servers(tx, room.number) if name not in (self._server_name, late.origin)]
        return room, [late.origin, *others[:OTHERS]]

    async def _ask(self, server: str, room: Room, late: LateEvent) -> object:
        event = open_pdu(await self._source.event(server, late.event_id), room.rules)
        if isinstance(event, Dropped) or event.event_id != late.event_id:
            raise SourceFailed("it is not the event that was asked for")
        return (await self._receiver.receive_all(server, room, [event]))[late.event_id]

    async def _postpone(self, late: LateEvent) -> None:
        if late.tries + 1 >= MOST_TRIES:
            self._seldom.say(late.origin, "%s of %s in %s is given up: it could not be judged", late.event_id, late.origin, late.room_id)
            await self.settled([late.event_id])
            return
        pause = min(FIRST_PAUSE * 2 ** min(late.tries, 20), LONGEST_PAUSE)
        retry_at = self._now_ms() + int(pause * 1000)
        await self._db.write(lambda tx: late_events.postpone(tx, late.event_id, retry_at))


def trio_seconds(at_ms: int | None, now_ms: int) -> float:
    """How long to wait for that time: for ever for None, an hour at most otherwise, for clocks are set meanwhile."""
    return float("inf") if at_ms is None else min(max(at_ms - now_ms, 0) / 1000, 3600.0)
