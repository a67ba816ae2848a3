"""The regular expressions of namespaces.

The operator writes them and strangers choose what they are held to, so one that a well-made name keeps busy for hours would hand the box
to anybody. Names have at most 255 bytes; what is left to keep out are patterns that try exponentially many ways (a repeat or a choice
inside a repeat, many of them in a row). Python's `re` cannot be told to give up, so such patterns are refused when the box starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import comb
from typing import Final

from edgeserver.matrix.identifiers import MAX_BYTES, fits

MAX_PATTERN: Final = 1024
MAX_WAYS: Final = 10_000_000
"""In so many ways a name of 255 characters may be split between a pattern's repeats and choices: half a second of a small machine."""
SMALL: Final = 8
_COUNTED = re.compile(r"\{(\d*)(,?)(\d*)\}")


class PatternError(Exception):
    """What is wrong with a pattern: half a sentence."""


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, to be matched from the beginning of a name. Raises `PatternError`."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"is longer than {MAX_PATTERN} characters")
    try:
        found = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"is no regular expression ({error})") from error
    _Scan(pattern).run()
    return found


def matches(pattern: re.Pattern[str], name: str) -> bool:
    """Whether a name begins with what the pattern describes, as other servers match; what is longer than any name never does."""
    return fits(name) and pattern.match(name) is not None


@dataclass(slots=True)
class _Group:
    """What a group holds that may not be repeated: a choice of so many, or a part whose length can vary."""

    choices: int = 1
    varies: bool = False


class _Scan:
    """Goes through a pattern that has compiled, once, with a stack of the groups that are open."""

    def __init__(self, pattern: str) -> None:
        self._left = pattern
        self._groups = [_Group()]
        self._open_repeats = 0
        self._ways = 1

    def run(self) -> None:
        while self._left:
            self._one()
        if self._ways * self._groups[0].choices * comb(MAX_BYTES, self._open_repeats) > MAX_WAYS:
            raise PatternError("has too many repeats (such as .*) and choices, which may take very long")

    def _one(self) -> None:
        first = self._left[0]
        if first == "(":
            self._begin()
        elif first == ")":
            self._take(1)
            group = self._groups.pop()
            self._ways *= group.choices
            self._repeat(group)
        elif first == "|":
            self._take(1)
            self._groups[-1].choices += 1
        else:
            self._atom(first)
            self._repeat(_Group())

    def _atom(self, first: str) -> None:
        if first == "\\":
            if self._left[1:2].isdigit() and self._left[1] != "0":
                raise PatternError("refers back to what another part has matched, which may take very long")
            self._take(2)
        elif first == "[":
            end = 2 if self._left[1:2] == "^" else 1
            end += self._left[end : end + 1] == "]"
            while self._left[end] != "]":
                end += 2 if self._left[end] == "\\" else 1
            self._take(end + 1)
        else:
            self._take(1)

    def _begin(self) -> None:
        self._groups.append(_Group())
        special = re.match(r"\((\?(P<\w+>|[:=!>#]|<[=!]|\(\w+\)|[aiLmsux-]+:?|P=\w+))?", self._left)
        assert special is not None
        if "P=" in special[0] or "?(" in special[0]:
            raise PatternError("refers back to what another part has matched, which may take very long")
        if re.match(r"\(\?([aiLmsu]*x|#)", self._left):  # between a part and its quantifier, say
            raise PatternError("has remarks, or spaces that mean nothing, which may hide what it repeats: leave (?x) and (?#…) out")
        self._take(special.end())

    def _repeat(self, group: _Group) -> None:
        """A quantifier after what has just been read, if there is one."""
        low, high = self._quantifier()
        outer = self._groups[-1]
        if (high is None or high > 1) and (group.choices > 1 or group.varies):
            raise PatternError("repeats a part that holds a repeat or a choice itself, which may take very long")
        if low != high and (high is None or high - low > SMALL):
            self._open_repeats += 1
        elif high is not None:
            self._ways *= high - low + 1
        outer.varies = outer.varies or group.varies or group.choices > 1 or low != high

    def _quantifier(self) -> tuple[int, int | None]:
        first, counted = self._left[:1], _COUNTED.match(self._left)
        if first in ("*", "+", "?") and first:
            self._take(1)
            found: tuple[int, int | None] = {"*": (0, None), "+": (1, None), "?": (0, 1)}[first]
        elif counted is not None and (counted[1] or counted[3]):
            self._take(counted.end())
            low = int(counted[1] or 0)
            found = (low, (int(counted[3]) if counted[3] else None) if counted[2] else low)
        else:
            return 1, 1
        if self._left[:1] in ("?", "+"):  # lazy or possessive
            self._take(1)
        return found

    def _take(self, size: int) -> None:
        self._left = self._left[size:]
