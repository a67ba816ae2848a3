"""One at a time for each name: locks that exist while somebody wants them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """`async with turns.of(name)`: whoever came first goes first."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[trio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(name, (trio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks.pop(name)
            if users > 1:
                self._locks[name] = (lock, users - 1)

    def waiting(self, name: str) -> int:
        """How many have or want the turn of that name."""
        return self._locks[name][1] if name in self._locks else 0

    async def over(self, name: str) -> None:
        """Returns when all who wanted the turn of that name have had it."""
        if name in self._locks:
            async with self.of(name):
                pass
