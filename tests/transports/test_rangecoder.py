"""Bits of known probability, and the models of numbers and symbols above them: exact, near the entropy, bounded."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.lowband.rangecoder import (
    AdaptiveBit,
    AdaptiveNumber,
    BitTree,
    Decoder,
    Encoder,
    RangeCodeError,
    Trial,
    code_bits,
    code_bytes,
)

PROBABILITIES = st.one_of(st.integers(1, 65535), st.sampled_from([1, 2, 32768, 65534, 65535]))
DECISIONS = st.lists(st.tuples(st.integers(0, 1), PROBABILITIES), max_size=300)


def encoded(decisions):
    encoder = Encoder()
    for bit, p in decisions:
        encoder.encode(bit, p)
    return encoder.finish()


@given(DECISIONS)
def test_bits_come_back_and_cost_what_their_probability_says(decisions):
    data = encoded(decisions)
    decoder = Decoder(data)
    assert [decoder.decode(p) for _, p in decisions] == [bit for bit, _ in decisions]
    entropy = sum(-math.log2((p if bit else 65536 - p) / 65536) for bit, p in decisions)
    assert len(data) <= entropy / 8 + 1.01
    assert not data.endswith(b"\0")


@given(st.lists(st.sampled_from([(0, 1), (0, 1), (0, 2), (1, 65535), (1, 1), (0, 65535)]), max_size=600))
def test_carries_run_through_bytes_that_are_held_back(decisions):
    decoder = Decoder(encoded(decisions))
    assert [decoder.decode(p) for _, p in decisions] == [bit for bit, _ in decisions]


def test_certain_bits_leave_no_bytes():
    assert encoded([(1, 65535)] * 100) == b""


@given(DECISIONS)
def test_a_trial_knows_the_cost_and_can_be_written_later(decisions):
    trial, encoder = Trial(), Encoder()
    for bit, p in decisions:
        trial.code(bit, p)
    trial.replay(encoder)
    data = encoder.finish()
    assert data == encoded(decisions)
    if all(1000 < p < 64536 for _, p in decisions):
        assert len(data) <= trial.cost / 256 / 8 * 1.01 + 1.1


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 6), st.integers(0, 1)), max_size=60), st.binary(max_size=9))
def test_fields_of_many_kinds_share_one_stream(rows, tail):
    def models():
        return AdaptiveNumber(1000), BitTree(7), AdaptiveBit()

    encoder = Encoder()
    number, tree, flag = models()
    for n, symbol, bit in rows:
        number.code(encoder, n)
        tree.code(encoder, symbol)
        flag.code(encoder, bit)
    code_bits(encoder, 5, 19)
    code_bytes(encoder, len(tail), tail)
    decoder = Decoder(encoder.finish())
    number, tree, flag = models()
    assert [(number.code(decoder), tree.code(decoder), flag.code(decoder)) for _ in rows] == rows
    assert code_bits(decoder, 5) == 19
    assert code_bytes(decoder, len(tail)) == tail


def test_small_and_usual_numbers_are_cheap():
    first = Trial()
    AdaptiveNumber().code(first, 0)
    assert first.cost == 256
    later, model = Trial(), AdaptiveNumber()
    for _ in range(100):
        model.code(later, 37)
    assert later.cost < 100 * 6 * 256


@given(st.binary(max_size=40), st.integers(1, 300), st.integers(0, 2**40))
def test_any_bytes_decode_to_values_in_range(data, size, limit):
    decoder = Decoder(data)
    tree, number = BitTree(size), AdaptiveNumber(limit)
    for _ in range(20):
        assert 0 <= tree.code(decoder) < size
        try:
            assert 0 <= number.code(decoder) <= limit
        except RangeCodeError:
            break


def test_a_number_above_its_limit_is_refused_at_both_ends():
    with pytest.raises(ValueError, match="not in 0"):
        AdaptiveNumber(5).code(Encoder(), 6)
    encoder = Encoder()
    AdaptiveNumber(6).code(encoder, 6)  # 7 in gamma code has three bits, as has 6
    encoder = Encoder()
    for bit in (1, 1, 1, 1):
        encoder.encode(bit, 1 << 15)
    with pytest.raises(RangeCodeError):
        AdaptiveNumber(5).code(Decoder(encoder.finish()))
