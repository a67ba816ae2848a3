"""POST /user/{userId}/filter and GET /user/{userId}/filter/{filterId}. Spec: client-server API, "Filtering"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.client.account_data import check_own
from edgeserver.api.endpoint import endpoint

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.filters import Filters

MAX_BODY = 64 * 1024


def routes(filters: Filters) -> list[Route]:
    async def define(call: Call) -> dict[str, Any]:
        check_own(call)
        return {"filter_id": await filters.define(call.user_id, await call.json())}

    async def get(call: Call) -> dict[str, Any]:
        check_own(call)
        return await filters.get(call.user_id, call.path["filterId"])

    path = "/_matrix/client/v3/user/{userId}/filter"
    return [
        *endpoint("POST", path, define, rate="account", max_body=MAX_BODY),
        *endpoint("GET", f"{path}/{{filterId}}", get),
    ]
