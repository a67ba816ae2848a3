"""POST /v4/sync, and POST /unstable/org.matrix.simplified_msc3575/sync. MSC4186, "Sliding sync"."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgeserver.api import query
from edgeserver.api.client.sync import PRESENCE
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.sync.sliding import accepted, deployed

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.sync.sliding.engine import SlidingSync
    from edgeserver.sync.sliding.wanted import SlidingAnswer, SlidingRequest
    from transports.exchange import LinkProfile

ACCEPTED: Final = "/_matrix/client/v4/sync"
DEPLOYED: Final = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
BYTES_PER_BIT_RATE: Final = 6
"""So many bytes of JSON of rooms for each bit a second: with compression, some 15 seconds of a thin line."""
LEAST_BUDGET: Final = 4096


def routes(sync: SlidingSync, syncing: Callable[[str, str | None, str], AbstractContextManager[None]] | None = None) -> list[Route]:
    """`syncing(user_id, device_id, set_presence)` is entered for as long as a sync takes."""

    async def answered(call: Call, request: SlidingRequest, presence: object) -> SlidingAnswer:
        state = "online" if presence is None else presence
        if not isinstance(state, str) or state not in PRESENCE:
            raise errors.InvalidParam("set_presence is one of online, unavailable, offline.")
        with nullcontext() if syncing is None else syncing(call.user_id, call.requester.device_id, state):
            return await sync.sync(_fitted(request, call.link))

    async def answer_deployed(call: Call) -> dict[str, Any]:
        timeout, body = query.number(call, "timeout", 0), await call.json(optional=True)
        request = deployed.read(call.user_id, _device(call), call.query.get("pos") or None, timeout, body)
        return deployed.write(await answered(call, request, call.query.get("set_presence")))

    async def answer_accepted(call: Call) -> dict[str, Any]:
        body = await call.json(optional=True)
        return accepted.write(await answered(call, accepted.read(call.user_id, _device(call), body), body.get("set_presence")))

    return [
        *endpoint("POST", ACCEPTED, answer_accepted, rate="sync", long_poll=True),
        *endpoint("POST", DEPLOYED, answer_deployed, rate="sync", long_poll=True),
    ]


def _device(call: Call) -> str:
    return call.requester.device_id or ""


def _fitted(request: SlidingRequest, link: LinkProfile | None) -> SlidingRequest:
    """With a budget if the request came over a thin line."""
    if link is None or not link.is_thin:
        return request
    return replace(request, budget=max(LEAST_BUDGET, BYTES_PER_BIT_RATE * (link.bit_rate or 0)))
