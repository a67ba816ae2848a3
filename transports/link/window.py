"""Selective repeat: which frames are under way, which arrived, which are lost, and when to ask again.

Acknowledgements name frames, and a frame number is never used twice (as in QUIC, RFC 9002): what a lost frame
carried is sent again in a new frame. So every acknowledgement gives an unambiguous round-trip time, and what is sent
again may be cut anew.

- A frame is lost when one sent `reordering` or more after it was acknowledged, or an earlier one is overdue by a
  quarter of the round trip.
- When nothing is acknowledged for a probe time (smoothed round trip + 4 deviations + the other end's acknowledgement
  delay, RFC 6298 and RFC 9002 section 6.2), the two oldest frames' contents go out again; the probe time then grows
  by half, up to threefold. It has a ceiling: what a busy channel made us measure would else keep us waiting long
  after the channel has fallen silent, for only an answer corrects it.
- On a wire between two ends of a known rate (`clocked`) more is known. Each frame acknowledges all that had arrived
  when it was made: one that began well after a frame of ours had left, and does not name it, tells that it is lost.
  And while a frame is arriving the probe can wait for it, so it needs no allowance for long ones: what counts is how
  long an end that was silent takes to answer, which varies little.
- There, too, a lost frame holds up all that is behind it for some frames' time, so frames are halved while many are lost.
- `PATIENCE` probes in a row and 20 s without any answer: the other end is gone. Where damage shows that the line is
  noisy the probes go on for longer, for what both ends remember is worth more than they cost.
- Where the bit rate is known the driver paces, and the window is twice what fits the round trip; else it
  shrinks by a third on loss and grows by a frame a round trip (RFC 5681's idea).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from transports.link.fragments import SHORT_RUN, SHORT_SPAN, SHORTER_SPAN
from transports.link.ranges import Ranges
from transports.link.secure import REACH

PATIENCE = 16  # at 30 % loss each way half of all probes fail: once in 50,000 this is a mistake
PATIENCE_SECONDS, PATIENCE_IN_NOISE = 20.0, 180.0
_SLACK = 0.25  # our frame and theirs may have waited in the queues of their wires, 0.1 s in each
_LOOK_AGAIN = 0.05
_FIRST_ANSWER = 0.5
_LOSSY = 0.04
_MAX_FRAMES = 512
_MIN_FRAMES = 16
_REMEMBERED = 256
_MAX_RUNS = 64
_TELLINGS = 8


@dataclass(slots=True)
class Sent:
    """One frame under way.

    `left_at` is when its last bit is expected to have left, `content` whatever the session wants back.
    """

    number: int
    left_at: float
    size: int
    content: object


@dataclass
class Outcome:
    """What an acknowledgement or a timer told: contents that arrived, contents to send again."""

    arrived: list[object] = field(default_factory=list)
    lost: list[object] = field(default_factory=list)
    probe: bool = False  # something must be sent, whatever: only sending arms the timer again


class SendWindow:
    """The sender's side. Times are seconds of the caller's clock."""

    def __init__(
        self, *, mtu: int, bit_rate: int | None, first_rtt: float, peer_ack_delay: float, reordering: int, clocked: bool = False
    ) -> None:
        self._mtu = mtu
        self._clocked = clocked
        self._bit_rate = bit_rate
        self._reordering = reordering
        self._peer_ack_delay = peer_ack_delay
        self._flying: OrderedDict[int, Sent] = OrderedDict()
        self._given_up: OrderedDict[int, Sent] = OrderedDict()
        self._in_flight = 0
        self._newest_acked = -1
        self._smoothed = self._first_rtt = first_rtt
        self._deviation = first_rtt / 4
        self._longest_probe_time = 5 + 5 * first_rtt
        self._answer: float | None = None  # of an end that was silent, from our last bit to its first, without its `ack_delay`
        self._answer_deviation = _FIRST_ANSWER / 2
        self._shortest_answer = first_rtt
        self._heard_at = float("-inf")  # the last bit of a frame of theirs
        self._frame_began = float("-inf")
        self._look_again_at = float("-inf")
        self.rtt: float | None = None
        self._loss = 0.0  # share of frames, of the last few dozen
        self._congestion_window = 10 * mtu
        self._recover = 0
        self._probes = 0
        self._allowance = 0  # frames that may leave although the window is full: probes
        self._silent_since: float | None = None
        self._last_left: float | None = None  # None: the timer is not armed, nothing was sent since it fired

    def sent(self, number: int, left_at: float, size: int, content: object) -> None:
        """A frame that wants an acknowledgement has been handed to the driver."""
        self._flying[number] = Sent(number, left_at, size, content)
        self._in_flight += size
        self._allowance = max(0, self._allowance - 1)
        self._last_left = left_at
        if self._silent_since is None:
            self._silent_since = left_at

    def left(self, number: int, now: float) -> None:
        """That frame has left only now, if it was sent through this window: the wire had been busy."""
        sent = self._flying.get(number)
        if sent is not None and sent.left_at < now:
            sent.left_at = now
            if self._last_left is not None:
                self._last_left = max(self._last_left, now)

    @property
    def idle(self) -> bool:
        return not self._flying

    @property
    def lossy(self) -> bool:
        """Frames get lost so often that shorter ones are worth what they cost."""
        return self._loss > _LOSSY

    @property
    def unanswered(self) -> int:
        """Probes in a row without any answer."""
        return self._probes

    def room(self) -> bool:
        """May another full frame leave?"""
        if self._allowance:
            return True
        return self._in_flight + self._mtu <= self._limit and len(self._flying) < _MAX_FRAMES

    @property
    def _limit(self) -> int:
        if self._bit_rate is None:
            return self._congestion_window
        fits = self._bit_rate / 8 * (self._smoothed + self._peer_ack_delay)
        return int(max(_MIN_FRAMES * self._mtu, 2 * fits))

    @property
    def _probe_time(self) -> float:
        base = self._smoothed + max(4 * self._deviation, 0.02)
        if self._clocked:
            answer = _FIRST_ANSWER if self._answer is None else self._answer
            base = min(base, answer + max(2 * self._answer_deviation, _SLACK))
        base += self._peer_ack_delay
        return float(min(base * min(1.5**self._probes, 3), self._longest_probe_time))

    def frame_began(self, at: float) -> None:
        """The first bit of the frame that has just arrived; for a `clocked` wire, before what it acknowledges is told."""
        self._frame_began = at

    def heard(self, now: float) -> Outcome:
        """All that the frame acknowledges has been told. What it should have and did not is lost."""
        outcome = Outcome()
        self._heard_at = now
        if self._last_left is not None:
            self._last_left = max(now, self._last_left)
        late = self._frame_began - _SLACK - self._shortest_answer
        for number in [number for number, sent in self._flying.items() if sent.left_at < late]:
            outcome.lost.append(self._give_up(number))
        if not self._flying:
            self._last_left = self._silent_since = None
        return outcome

    def still_receiving(self, now: float) -> None:
        """A frame is arriving: a probe that is due waits for it, but not for noise without end."""
        if self._last_left is not None and now < self._last_left + self._probe_time + self._first_rtt:
            self._look_again_at = now + _LOOK_AGAIN

    def acknowledged(self, runs: Ranges, now: float) -> Outcome:
        """The other end has these frames."""
        outcome = Outcome()
        newest: Sent | None = None
        for pool in (self._given_up, self._flying):
            for number in [n for n in pool if n in runs]:
                sent = pool.pop(number)
                if pool is self._flying:
                    self._in_flight -= sent.size
                    self._loss -= self._loss / 32
                outcome.arrived.append(sent.content)
                if newest is None or number > newest.number:
                    newest = sent
        if newest is not None:
            self._progress(newest, now)
            if not outcome.lost:
                self._grow(len(outcome.arrived))
        self._find_lost(now, outcome)
        if not self._flying:
            self._last_left = self._silent_since = None
        return outcome

    def _progress(self, newest: Sent, now: float) -> None:
        self._probes = 0
        self._silent_since = now
        self._last_left = max(now, self._last_left or now)
        if newest.number > self._newest_acked:
            self._newest_acked = newest.number
        sample = max(now - newest.left_at, 0.001)
        if self.rtt is None:
            self._smoothed, self._deviation = sample, sample / 2
        else:
            self._deviation += (abs(sample - self._smoothed) - self._deviation) / 4
            self._smoothed += (sample - self._smoothed) / 8
        self.rtt = self._smoothed
        if self._clocked and self._heard_at <= newest.left_at:
            self._learn_answer(max(self._frame_began - newest.left_at, 0.001))

    def _learn_answer(self, sample: float) -> None:
        self._shortest_answer = min(self._shortest_answer, sample)
        if sample >= self._peer_ack_delay:
            sample -= self._peer_ack_delay  # it waited for company, or may as well have
        if self._answer is None:
            self._answer, self._answer_deviation = sample, sample / 2
        else:
            self._answer_deviation += (abs(sample - self._answer) - self._answer_deviation) / 4
            self._answer += (sample - self._answer) / 8

    def _find_lost(self, now: float, outcome: Outcome) -> None:
        for number in list(self._flying):
            if number > self._newest_acked:
                break
            late = now - self._flying[number].left_at > 1.25 * self._smoothed
            if number + self._reordering <= self._newest_acked or late:
                outcome.lost.append(self._give_up(number))
        if outcome.lost:
            self._shrink()

    def _give_up(self, number: int) -> object:
        sent = self._flying.pop(number)
        self._in_flight -= sent.size
        self._loss += (1 - self._loss) / 32
        self._given_up[number] = sent  # it may still turn out to have arrived
        while len(self._given_up) > _REMEMBERED:
            self._given_up.popitem(last=False)
        return sent.content

    def _grow(self, frames: int) -> None:
        self._congestion_window = min(
            _MAX_FRAMES * self._mtu, self._congestion_window + max(1, frames * self._mtu * self._mtu // self._congestion_window)
        )

    def _shrink(self) -> None:
        if self._newest_acked >= self._recover:  # once a round trip
            self._congestion_window = max(8 * self._mtu, int(self._congestion_window * 0.7))
            self._recover = max(self._flying, default=self._newest_acked) + 1

    def deadline(self) -> float | None:
        """When `expired` should be called next."""
        if not self._flying or self._last_left is None:
            return None
        when = max(self._last_left + self._probe_time, self._look_again_at)
        oldest = next(iter(self._flying.values()))
        if oldest.number < self._newest_acked:
            when = min(when, oldest.left_at + 1.25 * self._smoothed + 0.001)
        return when

    def expired(self, now: float) -> Outcome:
        """The deadline has passed: what to send again. Nothing, when it has not."""
        outcome = Outcome()
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return outcome
        self._find_lost(now, outcome)
        if not outcome.lost and self._last_left is not None and now >= max(self._last_left + self._probe_time, self._look_again_at):
            self._probes += 1
            self._last_left = None
            self._allowance = 2
            outcome.probe = True
            outcome.lost += [self._give_up(number) for number in list(self._flying)[:2]]
        return outcome

    def dead(self, now: float, *, noisy: bool = False) -> bool:
        """`noisy`: what arrives is damaged."""
        patience = PATIENCE_IN_NOISE if noisy else PATIENCE_SECONDS
        return self._probes >= PATIENCE and self._silent_since is not None and now - self._silent_since >= patience


class Receipts:
    """The receiver's side: what to acknowledge, and when.

    At once when frames are missing or `every` frames have come; else after `delay` seconds, in the hope of company. Where a message goes on
    after its frame, so that others must follow, it waits for them.

    What lies before a hole is told `_TELLINGS` times and then forgotten: a frame that is lost stays lost, its content
    comes in another, and one hole must not make every later acknowledgement longer.
    """

    def __init__(self, delay: float, every: int = 4) -> None:
        self._delay = delay
        self._every = every
        self.received = Ranges()
        self._unacknowledged = 0
        self._oldest: int | None = None  # of those not acknowledged yet
        self._in_full = False
        self._newest_told = -1
        self._ends_told: deque[int] = deque(maxlen=_TELLINGS)
        self._due: float | None = None
        self._due_if_no_more_come: float | None = None

    def add(self, number: int, *, wanted: bool, now: float, in_full: bool = False, following: float = 0.0) -> None:
        """A frame came; `wanted`: its sender waits for an acknowledgement, `in_full`: for one that names all that arrived.

        `following`: within so many seconds another must come, 0 if none must.
        """
        expected = self.received.end
        self.received.add(number, number + 1)
        if len(self.received) > _MAX_RUNS:
            self.received.drop_first()
        if not wanted:
            return
        self._unacknowledged += 1
        self._oldest = number if self._oldest is None else min(self._oldest, number)
        self._in_full |= in_full
        at_once = number != expected or self._unacknowledged >= self._every
        due = now if at_once else now + self._delay
        if following and not at_once:
            self._due_if_no_more_come = due + following
        else:
            self._due = due if self._due is None else min(self._due, due)

    @property
    def pending(self) -> bool:
        return self._unacknowledged > 0

    @property
    def in_arrears(self) -> bool:
        """So many frames came of which nobody waits to hear that saying so keeps the sender's counter short."""
        return self.received.end - 1 - self._newest_told >= REACH // 2

    def short_span(self) -> int | None:
        """Modulo what the newest number says all that there is to say; None: a short acknowledgement does not do.

        It must be true (no hole in its run) and tell all that is new. Half a run is left for an earlier one that was
        lost, half of the span for frames that are under way to us: the sender takes no number that may mean two frames
        and then asks for all.
        """
        if self._in_full:
            return None
        newest = self.received.end - 1
        oldest = newest if self._oldest is None else self._oldest
        if newest - oldest >= SHORT_RUN // 2 or not self.received.covers(max(0, newest + 1 - SHORT_RUN), newest + 1):
            return None
        return next((span for span in (SHORTER_SPAN, SHORT_SPAN) if newest - self._newest_told < span // 2), None)

    def deadline(self) -> float | None:
        return min((due for due in (self._due, self._due_if_no_more_come) if due is not None), default=None)

    def told(self) -> None:
        """An acknowledgement has been sent."""
        self._unacknowledged = 0
        self._oldest = self._due = self._due_if_no_more_come = None
        self._in_full = False
        self._newest_told = self.received.end - 1
        if len(self._ends_told) == _TELLINGS:
            while len(self.received) > 1 and self.received.first[1] <= self._ends_told[0]:
                self.received.drop_first()
        self._ends_told.append(self.received.end)
