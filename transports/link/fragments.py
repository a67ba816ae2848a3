"""What is inside a sealed frame: chunks; and messages cut into segments and put together again.

A sealed frame's plaintext is a row of chunks, each a kind byte and its fields (numbers are varints unless a size is given)::

    1ofl0000  DATA    message id mod 2^14 [offset if o] [length if l, else to the end of the frame] bytes; f: these bytes end the message
    1oflnnnn  DATA    the same, where n - 1 is the message id mod 15
    00000001  ACK     newest frame number mod 2^16 (2 B), how many before it arrived too,
                      how many more runs, then for each: frames missing, frames arrived less one
    01nnnnnn  ACK     newest frame number mod 64; it and the 15 before it arrived
    001nnnnn  ACK     the same, newest frame number mod 2^13 (5 bits here, then 8)
    00000010  CREDIT  how much the receiver takes in all, in units of 1,024
    00000011  RESET   message id mod 2^14, bytes that had been sent of it: forget this message
    00000100  PING    wants an acknowledgement, nothing else
    00000101  CLOSE   the session is over

A message that fits one frame costs 1 to 3 bytes here and 18, 10 or 9 in `secure.py`, its acknowledgement 5 bytes, or 1 in the ordinary
case where both ends take the short ones (`Terms.compact`; `window.Receipts` says when, `Session` how they are read). Its end mark counts
as one more byte of the message, so that an empty message too is something that can be acknowledged.

Short message ids are for wires on which no frame overtakes another, as long as no more than `SHORT_IDS` messages are unfinished, those
between the oldest and the newest counted as well: then the receiver, who has got so far as well, knows which is meant.

Credit: a receiver holds at most `credit_for(max_message)` of messages that are incomplete or that nobody has taken yet, each counted with
its length and 64. That is five whole messages, and a sender has at most one begun message in each of the five priorities,
so credit cannot run out for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transports.exchange import Priority
from transports.link import varint
from transports.link.ranges import Ranges
from transports.link.secure import expand

DATA, OFFSET, FIN, LENGTH = 0x80, 0x40, 0x20, 0x10
ACK, CREDIT, RESET, PING, CLOSE = 1, 2, 3, 4, 5
ID_SPAN = 1 << 14
SHORT_ID_SPAN, SHORT_IDS = 15, 6
ID_WINDOW = 4096  # messages between the oldest unfinished one and the newest
MESSAGE_COST = 64
CREDIT_UNIT = 1024
SHORT_RUN = 16
SHORT_SPAN, SHORTER_SPAN = 1 << 13, 1 << 6
_SHORT, _SHORTER, _SHORT_ID = 0x20, 0x40, 0x0F
_MAX_RUNS = 32
_MAX_PIECES = 2 * ID_WINDOW  # a sender has at most 512 frames under way, so it never leaves that many holes


class Violation(Exception):
    """The (authenticated) other end does not keep to the protocol: the session ends."""


@dataclass(frozen=True, slots=True)
class Segment:
    """`data` at `offset` of message `message_id` (mod `id_span` until `Reassembler` has placed it)."""

    message_id: int
    offset: int
    data: bytes
    fin: bool
    id_span: int = ID_SPAN


@dataclass(frozen=True, slots=True)
class Ack:
    """Frames that arrived: `runs` of (first, last + 1), newest first, numbers mod 2^16 for the newest and exact relative to it."""

    newest: int
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ShortAck:
    """The frame whose number mod `span` is `low` arrived, and so did the `SHORT_RUN` - 1 before it."""

    low: int
    span: int


@dataclass(frozen=True, slots=True)
class Credit:
    limit: int


@dataclass(frozen=True, slots=True)
class Reset:
    message_id: int
    sent: int


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Close:
    pass


Chunk = Segment | Ack | ShortAck | Credit | Reset | Ping | Close


def credit_for(max_message: int) -> int:
    return (len(Priority) * (max_message + MESSAGE_COST) // CREDIT_UNIT + 64) * CREDIT_UNIT


def encode_segment(segment: Segment, *, last: bool) -> bytes:
    """`last`: no chunk follows in this frame, so the length need not be said."""
    kind = DATA | (OFFSET if segment.offset else 0) | (FIN if segment.fin else 0) | (0 if last else LENGTH)
    if segment.id_span == SHORT_ID_SPAN:
        head = bytes([kind | segment.message_id % SHORT_ID_SPAN + 1])
    else:
        head = bytes([kind]) + varint.encode(segment.message_id % ID_SPAN)
    if segment.offset:
        head += varint.encode(segment.offset)
    if not last:
        head += varint.encode(len(segment.data))
    return head + segment.data


def segment_overhead(message_id: int, offset: int, length: int) -> int:
    """The most that `encode_segment` adds to `length` bytes."""
    return 1 + varint.size(message_id % ID_SPAN) + (varint.size(offset) if offset else 0) + varint.size(length)


def encode_ack(received: Ranges, max_bytes: int) -> bytes:
    """As many runs as fit, the newest first. `received` must not be empty; needs 6 bytes at least."""
    runs = list(reversed(received))[:_MAX_RUNS]
    (start, stop), older = runs[0], runs[1:]
    head = bytes([ACK]) + ((stop - 1) % 65536).to_bytes(2, "big") + varint.encode(min(stop - 1 - start, ID_SPAN - 1))
    room, body, count, below = max_bytes - len(head) - 1, b"", 0, start
    if stop - 1 - start < ID_SPAN:
        for low, high in older:
            piece = varint.encode(below - high) + varint.encode(high - low - 1)
            if len(piece) > room:
                break
            body, count, below, room = body + piece, count + 1, low, room - len(piece)
    return head + bytes([count]) + body


def encode_short_ack(newest: int, span: int) -> bytes:
    """One byte with `SHORTER_SPAN`, two with `SHORT_SPAN`."""
    if span == SHORTER_SPAN:
        return bytes([_SHORTER | newest % SHORTER_SPAN])
    return (_SHORT << 8 | newest % SHORT_SPAN).to_bytes(2, "big")


def encode_credit(limit: int) -> bytes:
    return bytes([CREDIT]) + varint.encode(limit // CREDIT_UNIT)


def encode_reset(message_id: int, sent: int) -> bytes:
    return bytes([RESET]) + varint.encode(message_id % ID_SPAN) + varint.encode(sent)


def decode(plaintext: bytes) -> list[Chunk]:
    """All chunks of a frame. Raises `Violation`: an authentic frame is never malformed by accident."""
    chunks: list[Chunk] = []
    at = 0
    try:
        while at < len(plaintext):
            chunk, at = _decode_one(plaintext, at)
            chunks.append(chunk)
    except (varint.Truncated, IndexError) as error:
        raise Violation("a frame's chunk is cut off") from error
    return chunks


def _decode_one(data: bytes, at: int) -> tuple[Chunk, int]:
    kind = data[at]
    at += 1
    if kind & DATA:
        return _decode_segment(kind, data, at)
    if kind & _SHORTER:
        return ShortAck(kind % SHORTER_SPAN, SHORTER_SPAN), at
    if kind & _SHORT:
        return ShortAck((kind << 8 | data[at]) % SHORT_SPAN, SHORT_SPAN), at + 1
    match kind:
        case 1:
            return _decode_ack(data, at)
        case 2:
            units, at = varint.decode(data, at)
            return Credit(units * CREDIT_UNIT), at
        case 3:
            message_id, at = varint.decode(data, at)
            sent, at = varint.decode(data, at)
            return Reset(message_id, sent), at
        case 4:
            return Ping(), at
        case 5:
            return Close(), at
    raise Violation("an unknown kind of chunk")


def _decode_segment(kind: int, data: bytes, at: int) -> tuple[Segment, int]:
    offset, message_id, span = 0, (kind & _SHORT_ID) - 1, SHORT_ID_SPAN
    if message_id < 0:
        (message_id, at), span = varint.decode(data, at), ID_SPAN
    if kind & OFFSET:
        offset, at = varint.decode(data, at)
    stop = len(data)
    if kind & LENGTH:
        length, at = varint.decode(data, at)
        stop = at + length
        if stop > len(data):
            raise Violation("a segment is cut off")
    if message_id >= span:
        raise Violation("a malformed segment")
    return Segment(message_id, offset, data[at:stop], bool(kind & FIN), span), stop


def _decode_ack(data: bytes, at: int) -> tuple[Ack, int]:
    newest, at = int.from_bytes(data[at : at + 2], "big"), at + 2
    run, at = varint.decode(data, at)
    count, at = data[at], at + 1
    runs = [(newest - run, newest + 1)]
    for _ in range(count):
        gap, at = varint.decode(data, at)
        length, at = varint.decode(data, at)
        stop = runs[-1][0] - gap
        runs.append((stop - length - 1, stop))
    return Ack(newest, tuple(runs)), at


@dataclass(eq=False)
class Outgoing:
    """A message on its way out: which bytes were sent once, which must be sent again, which are acknowledged."""

    message: bytes
    priority: Priority
    message_id: int | None = None  # given when its first segment is cut
    sent: int = 0
    resend: Ranges = field(default_factory=Ranges)
    acked: Ranges = field(default_factory=Ranges)
    cancelled: bool = False

    @property
    def end(self) -> int:
        return len(self.message) + 1

    @property
    def wants_to_send(self) -> bool:
        return not self.cancelled and (self.sent < self.end or len(self.resend) > 0)

    @property
    def fresh(self) -> bool:
        """Nothing of it has been sent."""
        return self.sent == 0

    @property
    def wholly_sent(self) -> bool:
        return self.sent == self.end

    @property
    def delivered(self) -> bool:
        return self.acked.covers(0, self.end)

    def cut(self, message_id: int, room: int, credit: int) -> Segment | None:
        """The next segment, at most `room` bytes with its overhead; of bytes never sent before at most `credit`. None: does not fit."""
        length = len(self.message)
        if len(self.resend):
            start, stop = self.resend.first
        else:
            start, stop = self.sent, self.end if length - self.sent <= credit else self.sent + max(credit, 0)
        room -= segment_overhead(message_id, start, room)
        want = min(stop, length) - start
        if room < min(want, 16) or start >= stop:
            return None
        take = min(want, room)
        fin = start + take == length and stop == self.end
        self.message_id = message_id
        self.resend.remove(start, start + take + fin)
        self.sent = max(self.sent, start + take + fin)
        return Segment(message_id, start, self.message[start : start + take], fin)

    def lost(self, start: int, stop: int) -> None:
        self.resend.add(start, stop)
        for low, high in self.acked:
            self.resend.remove(low, high)

    def acknowledge(self, start: int, stop: int) -> None:
        self.acked.add(start, stop)
        self.resend.remove(start, stop)


class _Incoming:
    __slots__ = ("buffer", "have", "total")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.have = Ranges()
        self.total: int | None = None

    @property
    def extent(self) -> int:
        return len(self.buffer)


class Reassembler:
    """Segments in any order, doubled or overlapping, to whole messages, each handed out once.

    Memory: at most `credit_for(max_message)` bytes and 64 for each message that waits for `taken`, and less than a megabyte
    for the holes in messages.
    """

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._window = credit_for(max_message)
        self._partial: dict[int, _Incoming] = {}
        self._finished = Ranges()
        self._pieces = 0  # runs of bytes in all partial messages
        self._used = 0
        self._released = 0

    @property
    def limit(self) -> int:
        """The credit to announce: how much the sender may have sent in all."""
        return self._window + self._released

    @property
    def window(self) -> int:
        return self._window

    def feed(self, segment: Segment) -> bytes | None:
        """The message that this segment completes, if it does. Raises `Violation`."""
        message_id = self._place(segment.message_id, segment.id_span)
        if message_id in self._finished:
            return None
        incoming = self._partial.get(message_id)
        if incoming is None:
            incoming = self._partial[message_id] = _Incoming()
            self._spend(MESSAGE_COST)
        start, stop = segment.offset, segment.offset + len(segment.data)
        self._check(incoming, stop, segment.fin)
        if stop > incoming.extent:
            self._spend(stop - incoming.extent)
            incoming.buffer.extend(bytes(stop - incoming.extent))
        incoming.buffer[start:stop] = segment.data
        if segment.fin:
            incoming.total = stop
        before = len(incoming.have)
        incoming.have.add(start, stop + segment.fin)
        self._pieces += len(incoming.have) - before
        if self._pieces > _MAX_PIECES:
            raise Violation("messages came in too many pieces")
        if incoming.total is None or not incoming.have.covers(0, incoming.total + 1):
            return None
        del self._partial[message_id]
        self._pieces -= 1
        self._finished.add(message_id, message_id + 1)
        return bytes(incoming.buffer)

    def lacks(self, segment: Segment) -> bool:
        """Whether more of its message must come, once the segment has been fed."""
        return self._place(segment.message_id, segment.id_span) in self._partial

    def taken(self, length: int) -> None:
        """Somebody has taken a message of that length: its room is free again."""
        self._released += MESSAGE_COST + length

    def reset(self, reset: Reset) -> None:
        """The sender gave a message up. Raises `Violation`."""
        message_id = self._place(reset.message_id, ID_SPAN)
        if message_id in self._finished:
            return
        incoming = self._partial.pop(message_id, None)
        extent = incoming.extent if incoming else 0
        self._pieces -= len(incoming.have) if incoming else 0
        if not extent <= reset.sent <= self._max_message:
            raise Violation("a message was given up at an impossible length")
        self._spend(reset.sent - extent + (0 if incoming else MESSAGE_COST))
        self._released += MESSAGE_COST + reset.sent
        self._finished.add(message_id, message_id + 1)

    def _place(self, low: int, span: int) -> int:
        floor = self._finished.first[1] if len(self._finished) and self._finished.first[0] == 0 else 0
        message_id = expand(low, floor, span)
        if message_id >= floor + ID_WINDOW:
            raise Violation("too many unfinished messages")
        return message_id

    def _check(self, incoming: _Incoming, stop: int, fin: bool) -> None:
        if stop > self._max_message:
            raise Violation("a message is longer than agreed")
        if incoming.total is not None and (stop > incoming.total or (fin and stop != incoming.total)):
            raise Violation("a message has two ends")
        if fin and stop < incoming.extent:
            raise Violation("a message goes on behind its end")

    def _spend(self, amount: int) -> None:
        self._used += amount
        if self._used > self.limit:
            raise Violation("more was sent than the credit allows")
