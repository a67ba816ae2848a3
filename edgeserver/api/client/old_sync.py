"""GET /events, /events/{eventId}, /initialSync and /rooms/{roomId}/initialSync, deprecated but listed.

Spec: client-server API, "Syncing" (deprecated endpoints), "Room previews" (peeking with `room_id`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api import query
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.rooms.client_view import Viewer
from edgeserver.sync import since
from edgeserver.sync.old_stream import DEFAULT_MESSAGES, MAX_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.sync.old_stream import OldStream

V3 = "/_matrix/client/v3"
DEFAULT_TIMEOUT_MS = 5000


def routes(stream: OldStream, now_ms: Callable[[], int], until_whole: Callable[[str], Awaitable[None]]) -> list[Route]:
    """`until_whole` waits until all members of a room are known."""

    def viewer_of(call: Call) -> Viewer:
        return Viewer(call.user_id, call.requester.device_id, now_ms())

    async def listen(call: Call) -> dict[str, Any]:
        token, room_id = call.query.get("from") or None, call.query.get("room_id") or None
        start = None if token is None else since.parse(token)
        timeout = query.number(call, "timeout", DEFAULT_TIMEOUT_MS)
        if room_id is not None:
            return await stream.peek(viewer_of(call), room_id, start, timeout)
        return await stream.listen(viewer_of(call), start, timeout)

    async def one(call: Call) -> dict[str, Any]:
        return await stream.event(viewer_of(call), call.path["eventId"])

    async def begin(call: Call) -> dict[str, Any]:
        archived = call.query.get("archived", "false")
        if archived not in ("true", "false"):
            raise errors.InvalidParam("archived is neither true nor false.")
        return await stream.begin(viewer_of(call), _limit(call), archived=archived == "true")

    async def room(call: Call) -> dict[str, Any]:
        limit, room_id = _limit(call), call.path["roomId"]
        await stream.room(viewer_of(call), room_id, 0)  # who may not read it does not wait
        await until_whole(room_id)
        return await stream.room(viewer_of(call), room_id, limit)

    return [
        *endpoint("GET", V3 + "/events", listen, long_poll=True),
        *endpoint("GET", V3 + "/events/{eventId}", one),
        *endpoint("GET", V3 + "/initialSync", begin, rate="search"),
        *endpoint("GET", V3 + "/rooms/{roomId}/initialSync", room, rate="other"),
    ]


def _limit(call: Call) -> int:
    return min(query.number(call, "limit", DEFAULT_MESSAGES), MAX_MESSAGES)
