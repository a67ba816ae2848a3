"""Glob-style patterns.

Spec: appendices, "Glob-style Matching": `*` stands for any number of characters, `?` for one; upper and lower case are
the same. Matching takes time in proportion to the text times the pattern, whatever the pattern: it looks for the parts
between the stars one after the other, each as far left as it goes.
"""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = "[A-Za-z0-9_]"
_BOUNDARY = rf"(?:(?<!{_WORD})|(?!{_WORD}))"
"""Any place that is not inside of a word: the start, the end, and beside any character that is not one of a word's."""

Parts = tuple[re.Pattern[str], ...]


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches the whole text."""
    if "*" not in pattern and "?" not in pattern:
        return pattern.lower() == text.lower()
    parts = _whole_parts(pattern)
    return _find_in_turn(parts, text)


def matches_words(pattern: str, text: str) -> bool:
    """Whether the pattern matches any part of the text that starts and ends at a word boundary.

    Spec: client-server API, "Push Rules", `event_match` on `content.body`.
    """
    return _find_in_turn(_word_parts(pattern), text)


def contains_words(words: str, text: str) -> bool:
    """Whether the words, in which `*` and `?` are ordinary characters, occur in the text between word boundaries."""
    return _literal(words).search(text) is not None


def _find_in_turn(parts: Parts, text: str) -> bool:
    position = 0
    for part in parts:
        found = part.search(text, position)
        if found is None:
            return False
        position = found.end()
    return True


@lru_cache(maxsize=512)
def _whole_parts(pattern: str) -> Parts:
    return _parts(pattern, r"\A", r"\Z")


@lru_cache(maxsize=512)
def _word_parts(pattern: str) -> Parts:
    return _parts(pattern, _BOUNDARY, _BOUNDARY)


@lru_cache(maxsize=512)
def _literal(words: str) -> re.Pattern[str]:
    return re.compile(_BOUNDARY + re.escape(words) + _BOUNDARY, re.IGNORECASE)


def _parts(pattern: str, start: str, end: str) -> Parts:
    """The pieces between the stars. None has a repetition in it, so each search is a single pass."""
    pieces = ["".join("." if c == "?" else re.escape(c) for c in piece) for piece in pattern.split("*")]
    pieces[0] = start + pieces[0] if pieces[0] or len(pieces) == 1 else ""
    pieces[-1] = pieces[-1] + end if pieces[-1] or len(pieces) == 1 else ""
    return tuple(re.compile(piece, re.IGNORECASE | re.DOTALL) for piece in pieces if piece)
