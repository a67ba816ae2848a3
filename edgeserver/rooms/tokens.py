"""Pagination tokens: `t{depth}_{tie}` is a place in a room's topological order, `s{stream}` a position of the global stream.

Both are opaque to clients. `/sync` gives `s…` as next_batch and `t…` as prev_batch; `/messages` takes either.
"""

from __future__ import annotations

import re

from edgeserver.matrix import errors
from edgeserver.store.events import Place

_NUMBER = r"(-?[0-9]{1,19})"
_PLACE = re.compile(rf"t{_NUMBER}_{_NUMBER}")
_STREAM = re.compile(rf"s{_NUMBER}(?:_.*)?")
_LIMIT = 2**63  # what SQLite holds


def write_place(place: Place) -> str:
    return f"t{place.depth}_{place.tie}"


def write_stream(position: int) -> str:
    return f"s{position}"


def parse(token: str) -> Place | int:
    """A place, or a stream position. Raises M_INVALID_PARAM."""
    match = _PLACE.fullmatch(token) or _STREAM.fullmatch(token)
    numbers = [int(number) for number in match.groups()] if match is not None else []
    if numbers and all(-_LIMIT <= number < _LIMIT for number in numbers):
        return Place(numbers[0], numbers[1]) if len(numbers) == 2 else numbers[0]
    raise errors.InvalidParam(f"{token[:40]!r} is no pagination token of this server.")
