"""What paired boxes tell each other: GET /_edgeserver/v1/time, PUT /_edgeserver/v1/gateway/routes, POST /_edgeserver/v1/gateway/returned.

Served over links alone; the link's authenticated identity is who asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.gateway.routes import GatewayRoutes


def routes(
    gateway: GatewayRoutes, now_ms: Callable[[], int], clock_trusted: Callable[[], bool], returned: Callable[[str], None]
) -> list[Route]:
    """`returned(peer)` is called when a gateway says that it reaches the internet again."""

    async def time(call: Call) -> dict[str, Any]:
        _peer(call)
        return {"now": now_ms(), "trusted": clock_trusted()}

    async def put_routes(call: Call) -> dict[str, Any]:
        return await gateway.accept(_peer(call), await call.json())

    async def post_returned(call: Call) -> dict[str, Any]:
        returned(_peer(call))
        return {}

    return [
        *endpoint("POST", "/_edgeserver/v1/gateway/returned", post_returned, auth=Auth.NONE),
        *endpoint("GET", "/_edgeserver/v1/time", time, auth=Auth.NONE),
        *endpoint("PUT", "/_edgeserver/v1/gateway/routes", put_routes, auth=Auth.NONE),
    ]


def _peer(call: Call) -> str:
    peer = call.link.peer if call.link is not None else None
    if peer is None or peer.startswith("client:"):
        raise Unauthorized("Only a paired box may ask this.")
    return peer
