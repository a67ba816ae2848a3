"""Pagination tokens: `t{depth}_{tie}` is a place in a room's topological order, `s{stream}` a position of the global stream.

Both are opaque to clients. `/sync` gives `s…` as next_batch and `t…` as prev_batch; `/messages` takes either.
"""

from __future__ import annotations

from edgeserver.matrix import errors
from edgeserver.store.events import Place


def write_place(place: Place) -> str:
    return f"t{place.depth}_{place.tie}"


def write_stream(position: int) -> str:
    return f"s{position}"


def parse(token: str) -> Place | int:
    """A place, or a stream position. Raises M_INVALID_PARAM."""
    kind, rest = token[:1], token[1:]
    try:
        if kind == "t":
            depth, tie = rest.split("_", 1)
            return Place(int(depth), int(tie))
        if kind == "s":
            return int(rest.split("_", 1)[0])
    except ValueError:
        pass
    raise errors.InvalidParam(f"{token[:40]!r} is no pagination token of this server.")
