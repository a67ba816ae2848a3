"""How many strangers' keys are looked up at whose word: made-up server names cost whoever makes them up, not everybody.

Each lookup of a server of which nothing is known may cost DNS, connections and time, and anybody can sign in the name of servers that
do not exist. So each server that tells us of strangers has a bucket, all together have one, and requests of nobody proven have another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

UNPROVEN: Final = ""
"""Stands for whoever makes requests in names that are not proven yet."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """`burst` lookups at once, `per_second` more in the long run."""

    burst: float
    per_second: float


OF_TELLER: Final = Bucket(60, 0.1)
OF_ALL: Final = Bucket(300, 1.0)
OF_UNPROVEN: Final = Bucket(200, 1.0)
MAX_TELLERS: Final = 1024


class Lookups:
    """Token buckets. The teller that was heard of longest ago is forgotten first."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}
        self._all = (OF_ALL.burst, 0.0)

    def take(self, teller: str) -> bool:
        """One lookup at this teller's word; False if there are to be none now."""
        now = trio.current_time()
        bucket = OF_UNPROVEN if teller == UNPROVEN else OF_TELLER
        left = _refilled(bucket, self._left.pop(teller, (bucket.burst, now)), now)
        whole = _refilled(OF_ALL, self._all, now)
        granted = left >= 1 and (teller == UNPROVEN or whole >= 1)
        self._left[teller] = (left - granted, now)
        if teller != UNPROVEN:
            self._all = (whole - granted, now)
        while len(self._left) > MAX_TELLERS:
            del self._left[next(iter(self._left))]
        return granted


def _refilled(bucket: Bucket, state: tuple[float, float], now: float) -> float:
    left, since = state
    return min(bucket.burst, left + (now - since) * bucket.per_second)
