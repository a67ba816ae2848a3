"""/profile/{userId} and its fields. Spec: client-server API, "Profiles"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors
from edgeserver.users.profiles import check_field_name

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.profiles import Profiles

MAX_BODY = 128 * 1024


def routes(profiles: Profiles) -> list[Route]:
    async def get_profile(call: Call) -> dict[str, Any]:
        return await profiles.get(call.path["userId"])

    async def get_field(call: Call) -> dict[str, Any]:
        return await profiles.field(call.path["userId"], call.path["keyName"])

    async def set_field(call: Call) -> dict[str, Any]:
        field = call.path["keyName"]
        _check_own(call)
        check_field_name(field)
        body = await call.json()
        if field not in body:
            raise errors.MissingParam(f"{field} is missing.")
        _check_guest(call, field)
        await profiles.set_field(call.user_id, field, body[field])
        return {}

    async def delete_field(call: Call) -> dict[str, Any]:
        _check_own(call)
        _check_guest(call, call.path["keyName"])
        await profiles.delete_field(call.user_id, call.path["keyName"])
        return {}

    whole = "/_matrix/client/v3/profile/{userId}"
    return [
        *endpoint("GET", whole, get_profile, auth=Auth.NONE, rate="account"),
        *endpoint("GET", f"{whole}/{{keyName}}", get_field, auth=Auth.NONE, rate="account"),
        *endpoint("PUT", f"{whole}/{{keyName}}", set_field, rate="account", max_body=MAX_BODY),
        *endpoint("DELETE", f"{whole}/{{keyName}}", delete_field, rate="account"),
    ]


def _check_own(call: Call) -> None:
    if call.path["userId"] != call.user_id:
        raise errors.Forbidden("You can change only your own profile.")


def _check_guest(call: Call, field: str) -> None:
    if call.requester.is_guest and field != "displayname":
        raise errors.GuestForbidden("Guests may change their display name only.")
