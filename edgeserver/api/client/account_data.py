"""/user/{userId}/account_data, the same of a room, and tags. Spec: client-server API, "Client Config", "Room Tagging"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.account_data import AccountData

MAX_BODY = 256 * 1024


def routes(account_data: AccountData) -> list[Route]:
    async def get(call: Call) -> dict[str, Any]:
        check_own(call)
        return await account_data.get(call.user_id, call.path.get("roomId", ""), call.path["type"])

    async def put(call: Call) -> dict[str, Any]:
        check_own(call)
        await account_data.put(call.user_id, call.path.get("roomId", ""), call.path["type"], await call.json())
        return {}

    async def get_tags(call: Call) -> dict[str, Any]:
        check_own(call)
        return {"tags": await account_data.tags(call.user_id, call.path["roomId"])}

    async def put_tag(call: Call) -> dict[str, Any]:
        check_own(call)
        value = await call.json(optional=True)
        await account_data.set_tag(call.user_id, call.path["roomId"], call.path["tag"], value)
        return {}

    async def delete_tag(call: Call) -> dict[str, Any]:
        check_own(call)
        await account_data.delete_tag(call.user_id, call.path["roomId"], call.path["tag"])
        return {}

    user = "/_matrix/client/v3/user/{userId}"
    found = []
    for path in (f"{user}/account_data/{{type}}", f"{user}/rooms/{{roomId}}/account_data/{{type}}"):
        found += endpoint("GET", path, get)
        found += endpoint("PUT", path, put, rate="account", max_body=MAX_BODY)
    tags = f"{user}/rooms/{{roomId}}/tags"
    return [
        *found,
        *endpoint("GET", tags, get_tags),
        *endpoint("PUT", f"{tags}/{{tag}}", put_tag, rate="account", max_body=4096),
        *endpoint("DELETE", f"{tags}/{{tag}}", delete_tag, rate="account"),
    ]


def check_own(call: Call) -> None:
    """Raises M_FORBIDDEN if the path's user is not the requester."""
    if call.path["userId"] != call.user_id:
        raise errors.Forbidden("That is not your user id.")
