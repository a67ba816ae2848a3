"""How much a thin wire takes at once: what does not fit into an answer comes with the next one, at once and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Budget:
    """Bytes of JSON that fit into one part of an answer; None: any number. The first thing always fits, whatever its size, so that each
    answer gets further.
    """

    def __init__(self, size: int | None) -> None:
        self._size = size
        self.spent = 0

    @property
    def is_full(self) -> bool:
        return self._size is not None and self.spent >= max(1, self._size)

    def part(self, divisor: int) -> Budget:
        """Another one, of so many times less than this had in the beginning."""
        return Budget(None if self._size is None else self._size // divisor)

    def spend(self, size: int) -> None:
        self.spent += size

    def takes(self, *told: Mapping[str, Any] | str) -> bool:
        """Whether these may be told now: together they fit into what is left, or are the first. They are spent then; what they take is
        looked at only if it matters.
        """
        if self._size is None:
            return True
        size = sum(len(one) + 3 if isinstance(one, str) else len(canonical_json.encode_loose(one)) for one in told)
        if self.spent and self.spent + size > self._size:
            return False
        self.spent += size
        return True
