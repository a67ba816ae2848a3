"""One session with one peer, sans-io: whole messages on this side, sealed frames on the other.

`receive_frame` and `next_frame` are all that touches the wire; `deadline` says when to call `next_frame` although
nothing else has happened. What the application should know is collected in `events`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from transports.exchange import Priority
from transports.link import fragments
from transports.link.airtime import DutyCycle, Schedule
from transports.link.fragments import Ack, Close, Credit, Outgoing, Ping, Reassembler, Reset, Segment, ShortAck, Violation
from transports.link.ranges import Ranges
from transports.link.secure import Channel, Forged, Terms, expand
from transports.link.window import Outcome, Receipts, SendWindow
from transports.link.wire import SharedPort

if TYPE_CHECKING:
    from transports.link.wire import LinkStats, Wire

_KEEPALIVES_MISSED = 4
_COMPACT_BELOW = 64_000
_SHORTEST_FULL = 96
_NOISE_LASTS = 10.0


@dataclass(frozen=True)
class Received:
    message: bytes


@dataclass(frozen=True)
class Delivered:
    outgoing: Outgoing


@dataclass(frozen=True)
class Ended:
    reason: str


Event = Received | Delivered | Ended


@dataclass
class _Content:
    """What one frame carried that must not get lost."""

    segments: list[tuple[Outgoing, int, int]]
    credit: bool = False
    resets: tuple[tuple[int, int], ...] = ()


def ack_delay(wire: Wire) -> float:
    """How long an acknowledgement waits for company: the time of 80 bytes on the line, 25 ms to half a second. Not at all
    where whoever is addressed may answer before others speak."""
    if isinstance(wire, SharedPort):
        return 0.0
    return 0.025 if wire.bit_rate is None else min(0.5, max(0.025, 800 / wire.bit_rate))


def takes_compact(wire: Wire) -> bool:
    """Whether short tags and short acknowledgements are worth it there: on serial lines and radios below 64 kbit/s.

    Not where frames overtake each other: that is the internet, from which anybody may try forgeries by the million.
    """
    return wire.ordered and wire.bit_rate is not None and wire.bit_rate < _COMPACT_BELOW


class Session:
    """`terms` are ours, `peer_terms` theirs.

    Ends itself (an `Ended` event) when the peer is silent, closes or breaks the rules.
    """

    def __init__(
        self, channel: Channel, wire: Wire, terms: Terms, peer_terms: Terms, duty: DutyCycle, stats: LinkStats, now: float
    ) -> None:
        self._channel = channel
        self._wire = wire
        self._duty = duty
        self._stats = stats
        self.handshake_hash = channel.handshake_hash
        self.max_message = min(terms.max_message, peer_terms.max_message)
        self.mtu = min(wire.mtu, peer_terms.mtu)
        self.events: deque[Event] = deque()
        self.ended: str | None = None
        self._frame_time = wire.time_on_air(self.mtu)
        self._clocked = wire.ordered and not wire.shared and wire.bit_rate is not None
        self._window = SendWindow(
            mtu=self.mtu,
            bit_rate=wire.bit_rate,
            first_rtt=0.2 + 1.2 * self._frame_time,
            peer_ack_delay=peer_terms.ack_delay,
            reordering=1 if wire.ordered else 3,
            clocked=self._clocked,
        )
        self._receipts = Receipts(terms.ack_delay)
        self._newest_named = -1  # in any acknowledgement
        self._schedule: Schedule[Outgoing] = Schedule()
        self.urgency = Priority.INTERACTIVE
        """The priority of what the last frame carried; a frame without content is short, and the other end waits for it."""
        self.asks = False
        """Whether the last frame wants an acknowledgement."""
        self._reassembler = Reassembler(terms.max_message)
        self._announced = self._reassembler.limit
        self._tell_credit = False
        self._credit_limit = fragments.credit_for(peer_terms.max_message)
        self._credit_used = 0
        self._next_id = 0
        self._unfinished: dict[int, Outgoing] = {}  # by message id, oldest first
        self._resets: dict[int, int] = {}  # message id: bytes sent; until acknowledged
        self._resets_due: dict[int, int] = {}
        self._ping = False
        self._closing = False
        self._keepalive = wire.keepalive
        self._silence_allowed = _KEEPALIVES_MISSED * peer_terms.keepalive
        self._last_sent = self._last_heard = now
        self._damage_seen, self._damaged_at = stats.crc_errors, float("-inf")

    # ---- the application's side

    def submit(self, message: bytes, priority: Priority) -> Outgoing:
        """Queues a message; `Delivered` follows. Raises ValueError beyond `max_message`."""
        if len(message) > self.max_message:
            raise ValueError(f"{len(message)} bytes are more than this link carries in one message ({self.max_message})")
        outgoing = Outgoing(message, priority)
        self._schedule.add(outgoing)
        return outgoing

    def cancel(self, outgoing: Outgoing) -> None:
        """Stops sending it; when some but not all of it had left, the other end is told to forget it."""
        if outgoing.delivered or outgoing.cancelled:
            return
        if outgoing.message_id is not None and outgoing.wholly_sent and not len(outgoing.resend):
            return  # all of it is under way
        outgoing.cancelled = True
        self._schedule.remove(outgoing)
        if outgoing.message_id is not None:
            sent = min(outgoing.sent, len(outgoing.message))
            self._resets[outgoing.message_id] = self._resets_due[outgoing.message_id] = sent

    def taken(self, length: int) -> None:
        """The application has taken a received message of that length."""
        self._reassembler.taken(length)
        if self._reassembler.limit - self._announced >= self._reassembler.window // 4:
            self._tell_credit = True

    def confirm_soon(self) -> None:
        """The other end waits for a first sealed frame;

        we ask for an acknowledgement, for this one must not get lost.
        """
        self._ping = True

    def close(self) -> None:
        """One last frame says goodbye; it is not repeated."""
        self._closing = self.ended is None

    @property
    def unanswered(self) -> int:
        """How many times in a row the other end was asked for an acknowledgement in vain."""
        return self._window.unanswered

    # ---- the wire's side

    def receive_frame(self, frame: bytes, now: float) -> bool:
        """Takes a frame in; True when it is the newest of this session. Raises `Refused` when it is not authentic."""
        try:
            number, plaintext, newest = self._channel.open(frame)
        except Forged:
            if self._channel.worn_out:
                self._end("so many frames were not authentic that new keys are due")
            raise
        if self.ended is not None:
            return newest
        self._last_heard = now
        if self._clocked:
            self._window.frame_began(now - self._wire.time_on_air(len(frame)))
        try:
            chunks = fragments.decode(plaintext)
            wanting = [chunk for chunk in chunks if isinstance(chunk, Segment | Credit | Reset | Ping)]
            for chunk in chunks:
                self._take(chunk, now, newest)
            # Between two ends whatever goes on does so at once.
            goes_on = self._clocked and all(isinstance(chunk, Segment) and self._reassembler.lacks(chunk) for chunk in wanting)
            self._receipts.add(
                number,
                wanted=bool(wanting),
                now=now,
                in_full=any(isinstance(chunk, Ping) for chunk in wanting),
                following=self._frame_time if goes_on else 0.0,
            )
            if self._clocked and newest:
                self._settle(self._window.heard(now))
        except Violation as error:
            self._end(f"protocol violation: {error}")
        return newest

    def _take(self, chunk: fragments.Chunk, now: float, newest: bool) -> None:
        match chunk:
            case Segment():
                message = self._reassembler.feed(chunk)
                if message is not None:
                    self._stats.messages_in += 1
                    self.events.append(Received(message))
            case Ack():
                self._acknowledged(self._exact(chunk), now)
            case ShortAck():
                runs = self._unambiguous(chunk) if newest else None
                if runs is not None:
                    self._acknowledged(runs, now)
            case Credit(limit):
                self._credit_limit = max(self._credit_limit, limit)
            case Reset():
                self._reassembler.reset(chunk)
            case Close():
                self._end("the other end closed the session")
            case Ping():
                pass

    def _acknowledged(self, runs: Ranges, now: float) -> None:
        self._newest_named = max(self._newest_named, runs.end - 1)
        self._settle(self._window.acknowledged(runs, now))
        self._stats.rtt = self._window.rtt

    def _unambiguous(self, ack: ShortAck) -> Ranges | None:
        """What a short acknowledgement names; None when that is not certain.

        It came in the newest frame, so it names a frame no older than any that was named before, and one that was
        sent: if only one such number has this remainder, that is it, however long the wire or somebody on it held
        anything back. Else we act as if it was lost, and our next probe asks for all.
        """
        earliest, latest = max(self._newest_named, 0), self._channel.next_counter - 1
        number = latest - (latest - ack.low) % ack.span
        if number < earliest or number - ack.span >= earliest:
            return None
        runs = Ranges()
        runs.add(max(0, number + 1 - fragments.SHORT_RUN), number + 1)
        return runs

    def _exact(self, ack: Ack) -> Ranges:
        newest = expand(ack.newest, self._channel.next_counter, 1 << 16)
        if newest >= self._channel.next_counter:
            raise Violation("a frame was acknowledged that was never sent")
        runs = Ranges()
        for start, stop in ack.runs:
            runs.add(max(0, start - ack.newest + newest), stop - ack.newest + newest)
        return runs

    def _settle(self, outcome: Outcome) -> None:
        for content in outcome.arrived:
            assert isinstance(content, _Content)
            self._arrived(content)
        for content in outcome.lost:
            assert isinstance(content, _Content)
            self._lost(content)

    def _arrived(self, content: _Content) -> None:
        for message_id, _ in content.resets:
            self._resets.pop(message_id, None)
            self._resets_due.pop(message_id, None)
            self._unfinished.pop(message_id, None)
        for outgoing, start, stop in content.segments:
            before = outgoing.delivered
            outgoing.acknowledge(start, stop)
            if outgoing.delivered and not before:
                self._stats.messages_out += 1
                assert outgoing.message_id is not None
                if outgoing.message_id not in self._resets:
                    self._unfinished.pop(outgoing.message_id, None)
                self.events.append(Delivered(outgoing))

    def _lost(self, content: _Content) -> None:
        self._stats.retransmissions += 1
        self._tell_credit |= content.credit
        for message_id, sent in content.resets:
            if message_id in self._resets:
                self._resets_due[message_id] = sent
        for outgoing, start, stop in content.segments:
            outgoing.lost(start, stop)
            if outgoing.wants_to_send:
                self._schedule.again(outgoing)

    def next_frame(self, now: float) -> bytes | None:
        """The frame to send now, if any."""
        if self.ended is not None:
            return None
        if self._closing:
            self._end("closed")
            # What arrived last is acknowledged, so that its sender does not have to believe it lost.
            news = fragments.encode_ack(self._receipts.received, 64) if self._receipts.pending else b""
            return self._channel.seal(news + bytes([fragments.CLOSE]))
        self._timers(now)
        if self.ended is not None or self._duty.ready_at(now, self._wire.time_on_air(self.mtu)) > now:
            return None
        plaintext, content, wants_ack = self._build(now)
        idle = self._keepalive > 0 and now - self._last_sent >= self._keepalive
        if not plaintext and not idle:
            return None
        number = self._channel.next_counter
        frame = self._channel.seal(plaintext, after=self._newest_named)
        self._last_sent = now
        seconds = self._wire.time_on_air(len(frame))
        self._duty.charge(now, seconds)
        self._stats.airtime += seconds
        self.asks = wants_ack
        if wants_ack:
            self._window.sent(number, now + seconds, len(frame), content)
        return frame

    def left(self, now: float) -> None:
        """The wire has taken the last frame; where others speak, too, that may have been long after it was made."""
        self._window.left(self._channel.next_counter - 1, now)

    def _timers(self, now: float) -> None:
        due = self._window.deadline() if self._clocked else None
        if due is not None and now >= due and self._wire.receiving():
            self._window.still_receiving(now)
        outcome = self._window.expired(now)
        self._settle(outcome)
        self._ping |= outcome.probe
        if self._window.dead(now, noisy=self._noisy(now)):
            self._end("the other end does not answer")
        if self._silence_allowed and now - self._last_heard > self._silence_allowed:
            self._end("the other end's keep-alives stopped")
        idle = self._keepalive > 0 and now - self._last_sent >= self._keepalive and self._window.idle
        if idle and now - self._last_heard >= (_KEEPALIVES_MISSED - 1) * self._keepalive:
            self._ping = True  # our keep-alives need no answer: ask now and then whether anybody is still there

    @property
    def _room(self) -> int:
        """Bytes for the chunks of one frame."""
        length = max(self.mtu // 2, _SHORTEST_FULL) if self._clocked and self._window.lossy else self.mtu
        return min(length, self.mtu) - self._channel.overhead

    def _noisy(self, now: float) -> bool:
        """Whether damaged frames have come within the last seconds, on a wire where only the other end can have sent them."""
        if self._stats.crc_errors != self._damage_seen:
            self._damage_seen, self._damaged_at = self._stats.crc_errors, now
        return self._clocked and now - self._damaged_at < _NOISE_LASTS

    def _build(self, now: float) -> tuple[bytes, _Content, bool]:
        content = _Content([])
        self.urgency = Priority.INTERACTIVE
        out = b""
        due = self._receipts.deadline()
        ack_now = due is not None and now >= due
        others = self._control(content) if self._window.room() or self._ping else b""
        segments: list[bytes] = []
        reserve = len(others)
        in_arrears = self._channel.compact and self._receipts.in_arrears
        if self._receipts.pending or in_arrears:
            reserve += 12 if self._short_span() is None else 2
        if self._window.room():
            segments = self._segments(content, self._room - reserve, now)
        if (ack_now or others or segments) and (self._receipts.pending or in_arrears):
            # The acknowledgement may take what is left, for a long list of holes helps the sender most.
            left = self._room - len(others) - sum(map(len, segments))
            out = self._acknowledgement(min(left, 64))
        return out + others + b"".join(segments), content, bool(others or segments)

    def _short_span(self) -> int | None:
        return self._receipts.short_span() if self._channel.compact else None

    def _acknowledgement(self, room: int) -> bytes:
        span = self._short_span()
        received = self._receipts.received
        out = fragments.encode_ack(received, room) if span is None else fragments.encode_short_ack(received.end - 1, span)
        self._receipts.told()
        return out

    def _control(self, content: _Content) -> bytes:
        out = b""
        if self._tell_credit:
            self._tell_credit = False
            self._announced = self._reassembler.limit
            content.credit = True
            out += fragments.encode_credit(self._announced)
        for message_id, sent in list(self._resets_due.items())[:4]:
            del self._resets_due[message_id]
            content.resets += ((message_id, sent),)
            out += fragments.encode_reset(message_id, sent)
        if self._ping:
            self._ping = False
            out += bytes([fragments.PING])
        return out

    def _segments(self, content: _Content, room: int, now: float) -> list[bytes]:
        """Segments of one priority for one frame:

        a short urgent message is not made to wait for a picture that fills its frame up.
        """
        outgoing, blocked, cut = None, set[Priority](), None
        while cut is None:
            outgoing = self._schedule.pick(blocked)
            if outgoing is None:
                return []
            if self._duty.ready_at(now, self._wire.time_on_air(self.mtu), outgoing.priority) <= now:
                cut = self._cut(outgoing, room)
            blocked.add(outgoing.priority)
        assert outgoing is not None
        self.urgency = priority = outgoing.priority
        chosen: list[Segment] = []
        while cut is not None and outgoing is not None:
            chosen.append(cut)
            content.segments.append((outgoing, cut.offset, cut.offset + len(cut.data) + cut.fin))
            room -= len(fragments.encode_segment(cut, last=False))
            outgoing = self._schedule.next_of(priority)
            cut = self._cut(outgoing, room) if outgoing is not None else None
        if self._channel.compact and self._next_id - self._oldest_unfinished <= fragments.SHORT_IDS:
            chosen = [replace(segment, id_span=fragments.SHORT_ID_SPAN) for segment in chosen]
        encoded = [fragments.encode_segment(segment, last=segment is chosen[-1]) for segment in chosen]
        size = sum(map(len, encoded)) + self._channel.overhead
        self._schedule.charge(priority, size)
        self._stats.bytes_by_priority[priority] += size
        return encoded

    @property
    def _oldest_unfinished(self) -> int:
        return next(iter(self._unfinished), self._next_id)

    def _cut(self, outgoing: Outgoing, room: int) -> Segment | None:
        message_id = outgoing.message_id
        credit = self._credit_limit - self._credit_used
        if message_id is None:
            credit -= fragments.MESSAGE_COST
            if credit < 0 or self._next_id - self._oldest_unfinished >= fragments.ID_WINDOW // 2:
                return None
            message_id = self._next_id
        before = outgoing.sent
        segment = outgoing.cut(message_id, room, credit)
        if segment is None:
            return None
        length = len(outgoing.message)
        self._credit_used += min(outgoing.sent, length) - min(before, length)
        if message_id == self._next_id:
            self._credit_used += fragments.MESSAGE_COST
            self._next_id += 1
            self._unfinished[message_id] = outgoing
        return segment

    def deadline(self, now: float) -> float | None:
        """When to call `next_frame` again at the latest. None: not before something happens."""
        times = [self._window.deadline(), self._receipts.deadline()]
        if self._keepalive:
            times.append(self._last_sent + self._keepalive)
        if self._silence_allowed:
            times.append(self._last_heard + self._silence_allowed + 0.001)
        waiting = self._schedule.pick()
        if waiting is not None and self._window.room():
            duty_free = self._duty.ready_at(now, self._wire.time_on_air(self.mtu), waiting.priority)
            if duty_free > now:
                times.append(duty_free)
        due = min((when for when in times if when is not None), default=None)
        return None if due is None else max(due, self._duty.ready_at(now, self._wire.time_on_air(self.mtu)))

    def abandon(self, reason: str) -> None:
        """The session is over without a word: the wire is gone, or another session has replaced it."""
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
            self.events.append(Ended(reason))
