"""Work that several ask for at once and that is done once: fetching media, making a thumbnail, previewing a URL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

import trio

from edgeserver.matrix.errors import MatrixError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

Result = TypeVar("Result")

MAX_FAILURES: Final = 256
FAILURE_SECONDS: Final = 30.0
_NOT_KEPT: Final = frozenset({"M_NOT_YET_UPLOADED", "M_LIMIT_EXCEEDED"})


@dataclass(eq=False)
class _Work(Generic[Result]):
    done: trio.Event = field(default_factory=trio.Event)
    is_finished: bool = False
    result: Result | None = None
    error: MatrixError | None = None


class Shared(Generic[Result]):
    """Work by key. Who asks while it is being done gets the same result, or the same error of the spec.

    An error is given again to whoever asks within the next seconds: a client in trouble asks often, and each try may
    cost a thin line dearly. If whoever does the work is cancelled, the next who waits does it.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, _Work[Result]] = {}
        self._failures: dict[Hashable, tuple[float, MatrixError]] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `work`, done now or by another. Raises what it raises."""
        expires, error = self._failures.get(key, (0.0, None))
        if error is not None and trio.current_time() < expires:
            raise error.with_traceback(None)
        while (other := self._running.get(key)) is not None:
            await other.done.wait()
            if other.error is not None:
                raise other.error.with_traceback(None)
            if other.is_finished:
                return cast("Result", other.result)
        mine = self._running[key] = _Work[Result]()
        try:
            mine.result = await work()
            mine.is_finished = True
        except MatrixError as failure:
            mine.error = failure
            self._remember(key, failure)
            raise
        finally:
            del self._running[key]
            mine.done.set()
        return mine.result

    def _remember(self, key: Hashable, failure: MatrixError) -> None:
        self._failures.pop(key, None)
        if failure.errcode not in _NOT_KEPT:
            self._failures[key] = (trio.current_time() + FAILURE_SECONDS, failure)
            if len(self._failures) > MAX_FAILURES:
                del self._failures[next(iter(self._failures))]
