"""GET /_matrix/federation/v1/hierarchy/{roomId}. Spec: server-server API, "Spaces"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.api.server.authentication import origin_of
from edgeserver.api.server.parameters import boolean

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Guard, Route
    from edgeserver.federation.hierarchy import SpaceHierarchy


def routes(guard: Guard, spaces: SpaceHierarchy) -> list[Route]:
    async def hierarchy(call: Call) -> dict[str, Any]:
        return await spaces.of(origin_of(call), call.path["roomId"], suggested_only=boolean(call, "suggested_only"))

    return endpoint("GET", "/_matrix/federation/v1/hierarchy/{roomId}", hierarchy, auth=guard)
