"""/v1/registration_tokens. Synapse's admin API, "Registration Tokens".

A use of a token is taken when the registration is complete and not before, so no use is ever pending here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.admin.admission import admin_endpoint, flag
from edgeserver.api.body import text
from edgeserver.matrix import errors
from edgeserver.users.registration_tokens import DEFAULT_LENGTH, KEPT

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.store.registration_tokens import RegistrationToken
    from edgeserver.users.registration_tokens import RegistrationTokens

PATH = "/v1/registration_tokens"


def as_json(token: RegistrationToken) -> dict[str, Any]:
    """A registration token object."""
    return {
        "token": token.token,
        "uses_allowed": token.uses_allowed,
        "pending": 0,
        "completed": token.completed,
        "expiry_time": token.expires_at,
    }


def routes(tokens: RegistrationTokens) -> list[Route]:
    async def list_all(call: Call) -> dict[str, Any]:
        return {"registration_tokens": [as_json(one) for one in await tokens.list(flag(call, "valid"))]}

    async def new(call: Call) -> dict[str, Any]:
        body = await call.json()
        length = body.get("length", DEFAULT_LENGTH)
        if type(length) is not int:
            raise errors.InvalidParam("length must be an integer between 1 and 64 inclusive")
        made = await tokens.create(
            text(body, "token"), uses=_integer(body, "uses_allowed"), expires_at=_integer(body, "expiry_time"), length=length
        )
        return as_json(made)

    async def get(call: Call) -> dict[str, Any]:
        return as_json(await tokens.get(call.path["token"]))

    async def change(call: Call) -> dict[str, Any]:
        body = await call.json()
        uses = _integer(body, "uses_allowed") if "uses_allowed" in body else KEPT
        until = _integer(body, "expiry_time") if "expiry_time" in body else KEPT
        return as_json(await tokens.change(call.path["token"], uses=uses, expires_at=until))

    async def delete(call: Call) -> dict[str, Any]:
        await tokens.delete(call.path["token"])
        return {}

    return [
        *admin_endpoint("GET", PATH, list_all),
        *admin_endpoint("POST", f"{PATH}/new", new),
        *admin_endpoint("GET", f"{PATH}/{{token}}", get),
        *admin_endpoint("PUT", f"{PATH}/{{token}}", change),
        *admin_endpoint("DELETE", f"{PATH}/{{token}}", delete),
    ]


def _integer(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and type(value) is not int:
        raise errors.InvalidParam(f"{name} must be an integer or null")
    return value
