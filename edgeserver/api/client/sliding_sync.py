"""POST /v4/sync, and POST /unstable/org.matrix.simplified_msc3575/sync. MSC4186, "Sliding sync"."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.client.sync import PRESENCE, milliseconds
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.sync.sliding import accepted, deployed

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.sync.sliding.engine import SlidingSync
    from edgeserver.sync.sliding.wanted import SlidingRequest
    from transports.exchange import LinkProfile

BYTES_PER_BIT_RATE: Final = 6
"""So many bytes of JSON of rooms for each bit a second: with compression, some 15 seconds of a thin line."""
LEAST_BUDGET: Final = 4096


def routes(sync: SlidingSync, seen: Callable[[str, str], None] | None = None) -> list[Route]:
    """`seen(user_id, presence)` hears of each sync that is to mark the user as online or unavailable."""

    async def answer_deployed(call: Call) -> dict[str, Any]:
        timeout, body = milliseconds(call.query.get("timeout")), await call.json(optional=True)
        request = deployed.read(call.user_id, _device(call), call.query.get("pos") or None, timeout, body)
        _note_presence(call.query.get("set_presence"), call.user_id, seen)
        return deployed.write(await sync.sync(_fitted(request, call.link)))

    async def answer_accepted(call: Call) -> dict[str, Any]:
        body = await call.json(optional=True)
        request = accepted.read(call.user_id, _device(call), body)
        _note_presence(body.get("set_presence"), call.user_id, seen)
        return accepted.write(await sync.sync(_fitted(request, call.link)))

    return [
        *endpoint("POST", "/_matrix/client/v4/sync", answer_accepted, long_poll=True),
        *endpoint("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", answer_deployed, long_poll=True),
    ]


def _device(call: Call) -> str:
    return call.requester.device_id or ""


def _note_presence(given: object, user_id: str, seen: Callable[[str, str], None] | None) -> None:
    presence = "online" if given is None else given
    if not isinstance(presence, str) or presence not in PRESENCE:
        raise errors.InvalidParam("set_presence is one of online, unavailable, offline.")
    if seen is not None and presence != "offline":
        seen(user_id, presence)


def _fitted(request: SlidingRequest, link: LinkProfile | None) -> SlidingRequest:
    """With a budget if the request came over a thin line."""
    if link is None or not link.is_thin:
        return request
    return replace(request, budget=max(LEAST_BUDGET, BYTES_PER_BIT_RATE * (link.bit_rate or 0)))
