"""Taking in transactions: PUT /_matrix/federation/v1/send/{txnId}.

Spec: server-server API, "Transactions". One transaction of an origin at a time, and a repeated one gets its first
answer. Events of one room are taken in the order given; rooms side by side, a few at a time. Events come before
EDUs, for an EDU may speak of them.

A peer sends us nothing new until it has its answer, so rooms are not waited for longer than `PATIENCE`: a gap that takes longer to
fill goes on being filled in the background, with its events noted as late so that a restart does not lose them. What cannot be
judged for want of keys is answered with an error and noted as late, too.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver.federation import acl
from edgeserver.matrix import canonical_json
from edgeserver.matrix.errors import InvalidParam, LimitExceeded
from edgeserver.matrix.pdu_checks import open_pdu
from edgeserver.matrix.verdicts import ACCEPTED, Dropped, Rejected, Unready
from edgeserver.rooms.seldom import Seldom
from edgeserver.rooms.turns import Turns
from edgeserver.store import received_transactions, rooms
from edgeserver.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from edgeserver.federation.edus import Edus
    from edgeserver.matrix.event import Event
    from edgeserver.matrix.verdicts import Verdict
    from edgeserver.rooms.late import LateEvents
    from edgeserver.store.database import Database, Transaction

log = logging.getLogger(__name__)

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_TXN_ID: Final = 255
MAX_WAITING: Final = 8
"""Transactions of one origin that wait for their turn: the spec allows it one at a time, and repeats come when answers are lost."""
MAX_UNDER_WAY: Final = 64
"""Transactions of all origins, each with a body of up to 12 MB."""
PARALLEL_ROOMS: Final = 4
PATIENCE: Final = 20.0
"""Seconds that a transaction's answer waits for its rooms: half of what peers wait for the answer, at most."""
LEAST_PATIENCE: Final = 1.0
"""For a room whose turn came late."""
MAX_BEHIND: Final = 64
MAX_BEHIND_OF_ORIGIN: Final = 8
"""Rooms that go on in the background. Beyond these the work is given up, and its events are asked for again later."""
BEHIND_PAUSE: Final = 900.0
"""Seconds before an event is asked for again that is still being worked on in the background."""
REMEMBERED_MS: Final = 7 * 86_400_000
REMEMBERED_ANSWERS: Final = 500
FORGET_EVERY: Final = 200

Results = dict[str, dict[str, str]]
"""event id → {} or {"error": why}"""


@dataclass(slots=True)
class _Working:
    """Events of one room that are being taken in."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    verdicts: dict[str, Verdict] | None = None
    error: StoreError | None = None


class EventReceiver(Protocol):
    """Who takes events in; see `rooms.receive.Receiver`."""

    async def receive_all(self, origin: str, room: rooms.Room, found: Sequence[Event]) -> dict[str, Verdict]:
        """All checks on receipt, and the write. Raises StoreError."""
        ...


class Withdrawals(Protocol):
    """Who takes the end of an invite to a room that we are not in; see `invites.Invites`."""

    async def withdrawn(self, origin: str, event: Event) -> bool:
        """False if the event is no such thing."""
        ...


class Inbound:
    """Takes transactions of authenticated origins."""

    def __init__(
        self,
        db: Database,
        receiver: EventReceiver,
        edus: Edus,
        withdrawals: Withdrawals,
        late: LateEvents,
        *,
        joining: Turns,
        now_ms: Callable[[], int],
        background: trio.Nursery | None = None,
    ) -> None:
        """`joining`: the rooms that somebody of ours is joining through another server now. `background` (None: every room is
        waited for) takes the rooms that are not waited for.
        """
        self._db = db
        self._receiver = receiver
        self._edus = edus
        self._withdrawals = withdrawals
        self._late = late
        self._now_ms = now_ms
        self._background = background
        self._turns = Turns()
        self._joining = joining
        self._taken = 0
        self._under_way = 0
        self._behind: set[tuple[str, str]] = set()
        self._seldom = Seldom(log)

    async def transaction(self, origin: str, txn_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one transaction: `{"pdus": {event id: {} or {"error": …}}}`.

        Raises M_INVALID_PARAM if it is beyond the spec's limits; M_LIMIT_EXCEEDED if too many are under way; StoreError if it
        could not be kept, so that the peer repeats it.
        """
        pdus, edus = body.get("pdus", []), body.get("edus", [])
        if not isinstance(pdus, list) or not isinstance(edus, list) or len(pdus) > MAX_PDUS or len(edus) > MAX_EDUS:
            raise InvalidParam(f"A transaction holds at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs.")
        if len(txn_id) > MAX_TXN_ID:
            raise InvalidParam("The transaction id is too long.")
        if self._under_way >= MAX_UNDER_WAY or self._turns.waiting(origin) >= MAX_WAITING:
            raise LimitExceeded(2_000)
        self._under_way += 1
        try:
            async with self._turns.of(origin):
                return await self._take(origin, txn_id, pdus, edus)
        finally:
            self._under_way -= 1

    async def _take(self, origin: str, txn_id: str, pdus: Sequence[Any], edus: Sequence[Any]) -> dict[str, Any]:
        known = await self._db.read(lambda tx: received_transactions.answer_to(tx, origin, txn_id))
        if known is not None:
            first: dict[str, Any] = canonical_json.decode(known)
            return first
        answer = {"pdus": await self._take_pdus(origin, pdus)}
        for edu in edus:
            await self._take_edu(origin, edu)
        if pdus or edus:
            await self._remember(origin, txn_id, answer)
        return answer

    # PDUs

    async def _take_pdus(self, origin: str, pdus: Sequence[Any]) -> Results:
        by_room: dict[str, list[dict[str, Any]]] = {}
        for pdu in pdus:
            room_id = pdu.get("room_id") if isinstance(pdu, dict) else None
            if isinstance(room_id, str):
                by_room.setdefault(room_id, []).append(pdu)

        def known(tx: Transaction) -> tuple[dict[str, rooms.Room | None], set[str]]:
            return {one: rooms.get(tx, one) for one in by_room}, acl.refused_rooms(tx, by_room, origin)

        found, refused = await self._db.read(known) if by_room else ({}, set())
        strange = [room_id for room_id, room in found.items() if room is None or room.snapshot is None]
        if strange:  # what overtakes the answer to a join, on a slow line by half a minute, waits for it
            for room_id in strange:
                await self._joining.over(room_id)
            found, refused = await self._db.read(known)
        results: Results = {}
        limit = trio.CapacityLimiter(PARALLEL_ROOMS)
        deadline = trio.current_time() + PATIENCE

        async def take_room(room: rooms.Room, opened: list[Event]) -> None:
            async with limit:
                await self._take_room(origin, room, opened, results, deadline)

        async with trio.open_nursery() as nursery:
            for room_id, in_room in by_room.items():
                room = found[room_id]
                if room is not None:  # of a room that we do not know we cannot even tell the events' ids
                    opened = self._opened(origin, room, in_room)
                    if room_id in refused:
                        results |= {one.event_id: {"error": "Your server is not admitted to this room."} for one in opened}
                    elif opened:
                        nursery.start_soon(take_room, room, opened)
        return results

    def _opened(self, origin: str, room: rooms.Room, pdus: Iterable[dict[str, Any]]) -> list[Event]:
        opened = []
        for pdu in pdus:
            event = open_pdu(pdu, room.rules)
            if isinstance(event, Dropped):
                self._seldom.say(origin, "%s sent something that is no event of %s: %s", origin, room.room_id, event.why)
            else:
                opened.append(event)
        return opened

    async def _take_room(self, origin: str, room: rooms.Room, found: Sequence[Event], results: Results, deadline: float) -> None:
        """Events of one room: their results, as far as they come before the deadline."""
        if self._background is None or room.snapshot is None:
            results |= _results(await self._work(origin, room, found))
            return
        turn = (origin, room.room_id)
        if turn in self._behind:  # in its turn, and without keeping it in memory until then
            await self._late.note(origin, room, found)
            results |= {event.event_id: {} for event in found}
            return
        working = _Working()
        self._background.start_soon(self._work_for, working, origin, room, found)
        try:
            with trio.move_on_at(max(deadline, trio.current_time() + LEAST_PATIENCE)):
                await working.done.wait()
        except trio.Cancelled:  # nobody waits for an answer any more, so the peer repeats it: it is not worked on beside that
            working.scope.cancel()
            raise
        if working.error is not None:
            raise working.error
        if working.verdicts is not None:
            results |= _results(working.verdicts)
            return
        results |= {event.event_id: {} for event in found}
        if len(self._behind) >= MAX_BEHIND or sum(of == origin for of, _ in self._behind) >= MAX_BEHIND_OF_ORIGIN:
            working.scope.cancel()
            await self._late.note(origin, room, found)
            return
        self._behind.add(turn)
        try:
            await self._late.note(origin, room, found, BEHIND_PAUSE)
        finally:
            self._background.start_soon(self._go_on, working, turn)

    async def _work_for(self, working: _Working, origin: str, room: rooms.Room, found: Sequence[Event]) -> None:
        try:
            with working.scope:
                working.verdicts = await self._work(origin, room, found)
        except StoreError as error:
            working.error = error
        finally:
            working.done.set()

    async def _go_on(self, working: _Working, turn: tuple[str, str]) -> None:
        """What is left to do when a room that was not waited for is done at last."""
        try:
            await working.done.wait()
            judged = [one for one, verdict in (working.verdicts or {}).items() if not isinstance(verdict, Unready)]
            await self._late.settled(judged)
        except StoreError as error:
            log.warning("events of %s that are taken in will be asked for again: %s", turn[0], error)
        finally:
            self._behind.discard(turn)

    async def _work(self, origin: str, room: rooms.Room, found: Sequence[Event]) -> dict[str, Verdict]:
        try:
            if room.snapshot is None:
                return {one.event_id: await self._withdrawal(origin, one) for one in found}
            verdicts = await self._receiver.receive_all(origin, room, found)
        except StoreError:
            raise
        except Exception:
            log.exception("taking in events of %s in %s failed", origin, room.room_id)
            return {event.event_id: Dropped("Internal server error.") for event in found}
        unready = [event for event in found if isinstance(verdicts.get(event.event_id), Unready)]
        if unready:
            await self._late.note(origin, room, unready)
        return verdicts

    async def _withdrawal(self, origin: str, event: Event) -> Verdict:
        return ACCEPTED if await self._withdrawals.withdrawn(origin, event) else Dropped("we are not in that room")

    # EDUs

    async def _take_edu(self, origin: str, edu: Any) -> None:
        try:
            await self._edus.take(origin, edu)
        except StoreError:
            raise
        except Exception:
            log.exception("taking in an EDU of %s failed", origin)

    # Once only

    async def _remember(self, origin: str, txn_id: str, answer: dict[str, Any]) -> None:
        self._taken += 1
        now, tidy = self._now_ms(), self._taken % FORGET_EVERY == 0

        def store(tx: Transaction) -> None:
            received_transactions.put_answer(tx, origin, txn_id, canonical_json.encode(answer), now)
            if tidy:
                received_transactions.forget_before(tx, now - REMEMBERED_MS)
                received_transactions.keep_newest(tx, origin, REMEMBERED_ANSWERS)

        await self._db.write(store)


def _results(verdicts: Mapping[str, Verdict]) -> Results:
    return {
        event_id: {"error": verdict.why} if isinstance(verdict, (Dropped, Rejected)) else {} for event_id, verdict in verdicts.items()
    }
