"""Work that blocks, such as that on files: on a thread, or in the caller where a virtual clock would run on meanwhile."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class Hop:
    """Carries out such work. A thread that has begun is waited for, also by who is cancelled. `inline` is for tests with a virtual clock;
    `in_turn`: one piece of work at a time.
    """

    def __init__(self, *, inline: bool, in_turn: bool = False) -> None:
        self._inline = inline
        self._turn = trio.Lock() if in_turn else nullcontext()

    async def __call__(self, work: Callable[[Unpack[Arguments]], Result], *arguments: *Arguments) -> Result:
        async with self._turn:
            return work(*arguments) if self._inline else await trio.to_thread.run_sync(work, *arguments)
