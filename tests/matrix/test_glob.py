"""Glob-style patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.matrix.glob import contains_words, matches, matches_words


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("lunc?*", "Lunch plans", True),
        ("lunc?*", "LUNCH", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("*", "", True),
        ("", "", True),
        ("", "x", False),
        ("a*a", "a", False),
        ("a*b*c", "aXbXbc\n.c", True),
        ("a.c", "abc", False),
        ("**?", "x", True),
        ("?", "\n", True),
    ],
)
def test_a_pattern_matches_the_whole_text(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "hexample", False),
        ("ex*ple", "examples", False),
        ("cake", "CAKE!", True),
        ("cake", "cake_s cake9", False),
        ("cake", "pancakes, cake", True),
        ("cake*lie", "the cake is a lie", True),
        ("cake*lie", "the cake is a lied lie", True),
        ("*cake", "pancake day", True),
        ("cak*", "pan cakes", True),
        ("cak*", "pancakes", False),
        ("@room", "hello @room", True),
        ("caf?", "un café", True),
        ("foo", "foo\nbar", True),
        ("*", "", True),
    ],
)
def test_a_pattern_matches_between_word_boundaries(pattern: str, text: str, expected: bool) -> None:
    assert matches_words(pattern, text) is expected


def test_words_are_taken_literally() -> None:
    assert contains_words("Bob *", "hi bob *!")
    assert not contains_words("Bob *", "hi bob you")
    assert not contains_words("bob", "bobby")
    assert contains_words("böb", "an BÖB gedacht")


@given(st.text("ab*?", max_size=8), st.text("abB\n", max_size=12))
def test_matching_agrees_with_the_obvious_expression(pattern: str, text: str) -> None:
    obvious = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    assert matches(pattern, text) is (re.fullmatch(obvious, text, re.IGNORECASE | re.DOTALL) is not None)


@given(st.text("a *?", max_size=6), st.text("aA -", max_size=10))
def test_word_matching_agrees_with_the_obvious_expression(pattern: str, text: str) -> None:
    obvious = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    edge = r"(?!(?<=\w)(?=\w))"
    found = re.search(f"(?:{edge}|^){obvious}(?:{edge}|$)", text, re.IGNORECASE | re.DOTALL | re.ASCII)
    assert matches_words(pattern, text) is (found is not None)


def test_no_pattern_makes_matching_slow() -> None:
    text, pattern = "a" * 60_000, "*a" * 400 + "*b"
    assert not matches(pattern, text)
    assert not matches_words(pattern, text)
