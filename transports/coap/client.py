"""The asking end of CoAP towards one peer: whole requests go in, whole answers and notifications come out.

::

    ask(code, options, payload) ──► exchange         (a number)
    receive / advance ──► Answered(exchange, code, options, payload, sequence)    sequence: of a notification, else None
                          Failed(exchange, reason)   nothing came, or not all of it

A body larger than a block goes out in Block1 blocks, a larger answer is fetched in Block2 blocks (RFC 7959); with `quick`, both go in sets
(RFC 9177), and if the peer does not know those, as before. Sans-io, as `exchange.Messenger` is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transports.coap.blockwise import LARGEST, Block, BlockError, block_option, piece
from transports.coap.exchange import DEFAULTS, Congested, Delivered, Messenger, Parameters, Received, Undelivered
from transports.coap.message import Code, Message, Option, Options, uint
from transports.coap.observe import REGISTER, is_newer
from transports.coap.qblock import BlockReceiver, BlockSender, decode_missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from transports.coap import exchange as messages

MAX_ASKED = 64
MAX_ANSWER = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answered:
    exchange: int
    code: int
    options: Options
    payload: bytes
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    exchange: int
    reason: str


Event = Answered | Failed


@dataclass(slots=True)
class _Asking:
    """A request that is not answered yet, or whose notifications come. `expires`: when it is given up."""

    exchange: int
    code: int
    options: Options
    body: bytes
    expires: float | None
    observes: bool
    upload: int | None = None
    """The number of the Block1 block that is under way."""
    exponent: int = LARGEST
    answer: bytearray = field(default_factory=bytearray)
    etag: bytes | None = None
    sequence: int | None = None
    first: Options = ()
    newest: tuple[int, float] | None = None
    sender: BlockSender | None = None
    receiver: BlockReceiver | None = None
    tag: bytes = b""
    token: bytes = b""
    """Of the request itself, which notifications carry; those for single blocks have their own."""


class ClientSession:
    """`chance` gives random numbers of 0 … 1, `patience` is in seconds: so long an answer may take that the peer works on."""

    def __init__(
        self,
        chance: Callable[[], float],
        *,
        quick: bool = False,
        exponent: int = LARGEST,
        patience: float = 600.0,
        parameters: Parameters = DEFAULTS,
    ) -> None:
        self._chance = chance
        self._quick = quick
        self._exponent = exponent
        self._patience = patience
        self._messenger = Messenger(chance, int(chance() * 0xFFFF), parameters)
        self._asking: dict[int, _Asking] = {}
        self._tokens: dict[bytes, int] = {}
        self._messages: dict[int, int] = {}
        self._last = 0
        self._last_token = 0

    # — out

    def ask(self, code: int, options: Options, payload: bytes, now: float, *, observe: bool = False) -> int:
        """Sends a request; with `observe`, notifications follow its answer. Raises Congested."""
        if len(self._asking) >= MAX_ASKED:
            raise Congested
        self._last += 1
        if observe:
            options = (*options, (Option.OBSERVE, uint(REGISTER)))
        asking = _Asking(self._last, code, options, payload, now + self._patience, observe, exponent=self._exponent)
        self._asking[asking.exchange] = asking
        self._begin(asking, now)
        return asking.exchange

    def cancel(self, exchange: int) -> None:
        """Nothing more is wanted of it; a notification that comes is answered with a Reset (RFC 7641 §3.6)."""
        self._end(exchange)

    def _begin(self, asking: _Asking, now: float) -> None:
        size = 1 << asking.exponent + 4
        if self._quick and not asking.observes:
            asking.receiver = None
            if len(asking.body) > size:
                asking.tag = uint(asking.exchange)
                asking.sender = BlockSender(-(-len(asking.body) // size), now, self._chance)
                self._advance_quick(asking, now)
                return
            self._send(asking, ((Option.Q_BLOCK2, Block(0, True, asking.exponent).encode()),), asking.body, now)
        elif len(asking.body) > size:
            asking.upload = 0
            self._send_block(asking, now)
        else:
            self._send(asking, (), asking.body, now)

    def _send_block(self, asking: _Asking, now: float) -> None:
        at, part = piece(asking.body, asking.upload or 0, asking.exponent)
        self._send(asking, ((Option.BLOCK1, at.encode()),), part, now)

    def _fetch(self, asking: _Asking, number: int, exponent: int, now: float) -> None:
        wanted = (Option.BLOCK2, Block(number, False, exponent).encode())
        self._send(asking, (wanted,), b"", now, observing=False)

    def _send(
        self, asking: _Asking, more: Options, payload: bytes, now: float, *, observing: bool = True, confirmable: bool = True
    ) -> None:
        options = asking.options if observing else tuple(each for each in asking.options if each[0] != Option.OBSERVE)
        token = self._fresh_token(asking.exchange)
        message_id = self._messenger.send(
            asking.code, token, (*options, *more), payload, now, confirmable=confirmable, probes=confirmable
        )
        self._messages[message_id] = asking.exchange
        asking.token = asking.token or token

    def _fresh_token(self, exchange: int) -> bytes:
        """A token that is not in use; over an authenticated wire it need not be a secret (RFC 7252 §5.3.1)."""
        while True:
            self._last_token = (self._last_token + 1) % 0xFFFF
            token = uint(self._last_token) or b"\0"
            if token not in self._tokens:
                self._tokens[token] = exchange
                return token

    def _end(self, exchange: int) -> None:
        self._asking.pop(exchange, None)
        self._tokens = {token: each for token, each in self._tokens.items() if each != exchange}
        self._forget_messages(exchange)

    def _forget_messages(self, exchange: int) -> None:
        for message_id in [message_id for message_id, each in self._messages.items() if each == exchange]:
            del self._messages[message_id]
            self._messenger.withdraw(message_id)

    # — in

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What one datagram brings about."""
        return self._events(self._messenger.receive(data, now), now)

    def advance(self, now: float) -> list[Event]:
        """What the time brings about."""
        found = self._events(self._messenger.advance(now), now)
        for asking in list(self._asking.values()):
            if asking.expires is not None and asking.expires <= now:
                found += self._fail(asking, "no answer came in time")
            elif asking.sender is not None or asking.receiver is not None:
                found += self._advance_quick(asking, now)
        return found

    def take(self) -> list[bytes]:
        """The datagrams to send now."""
        return self._messenger.take()

    @property
    def deadline(self) -> float | None:
        """When `advance` is to be called next."""
        times = [self._messenger.deadline]
        for asking in self._asking.values():
            times.append(asking.expires)
            if asking.sender is not None:
                times.append(asking.sender.deadline if asking.sender.deadline is not None else asking.sender.quiet_until)
            if asking.receiver is not None:
                times.append(asking.receiver.deadline)
        return min((time for time in times if time is not None), default=None)

    def _events(self, events: list[messages.Event], now: float) -> list[Event]:
        found: list[Event] = []
        for event in events:
            if isinstance(event, Received):
                found += self._received(event.message, now)
                continue
            exchange = self._messages.pop(event.message_id, None)
            asking = None if exchange is None else self._asking.get(exchange)
            if asking is not None and not isinstance(event, Delivered):
                silent = isinstance(event, Undelivered)
                if not silent and asking.sender is not None:
                    self._begin_in_blocks(asking, now)  # a NON with an option that is not known is answered so (RFC 7252 §5.4.1)
                    continue
                found += self._fail(asking, "the other end is silent" if silent else "the other end does not know of it")
        return found

    def _received(self, message: Message, now: float) -> list[Event]:
        exchange = self._tokens.get(message.token) if message.is_response else None
        asking = None if exchange is None else self._asking.get(exchange)
        if asking is None:
            self._messenger.reject(message)
            return []
        self._messenger.acknowledge(message)
        try:
            return self._response(asking, message, now)
        except BlockError as error:
            return self._fail(asking, f"the answer cannot be put together: {error}")

    def _response(self, asking: _Asking, message: Message, now: float) -> list[Event]:
        if message.code == Code.BAD_OPTION and self._quick:
            self._begin_in_blocks(asking, now)
            return []
        if asking.sender is not None and self._went_on(asking, asking.sender, message, now):
            return []
        if asking.upload is not None and message.code == Code.CONTINUE:
            return self._next_upload(asking, message, now)
        quick = block_option(message, Option.Q_BLOCK2)
        if quick is not None:
            return self._quick_block(asking, message, quick, now)
        at = block_option(message, Option.BLOCK2)
        sequence = message.number(Option.OBSERVE)
        if sequence is not None:
            if asking.newest is not None and not is_newer(*asking.newest, sequence, now):
                return []
            asking.newest, asking.sequence = (sequence, now), sequence
        if at is None or (at.number == 0 and not at.more):
            asking.first = message.options
            return self._answered(asking, message.code, message.payload)
        return self._block(asking, message, at, now)

    def _next_upload(self, asking: _Asking, message: Message, now: float) -> list[Event]:
        taken = block_option(message, Option.BLOCK1)
        if taken is None or taken.number != asking.upload or taken.exponent > asking.exponent:
            return []
        sent = (taken.number + 1) << asking.exponent + 4
        asking.exponent = taken.exponent  # the other end may want smaller ones from now on (RFC 7959 §2.3)
        asking.upload = sent >> asking.exponent + 4
        self._send_block(asking, now)
        return []

    def _block(self, asking: _Asking, message: Message, at: Block, now: float) -> list[Event]:
        """One block of an answer; a number of 0 begins a new one."""
        etag = message.value(Option.ETAG)
        if at.number == 0:
            asking.answer, asking.etag, asking.first = bytearray(), etag, message.options
            asking.upload = None
        if at.start != len(asking.answer):
            return []  # an earlier one once more
        if etag != asking.etag or (at.more and len(message.payload) != at.size):
            raise BlockError("its blocks do not belong together")
        if len(asking.answer) + len(message.payload) > MAX_ANSWER:
            raise BlockError("it is too large")
        asking.answer += message.payload
        if at.more:
            self._fetch(asking, at.number + 1, at.exponent, now)
            return []
        return self._answered(asking, message.code, bytes(asking.answer))

    def _answered(self, asking: _Asking, code: int, payload: bytes) -> list[Event]:
        sequence, asking.sequence = asking.sequence, None
        found = Answered(asking.exchange, code, asking.first, payload, sequence)
        if sequence is None or code >= Code.BAD_REQUEST:
            self._end(asking.exchange)
        else:
            asking.expires = None
            self._tokens = {token: each for token, each in self._tokens.items() if each != asking.exchange or token == asking.token}
        return [found]

    def _fail(self, asking: _Asking, reason: str) -> list[Event]:
        self._end(asking.exchange)
        return [Failed(asking.exchange, reason)]

    # — RFC 9177

    def _advance_quick(self, asking: _Asking, now: float) -> list[Event]:
        sender, receiver = asking.sender, asking.receiver
        if sender is not None:
            if sender.is_through and sender.quiet_until <= now and not sender.nudge(now):
                return self._fail(asking, "the other end is silent")
            for number in sender.take(now):
                at, part = piece(asking.body, number, asking.exponent)
                options = (
                    (Option.Q_BLOCK1, at.encode()),
                    (Option.Q_BLOCK2, Block(0, True, asking.exponent).encode()),
                    (Option.REQUEST_TAG, asking.tag),
                )
                self._send(asking, options, part, now, confirmable=False)
        if receiver is not None and receiver.deadline <= now:
            return self._ask_for_missing(asking, receiver, now)
        return []

    def _begin_in_blocks(self, asking: _Asking, now: float) -> None:
        """The other end knows no sets; what it says of the blocks of one that is under way is no news."""
        self._quick = False
        self._forget_messages(asking.exchange)
        asking.sender = asking.receiver = None
        self._begin(asking, now)

    def _went_on(self, asking: _Asking, sender: BlockSender, message: Message, now: float) -> bool:
        """Whether a response is about the blocks of our request alone."""
        if message.code == Code.CONTINUE:
            had = block_option(message, Option.Q_BLOCK1)
            if had is not None:
                sender.go_on(had.number + 1, now)
        elif message.code == Code.REQUEST_ENTITY_INCOMPLETE:
            sender.again(decode_missing(message.payload))
        else:
            asking.sender = None
            return False
        self._advance_quick(asking, now)
        return True

    def _quick_block(self, asking: _Asking, message: Message, at: Block, now: float) -> list[Event]:
        etag = message.value(Option.ETAG)
        if asking.receiver is None or etag != asking.etag:
            asking.receiver, asking.etag = BlockReceiver(at.exponent, MAX_ANSWER, now), etag
            asking.first = message.options
        receiver = asking.receiver
        receiver.add(at, message.payload, now)
        body = receiver.body
        if body is not None:
            asking.receiver = None
            return self._answered(asking, message.code, body)
        onward = receiver.completed_set()
        if onward is not None:
            self._want(asking, (Block(onward, True, receiver.exponent),), now)
        elif receiver.has_skipped_a_set():
            return self._ask_for_missing(asking, receiver, now)
        return []

    def _ask_for_missing(self, asking: _Asking, receiver: BlockReceiver, now: float) -> list[Event]:
        if not receiver.asked(now):
            return self._fail(asking, "the other end is silent")
        self._want(asking, tuple(Block(number, False, receiver.exponent) for number in receiver.missing()), now)
        return []

    def _want(self, asking: _Asking, blocks: tuple[Block, ...], now: float) -> None:
        options: Options = tuple((Option.Q_BLOCK2, each.encode()) for each in blocks)
        if asking.tag:
            options = (*options, (Option.REQUEST_TAG, asking.tag))
        self._send(asking, options, b"", now, observing=False, confirmable=False)
