"""Taking in transactions: PUT /_matrix/federation/v1/send/{txnId}.

Spec: server-server API, "Transactions". One transaction of an origin at a time, and a repeated one gets its first
answer. Events of one room are taken in the order given; rooms side by side, a few at a time. Events come before
EDUs, for an EDU may speak of them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver.federation import acl
from edgeserver.federation.turns import Turns
from edgeserver.matrix import canonical_json
from edgeserver.matrix.errors import InvalidParam
from edgeserver.matrix.pdu_checks import open_pdu
from edgeserver.matrix.verdicts import Dropped, Rejected
from edgeserver.store import received_transactions, rooms
from edgeserver.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.federation.edus import Edus
    from edgeserver.matrix.event import Event
    from edgeserver.matrix.verdicts import Verdict
    from edgeserver.store.database import Database, Transaction

log = logging.getLogger(__name__)

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_TXN_ID: Final = 255
PARALLEL_ROOMS: Final = 4
REMEMBERED_MS: Final = 7 * 86_400_000
FORGET_EVERY: Final = 200

Results = dict[str, dict[str, str]]
"""event id → {} or {"error": why}"""


class PduReceiver(Protocol):
    """Who takes events in; see `rooms.receive.Receiver`."""

    async def receive(self, origin: str, pdu: dict[str, Any]) -> Verdict:
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
        self, db: Database, receiver: PduReceiver, edus: Edus, withdrawals: Withdrawals, *, joining: Turns, now_ms: Callable[[], int]
    ) -> None:
        """`joining`: the rooms that somebody of ours is joining through another server now."""
        self._db = db
        self._receiver = receiver
        self._edus = edus
        self._withdrawals = withdrawals
        self._now_ms = now_ms
        self._turns = Turns()
        self._joining = joining
        self._taken = 0

    async def transaction(self, origin: str, txn_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one transaction: `{"pdus": {event id: {} or {"error": …}}}`.

        Raises M_INVALID_PARAM if it is beyond the spec's limits; StoreError if it could not be kept, so that the
        peer repeats it.
        """
        pdus, edus = body.get("pdus", []), body.get("edus", [])
        if not isinstance(pdus, list) or not isinstance(edus, list) or len(pdus) > MAX_PDUS or len(edus) > MAX_EDUS:
            raise InvalidParam(f"A transaction holds at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs.")
        if len(txn_id) > MAX_TXN_ID:
            raise InvalidParam("The transaction id is too long.")
        async with self._turns.of(origin):
            known = await self._db.read(lambda tx: received_transactions.answer_to(tx, origin, txn_id))
            if known is not None:
                answer: dict[str, Any] = canonical_json.decode(known)
                return answer
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

        async def take_room(room: rooms.Room, pdus: list[dict[str, Any]]) -> None:
            async with limit:
                for pdu in pdus:
                    await self._take_pdu(origin, room, pdu, results, refused=room.room_id in refused)

        async with trio.open_nursery() as nursery:
            for room_id, in_room in by_room.items():
                room = found[room_id]
                if room is not None:  # of a room that we do not know we cannot even tell the events' ids
                    nursery.start_soon(take_room, room, in_room)
        return results

    async def _take_pdu(self, origin: str, room: rooms.Room, pdu: dict[str, Any], results: Results, *, refused: bool) -> None:
        event = open_pdu(pdu, room.rules)
        if isinstance(event, Dropped):
            log.info("%s sent something that is no event of %s: %s", origin, room.room_id, event.why)
            return
        if refused:
            results[event.event_id] = {"error": "Your server is not admitted to this room."}
            return
        try:
            if room.snapshot is None and await self._withdrawals.withdrawn(origin, event):
                results[event.event_id] = {}
                return
            verdict = await self._receiver.receive(origin, pdu)
        except StoreError:
            raise
        except Exception:
            log.exception("taking in %s of %s failed", event.event_id, origin)
            results[event.event_id] = {"error": "Internal server error."}
            return
        results[event.event_id] = {"error": verdict.why} if isinstance(verdict, (Dropped, Rejected)) else {}

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

        await self._db.write(store)
