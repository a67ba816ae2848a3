"""Messages on their way to the box: held while the line is down, delivered in order, each once.

Spec: client-server API, "Transaction identifiers". A client that has waited too long repeats its PUT with the same transaction id; the repeat joins the
one under way, or gets the answer that came meanwhile. The event id is always the box's. All of it is in memory: a proxy that is restarted forgets
what it held, and the clients, which were never told that it was delivered, send again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors
from edgeserver.proxy.errands import Terms
from edgeserver.proxy.replies import json_object

if TYPE_CHECKING:
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.errands import Errand, Errands
    from edgeserver.proxy.line import Line
    from transports.exchange import Response

HELD_SECONDS: Final = 24 * 3600.0
MAX_HELD_BYTES: Final = 8_000_000
_TERMS: Final = Terms(linger=HELD_SECONDS, keep=600.0)
_RATE_LIMIT_TRIES, _RATE_LIMIT_CAP = 5, 60.0


class Outbox:
    """`held` is how many messages are on their way."""

    def __init__(self, line: Line, errands: Errands) -> None:
        self._line = line
        self._errands = errands
        self._last: dict[tuple[str, str], Errand] = {}
        self._held_bytes = 0
        self.held = 0

    async def send(self, call: Call) -> Response:
        """The box's answer. Raises M_LIMIT_EXCEEDED when too much is held already."""
        key = ("send", call.authorization, call.request.target)
        if self._errands.find(key) is None and self._held_bytes + len(call.request.body) > MAX_HELD_BYTES:
            raise errors.LimitExceeded(60_000, "Too many messages wait for the line already.")
        lane = (call.authorization, call.treatment.lane or "")
        previous = self._last.get(lane)
        errand: Errand = self._errands.begin(key, lambda: self._deliver(call, previous, lane, errand), _TERMS)
        if not errand.done.is_set():
            self._last.setdefault(lane, errand)
            if errand is not previous and previous is not None and self._is_new(errand):
                self._last[lane] = errand
        return await self._errands.wait(errand)
