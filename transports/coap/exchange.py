"""Reliable messages over datagrams (RFC 7252 §4): one peer's table of what was sent, what was acknowledged and what came before.

::

    we send     CON ──► pending ── ACK ────────────► Delivered (and Received, if the response came with it)
                        │  ▲   └── RST ────────────► Refused
                        └──┘ no answer: again after ACK_TIMEOUT · random, doubled each time, MAX_RETRANSMIT times, then Undelivered
                NON ──► forgotten; a RST that names it is Refused
    we receive  CON request ──► Received; ACK with the response if that comes within ACK_DELAY, else an empty ACK and the response
                                as a CON of its own: the ACK of a long poll is never held
                CON response ─► Received, ACK        CON empty (a ping) ──► RST
                the same message id again ──► the same ACK or RST again, and nothing else happens

At most NSTART messages are pending; others wait their turn. A peer that is silent gets NONs no faster than PROBING_RATE once a first
burst is spent (§4.7). Sans-io: `take()` gives the datagrams to send, `deadline` says when to call `advance`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from transports.coap.message import Code, Message, MessageError, Options, Type, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

ACK_DELAY = 0.5
"""Seconds for which an answer may come along with the acknowledgement; well below the other end's ACK_TIMEOUT of 2 s."""
MAX_QUEUED = 64
MAX_REMEMBERED = 512
MAX_REMEMBERED_BYTES = 64 * 1024
"""Of the replies that are kept for messages that come again."""
FIRST_BURST = 16 * 1024
"""Bytes of NONs that a peer is sent without having been heard meanwhile: a whole set of RFC 9177's blocks."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """RFC 7252 §4.8, in seconds and bytes a second.

    `travel` is not in it: for so long after a reply its message may come again because the reply is still on its way over a slow wire, and
    another one would only be in the way of the first. A peer that has lost it repeats later once more.
    """

    ack_timeout: float = 2.0
    ack_random_factor: float = 1.5
    max_retransmit: int = 4
    nstart: int = 1
    probing_rate: float = 1.0
    max_latency: float = 100.0
    travel: float = 0.0

    @property
    def exchange_lifetime(self) -> float:
        """From the first transmission of a CON until its message id is free again (§4.8.2)."""
        span = self.ack_timeout * ((1 << self.max_retransmit) - 1) * self.ack_random_factor
        return span + 2 * self.max_latency + self.ack_timeout

    @property
    def max_transmit_wait(self) -> float:
        """From the first transmission of a CON until its sender gives up."""
        return self.ack_timeout * ((2 << self.max_retransmit) - 1) * self.ack_random_factor


DEFAULTS = Parameters()


@dataclass(frozen=True, slots=True)
class Received:
    """A request or a response that was not there before."""

    message: Message


@dataclass(frozen=True, slots=True)
class Delivered:
    """Our CON was acknowledged."""

    message_id: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The other end does not know what our message is about."""

    message_id: int


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Our CON was never acknowledged."""

    message_id: int


Event = Received | Delivered | Refused | Undelivered


class Congested(Exception):
    """Too many messages wait for their turn already; this one was not taken."""


@dataclass(slots=True)
class _Pending:
    data: bytes
    timeout: float
    due: float
    sent: int = 1


@dataclass(slots=True)
class _Earlier:
    """A message that came: when it may be forgotten, and what it was answered with."""

    expires: float
    reply: bytes = b""
    again_at: float = 0.0


class Messenger:
    """One peer. `chance` gives random numbers of 0 … 1, `first_id` is any message id."""

    def __init__(self, chance: Callable[[], float], first_id: int, parameters: Parameters = DEFAULTS) -> None:
        self.parameters = parameters
        self._chance = chance
        self._next_id = first_id & 0xFFFF
        self._out: list[bytes] = []
        self._pending: dict[int, _Pending] = {}
        self._queue: deque[Message] = deque()
        self._earlier: dict[int, _Earlier] = {}
        self._kept = 0
        self._to_acknowledge: dict[int, float] = {}
        self._unheard = 0
        self._heard_at = 0.0
        self._now = 0.0

    # — in

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What one datagram means. What is no message is answered with a Reset if it is a CON, and else passed over."""
        try:
            message = decode(data)
        except MessageError as error:
            if error.rejected is not None:
                self._out.append(_empty(Type.RST, error.rejected))
            return []
        self._unheard, self._heard_at, self._now = 0, now, now
        events = self._receive(message, now)
        self._send_queued(now)
        return events

    def _receive(self, message: Message, now: float) -> list[Event]:
        if message.type in (Type.ACK, Type.RST):
            return self._concluded(message)
        earlier = self._earlier.get(message.message_id)
        if earlier is not None and earlier.expires > now:
            if earlier.reply and earlier.again_at <= now:
                earlier.again_at = now + self.parameters.travel
                self._out.append(earlier.reply)
            return []
        self._remember(message.message_id, now)
        if message.is_request:
            if message.type is Type.CON:
                self._to_acknowledge[message.message_id] = now + ACK_DELAY
            return [Received(message)]
        if message.is_response:
            return [Received(message)]
        if message.type is Type.CON:
            self._reply(message.message_id, _empty(Type.RST, message.message_id))
        return []

    def _concluded(self, message: Message) -> list[Event]:
        pending = self._pending.pop(message.message_id, None)
        if message.type is Type.RST:
            return [Refused(message.message_id)]
        if pending is None:
            return []
        found: list[Event] = [Delivered(message.message_id)]
        if message.is_response:
            found.append(Received(message))
        elif message.is_request:
            # RFC 7252 §4.2 has no request in an ACK, but go-coap asks for a notification's second block in the ACK of the first one.
            found.append(Received(replace(message, type=Type.NON)))
        return found

    def _remember(self, message_id: int, now: float) -> None:
        self._forget(message_id)
        while self._earlier:
            first = next(iter(self._earlier))
            if self._earlier[first].expires > now and len(self._earlier) < MAX_REMEMBERED and self._kept < MAX_REMEMBERED_BYTES:
                break
            self._forget(first)
        self._earlier[message_id] = _Earlier(now + self.parameters.exchange_lifetime)

    def _forget(self, message_id: int) -> None:
        gone = self._earlier.pop(message_id, None)
        if gone is not None:
            self._kept -= len(gone.reply)

    def _reply(self, message_id: int, data: bytes) -> None:
        """Sends an ACK or RST, and again whenever that message comes again."""
        self._to_acknowledge.pop(message_id, None)
        earlier = self._earlier.get(message_id)
        if earlier is not None:
            self._kept += len(data) - len(earlier.reply)
            earlier.reply = data
            earlier.again_at = self._now + self.parameters.travel
        self._out.append(data)

    # — out

    def acknowledge(self, message: Message) -> None:
        """An empty ACK for a CON that has none yet; the answer to a request then goes out by itself."""
        earlier = self._earlier.get(message.message_id)
        if message.type is Type.CON and (earlier is None or not earlier.reply):
            self._reply(message.message_id, _empty(Type.ACK, message.message_id))

    def reject(self, message: Message) -> None:
        """A Reset: this end does not know what the message is about."""
        self._reply(message.message_id, _empty(Type.RST, message.message_id))

    def respond(
        self, request: Message, code: int, options: Options, payload: bytes, now: float, *, confirmable: bool = False
    ) -> int | None:
        """The response to a request: with its ACK if that is not out yet, as a CON if it is, as a NON to a NON (but a CON if it is to
        be `confirmable`).

        Returns the message id of a response that goes out by itself. Raises Congested.
        """
        self._now = now
        if request.message_id in self._to_acknowledge:
            response = Message(Type.ACK, code, request.message_id, request.token, options, payload)
            self._reply(request.message_id, encode(response))
            return None
        return self.send(
            code, request.token, options, payload, now, confirmable=confirmable or request.type is Type.CON
        )

    def send(
        self, code: int, token: bytes, options: Options, payload: bytes, now: float, *, confirmable: bool = True, probes: bool = True
    ) -> int:
        """A CON or NON of its own; returns its message id. A NON that `probes` nothing (its pace is governed by others, as
        RFC 9177's sets are) goes out at once. Raises Congested.
        """
        if len(self._queue) >= MAX_QUEUED:
            raise Congested
        kind = Type.CON if confirmable else Type.NON
        message = Message(kind, code, self._fresh_id(), token, options, payload)
        if kind is Type.NON and not probes:
            self._out.append(encode(message))
        else:
            self._queue.append(message)
            self._send_queued(now)
        return message.message_id

    def withdraw(self, message_id: int) -> None:
        """Stops sending a message; nothing more is heard of it."""
        self._pending.pop(message_id, None)
        self._queue = deque(message for message in self._queue if message.message_id != message_id)

    def take(self) -> list[bytes]:
        """The datagrams to send now."""
        out, self._out = self._out, []
        return out

    def _fresh_id(self) -> int:
        waiting = {message.message_id for message in self._queue}
        while True:
            message_id, self._next_id = self._next_id, self._next_id + 1 & 0xFFFF
            if message_id not in self._pending and message_id not in waiting:
                return message_id

    def _send_queued(self, now: float) -> None:
        while self._queue:
            message = self._queue[0]
            if message.type is Type.CON:
                if len(self._pending) >= self.parameters.nstart:
                    return
                timeout = self.parameters.ack_timeout * (1 + self._chance() * (self.parameters.ack_random_factor - 1))
                self._pending[message.message_id] = _Pending(encode(message), timeout, now + timeout)
            elif self._may_probe_at() > now:
                return
            self._queue.popleft()
            data = encode(message)
            if message.type is Type.NON:
                if not self._unheard:
                    self._heard_at = now
                self._unheard += len(data)
            self._out.append(data)

    def _may_probe_at(self) -> float:
        """When the next NON may go out: what was sent since the peer was heard last must not exceed burst and rate."""
        if self._unheard < FIRST_BURST:
            return 0.0
        return self._heard_at + max(0, self._unheard - FIRST_BURST) / self.parameters.probing_rate

    # — time

    @property
    def deadline(self) -> float | None:
        """When `advance` is to be called next."""
        times = [pending.due for pending in self._pending.values()]
        times += self._to_acknowledge.values()
        if self._queue and self._queue[0].type is Type.NON:
            times.append(self._may_probe_at())
        return min(times, default=None)

    def advance(self, now: float) -> list[Event]:
        """Sends what is due again, and empty ACKs for what has not been answered in time."""
        self._now = now
        for message_id, at in list(self._to_acknowledge.items()):
            if at <= now:
                self._reply(message_id, _empty(Type.ACK, message_id))
        found: list[Event] = []
        for message_id, pending in list(self._pending.items()):
            if pending.due > now:
                continue
            if pending.sent > self.parameters.max_retransmit:
                del self._pending[message_id]
                found.append(Undelivered(message_id))
                continue
            pending.sent += 1
            pending.timeout *= 2
            pending.due = now + pending.timeout
            self._out.append(pending.data)
        self._send_queued(now)
        return found


def _empty(kind: Type, message_id: int) -> bytes:
    return encode(Message(kind, Code.EMPTY, message_id))
