"""Messages on their way to the box: held while the line is down, delivered in order, each once.

Spec: client-server API, "Transaction identifiers". A client that has waited too long repeats its PUT with the same
transaction id; the repeat joins the one under way, or gets the answer that came meanwhile. The event id is always the
box's. All of it is in memory: a proxy that is restarted forgets what it held, and the clients, which were never told
that it was delivered, send again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors
from edgeserver.proxy.errands import Terms
from edgeserver.proxy.replies import json_object

if TYPE_CHECKING:
    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.errands import Errand, Errands
    from transports.exchange import Response

HELD_SECONDS: Final = 24 * 3600.0
MAX_HELD_BYTES: Final = 8_000_000
_TERMS: Final = Terms(linger=HELD_SECONDS, keep=600.0)
_RATE_LIMITED_TRIES: Final = 5
_RATE_LIMIT_CAP: Final = 60.0


class Outbox:
    """`held` is how many messages are on their way, `held_bytes` their bodies' size."""

    def __init__(self, line: Line, errands: Errands) -> None:
        self._line = line
        self._errands = errands
        self._newest: dict[tuple[str, str], trio.Event] = {}  # of a lane: set when its newest message is done with
        self.held = 0
        self.held_bytes = 0

    async def send(self, call: Call) -> Response:
        """The box's answer. Raises M_LIMIT_EXCEEDED when too much is held already."""
        key = ("send", call.authorization, call.request.target)
        return await self._errands.wait(self._errands.find(key) or self._enqueue(key, call))

    def _enqueue(self, key: tuple[str, str, str], call: Call) -> Errand:
        size = len(call.request.body)
        if self.held_bytes + size > MAX_HELD_BYTES:
            raise errors.LimitExceeded(60_000, "Too many messages wait for the line already.")
        lane = (call.authorization, call.treatment.lane or "")
        previous, done = self._newest.get(lane), trio.Event()

        async def deliver() -> Response:
            try:
                if previous is not None:
                    await previous.wait()
                return await self._deliver(call)
            finally:
                done.set()
                self.held -= 1
                self.held_bytes -= size
                if self._newest.get(lane) is done:
                    del self._newest[lane]

        errand = self._errands.begin(key, deliver, _TERMS)
        self._newest[lane] = done
        self.held += 1
        self.held_bytes += size
        return errand

    async def _deliver(self, call: Call) -> Response:
        """A message that the box puts off for its rate limit is repeated here: who comes after it in its lane must not overtake it."""
        for _ in range(_RATE_LIMITED_TRIES):
            response = await self._line.carry(call.request, repeatable=True, patience=HELD_SECONDS)
            if response.status != 429:
                break
            await trio.sleep(_retry_after(response))
        return response


def _retry_after(response: Response) -> float:
    """Seconds. Spec: client-server API, "Rate limiting"."""
    told = (json_object(response.body) or {}).get("retry_after_ms")
    return min(told / 1000, _RATE_LIMIT_CAP) if isinstance(told, int) and told > 0 else 1.0
