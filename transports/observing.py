"""The answering end of an observed sync: polls in the place of whoever observes it, and gives what they are to be told.

The wire decides when it asks for more: only when what was told last has arrived, for the next poll says that it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from transports import syncing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from transports.exchange import Request, Response

AT_LEAST_SECONDS: Final = 1.0
"""Between two polls of which the first brought nothing."""
TROUBLED_SECONDS: Final = 10.0
PATIENCE: Final = 3
"""So many errors in a row that pass (429, 5xx) are waited out; the next is told."""


class Observer:
    """One observation. `respond` carries out a request. `is_over`: what was given last is the end, and the observing end goes on itself.

    It is the end if it is no success, if another request of the same client has taken the sync's place, and, unless `acknowledges`, if
    it holds messages to the device: those are deleted when the client's next sync says that they have arrived, and that the wire has
    delivered them is not yet that.
    """

    def __init__(
        self, request: Request, form: syncing.Form, respond: Callable[[Request], Awaitable[Response]], *, acknowledges: bool = False
    ) -> None:
        self._request = request
        self._form = form
        self._respond = respond
        self._acknowledges = acknowledges
        self._position = syncing.position_of(request, form)
        self._counts: dict[str, Any] = {}
        self._has_told = False
        self.is_over = False

    async def first(self) -> Response:
        """The answer to the request as it stands."""
        response = await self._respond(self._request)
        self._take(response, self._position)
        return response

    async def next(self) -> Response:
        """Waits for news. Raises what `respond` raises."""
        position, troubles = self._position, 0
        while True:
            began = trio.current_time()
            response = await self._respond(self._poll(position))
            if response.status == 429 or response.status >= 500:
                troubles += 1
                if troubles < PATIENCE:
                    await trio.sleep_until(began + AT_LEAST_SECONDS + TROUBLED_SECONDS * troubles)
                    continue
            elif response.status == 200 and (quiet := self._without_news(response, position, trio.current_time() - began)):
                position = quiet if self._form is syncing.Form.CLASSIC else position
                await trio.sleep_until(began + AT_LEAST_SECONDS)
                continue
            self._take(response, position)
            return response

    def _poll(self, position: str | None) -> Request:
        """The request's own, as long as its first answer has not been told, for it may ask for more than what is new."""
        if position is None or not self._has_told:
            return syncing.patient(self._request, self._form)
        return syncing.after(self._request, self._form, position)

    def _without_news(self, response: Response, asked: str | None, waited: float) -> str | None:
        """The position of an answer that is not worth telling; None of others. Counts that are not known from an answer before have not
        changed while the poll waited to its end, or it would have ended.

        In sliding sync the connection still stands where it was, and is asked once more from there: the other end knows no other place.
        """
        answer = syncing.Answer(response.body, self._form)
        if asked is None or answer.position is None:
            return None
        known = answer.counts | self._counts if waited * 1000 >= syncing.POLL_MS else self._counts
        if answer.has_news(known):
            return None
        self._counts = known
        is_displaced = self._form is not syncing.Form.CLASSIC and answer.position == asked
        return None if is_displaced else answer.position

    def _take(self, response: Response, asked: str | None) -> None:
        answer = syncing.Answer(response.body, self._form)
        stays = self._form is not syncing.Form.CLASSIC and answer.position == asked
        self._position, self._has_told = answer.position, True
        self._counts |= answer.counts
        self.is_over = response.status != 200 or answer.position is None or stays or (answer.has_to_device and not self._acknowledges)
