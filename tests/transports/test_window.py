"""Selective repeat: the window by itself, and two whole sessions over a line that loses, doubles and reorders."""

from __future__ import annotations

import contextlib
import heapq
import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transports.rigs import ALICE, BOB
from transports.exchange import Priority
from transports.link import fragments
from transports.link.airtime import DutyCycle
from transports.link.fragments import SHORT_SPAN, SHORTER_SPAN
from transports.link.ranges import Ranges
from transports.link.secure import Initiation, Refused, Response, Terms
from transports.link.session import Delivered, Ended, Received, Session
from transports.link.window import PATIENCE_IN_NOISE, PATIENCE_SECONDS, Receipts, SendWindow
from transports.link.wire import LinkStats


def numbers(*them: int) -> Ranges:
    ranges = Ranges()
    for number in them:
        ranges.add(number, number + 1)
    return ranges


def window(**changes) -> SendWindow:
    return SendWindow(**{"mtu": 100, "bit_rate": None, "first_rtt": 1.0, "peer_ack_delay": 0.1, "reordering": 3, **changes})


def test_a_frame_is_lost_when_three_later_ones_have_arrived() -> None:
    sender = window()
    for number in range(5):
        sender.sent(number, 0.0, 50, f"frame {number}")
    assert sender.acknowledged(numbers(1, 2), 0.1).lost == []
    assert sender.acknowledged(numbers(1, 2, 3), 0.1).lost == ["frame 0"]


def test_on_a_wire_that_keeps_order_a_gap_is_a_loss_at_once() -> None:
    sender = window(reordering=1)
    for number in range(3):
        sender.sent(number, 0.0, 50, f"frame {number}")
    outcome = sender.acknowledged(numbers(1), 0.1)
    assert (outcome.arrived, outcome.lost) == (["frame 1"], ["frame 0"])


def test_silence_brings_the_oldest_frames_back_and_at_last_the_end() -> None:
    sender, now, number = window(), 0.0, 0
    sender.sent(number, now, 50, "it")
    while not sender.dead(now):
        now = sender.deadline()
        assert sender.expired(now - 0.001).lost == []
        assert sender.expired(now).lost == ["it"]
        assert sender.deadline() is None
        number += 1
        sender.sent(number, now, 50, "it")
    assert PATIENCE_SECONDS <= now < 200
    assert number == 16


def test_a_probe_may_leave_although_the_window_is_full() -> None:
    sender = window()
    for number in range(20):
        sender.sent(number, 0.0, 100, number)
    assert not sender.room()
    assert sender.expired(sender.deadline()).probe
    assert sender.room()
    sender.sent(20, 3.0, 100, "probe")
    assert sender.deadline() is not None


def clocked() -> SendWindow:
    """Of a line at 2400 baud, whose other end has answered some lone frames after 0.05 s each."""
    sender = window(bit_rate=2400, reordering=1, clocked=True)
    for number in range(8):
        at = 10.0 * number
        sender.sent(number, at, 50, number)
        sender.frame_began(at + 0.05)
        sender.acknowledged(numbers(number), at + 0.1)
        sender.heard(at + 0.1)
    return sender


def test_a_frame_that_began_after_ours_had_left_and_does_not_name_it_tells_that_it_is_lost() -> None:
    sender = clocked()
    sender.sent(8, 100.0, 50, "lost")
    sender.frame_began(100.1)  # it may have been made before ours was there
    assert sender.heard(101.0).lost == []
    sender.sent(9, 101.0, 50, "on its way")
    sender.frame_began(101.0)
    assert sender.heard(102.0).lost == ["lost"]


def test_an_end_that_was_quick_is_asked_again_soon_unless_a_frame_of_its_is_arriving() -> None:
    sender = clocked()
    sender.sent(8, 100.0, 50, "it")
    now = sender.deadline()
    assert now < 100.5
    while sender.still_receiving(now) or sender.deadline() > now:
        assert not sender.expired(now).probe
        now = sender.deadline()
    assert 101.0 < now < 102.0  # as long as the longest frame takes
    assert sender.expired(now).lost == ["it"]


def test_a_line_is_lossy_while_many_of_its_last_frames_were_lost() -> None:
    sender, number, now = window(bit_rate=2400, reordering=1), 0, 0.0
    for lost in (False,) * 20 + (True,) * 3:
        sender.sent(number + lost, now, 50, "that arrives")
        if lost:
            sender.sent(number, now, 50, "that does not")
        sender.acknowledged(numbers(number + lost), now + 0.1)
        number, now = number + 1 + lost, now + 1
        assert sender.lossy is (lost and sender._loss > 0.04)
    assert sender.lossy
    for later in range(40):
        sender.sent(number + later, now + later, 50, later)
        sender.acknowledged(numbers(number + later), now + later + 0.1)
    assert not sender.lossy


def test_an_end_behind_a_noisy_line_is_waited_for_longer() -> None:
    sender, now, number = window(), 0.0, 0
    sender.sent(number, now, 50, "it")
    while not sender.dead(now, noisy=True):
        now, number = sender.deadline(), number + 1
        sender.expired(now)
        sender.sent(number, now, 50, "it")
    assert PATIENCE_IN_NOISE <= now < 2 * PATIENCE_IN_NOISE
    assert sender.dead(now)


def test_a_late_acknowledgement_of_a_frame_given_up_still_counts_and_teaches_the_round_trip() -> None:
    sender = window(first_rtt=0.1)
    sender.sent(0, 0.0, 50, "slow")
    assert sender.expired(5.0).lost == ["slow"]
    assert sender.acknowledged(numbers(0), 5.5).arrived == ["slow"]
    assert sender.rtt == 5.5


def test_the_window_closes_and_opens() -> None:
    sender = window()
    number = 0
    while sender.room():
        sender.sent(number, 0.0, 100, number)
        number += 1
    assert number == 10
    sender.acknowledged(numbers(*range(5)), 0.1)
    assert sender.room()


def test_receipts_wait_for_company_but_not_when_something_is_missing() -> None:
    receipts = Receipts(delay=0.5, every=4)
    receipts.add(0, wanted=True, now=1.0)
    assert receipts.deadline() == 1.5
    receipts.add(2, wanted=True, now=1.1)
    assert receipts.deadline() == 1.1
    receipts.told()
    assert receipts.deadline() is None
    receipts.add(3, wanted=False, now=2.0)
    assert receipts.deadline() is None
    for number in range(4, 8):
        receipts.add(number, wanted=True, now=3.0)
    assert receipts.deadline() == 3.0


def test_acknowledgements_that_nobody_acknowledges_do_not_pile_up() -> None:
    receipts = Receipts(delay=0.5)
    for number in range(0, 100_000, 2):
        receipts.add(number, wanted=True, now=0.0)
    assert len(receipts.received) <= 64


def test_what_lies_before_a_hole_is_told_some_times_and_then_forgotten() -> None:
    receipts = Receipts(delay=0.5)
    for number in (0, 1, 3):
        receipts.add(number, wanted=True, now=0.0)
    for number in range(4, 12):
        assert list(receipts.received) == [(0, 2), (3, number)]
        receipts.told()
        receipts.add(number, wanted=True, now=0.0)
    receipts.told()
    assert list(receipts.received) == [(3, 12)]


def test_an_acknowledgement_is_short_only_where_it_leaves_nothing_out() -> None:
    receipts = Receipts(delay=0.5)
    receipts.add(0, wanted=True, now=0.0)
    assert receipts.short_span() == SHORTER_SPAN
    receipts.told()
    receipts.add(1, wanted=True, now=0.0, in_full=True)
    assert receipts.short_span() is None  # all was asked for
    receipts.told()
    for number in range(2, 50):
        receipts.add(number, wanted=number == 49, now=0.0)
    assert receipts.short_span() == SHORT_SPAN  # it may be far behind the sender's frames
    receipts.told()
    receipts.add(51, wanted=True, now=0.0)
    assert receipts.short_span() is None  # 50 is missing
    receipts.told()
    for number in range(52, 66):
        receipts.add(number, wanted=True, now=0.0)
        receipts.told()
    receipts.add(66, wanted=True, now=0.0)
    assert receipts.short_span() == SHORTER_SPAN
    for number in range(67, 74):
        receipts.add(number, wanted=True, now=0.0)
    assert receipts.short_span() == SHORTER_SPAN
    receipts.add(74, wanted=True, now=0.0)
    assert receipts.short_span() is None  # a run that tells of eight new frames has none to spare


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_short_acknowledgement_names_only_what_arrived_and_all_that_waits(steps) -> None:
    receipts, came, waiting, number = Receipts(delay=0.5), set(), set(), -1
    for skipped, wanted, telling in steps:
        number += 1 + max(0, skipped - 18)  # now and then frames are lost
        receipts.add(number, wanted=wanted, now=0.0)
        came.add(number)
        if wanted:
            waiting.add(number)
        if telling and waiting:
            span = receipts.short_span()
            if span is not None:
                (ack,) = fragments.decode(fragments.encode_short_ack(number, span))
                assert (ack.low, ack.span) == (number % span, span)
                named = set(range(max(0, number - 15), number + 1))
                assert waiting <= named <= came
            receipts.told()
            waiting = set()


# ---- two sessions


@dataclass
class Line:
    mtu: int = 120
    bit_rate: int | None = None
    ordered: bool = False
    shared: bool = False
    connection_id: bytes = b""
    keepalive: float = 0.0

    def time_on_air(self, size: int) -> float:
        return 0.0

    def receiving(self) -> bool:
        return False


def two_sessions(line: Line, *, compact: bool = False) -> tuple[Session, Session]:
    terms = Terms(max_message=4096, mtu=line.mtu, compact=compact)
    call = Initiation(ALICE, BOB.public_key, terms, b"1" * 32)
    response = Response(BOB, call.message, b"2" * 32)
    answer, theirs = response.answer(terms)
    ours, _ = call.finish(answer)
    return tuple(Session(channel, line, terms, terms, DutyCycle(), LinkStats(), 0.0) for channel in (ours, theirs))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 900), st.sampled_from(list(Priority))), min_size=1, max_size=25),
    st.integers(0, 2**32),
    st.floats(0, 0.4),
    st.booleans(),
    st.sampled_from([0.0, 0.02, 0.2]),
)
def test_every_message_arrives_once_over_a_line_that_loses_doubles_reorders_and_holds_back(plan, seed, loss, compact, held) -> None:
    chance = random.Random(seed)
    ends = two_sessions(Line(), compact=compact)
    wanted = [Counter(), Counter()]
    for from_first, size, priority in plan:
        message = chance.randbytes(size)
        ends[0 if from_first else 1].submit(message, priority)
        wanted[1 if from_first else 0][message] += 1
    got, delivered = [Counter(), Counter()], [Counter(), Counter()]
    now, flying, serial = 0.0, [], 0
    while delivered[0].total() + delivered[1].total() < len(plan):
        assert now < 600
        for which, session in enumerate(ends):
            while (frame := session.next_frame(now)) is not None:
                for _ in range(0 if chance.random() < loss else chance.choice([1, 1, 1, 2])):
                    serial += 1
                    rate = 0.5 if chance.random() < held else 50
                    heapq.heappush(flying, (now + 0.05 + chance.expovariate(rate), serial, 1 - which, frame))
        times = [flying[0][0] if flying else None, *(session.deadline(now) for session in ends)]
        now = max(now, min(when for when in times if when is not None)) + 1e-6
        while flying and flying[0][0] <= now:
            _, _, which, frame = heapq.heappop(flying)
            with contextlib.suppress(Refused):  # a doubled frame
                ends[which].receive_frame(frame, now)
        for which, session in enumerate(ends):
            while session.events:
                match session.events.popleft():
                    case Received(message):
                        got[which][message] += 1
                        session.taken(len(message))
                    case Delivered(outgoing):
                        delivered[1 - which][outgoing.message] += 1
                    case Ended(reason):
                        raise AssertionError(reason)
        assert all(told <= had for told, had in zip(delivered, got, strict=True))  # nobody believes what is not so
    assert got == wanted


def test_the_round_trip_of_a_quiet_line_sets_the_timers() -> None:
    a, b = two_sessions(Line(ordered=True))
    now = 0.0
    for _ in range(30):
        a.submit(b"hello", Priority.MESSAGE)
        frame = a.next_frame(now)
        b.receive_frame(frame, now + 0.1)
        reply = b.next_frame(b.deadline(now + 0.1))
        now += 0.25
        a.receive_frame(reply, now)
    assert abs(a._stats.rtt - 0.25) < 0.02


def pass_one(here: Session, there: Session, message: bytes, now: float) -> tuple[bytes, bytes]:
    """The frame with a message and the one that acknowledges it."""
    here.submit(message, Priority.MESSAGE)
    frame = here.next_frame(now)
    there.receive_frame(frame, now)
    reply = there.next_frame(there.deadline(now))
    here.receive_frame(reply, now)
    there.taken(len(message))
    return frame, reply


def test_a_lone_message_and_its_acknowledgement_cost_twenty_bytes_beside_it_without_framing() -> None:
    a, b = two_sessions(Line(ordered=True), compact=True)
    for number in range(100):
        frame, reply = pass_one(a, b, b"hello", float(number))
        # Every eighth says that the acknowledgements have come, which keeps their counters short.
        assert (len(frame), len(reply)) == (9 + 1 + 5 + (number % 8 == 0 < number), 9 + 1)
        assert a._window.idle


def test_an_acknowledgement_waits_as_long_as_a_message_goes_on() -> None:
    receipts = Receipts(delay=0.5)
    for number in range(3):
        receipts.add(number, wanted=True, now=float(number), following=1.0)
        assert receipts.deadline() == number + 1.5
    receipts.add(3, wanted=True, now=3.0, following=1.0)
    assert receipts.deadline() == 3.0
    receipts.told()
    assert receipts.deadline() is None
    receipts.add(4, wanted=True, now=4.0)
    receipts.add(5, wanted=True, now=4.1, following=1.0)
    assert receipts.deadline() == 4.5
    receipts.add(7, wanted=True, now=4.2, following=1.0)
    assert receipts.deadline() == 4.2


def test_who_has_only_acknowledged_for_long_is_acknowledged_in_one_byte_and_at_once() -> None:
    a, b = two_sessions(Line(ordered=True), compact=True)
    for number in range(100):
        pass_one(a, b, b"download", float(number))
    _, reply = pass_one(b, a, b"at last", 100.0)
    assert len(reply) == 9 + 1
    assert b._window.idle
    _, reply = pass_one(b, a, b"and again", 101.0)
    assert len(reply) == 9 + 1
    assert b._window.idle
    assert b._stats.retransmissions == 0


@pytest.mark.parametrize("settled", [0, 17])
def test_an_acknowledgement_that_somebody_held_back_confirms_nothing_that_was_sent_since(settled: int) -> None:
    a, b = two_sessions(Line(ordered=True, bit_rate=2400), compact=True)
    first = a._channel.next_counter
    a.submit(b"held", Priority.MESSAGE)
    b.receive_frame(a.next_frame(0.0), 0.0)
    held = b.next_frame(b.deadline(0.0))
    for number in range(settled):
        pass_one(a, b, b"settled", 1.0 + number)
    while a._channel.next_counter < first + SHORTER_SPAN:  # up to the next frame whose number leaves the same remainder
        a._ping = True
        assert a.next_frame(30.0) is not None
    outgoing = a.submit(b"lost", Priority.MESSAGE)
    assert a.next_frame(30.0) is not None
    assert a._channel.next_counter == first + SHORTER_SPAN + 1
    with contextlib.suppress(Refused):  # so late that its counter may be taken for another
        a.receive_frame(held, 30.1)
    assert not outgoing.delivered
    now = 30.1
    while not outgoing.delivered:  # and a probe clears it up
        for here, there in ((a, b), (b, a)):
            while (frame := here.next_frame(now)) is not None:
                there.receive_frame(frame, now)
        now += 0.1
        assert now < 90
    assert [event.message for event in b.events if isinstance(event, Received)] == [b"held"] + settled * [b"settled"] + [b"lost"]


def test_an_answer_that_comes_soon_carries_the_acknowledgement_in_one_byte() -> None:
    a, b = two_sessions(Line(ordered=True), compact=True)
    now = 0.0
    for _ in range(20):
        now += 1
        a.submit(b"question", Priority.MESSAGE)
        b.receive_frame(a.next_frame(now), now)
        assert b.next_frame(now) is None  # it waits for company
        b.submit(b"answer", Priority.MESSAGE)
        answer = b.next_frame(now + 0.01)
        assert len(answer) == 9 + 1 + 1 + len(b"answer")
        a.receive_frame(answer, now + 0.01)
        assert a._window.idle
        now = a.deadline(now)
        assert b.next_frame(now) is None  # nothing is left to acknowledge
        b.receive_frame(a.next_frame(now), now)
        assert b._window.idle
