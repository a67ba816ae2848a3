"""GET /pushers and POST /pushers/set. Spec: client-server API, "Push Notifications"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.pushers import Pushers


def routes(pushers: Pushers) -> list[Route]:
    async def get_pushers(call: Call) -> dict[str, Any]:
        return {"pushers": await pushers.list(call.user_id)}

    async def set_pusher(call: Call) -> dict[str, Any]:
        body = await call.json()
        if "kind" not in body:
            raise errors.MissingParam("kind is missing.")
        if body["kind"] is None:
            await pushers.delete(call.user_id, body.get("app_id"), body.get("pushkey"))
        else:
            append = body.get("append") is True
            await pushers.set(call.user_id, call.requester.device_id, body, append=append)
        return {}

    base = "/_matrix/client/v3/pushers"
    return [
        *endpoint("GET", base, get_pushers),
        *endpoint("POST", f"{base}/set", set_pusher, rate="account", max_body=64 * 1024),
    ]
