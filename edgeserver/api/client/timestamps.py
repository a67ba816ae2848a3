"""GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event. Spec: client-server API, "Room event by timestamp" (v1.6, MSC3030)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.timestamps import Timestamps


def routes(timestamps: Timestamps) -> list[Route]:
    async def timestamp_to_event(call: Call) -> dict[str, Any]:
        given, direction = call.query.get("ts"), call.query.get("dir")
        if given is None or direction is None:
            raise errors.MissingParam("ts or dir is missing.")
        if not (given.removeprefix("-").isdecimal() and given.isascii() and len(given) <= 16):
            raise errors.InvalidParam("ts is not an integer.")
        if direction not in ("f", "b"):
            raise errors.InvalidParam("dir is neither f nor b.")
        found = await timestamps.event_at(call.user_id, call.path["roomId"], int(given), backwards=direction == "b")
        return {"event_id": found.event.event_id, "origin_server_ts": found.event.origin_server_ts}

    return endpoint("GET", "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event", timestamp_to_event, rate="search")
