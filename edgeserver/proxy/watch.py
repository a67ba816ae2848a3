"""One sync of one client, observed at the box: answers come by themselves and wait here until the client asks for them.

A client's poll that has nothing to hear ends here, after its own timeout, and costs the line nothing. Every answer is kept until a poll
goes on from where it ends, so one that got lost on its way to the client is there when the client repeats its poll.

An observation that the box has ended (with messages to the device, see `transports.observing`) goes on when a poll of the client says that
it has the last answer; one that broke goes on by itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver.matrix import errors
from edgeserver.proxy.replies import error_response
from transports import syncing
from transports.exchange import ExchangeError, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.paired.line import Line
    from transports.exchange import Request, Response

LINGER: Final = 600.0
"""Seconds for which it goes on while the client does not ask."""
MOST_WAITING: Final = 16
"""Answers that wait here; more wait at the box."""
_PAUSE_FIRST, _PAUSE_CAP = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class _Told:
    """An answer from `start` on (None: the beginning); `end` is where the next one begins, None if there is none."""

    start: str | None
    response: Response
    end: str | None


class Watch:
    """`template` is the client's request; its position and timeout do not matter. `hear` gets each answer and where it starts. `counts` are
    those of the same sync before, if there was one. `run` is one task.
    """

    def __init__(
        self,
        line: Line,
        form: syncing.Form,
        template: Request,
        position: str | None,
        hear: Callable[[str | None, Response], None],
        counts: dict[str, Any],
    ) -> None:
        self._line = line
        self._form = form
        self._hear = hear
        self.template = template
        self._told: deque[_Told] = deque()
        self._end: str | None = position
        self._is_taken = True
        """The client has said that it has all answers."""
        self._is_over = False
        self._change = trio.Event()
        self._scope = trio.CancelScope(deadline=trio.current_time() + LINGER)
        self.counts = counts
        """What the answers so far say each time."""

    async def run(self) -> None:
        """Returns when nobody has asked for a while, when it was closed, or after an answer that is none."""
        pause = _PAUSE_FIRST
        with self._scope:
            while not self._is_over:
                before = self._end
                try:
                    await self._observe()
                except TooLarge as error:
                    self._take(error_response(errors.TooLarge(f"This is more than the line carries: {error}.")))
                except ExchangeError:
                    pass  # the line is down, or the box is busy
                if self._end != before or not self._line.is_up:
                    pause = _PAUSE_FIRST  # who waits for the line needs no other pause
                elif not self._is_over:
                    await trio.sleep(pause)
                    pause = min(2 * pause, _PAUSE_CAP)
        self._is_over = True
        self._changed()

    async def _observe(self) -> None:
        """Goes on from where the answers end until it is over at the box, and taken by the client. Raises `ExchangeError`."""
        async with self._line.observe(syncing.at(self.template, self._form, self._end)) as observation:
            while not observation.is_over:
                response = await observation.receive()
                if not observation.is_over or not self._is_displaced(response):
                    self._take(response)
                while len(self._told) >= MOST_WAITING:
                    await self._change.wait()
        while not self._is_taken and not self._is_over:
            await self._change.wait()

    def _is_displaced(self, response: Response) -> bool:
        """A sliding sync that stays where it was has said nothing."""
        return response.status == 200 and syncing.Answer(response.body, self._form).position == self._end

    def _take(self, response: Response) -> None:
        self._hear(self._end, response)
        answer = syncing.Answer(response.body, self._form) if response.status == 200 else None
        end = None if answer is None else answer.position
        self._told.append(_Told(self._end, response, end))
        if answer is not None:
            self.counts |= answer.counts
        self._is_over = end is None
        self._end = end
        self._is_taken = False
        self._changed()

    def _changed(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()

    # ---- the client's side

    def close(self) -> None:
        self._scope.cancel()

    def holds(self, position: str | None) -> bool:
        """Whether what follows that position is here."""
        return any(told.start == position for told in self._told)

    def goes_on_from(self, position: str | None) -> bool:
        """Whether a poll from there is one of this sync."""
        return self.holds(position) or (not self._is_over and position == self._end)

    async def answer(self, position: str | None, wait: float) -> Response | None:
        """What follows that position; None if nothing does within `wait` seconds, or another sync has taken this one's place.

        An answer that stays at that position says that the counts of the device's keys have changed, and no more. A poll from there may ask
        for what follows it as well as for the answer itself: so it is given once, and `counts` says the same.
        """
        while self._told and self._told[0].start != position:
            self._told.popleft()
        self._is_taken = not self._told
        self._changed()
        self._scope.deadline = trio.current_time() + wait + LINGER
        with trio.move_on_after(wait):
            while not self._told and not self._is_over:
                await self._change.wait()
        self._scope.deadline = trio.current_time() + LINGER
        if not self._told or self._told[0].start != position:
            return None
        told = self._told.popleft() if self._told[0].end == position else self._told[0]
        return told.response
