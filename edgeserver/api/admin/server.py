"""GET /v1/server_version, GET /v1/username_available. Synapse's admin API: "Version API", "Check username availability"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.admin.admission import admin_endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.accounts import Accounts


def routes(accounts: Accounts, version: str) -> list[Route]:
    """`version` is told with the program's name, so that nobody takes it for a version of Synapse."""

    async def server_version(call: Call) -> dict[str, Any]:
        return {"server_version": f"edgeserver {version}"}

    async def username_available(call: Call) -> dict[str, Any]:
        name = call.query.get("username")
        if name is None:
            raise errors.MissingParam("Missing string query parameter username")
        await accounts.check_available(name)
        return {"available": True}

    return [
        *admin_endpoint("GET", "/v1/server_version", server_version),
        *admin_endpoint("GET", "/v1/username_available", username_available),
    ]
