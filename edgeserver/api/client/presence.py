"""GET and PUT /presence/{userId}/status. Spec: client-server API, "Presence"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.client.account_data import check_own
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.presence import Presence
    from edgeserver.users.profiles import Profiles


def routes(presence: Presence, profiles: Profiles) -> list[Route]:
    """A user sees the presence of those with whom they share a room."""

    async def get_status(call: Call) -> dict[str, Any]:
        other = call.path["userId"]
        if other != call.user_id and not await profiles.shares_a_room(call.user_id, other):
            raise errors.Forbidden("You are not allowed to see their presence.")
        return presence.get(other)

    async def put_status(call: Call) -> dict[str, Any]:
        check_own(call)
        body = await call.json()
        presence.set(call.user_id, call.requester.device_id, body.get("presence"), body.get("status_msg"))
        return {}

    path = "/_matrix/client/v3/presence/{userId}/status"
    return [
        *endpoint("GET", path, get_status, rate="account"),
        *endpoint("PUT", path, put_status, rate="account", max_body=16 * 1024),
    ]
