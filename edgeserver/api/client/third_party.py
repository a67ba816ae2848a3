"""/thirdparty: there are no bridged networks. Spec: client-server API, "Third-party Networks"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route


def routes() -> list[Route]:
    async def protocols(call: Call) -> dict[str, Any]:
        return {}

    async def nothing(call: Call) -> dict[str, Any]:
        raise errors.NotFound("No such third-party network is bridged here.")

    base = "/_matrix/client/v3/thirdparty"
    unknown = ("protocol/{protocol}", "location", "location/{protocol}", "user", "user/{protocol}")
    return [
        *endpoint("GET", f"{base}/protocols", protocols),
        *(route for path in unknown for route in endpoint("GET", f"{base}/{path}", nothing)),
    ]
