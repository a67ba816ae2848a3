"""Chunks, segments and reassembly, and the sets of ranges below them."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transports.exchange import Priority
from transports.link import fragments, varint
from transports.link.fragments import Ack, Credit, Outgoing, Ping, Reassembler, Reset, Segment, ShortAck, Violation
from transports.link.ranges import Ranges


@given(st.integers(0, 2**63 - 1), st.binary(max_size=3))
def test_varints_come_back(value: int, tail: bytes) -> None:
    encoded = varint.encode(value)
    assert len(encoded) == varint.size(value)
    assert varint.decode(b"x" + encoded + tail, 1) == (value, 1 + len(encoded))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40))))
def test_ranges_behave_as_a_set_of_integers(steps) -> None:
    ranges, model = Ranges(), set()
    for adding, start, stop in steps:
        if adding:
            ranges.add(start, stop)
            model |= set(range(start, stop))
        else:
            ranges.remove(start, stop)
            model -= set(range(start, stop))
        assert {n for low, high in ranges for n in range(low, high)} == model
        assert all(high < low for (_, high), (low, _) in zip(list(ranges), list(ranges)[1:], strict=False))
        assert all((n in ranges) == (n in model) for n in range(42))


segments = st.sampled_from([fragments.ID_SPAN, fragments.SHORT_ID_SPAN]).flatmap(
    lambda span: st.builds(Segment, st.integers(0, span - 1), st.integers(0, 10**6), st.binary(max_size=20), st.booleans(), st.just(span))
)


@given(st.lists(segments, min_size=1, max_size=5))
def test_segments_come_back_from_a_frame(row: list[Segment]) -> None:
    frame = b"".join(fragments.encode_segment(each, last=False) for each in row[:-1])
    assert fragments.decode(frame + fragments.encode_segment(row[-1], last=True)) == row


def test_control_chunks_come_back() -> None:
    frame = fragments.encode_credit(5 * 1024) + fragments.encode_reset(7, 300) + bytes([fragments.PING])
    assert fragments.decode(frame) == [Credit(5 * 1024), Reset(7, 300), Ping()]


@given(st.sets(st.integers(0, 300), min_size=1), st.integers(6, 80))
def test_an_acknowledgement_names_only_what_arrived_and_always_the_newest(numbers: set[int], room: int) -> None:
    received = Ranges()
    for number in numbers:
        received.add(number, number + 1)
    encoded = fragments.encode_ack(received, room)
    assert len(encoded) <= room
    (ack,) = fragments.decode(encoded)
    assert isinstance(ack, Ack)
    named = {n for low, high in ack.runs for n in range(low, high)}
    assert named <= numbers
    assert max(numbers) in named


@given(st.binary(max_size=60))
def test_no_plaintext_makes_the_decoder_do_anything_but_refuse(data: bytes) -> None:
    with contextlib.suppress(Violation):
        fragments.decode(data)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.integers(0, 2**32), st.integers(24, 90))
def test_messages_survive_any_cutting_loss_order_and_doubling_of_their_segments(sizes, seed, room) -> None:
    chance = random.Random(seed)
    messages = [chance.randbytes(size) for size in sizes]
    outgoing = [Outgoing(message, Priority.MESSAGE) for message in messages]
    flying: list[tuple[Outgoing, Segment]] = []
    receiver, got = Reassembler(1024), []
    while not all(each.delivered for each in outgoing):
        for number, each in enumerate(outgoing):
            segment = each.cut(number, room, 10_000) if each.wants_to_send else None
            if segment is not None:
                flying.append((each, segment))
        chance.shuffle(flying)
        for each, segment in flying[:3]:
            extent = (segment.offset, segment.offset + len(segment.data) + segment.fin)
            if chance.random() < 0.3:
                each.lost(*extent)
                continue
            for _ in range(chance.choice([1, 1, 2])):
                span = chance.choice([fragments.ID_SPAN, fragments.SHORT_ID_SPAN])
                (told,) = fragments.decode(fragments.encode_segment(replace(segment, id_span=span), last=True))
                message = receiver.feed(told)
                if message is not None:
                    got.append(message)
            each.acknowledge(*extent) if chance.random() < 0.7 else each.lost(*extent)
        del flying[:3]
    assert sorted(got) == sorted(messages)


@given(st.integers(0, 2**40))
def test_a_short_acknowledgement_is_a_byte_or_two_and_other_chunks_may_follow(newest: int) -> None:
    for span, size in ((fragments.SHORTER_SPAN, 1), (fragments.SHORT_SPAN, 2)):
        encoded = fragments.encode_short_ack(newest, span)
        assert len(encoded) == size
        assert fragments.decode(encoded + bytes([fragments.PING])) == [ShortAck(newest % span, span), Ping()]


def test_a_short_message_costs_two_bytes_or_one() -> None:
    assert len(fragments.encode_segment(Segment(5, 0, b"hello", True), last=True)) == 2 + 5
    assert len(fragments.encode_segment(Segment(5000, 0, b"hello", True, fragments.SHORT_ID_SPAN), last=True)) == 1 + 5


@given(st.lists(st.integers(0, fragments.SHORT_IDS - 1), max_size=60))
def test_a_short_id_names_one_message_as_long_as_few_are_unfinished(order: list[int]) -> None:
    receiver, unfinished, following = Reassembler(1024), list(range(fragments.SHORT_IDS)), fragments.SHORT_IDS
    for at in order:
        message_id = unfinished[at % len(unfinished)]
        (told,) = fragments.decode(
            fragments.encode_segment(Segment(message_id, 0, bytes([message_id]), True, fragments.SHORT_ID_SPAN), last=True)
        )
        assert receiver.feed(told) == bytes([message_id])
        assert receiver.feed(told) is None
        unfinished.remove(message_id)
        if unfinished and following - unfinished[0] < fragments.SHORT_IDS:
            unfinished.append(following)
            following += 1
        if not unfinished:
            unfinished, following = list(range(following, following + fragments.SHORT_IDS)), following + fragments.SHORT_IDS


@pytest.mark.parametrize(
    "row",
    [
        [Segment(0, 2000, b"x", False)],
        [Segment(0, 0, b"abc", True), Segment(1, 0, b"", False), Segment(1, 5, b"x", True), Segment(1, 9, b"x", False)],
        [Segment(0, 10, b"x", False), Segment(0, 0, b"ab", True)],
        [Segment(5000, 0, b"x", False)],
        [Segment(n, 1000, b"x", False) for n in range(100)],
    ],
    ids=["beyond the agreed length", "behind the end", "end before the middle", "an id too far ahead", "more than the credit"],
)
def test_a_peer_that_breaks_the_rules_is_found_out(row: list[Segment]) -> None:
    receiver = Reassembler(1024)
    with pytest.raises(Violation):
        list(map(receiver.feed, row))


def test_a_message_that_was_given_up_frees_its_room_and_stays_forgotten() -> None:
    receiver = Reassembler(1024)
    before = receiver.limit
    receiver.feed(Segment(0, 0, bytes(500), False))
    receiver.reset(Reset(0, 700))
    assert receiver.limit == before + 700 + fragments.MESSAGE_COST
    assert receiver.feed(Segment(0, 500, bytes(10), True)) is None
    assert receiver.feed(Segment(1, 0, b"next", True)) == b"next"
