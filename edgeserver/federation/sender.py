"""The follower that empties the outbox: PUT /_matrix/federation/v1/send/{txnId}.

Spec: server-server API, "Transactions". Each destination is served by a lane of its own: one transaction in flight,
rows in the order in which they were written, at most 50 PDUs and 100 EDUs, rows deleted when the peer has answered
200. A lane lives while its destination has rows.

The transaction id names its rows, so a repeat, after a restart too, has the same id as long as it holds the same
rows; a batch that has been sent once is not changed by what was queued since, until it is answered.

Back-off is stored with the destination: from seconds to an hour while a peer cannot be reached or answers with
trouble of its own, as long as it asks for when it answers 429. It ends at once when a way to the peer returns or a
valid request of the peer comes in. Peers back off from us just so, and end it when they hear from us: so when a way
returns, every peer concerned is sent one signed request at once, what is pending or an empty transaction.

Pacing: a peer that answers before it has worked through (Synapse stages events, and drops all but the newest when
100 of one room are staged) is given time for each room before it gets more of the same room.
"""

from __future__ import annotations

import hashlib
import logging
from base64 import urlsafe_b64encode
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver import wakeups as topics
from edgeserver.federation.errors import FederationError, PeerError
from edgeserver.federation.peers import Via
from edgeserver.matrix import canonical_json
from edgeserver.store import outbox
from edgeserver.store.database import StoreError
from transports.exchange import Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from edgeserver.federation.peers import Way
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.outbox import Destination, Pending
    from edgeserver.wakeups import Wakeups

log = logging.getLogger(__name__)

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_BYTES: Final = 512 * 1024
THIN_BYTES: Final = 16 * 1024
PARALLEL: Final = 16
FIRST_BACKOFF_MS: Final = 2_000
MAX_BACKOFF_MS: Final = 3_600_000
PACED_PDUS: Final = 20
SECONDS_A_PDU: Final = 0.025
STORE_PAUSE: Final = 30.0


class SendCall(Protocol):
    """What puts a transaction to a peer; see `calls.Calls.send`."""

    async def send(self, server: str, txn_id: str, transaction: Mapping[str, Any], *, priority: Priority) -> dict[str, Any]: ...


@dataclass(slots=True, eq=False)
class _Lane:
    """One destination that is being served. `poked`: it is to hear from us even if nothing is pending."""

    server_name: str
    poked: bool = False
    wake: trio.Event = field(default_factory=trio.Event)
    batch: list[Pending] = field(default_factory=list)

    def hurry(self) -> None:
        """Ends a pause."""
        self.wake.set()


class Sender:
    """Runs as one task (`run`); the other methods may be called at any time from the trio thread.

    `neighbours(tx)` names the servers that share a room with us: those to tell when the way to servers at large
    returns. `ways_to` is `peers.Peers.ways_to`: a thin line gets smaller transactions, and a peer that
    works through a transaction before it answers (a paired or a found box) needs no pacing. `random()` is in [0, 1).
    """

    def __init__(
        self,
        db: Database,
        wakeups: Wakeups,
        calls: SendCall,
        *,
        server_name: str,
        now_ms: Callable[[], int],
        random: Callable[[], float],
        neighbours: Callable[[Transaction], Iterable[str]],
        ways_to: Callable[[str], Sequence[Way]],
    ) -> None:
        self._db = db
        self._wakeups = wakeups
        self._calls = calls
        self._server_name = server_name
        self._now_ms = now_ms
        self._random = random
        self._neighbours = neighbours
        self._ways_to = ways_to
        self._lanes: dict[str, _Lane] = {}
        self._failing: set[str] = set()
        self._returned: set[str | None] = set()
        self._limit = trio.CapacityLimiter(PARALLEL)

    # What others tell

    def heard_from(self, server_name: str) -> None:
        """A valid request of that peer came in: it can be reached, so a pause before it ends now."""
        if server_name in self._failing:
            self._return(server_name)

    def route_returned(self, server_name: str | None) -> None:
        """A way to that peer (None: to servers at large) is back."""
        self._return(server_name)

    def _return(self, server_name: str | None) -> None:
        self._returned.add(server_name)
        self._wakeups.notify([topics.OUTBOX])

    # The task

    async def run(self) -> None:
        """Follows the outbox until cancelled."""
        self._failing = {each.server_name for each in await self._db.read(outbox.failing)}
        with self._wakeups.listening(topics.OUTBOX) as listener:
            async with trio.open_nursery() as nursery:
                while True:
                    returned, self._returned = self._returned, set()
                    await self._poke(nursery, returned)
                    for destination in await self._db.read(outbox.waiting):
                        self._open(nursery, destination.server_name)
                    await listener.wait()

    async def _poke(self, nursery: trio.Nursery, returned: set[str | None]) -> None:
        names = {name for name in returned if name is not None}
        if None in returned:
            names |= self._failing | set(await self._db.read(self._neighbours))
        for name in sorted(names - {self._server_name}):
            self._open(nursery, name, poke=True)

    def _open(self, nursery: trio.Nursery, server_name: str, *, poke: bool = False) -> None:
        lane = self._lanes.get(server_name)
        if lane is None:
            lane = self._lanes[server_name] = _Lane(server_name)
            nursery.start_soon(self._serve, lane)
        if poke:
            lane.poked = True
            lane.hurry()

    async def _serve(self, lane: _Lane) -> None:
        """Serves one destination until nothing is pending."""
        try:
            while await self._serve_once(lane):
                pass
        except StoreError as error:  # a full disk, say: what was sent and not noted is sent again, which harms nobody
            log.error("%s: the outbox cannot be kept: %s", lane.server_name, error)
            await trio.sleep(STORE_PAUSE)
        except Exception:  # one destination's trouble is not the others'
            log.exception("serving %s failed", lane.server_name)
            await trio.sleep(STORE_PAUSE)
        finally:
            del self._lanes[lane.server_name]
        # What was queued after the last look woke `run` while this lane still stood in the table: let it look again.
        self._wakeups.notify([topics.OUTBOX])

    async def _serve_once(self, lane: _Lane) -> bool:
        """Waits for the destination's time and sends one transaction; False if there was nothing to send."""
        destination = await self._destination(lane.server_name)
        await self._pause(lane, destination)
        poked, lane.poked = lane.poked, False
        async with self._limit:
            lane.batch = lane.batch or await self._next_batch(destination)
            if not lane.batch and not poked:
                return False
            sent = await self._deliver(lane, destination)
        if sent:
            await self._pace(lane.server_name, sent)
        return True

    async def _next_batch(self, destination: Destination) -> list[Pending]:
        """The oldest rows, as many as a transaction and the line may carry."""
        rows = await self._db.read(lambda tx: outbox.pending(tx, destination.number, pdus=MAX_PDUS, edus=MAX_EDUS))
        ways = self._ways_to(destination.server_name)
        room = THIN_BYTES if ways and ways[0].exchange.profile.is_thin else MAX_BYTES
        for index, row in enumerate(rows):
            room -= len(canonical_json.encode_loose(row.pdu if row.pdu is not None else row.edu))
            if room < 0 and index:
                return rows[:index]
        return rows

    async def _destination(self, server_name: str) -> Destination:
        def add(tx: Transaction) -> Destination | None:
            outbox.destination_number(tx, server_name)
            return outbox.destination(tx, server_name)

        found = await self._db.read(lambda tx: outbox.destination(tx, server_name))
        if found is None:  # a neighbour that nothing was ever queued for
            found = await self._db.write(add)
        assert found is not None
        return found

    async def _pause(self, lane: _Lane, destination: Destination) -> None:
        """Waits until the destination may be tried again, or somebody hurries the lane."""
        now = self._now_ms()
        retry_at = destination.retry_at
        if retry_at is not None and retry_at > now and not lane.wake.is_set():
            # The wall clock may have been set back: no pause is longer than the longest back-off.
            with trio.move_on_after(min(retry_at - now, MAX_BACKOFF_MS) / 1000):
                await lane.wake.wait()
        lane.wake = trio.Event()

    # One transaction

    async def _deliver(self, lane: _Lane, destination: Destination) -> list[Pending]:
        """Sends the lane's batch (it may be empty); returns it if the peer took it, else nothing, with the failure
        noted.
        """
        batch = lane.batch
        transaction = {
            "origin": self._server_name,
            "origin_server_ts": self._now_ms(),
            "pdus": [row.pdu for row in batch if row.pdu is not None],
            "edus": [row.edu for row in batch if row.edu is not None and _can_be_signed(row.edu)],
        }
        txn_id = transaction_id(self._server_name, destination.server_name, batch, self._now_ms())
        try:
            results = await self._calls.send(destination.server_name, txn_id, transaction, priority=_priority(batch))
        except FederationError as error:
            await self._failed(lane, destination, error)
            return []
        for event_id, result in results.items():
            if isinstance(result, dict) and result.get("error"):
                log.info("%s did not take %s: %s", destination.server_name, event_id, str(result["error"])[:200])
        await self._succeeded(lane, destination)
        return batch

    async def _succeeded(self, lane: _Lane, destination: Destination) -> None:
        streams = [row.stream for row in lane.batch]
        lane.batch = []
        was_failing = destination.failing_since is not None

        def record(tx: Transaction) -> None:
            outbox.delivered(tx, destination.number, streams)
            if was_failing:
                outbox.recovered(tx, destination.number)

        if streams or was_failing:
            await self._db.write(record)
        if was_failing:
            log.info("%s can be reached again", destination.server_name)
        self._failing.discard(destination.server_name)

    async def _failed(self, lane: _Lane, destination: Destination, error: FederationError) -> None:
        """Notes the failure, and until when to wait. A peer that will never take the batch (4xx) is not asked for
        it again at once, but the batch is kept: rows are lost only when the peer has answered 200.
        """
        now = self._now_ms()
        pause = self._backoff(destination.attempts, error)
        log.info("%s: transaction failed (%s), next try in %.0f s", destination.server_name, error.why, pause / 1000)
        await self._db.write(lambda tx: outbox.failed(tx, destination.number, now, now + pause))
        self._failing.add(destination.server_name)

    def _backoff(self, attempts: int, error: FederationError) -> int:
        """Milliseconds until the next try: doubling from two seconds to an hour, with a quarter of jitter."""
        pause = min(FIRST_BACKOFF_MS << min(attempts, 16), MAX_BACKOFF_MS)
        if isinstance(error, PeerError) and error.retry_after_ms is not None:
            pause = max(pause, error.retry_after_ms)
        return int(min(pause, MAX_BACKOFF_MS) * (0.75 + self._random() / 4))

    async def _pace(self, server_name: str, sent: Sequence[Pending]) -> None:
        rooms = Counter(row.room_id for row in sent if row.pdu is not None)
        most = max(rooms.values(), default=0)
        ways = self._ways_to(server_name)
        if most >= PACED_PDUS and ways and ways[0].via not in (Via.LINK, Via.FOUND):
            await trio.sleep(most * SECONDS_A_PDU)


def transaction_id(origin: str, destination: str, batch: Sequence[Pending], now_ms: int) -> str:
    """The id of a transaction: a hash of its rows' stream positions; of the time, for one that holds nothing."""
    rows = ",".join(str(row.stream) for row in batch) or f"at {now_ms}"
    digest = hashlib.sha256(f"{origin} {destination} {rows}".encode()).digest()
    return urlsafe_b64encode(digest[:12]).decode()


def _can_be_signed(edu: Mapping[str, Any]) -> bool:
    """Whether an EDU has a canonical form. What clients send to devices may hold floats, which no request can."""
    try:
        canonical_json.encode(edu)
    except canonical_json.CanonicalJSONError as error:
        log.info("an EDU %s is not sent: %s", edu.get("edu_type"), error)
        return False
    return True


def _priority(batch: Sequence[Pending]) -> Priority:
    """Messages go before receipts and presence on a thin line."""
    return Priority.MESSAGE if not batch or any(row.pdu is not None for row in batch) else Priority.RECEIPT
