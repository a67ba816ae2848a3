"""The follower that empties the outbox: PUT /_matrix/federation/v1/send/{txnId}.

Spec: server-server API, "Transactions". Each destination is served by a lane of its own: one transaction in flight,
rows in the order in which they were written, at most 50 PDUs and 100 EDUs, rows deleted when the peer has answered
200. A lane lives while its destination has rows. Lanes take turns after each transaction, and those whose peers hang do
not hold up the others (`slots.py`).

The transaction id names its rows, so a repeat, after a restart too, has the same id as long as it holds the same
rows; a batch that has been sent once is not changed by what was queued since, until it is answered.

Back-off goes by the cause (`setbacks.py`) and is stored with the destination. It ends at once when a way to the peer returns or
a valid request of the peer comes in. Peers back off from us just so, and end it when they hear from us: so when a way
returns, every peer concerned is sent one signed request at once, what is pending or an empty transaction; those that were there
until a moment ago first.

A batch that the peer refuses for what is in it (400, say) is halved until one row is left. If the peer takes an empty
transaction but not that row, the row is passed over, for else nothing would ever reach that peer again. Of an event
nothing is lost by that: it is in the room, later events refer to it, and the peer can ask for it.

Pacing: a peer that answers before it has worked through (Synapse stages events, and drops all but the newest when
100 of one room are staged) is given time for each room before it gets more of the same room.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver import wakeups as topics
from edgeserver.federation.errors import FederationError
from edgeserver.federation.peers import Via
from edgeserver.federation.setbacks import MAX_BACKOFF_MS, Cause, cause_of, pause_after
from edgeserver.federation.slots import Slots
from edgeserver.federation.transaction import content_of, priority_of, transaction_id
from edgeserver.matrix import canonical_json
from edgeserver.store import outbox
from edgeserver.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from edgeserver.federation.peers import Way
    from edgeserver.federation.slots import Ticket
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.outbox import Destination, Pending
    from edgeserver.wakeups import Wakeups
    from transports.exchange import Priority

log = logging.getLogger(__name__)

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_BYTES: Final = 512 * 1024
THIN_BYTES: Final = 16 * 1024
PACED_PDUS: Final = 20
SECONDS_A_PDU: Final = 0.025
PASSED_OVER_PAUSE: Final = 1.0
STORE_PAUSE: Final = 30.0


class SendCall(Protocol):
    """What puts a transaction to a peer; see `calls.Calls.send`."""

    async def send(self, server: str, txn_id: str, transaction: Mapping[str, Any], *, priority: Priority) -> dict[str, Any]: ...


@dataclass(slots=True, eq=False)
class _Lane:
    """One destination that is being served.

    `poked`: it is to hear from us even if nothing is pending; `heard`: it is known to be there, whatever has failed before. `most`:
    so many rows at once, fewer while something in them is refused. `staged`: room id → (PDUs that the peer may not have worked through,
    when they were sent).
    """

    server_name: str
    poked: bool = False
    heard: bool = False
    under_way: bool = False
    queueing: trio.CancelScope = field(default_factory=trio.CancelScope)
    wake: trio.Event = field(default_factory=trio.Event)
    batch: list[Pending] = field(default_factory=list)
    most: int = MAX_PDUS + MAX_EDUS
    staged: dict[str, tuple[float, float]] = field(default_factory=dict)

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
        self._failing: dict[str, int] = {}
        self._answering: set[str] = set()
        self._returned: set[str | None] = set()
        self._slots = Slots()

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
        self._failing = {each.server_name: each.failing_since or 0 for each in await self._db.read(outbox.failing)}
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
            names |= set(self._failing) | set(await self._db.read(self._neighbours))
        for name in sorted(names - {self._server_name}, key=lambda name: (self._doubt(name), name)):
            lane = self._open(nursery, name)
            lane.poked |= name not in returned or not lane.under_way  # who is heard of while it has a request of ours needs no other
            if name in returned:
                lane.heard = True
                lane.queueing.cancel()
            lane.hurry()

    def _doubt(self, server_name: str) -> int:
        """-1 for a peer that has answered, 0 if nothing is known of it, else for how long it has failed, in ms."""
        since = self._failing.get(server_name)
        if since is None:
            return -1 if server_name in self._answering else 0
        return max(1, self._now_ms() - since)

    def _open(self, nursery: trio.Nursery, server_name: str) -> _Lane:
        lane = self._lanes.get(server_name)
        if lane is None:
            lane = self._lanes[server_name] = _Lane(server_name)
            nursery.start_soon(self._serve, nursery, lane)
        return lane

    async def _serve(self, nursery: trio.Nursery, lane: _Lane) -> None:
        """Serves one destination until nothing is pending."""
        try:
            while await self._serve_once(nursery, lane):
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

    async def _serve_once(self, nursery: trio.Nursery, lane: _Lane) -> bool:
        """Waits for the destination's time and sends one transaction; False if there was nothing to send."""
        destination = await self._destination(lane.server_name)
        await self._pause(lane, destination)
        poked, lane.poked = lane.poked, False
        ticket = await self._slot(nursery, lane)
        try:
            lane.batch = lane.batch or await self._next_batch(lane, destination)
            if not lane.batch and not poked:
                return False
            lane.under_way = True
            sent = await self._deliver(lane, destination)
        finally:
            lane.under_way = False
            ticket.give_back()
        if sent:
            await self._pace(lane, sent)
        return True

    async def _slot(self, nursery: trio.Nursery, lane: _Lane) -> Ticket:
        """Waits for a slot; who is heard of meanwhile waits among those that answer."""
        while True:
            heard, lane.heard = lane.heard, False
            with trio.CancelScope() as lane.queueing:
                return await self._slots.take(nursery, -1 if heard else self._doubt(lane.server_name))

    async def _next_batch(self, lane: _Lane, destination: Destination) -> list[Pending]:
        """The oldest rows, as many as a transaction and the line may carry."""
        rows = await self._db.read(lambda tx: outbox.pending(tx, destination.number, pdus=MAX_PDUS, edus=MAX_EDUS))
        rows = rows[: lane.most]
        ways = self._ways_to(destination.server_name)
        room = MAX_BYTES
        if ways and ways[0].exchange.profile.is_thin:
            room, rows = THIN_BYTES, await self._without_typing(rows, destination)
        for index, row in enumerate(rows):
            room -= len(canonical_json.encode_loose(row.pdu if row.pdu is not None else row.edu))
            if room < 0 and index:
                return rows[:index]
        return rows

    async def _without_typing(self, rows: list[Pending], destination: Destination) -> list[Pending]:
        """Who is typing is over before a thin line has said so: such rows are given up, for good."""
        typing = [row.stream for row in rows if row.edu is not None and row.edu["edu_type"] == "m.typing"]
        if not typing:
            return rows
        await self._db.write(lambda tx: outbox.delivered(tx, destination.number, typing))
        return [row for row in rows if row.stream not in typing]

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
        batch, server_name = lane.batch, destination.server_name
        try:
            results = await self._send(server_name, batch)
        except FederationError as error:
            if cause_of(error) is not Cause.REFUSED or not await self._narrow(lane, destination, error):
                await self._failed(lane, destination, error)
            return []
        for event_id, result in results.items():
            if isinstance(result, dict) and result.get("error"):
                log.info("%s did not take %s: %s", server_name, event_id, str(result["error"])[:200])
        await self._succeeded(lane, destination)
        return batch

    async def _send(self, server_name: str, batch: Sequence[Pending]) -> dict[str, Any]:
        now = self._now_ms()
        txn_id = transaction_id(self._server_name, server_name, batch, now)
        transaction = content_of(self._server_name, batch, now)
        return await self._calls.send(server_name, txn_id, transaction, priority=priority_of(batch))

    async def _narrow(self, lane: _Lane, destination: Destination, error: FederationError) -> bool:
        """Gets nearer to what the peer refuses in the batch, or past it; False if it is not the batch that is refused."""
        if len(lane.batch) > 1:
            lane.most = len(lane.batch) // 2
            lane.batch = lane.batch[: lane.most]
            return True
        if not lane.batch:
            return False
        try:
            await self._send(destination.server_name, [])
        except FederationError:
            return False
        [row] = lane.batch
        what = f"an event of {row.room_id}" if row.edu is None else row.edu["edu_type"]
        log.warning("%s refuses %s for good, which is passed over: %s", destination.server_name, what, error.why)
        await self._succeeded(lane, destination)
        await trio.sleep(PASSED_OVER_PAUSE)
        return True

    async def _succeeded(self, lane: _Lane, destination: Destination) -> None:
        streams = [row.stream for row in lane.batch]
        lane.batch = []
        lane.most = min(2 * lane.most, MAX_PDUS + MAX_EDUS)
        was_failing = destination.failing_since is not None

        def record(tx: Transaction) -> None:
            outbox.delivered(tx, destination.number, streams)
            if was_failing:
                outbox.recovered(tx, destination.number)

        if streams or was_failing:
            await self._db.write(record)
        if was_failing:
            log.info("%s can be reached again", destination.server_name)
        self._failing.pop(destination.server_name, None)
        self._answering.add(destination.server_name)

    async def _failed(self, lane: _Lane, destination: Destination, error: FederationError) -> None:
        """Notes the failure, and until when to wait. What cannot be of use later is given up, so are the oldest of too many rows."""
        now = self._now_ms()
        pause = pause_after(error, destination.attempts, self._random())
        log.info("%s: transaction failed (%s), next try in %.0f s", destination.server_name, error.why, pause / 1000)

        def record(tx: Transaction) -> None:
            outbox.failed(tx, destination.number, now, now + pause)
            outbox.trim(tx, destination.number)

        await self._db.write(record)
        lane.batch = [row for row in lane.batch if row.edu is None or row.edu["edu_type"] not in outbox.PASSING]
        self._answering.discard(destination.server_name)
        self._failing.setdefault(destination.server_name, destination.failing_since or now)

    async def _pace(self, lane: _Lane, sent: Sequence[Pending]) -> None:
        """Waits until the peer has had time for what it was sent of each room, if that is much."""
        ways = self._ways_to(lane.server_name)
        if not ways or ways[0].via in (Via.LINK, Via.FOUND):
            return
        now = trio.current_time()
        left = {room_id: (count - (now - at) / SECONDS_A_PDU, now) for room_id, (count, at) in lane.staged.items()}
        lane.staged = {room_id: one for room_id, one in left.items() if one[0] > 0}
        for row in sent:
            if row.room_id is not None:
                lane.staged[row.room_id] = (lane.staged.get(row.room_id, (0.0, now))[0] + 1, now)
        most = max((count for count, _ in lane.staged.values()), default=0.0)
        if most >= PACED_PDUS:
            await trio.sleep(most * SECONDS_A_PDU)
