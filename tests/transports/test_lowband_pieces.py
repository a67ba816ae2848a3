"""Pieces of a duplex: whatever overtakes whatever, they come out in order and once, and nothing else does."""

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transports.lowband.pieces import MAX_PIECE, NUMBERS, WINDOW, Arrivals, Departures, PieceError


def piece(number):
    return b"%d" % number


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 120), st.randoms(use_true_random=False))
def test_pieces_come_out_in_order_and_once_however_the_link_delays_them(count, chance):
    """What has arrived is acknowledged later, or much later, and the sender sends whenever its window has room."""
    departures, arrivals = Departures(), Arrivals()
    flying, unconfirmed, got, sent = [], [], [], 0
    while sent < count or flying or unconfirmed:
        can = [name for name, holds in (("send", sent < count and not departures.full), ("land", flying), ("ack", unconfirmed)) if holds]
        match chance.choice(can):
            case "send":
                assert departures.take() == sent
                flying.append(sent)
                sent += 1
            case "land":
                number = flying.pop(chance.randrange(len(flying)))
                got += arrivals.take(number % NUMBERS, piece(number))
                unconfirmed.append(number)
            case "ack":
                departures.settled(unconfirmed.pop(chance.randrange(len(unconfirmed))))
        assert departures.under_way == len(flying) + len(unconfirmed) <= WINDOW
    assert got == [piece(number) for number in range(count)]
    assert not arrivals.gap
    assert not departures.full


def test_the_window_moves_with_the_oldest_piece_and_not_with_the_number_of_those_under_way():
    """Else sixteen could pass one that is late, and its number would mean another."""
    departures = Departures()
    for _ in range(WINDOW):
        departures.take()
    for number in range(1, WINDOW):
        departures.settled(number)
    assert departures.under_way == 1
    assert departures.full
    with pytest.raises(RuntimeError):
        departures.take()
    departures.settled(0)
    assert not departures.full
    assert departures.take() == WINDOW


@pytest.mark.parametrize("number", range(WINDOW, NUMBERS))
def test_a_piece_out_of_the_window_is_a_breach(number):
    with pytest.raises(PieceError, match="window"):
        Arrivals().take(number, b"x")


def test_a_piece_that_comes_again_is_a_breach():
    arrivals = Arrivals()
    assert arrivals.take(0, b"a") == [b"a"]
    with pytest.raises(PieceError, match="window"):
        arrivals.take(0, b"a")
    assert arrivals.take(3, b"d") == []
    assert arrivals.gap
    with pytest.raises(PieceError, match="twice"):
        arrivals.take(3, b"d")


@pytest.mark.parametrize("size", [0, MAX_PIECE + 1])
def test_an_empty_piece_and_a_huge_one_are_breaches(size):
    with pytest.raises(PieceError, match=f"{size} bytes"):
        Arrivals().take(0, bytes(size))
    assert Arrivals().take(0, bytes(MAX_PIECE)) == [bytes(MAX_PIECE)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, NUMBERS - 1), max_size=200))
def test_any_numbers_at_all_hold_no_more_than_a_window_back(numbers):
    arrivals, taken, given_out = Arrivals(), 0, 0
    for number in numbers:
        with suppress(PieceError):
            given_out += len(arrivals.take(number, b"x"))
            taken += 1
        assert 0 <= taken - given_out < WINDOW


def test_a_long_exchange_counts_on_over_the_end_of_the_numbers():
    chance, departures, arrivals, got = random.Random(3), Departures(), Arrivals(), []
    for _ in range(100):
        burst = [departures.take() for _ in range(WINDOW)]
        chance.shuffle(burst)
        for number in burst:
            got += arrivals.take(number % NUMBERS, piece(number))
            departures.settled(number)
    assert got == [piece(number) for number in range(800)]
