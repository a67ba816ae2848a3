"""Answers that hardly change, given from what is kept: versions, login flows, capabilities, the media limit.

One that is an hour old is still given at once, and asked for anew behind the client's back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from edgeserver.proxy.errands import Terms
from edgeserver.proxy.paths import Keep

if TYPE_CHECKING:
    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.errands import Errands
    from edgeserver.proxy.kept_answers import KeptAnswers
    from transports.exchange import Response

FRESH_SECONDS: Final = 3600.0
MAX_FRESH: Final = 256
PATIENCE: Final = 3600.0
_TERMS: Final = Terms(linger=120.0, keep_untaken=120.0)


class Copies:
    """`kept` has the answers; here is how old they are."""

    def __init__(self, line: Line, errands: Errands, kept: KeptAnswers) -> None:
        self._line = line
        self._errands = errands
        self._kept = kept
        self._fresh_until: dict[tuple[str, str], float] = {}

    async def answer(self, call: Call) -> Response:
        """The kept answer if there is one, else the box's."""
        key = (call.request.target, "" if call.treatment.keep is Keep.FOR_ANYBODY else call.authorization)
        copy = await self._kept.find(call)
        if copy is not None and trio.current_time() < self._fresh_until.get(key, float("-inf")):
            return copy
        errand = self._errands.begin(("copy", *key), lambda: self._fetch(call, key), _TERMS)
        return await self._errands.wait(errand) if copy is None else copy

    async def _fetch(self, call: Call, key: tuple[str, str]) -> Response:
        response = await self._kept.ask(call, lambda: self._line.carry(call.request, repeatable=True, patience=PATIENCE))
        if response.status == 200:
            self._fresh_until.pop(key, None)
            self._fresh_until[key] = trio.current_time() + FRESH_SECONDS
            if len(self._fresh_until) > MAX_FRESH:
                del self._fresh_until[next(iter(self._fresh_until))]
        return response
