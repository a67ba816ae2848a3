"""PUT /rooms/{roomId}/typing/{userId}. Spec: client-server API, "Typing Notifications"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.client.account_data import check_own
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.users.ephemeral import DEFAULT_MS

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.ephemeral import Typing


def routes(typing: Typing) -> list[Route]:
    async def put(call: Call) -> dict[str, Any]:
        check_own(call)
        body = await call.json()
        is_typing, timeout = body.get("typing"), body.get("timeout", DEFAULT_MS)
        if type(is_typing) is not bool:
            raise errors.BadJson("typing is true or false.")
        if type(timeout) is not int:
            raise errors.BadJson("timeout is a number of milliseconds.")
        await typing.set(call.user_id, call.path["roomId"], is_typing, timeout)
        return {}

    return endpoint("PUT", "/_matrix/client/v3/rooms/{roomId}/typing/{userId}", put, rate="ephemeral", max_body=4096)
