"""The followers that send each application service what concerns it. Spec: application service API, "Pushing events".

Each service is served by itself, one transaction at a time, in order, from a position that is stored. Nothing is queued: a service that
was down for a week is sent the events of that week from the store, and costs nothing meanwhile. A transaction that fails is sent again
as it was, with the same id, with growing pauses, for as long as it takes; where it ended is then noted, so that it is the same after a
restart too. A request of the service itself ends a pause: it is there.

That a service has taken a transaction is noted in the next commit that there is, most often the one of the next event, and at the
latest before the next transaction is sent. A box that goes down before sends that transaction again: at least once, not exactly once.
Since nothing was stored meanwhile, it holds the same events and messages, and has the same id.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver import wakeups as topics
from edgeserver.bridges import contents
from edgeserver.bridges.calls import ServiceFailed
from edgeserver.bridges.contents import SCANNED, Ephemera
from edgeserver.store import bridges
from edgeserver.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edgeserver.bridges.calls import ServiceCalls
    from edgeserver.bridges.contents import Batch
    from edgeserver.store.database import Database, Transaction
    from edgeserver.users.ephemeral import Typing
    from edgeserver.wakeups import Wakeups

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 300.0
"""Seconds between attempts."""
STORE_PAUSE: Final = 30.0
SKIPPED: Final = 5000
"""Stream positions without anything for a service after which that is noted, so that a restart need not look at them again."""


class PresenceFeed(Protocol):
    """Whose presence changed. Versions are those of `Typing.version`."""

    def changed(self, since: int) -> Mapping[str, Mapping[str, Any]]:
        """User id → content of m.presence, after this version."""
        ...


class Deliveries:
    """Runs as one task (`run`). `random()` is in [0, 1)."""

    def __init__(
        self,
        calls: Iterable[ServiceCalls],
        db: Database,
        wakeups: Wakeups,
        typing: Typing,
        *,
        now_ms: Callable[[], int],
        random: Callable[[], float],
        presence: PresenceFeed | None = None,
    ) -> None:
        self._lanes = {
            each.service.id: _Lane(each, db, wakeups, typing, presence, now_ms, random) for each in calls if each.can_be_asked
        }

    def heard_from(self, service_id: str) -> None:
        """A request of the service came in: a pause before it ends now."""
        lane = self._lanes.get(service_id)
        if lane is not None:
            lane.hurry()

    async def run(self) -> None:
        """Serves all of them until cancelled."""
        async with trio.open_nursery() as nursery:
            for lane in self._lanes.values():
                nursery.start_soon(lane.run)


class _Lane:
    """One service that is being served."""

    def __init__(
        self,
        calls: ServiceCalls,
        db: Database,
        wakeups: Wakeups,
        typing: Typing,
        presence: PresenceFeed | None,
        now_ms: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        self._calls = calls
        self._service = calls.service
        self._db = db
        self._wakeups = wakeups
        self._typing = typing
        self._presence = presence
        self._now_ms = now_ms
        self._random = random
        self._position = 0
        self._pending: int | None = None
        self._delivered = self._noted = 0
        self._taken: tuple[int, int] | None = None
        self._version = typing.version
        self._failures = 0
        self._pausing = trio.CancelScope()

    def hurry(self) -> None:
        """Ends a pause that has lasted for as long as the shortest."""
        self._pausing.cancel()

    async def run(self) -> None:
        """Serves the service until cancelled."""
        while True:
            try:
                await self._serve()
            except StoreError as error:  # a full disk, say: what was sent and not noted is sent again
                log.error("%s: what it has been sent cannot be noted: %s", self._service.id, error)
            except Exception:  # one service's trouble is not the others'
                log.exception("serving %s failed", self._service.id)
            await trio.sleep(STORE_PAUSE)

    async def _serve(self) -> None:
        await self._begin()
        with self._wakeups.listening(topics.ANYTHING) as listener:
            try:
                while True:
                    batch = await self._next()
                    if batch.body is not None:
                        await self._deliver(batch)
                    elif batch.upto >= self._db.position and self._typing.version == self._version:
                        await listener.wait()
            finally:
                if self._noted != self._position:
                    with trio.CancelScope(shield=True):
                        await self._note()

    async def _begin(self) -> None:
        """Where to go on from: a new service is told what happens from now on, and so is one that was told of what this store, which
        has been put back to an older copy of itself, does not hold.
        """

        def work(tx: Transaction) -> tuple[int, int | None]:
            found = bridges.position(tx, self._service.id)
            if found is None or found[0] > tx.position:
                found = tx.position, None
                bridges.set_position(tx, self._service.id, *found)
            return found

        self._position, self._pending = await self._db.write(work)
        self._delivered = self._noted = self._position
        self._taken = None

    async def _next(self) -> Batch:
        version = self._typing.version
        ephemera = self._ephemera()

        def work(tx: Transaction) -> Batch:
            ceiling = tx.position if self._pending is None else self._pending
            return contents.read(tx, self._service, self._position, ceiling, ephemera, self._now_ms())

        batch = await self._db.read(work)
        self._version = version
        if batch.body is None:
            self._position, self._pending = batch.upto, None
            if batch.upto - self._noted > SKIPPED:
                await self._note()
        return batch

    def _ephemera(self) -> Ephemera:
        if not self._service.registration.receive_ephemeral:
            return Ephemera()
        presence = {} if self._presence is None else self._presence.changed(self._version)
        return Ephemera(self._typing.version, self._typing.changed(self._version), presence)

    async def _deliver(self, batch: Batch) -> None:
        """Sends a transaction until the service takes it. From what is on the disk before, the same one would be made again."""
        assert batch.body is not None
        if self._noted < self._delivered or batch.upto - self._noted > SCANNED:
            await self._note()
        while True:
            try:
                await self._calls.send(batch.txn_id, batch.body)
                break
            except ServiceFailed as error:
                await self._failed(batch, error)
        if self._failures:
            log.info("the application service %s can be reached again", self._service.id)
        self._failures = 0
        self._delivered = self._position = batch.upto
        self._pending, self._taken = None, (batch.since, batch.upto) if batch.has_to_device else None
        self._db.write_along(self._noting())

    async def _failed(self, batch: Batch, error: ServiceFailed) -> None:
        if self._pending is None:
            self._pending = batch.upto
            await self._note()
        self._failures += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 16)) * (0.8 + 0.4 * self._random())
        level = logging.WARNING if self._failures == 1 else logging.INFO
        log.log(level, "the application service %s: %s; it is tried again in %.0f s", self._service.id, error, pause)
        await trio.sleep(min(pause, FIRST_PAUSE))
        with trio.CancelScope() as self._pausing:
            await trio.sleep(max(0.0, pause - FIRST_PAUSE))

    async def _note(self) -> None:
        await self._db.write(self._noting())

    def _noting(self) -> Callable[[Transaction], None]:
        """Notes that the service has everything up to where it is now, the messages to devices that it was sent last too."""
        upto, pending, taken = self._position, self._pending, self._taken

        def done() -> None:
            self._noted = upto

        def work(tx: Transaction) -> None:
            bridges.set_position(tx, self._service.id, upto, pending)
            if taken is not None:
                bridges.taken_to_device(tx, self._service.id, *taken)
            tx.on_commit(done)

        return work
