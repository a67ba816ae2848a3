"""Nothing that steers a terminal gets through, and what is for reading does."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.chat import visible

STEERS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
STEERING = "\x1b\x9b\x07\r\n\t\x00\x7f\u202e\u2066\u200b\ufeff\U000e0041\u0301\u200d\ud800"
NASTY = st.text(st.one_of(st.characters(), st.sampled_from(STEERING)))


def is_harmless(text: str) -> bool:
    return all(letter in "\u200c\u200d" or unicodedata.category(letter) not in STEERS for letter in text)


@given(NASTY, st.integers(1, 100))
def test_a_line_is_one_line_of_harmless_letters_and_not_too_long(text: str, most: int) -> None:
    shown = visible.one_line(text, most)
    assert is_harmless(shown)
    assert len(shown) <= most


@given(NASTY, st.integers(1, 5), st.integers(1, 100))
def test_the_lines_of_a_message_are_harmless_and_few(text: str, most_lines: int, most: int) -> None:
    shown = visible.lines(text, most_lines, most)
    assert len(shown) <= most_lines
    assert all(is_harmless(line) for line in shown)


@given(NASTY)
def test_what_is_printable_stays_so_and_is_the_same_the_second_time(text: str) -> None:
    once = visible.printable(text)
    assert is_harmless(once)
    assert visible.printable(once) == once


@given(st.one_of(NASTY, st.text("ab  你", max_size=60)), st.integers(2, 30), st.integers(0, 12))
def test_wrapped_rows_fit_and_lose_nothing_but_blanks(text: str, columns: int, indent: int) -> None:
    text = visible.printable(text)
    rows = visible.wrapped(text, columns, indent)
    assert all(visible.width(row) <= max(columns, 2) for row in rows)
    assert "".join("".join(rows).split()) == "".join(text.split())


@given(NASTY, st.integers(0, 60))
def test_a_fitted_text_takes_exactly_its_columns(text: str, columns: int) -> None:
    assert visible.width(visible.fitted(visible.printable(text), columns)) == columns


@pytest.mark.parametrize(
    "text", ["plain text", "Ærøskøbing", "Привет, мир", "你好", "שלום", "می‌خواهم", "👩‍🚒", "e\u0301", "한국어", "1 € = 2 £"]
)
def test_what_people_write_is_shown_as_it_is(text: str) -> None:
    assert visible.one_line(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\ufffd[31mb"),
        ("a\x9b31mb", "a\ufffd31mb"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("a\u2028b", "a\ufffdb"),
        ("z" + "\u0335" * 50, "z" + "\u0335" * visible.MAX_MARKS),
        ("  a \n\n b\t c ", "a b c"),
        (5, ""),
        (None, ""),
    ],
)
def test_what_steers_is_replaced_or_left_out(text: object, shown: str) -> None:
    assert visible.one_line(text) == shown


def test_words_are_kept_whole_where_they_fit() -> None:
    assert visible.wrapped("18:00 bob: one two three", 16, 4) == ["18:00 bob: one", "    two three"]
    assert visible.wrapped("a bbbbbbbcc", 9, 4) == ["a bbbbbbb", "    cc"]
    assert visible.wrapped("abcdefghij", 4, 1) == ["abcd", " efg", " hij"]
    assert visible.wrapped("你好你好", 5) == ["你好", "你好"]
