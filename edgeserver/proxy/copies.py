"""Answers that hardly change, given from a copy: versions, login flows, capabilities, the media limit.

A copy that is an hour old is still given at once, and fetched anew behind the client's back. What is the same for
everybody is kept on disk, so that a client may be started while the line is down.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.paired.state import StateError
from edgeserver.proxy.errands import Terms
from edgeserver.proxy.replies import json_object, json_response

if TYPE_CHECKING:
    from edgeserver.paired.line import Line
    from edgeserver.paired.state import State
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.errands import Errands
    from transports.exchange import Response

log = logging.getLogger(__name__)

FRESH_SECONDS: Final = 3600.0
MAX_COPIES: Final = 256
PATIENCE: Final = 3600.0
_PUBLIC: Final = ("/_matrix/client/versions", "/_matrix/client/v3/login", "/_matrix/client/r0/login")
_TERMS: Final = Terms(linger=120.0, keep_untaken=120.0)


@dataclass(slots=True)
class _Copy:
    response: Response
    fresh_until: float


class Copies:
    """Copies of answers, by target and authorization."""

    def __init__(self, line: Line, errands: Errands, state: State) -> None:
        self._line = line
        self._errands = errands
        self._state = state
        kept = ((target, told) for target, told in state.answers.items() if target in _PUBLIC)
        self._copies = {(target, ""): _Copy(json_response(told), float("-inf")) for target, told in kept}

    async def answer(self, call: Call) -> Response:
        """The copy if there is one, else the box's answer."""
        key = _key(call)
        copy = self._copies.get(key)
        if copy is not None and trio.current_time() < copy.fresh_until:
            return copy.response
        errand = self._errands.begin(("copy", *key), lambda: self._fetch(call, key), _TERMS)
        return await self._errands.wait(errand) if copy is None else copy.response

    async def _fetch(self, call: Call, key: tuple[str, str]) -> Response:
        response = await self._line.carry(call.request, repeatable=True, patience=PATIENCE)
        told = json_object(response.body)
        if response.status != 200 or told is None:
            return response
        self._copies.pop(key, None)
        self._copies[key] = _Copy(response, trio.current_time() + FRESH_SECONDS)
        if len(self._copies) > MAX_COPIES:
            del self._copies[next(iter(self._copies))]
        target = key[0]
        if target in _PUBLIC and self._state.answers.get(target) != told:
            self._state.answers[target] = told
            try:
                await trio.to_thread.run_sync(self._state.save)
            except StateError as error:
                log.warning("%s", error)
        return response


def _key(call: Call) -> tuple[str, str]:
    return call.request.target, "" if call.request.target in _PUBLIC else call.authorization
