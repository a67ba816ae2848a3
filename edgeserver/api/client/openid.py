"""POST /user/{userId}/openid/request_token. Spec: client-server API, "OpenID"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.client.account_data import check_own
from edgeserver.api.endpoint import endpoint

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.openid import OpenIdTokens


def routes(openid: OpenIdTokens) -> list[Route]:
    async def request_token(call: Call) -> dict[str, Any]:
        check_own(call)
        await call.json(optional=True)
        return openid.issue(call.user_id)

    return endpoint("POST", "/_matrix/client/v3/user/{userId}/openid/request_token", request_token, rate="account")
