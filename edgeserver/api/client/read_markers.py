"""POST /rooms/{roomId}/read_markers. Spec: client-server API, "Fully read markers"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.store.receipts import PRIVATE, READ
from edgeserver.users.read_markers import FULLY_READ

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.read_markers import ReadMarkers


def routes(markers: ReadMarkers) -> list[Route]:
    async def mark(call: Call) -> dict[str, Any]:
        body = await call.json()
        fully_read, read, private = (_event_id(body, name) for name in (FULLY_READ, READ, PRIVATE))
        await markers.set(call.user_id, call.path["roomId"], fully_read=fully_read, read=read, read_private=private)
        return {}

    return endpoint("POST", "/_matrix/client/v3/rooms/{roomId}/read_markers", mark, rate="ephemeral", max_body=4096)


def _event_id(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise errors.InvalidParam(f"{name} is no event id.")
    return value
