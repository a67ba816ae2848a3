"""POST /rooms/{roomId}/receipt/{receiptType}/{eventId}. Spec: client-server API, "Receipts"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.users.read_markers import FULLY_READ

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.read_markers import ReadMarkers
    from edgeserver.users.receipts import Receipts


def routes(receipts: Receipts, markers: ReadMarkers) -> list[Route]:
    async def send(call: Call) -> dict[str, Any]:
        thread_id = (await call.json(optional=True)).get("thread_id")
        room_id, kind, event_id = (call.path[name] for name in ("roomId", "receiptType", "eventId"))
        if thread_id is not None and (not isinstance(thread_id, str) or not thread_id):
            raise errors.InvalidParam("thread_id must be a non-empty string.")
        if kind == FULLY_READ:
            if thread_id is not None:
                raise errors.InvalidParam("m.fully_read has no thread_id.")
            await markers.set(call.user_id, room_id, fully_read=event_id)
        else:
            await receipts.send(call.user_id, room_id, kind, event_id, thread_id)
        return {}

    path = "/_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}"
    return endpoint("POST", path, send, rate="ephemeral", max_body=4096)
