"""Requests under way, shared by all who ask for the same.

A client gives up long before a thin line has brought its answer, and asks again. So a request goes on for a while after
the last asker has gone away, the same request joins the one under way, and an answer that nobody took is kept for the
next who asks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors
from edgeserver.paired.line import OutOfPatience
from edgeserver.proxy.replies import error_response
from transports.exchange import ExchangeError, Response, TooLarge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

log = logging.getLogger(__name__)

MAX_UNDER_WAY: Final = 1000
MAX_KEPT: Final = 500
MAX_KEPT_BYTES: Final = 16_000_000


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a request lives, in seconds.

    `linger`: how long it goes on while nobody waits. `keep`: how long its answer (2xx) is given to whoever asks again,
    although it was taken; `keep_untaken`: the same if nobody has taken it. `shared`: several askers may wait for one
    request at the same time; else it is joined only when its askers have gone away.
    """

    linger: float = 0.0
    keep: float = 0.0
    keep_untaken: float = 0.0
    shared: bool = True


@dataclass(eq=False)
class Errand:
    """One request under way or done."""

    terms: Terms
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    askers: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    answer: Response | None = None
    expires: float = float("inf")


class Errands:
    """All requests under way. `run` is one task for the life of the proxy."""

    def __init__(self) -> None:
        self._errands: dict[Hashable, Errand] = {}  # done ones in the order in which they were done, after all others
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def find(self, key: Hashable) -> Errand | None:
        """The errand of that key that somebody may join now."""
        errand = self._errands.get(key)
        if errand is not None and errand.done.is_set() and trio.current_time() >= errand.expires:
            self.drop(key)
            return None
        return errand

    def drop(self, key: Hashable, only: Errand | None = None) -> None:
        """Ends and forgets it (if it is still this one). Who waits for it is told that it was superseded."""
        errand = self._errands.get(key)
        if errand is not None and only in (None, errand):
            del self._errands[key]
            errand.scope.cancel()

    async def ask(self, key: Hashable, start: Callable[[], Awaitable[Response]], terms: Terms) -> Response:
        """The answer to the request of that key, which `start` carries out unless it is under way."""
        return await self.wait(self.begin(key, start, terms))

    def begin(self, key: Hashable, start: Callable[[], Awaitable[Response]], terms: Terms) -> Errand:
        """Joins or starts it, at once and in the order of calls. Raises M_LIMIT_EXCEEDED."""
        errand = self.find(key)
        if errand is not None and (terms.shared or errand.done.is_set() or errand.askers == 0):
            return errand
        if self._nursery is None or sum(not each.done.is_set() for each in self._errands.values()) >= MAX_UNDER_WAY:
            raise errors.LimitExceeded(30_000, "Too much waits for the line already.")
        if errand is not None:
            key = object()  # another one of the same looks, on its own
        errand = self._errands[key] = Errand(terms)
        self._nursery.start_soon(self._carry_out, key, errand, start)
        return errand

    async def wait(self, errand: Errand) -> Response:
        errand.askers += 1
        errand.scope.deadline = float("inf")
        try:
            await errand.done.wait()
        finally:
            errand.askers -= 1
            if errand.askers == 0:
                errand.scope.deadline = trio.current_time() + errand.terms.linger
        if errand.terms.keep == 0:
            errand.expires = 0.0
        return errand.answer or error_response(errors.Unknown("A newer request took this one's place.", status=503))

    async def _carry_out(self, key: Hashable, errand: Errand, start: Callable[[], Awaitable[Response]]) -> None:
        with errand.scope:
            errand.answer = await _answered(start)
        errand.done.set()
        if self._errands.get(key) is not errand:
            return
        del self._errands[key]
        keep = errand.terms.keep if errand.askers else max(errand.terms.keep, errand.terms.keep_untaken)
        if keep and errand.answer is not None and 200 <= errand.answer.status < 300:
            errand.expires = trio.current_time() + keep
            self._errands[key] = errand
            self._make_room()

    def _make_room(self) -> None:
        now = trio.current_time()
        kept = [(key, each) for key, each in self._errands.items() if each.done.is_set()]
        size = sum(len(each.answer.body) for _, each in kept if each.answer is not None)
        count = len(kept)
        for key, each in kept:
            if now < each.expires and count <= MAX_KEPT and size <= MAX_KEPT_BYTES:
                continue
            count -= 1
            size -= len(each.answer.body) if each.answer is not None else 0
            del self._errands[key]


async def _answered(start: Callable[[], Awaitable[Response]]) -> Response:
    """What `start` brings; its failures as the spec's error responses."""
    try:
        return await start()
    except errors.MatrixError as error:
        return error_response(error)
    except OutOfPatience as error:
        return error_response(errors.Unknown(str(error), status=504))
    except TooLarge as error:
        return error_response(errors.TooLarge(f"This is more than the line carries: {error}."))
    except ExchangeError as error:
        said = f"The line broke, and it is not known whether the request was carried out ({error}). Look before you repeat it."
        return error_response(errors.Unknown(said, status=504))
    except Exception:
        log.exception("a request could not be carried out")
        return error_response(errors.Unknown("Internal error."))
