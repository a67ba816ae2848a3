"""Policy servers: a room may name a server that has to sign every event before it counts.

Spec: server-server API, "Policy Servers" and check 7 on receipt of a PDU (v1.18; MSC4284).

- A room uses the server that its current m.room.policy event names, as long as that event is valid and that server has a
  joined user in the room. This server signs nothing for others (`/_matrix/policy/v1/sign` is not served), so where a room
  names it, it holds nobody's events back for that.
- **Our own events** are signed before they are written or sent. While the policy server refuses or cannot be reached,
  nothing can be said in the room from here, leaving it included: the client gets the policy server's error, or 504, and
  nothing is kept. Only m.room.policy itself needs no signature, so whoever has the power can always end this.
- **Others' events** are judged by the key in the room's state, so a box that cannot reach the policy server takes what others
  have had signed. What is unsigned, or signed by another key, is shown to the policy server; if that does not help, it is soft-failed.
- History and state that we ask for are not judged: like check 6 the policy is about what becomes part of the room now.

The policy server is asked outside of any transaction: whoever makes an event in one calls `hold` there, which raises
`Unsigned`, and starts again through `PolicyGate`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import trio

from edgeserver.matrix import errors, pdu_checks, policy_server
from edgeserver.matrix.verdicts import Accepted
from edgeserver.rooms.placing import Task
from edgeserver.store import events, rooms, state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.policy_server import PolicyServer
    from edgeserver.rooms.placing import Placer
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

log = logging.getLogger(__name__)

T = TypeVar("T")

SILENCE: Final = 60.0
"""Seconds for which a policy server that could not be reached is not asked about others' events again."""
MAX_SILENT: Final = 256


class PolicyServerSilent(errors.MatrixError):
    """The policy server could not be reached."""

    def __init__(self, server_name: str) -> None:
        super().__init__(504, "M_UNKNOWN", f"The room's policy server {server_name} cannot be reached, and without it nothing is sent.")


class PolicySigner(Protocol):
    """What rooms need from the network: see `federation.policy.FederationPolicy`."""

    async def sign(self, server: str, pdu: dict[str, Any]) -> dict[str, Any]:
        """POST /_matrix/policy/v1/sign: the answer, server name → key id → signature, unverified.

        Raises `PolicyServerSilent`, or a `MatrixError` with the policy server's refusal.
        """
        ...


class Turns(Protocol):
    """One at a time for each name."""

    def of(self, name: str) -> AbstractAsyncContextManager[None]: ...


class Unsigned(errors.MatrixError):
    """Raised inside a transaction: this event of ours has to be signed by the policy server first."""

    def __init__(self, room: int, event: Event, server: PolicyServer) -> None:
        super().__init__(502, "M_UNKNOWN", f"The room's policy server {server.server_name} has to be asked first.")
        self.room = room
        self.event = event
        self.server = server


class PolicyGate:
    """Asks policy servers. One for the program."""

    def __init__(self, db: Database, placer: Placer, signer: PolicySigner, server_name: str, turns: Turns) -> None:
        self._db = db
        self._placer = placer
        self._signer = signer
        self._server_name = server_name
        self._turns = turns
        self._silent: dict[str, float] = {}

    def server_of(self, tx: Transaction, room: Room) -> PolicyServer | None:
        """The policy server that the room uses now."""
        if room.snapshot is None:
            return None
        stored = state.lookup_event(tx, room.snapshot, *policy_server.POLICY)
        server = None if stored is None else policy_server.named_by(stored.event)
        if server is None or server.server_name == self._server_name or not rooms.server_is_in(tx, room.number, server.server_name):
            return None
        return server

    # Our own events

    def hold(self, tx: Transaction, room: Room, event: Event) -> None:
        """Raises `Unsigned` for an event of ours that may not be written yet."""
        server = None if policy_server.is_exempt(event) else self.server_of(tx, room)
        if server is not None and not policy_server.has_signed(event, server):
            raise Unsigned(room.number, event, server)

    async def write(
        self, turn: str, work: Callable[[Transaction], T], placed: Callable[[Transaction, Event, int], T]
    ) -> T:
        """Carries out `work` in a write transaction. An event that it makes and that has to be signed is signed first and
        then placed where the room is by then; `placed` runs in the transaction of that, with the event and its number.

        `turn` names whose events these are: they are asked about, and written, in the order in which they were made, and
        a request that is repeated meanwhile waits for the first. Raises `MatrixError`: what `work` raises, the policy server's refusal,
        M_FORBIDDEN if the room does not allow the event any more.
        """
        try:
            return await self._db.write(work)
        except Unsigned:
            pass
        async with self._turns.of(turn):
            try:
                return await self._db.write(work)
            except Unsigned as held:
                unsigned = held
            return await self._place(unsigned, placed)

    async def _place(self, unsigned: Unsigned, placed: Callable[[Transaction, Event, int], T]) -> T:
        event = await self._signed(unsigned.event, unsigned.server)
        result: list[T] = []

        def note(tx: Transaction, number: int) -> None:
            result[:] = [placed(tx, event, number)]

        verdict = await self._placer.place(Task(unsigned.room, event, deliver=True, accepted=note))
        if not isinstance(verdict, Accepted):
            raise errors.Forbidden(f"The room does not allow it: {verdict.why}.")
        if not result:  # it has come in already: whoever saw it to sign it may have handed it round
            return await self._db.write(lambda tx: placed(tx, event, events.numbers_by_id(tx, [event.event_id])[event.event_id]))
        return result[0]

    async def signed(self, room_id: str, event: Event) -> Event:
        """An event of ours, drafted but not written, with the signature that it needs. Raises `MatrixError`."""

        def read(tx: Transaction) -> PolicyServer | None:
            room = rooms.get(tx, room_id)
            return None if room is None else self.server_of(tx, room)

        server = None if policy_server.is_exempt(event) else await self._db.read(read)
        if server is None or policy_server.has_signed(event, server):
            return event
        return await self._signed(event, server)

    async def _signed(self, event: Event, server: PolicyServer) -> Event:
        signed = policy_server.with_signature_in(event, server, await self._ask(event, server))
        if signed is None:
            raise errors.MatrixError(502, "M_UNKNOWN", f"The room's policy server {server.server_name} did not sign the event by its key.")
        if pdu_checks.is_too_large(signed.pdu, signed.rules):
            raise errors.TooLarge("The event is too large to be signed by the room's policy server.")
        return signed

    async def _ask(self, event: Event, server: PolicyServer) -> dict[str, Any]:
        try:
            answer = await self._signer.sign(server.server_name, event.pdu)
        except errors.MatrixError as failure:
            if isinstance(failure, PolicyServerSilent) or failure.status >= 500:  # its own trouble, which may take long to show
                self._note_silence(server.server_name)
            raise
        self._silent.pop(server.server_name, None)
        return answer

    def _note_silence(self, server_name: str) -> None:
        self._silent.pop(server_name, None)
        self._silent[server_name] = trio.current_time() + SILENCE
        if len(self._silent) > MAX_SILENT:
            del self._silent[next(iter(self._silent))]

    # Others' events

    async def judge(self, room: int, found: Sequence[Event]) -> list[tuple[Event, str | None]]:
        """Check 7 for events of other servers in one room: each, with the policy server's signature if it had to be asked for, and
        why it is not to be part of the room (None: it may be).
        """
        server = await self._db.read(lambda tx: self.server_of(tx, rooms.by_number(tx, room)))
        return [(event, None) if server is None else await self._judged(event, server) for event in found]

    async def _judged(self, event: Event, server: PolicyServer) -> tuple[Event, str | None]:
        if policy_server.is_exempt(event) or policy_server.has_signed(event, server):
            return event, None
        if self._silent.get(server.server_name, 0.0) > trio.current_time():
            return event, f"the policy server {server.server_name} has not signed it and cannot be reached"
        try:
            return await self._signed(event, server), None
        except errors.MatrixError as refusal:
            return event, f"the policy server {server.server_name} has not signed it: {refusal.error[:200]}"
