"""A set of integers kept as sorted, disjoint, non-touching half-open ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ranges:
    """What has arrived, what is acknowledged, what is to be sent again. Costs memory by the number of holes."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        # Every range that overlaps or touches [start, stop) melts into one.
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def remove(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        low = bisect_right(self._stops, start)
        high = bisect_left(self._starts, stop)
        if low >= high:
            return
        first, last = self._starts[low], self._stops[high - 1]
        kept = [(a, b) for a, b in ((first, start), (stop, last)) if a < b]
        self._starts[low:high] = [a for a, _ in kept]
        self._stops[low:high] = [b for _, b in kept]

    def drop_first(self) -> None:
        """Forgets the lowest range."""
        del self._starts[0], self._stops[0]

    def covers(self, start: int, stop: int) -> bool:
        index = bisect_right(self._starts, start) - 1
        return index >= 0 and self._stops[index] >= stop

    def __contains__(self, value: int) -> bool:
        return self.covers(value, value + 1)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __reversed__(self) -> Iterator[tuple[int, int]]:
        return zip(reversed(self._starts), reversed(self._stops), strict=True)

    def __len__(self) -> int:
        """How many ranges there are (not how many integers)."""
        return len(self._starts)

    @property
    def first(self) -> tuple[int, int]:
        return self._starts[0], self._stops[0]

    @property
    def end(self) -> int:
        """One behind the greatest member; 0 when empty."""
        return self._stops[-1] if self._stops else 0
