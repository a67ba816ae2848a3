"""PUT /exchange_third_party_invite/{roomId} and /3pid/onbind. Spec: server-server API, "Third-party invites".

/3pid/onbind is not authenticated. Identity servers in use POST it, as it was before the specification said PUT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.server.authentication import origin_of

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Guard, Route
    from edgeserver.federation.third_party_invites import ThirdPartyInvites

V1 = "/_matrix/federation/v1"
MAX_BODY = 64 * 1024


def routes(guard: Guard, invites: ThirdPartyInvites) -> list[Route]:
    async def exchange(call: Call) -> dict[str, Any]:
        await invites.exchange(origin_of(call), call.path["roomId"], await call.json())
        return {}

    async def onbind(call: Call) -> dict[str, Any]:
        await invites.bound(await call.json())
        return {}

    return [
        *endpoint("PUT", V1 + "/exchange_third_party_invite/{roomId}", exchange, auth=guard, max_body=MAX_BODY),
        *endpoint("PUT", V1 + "/3pid/onbind", onbind, auth=Auth.NONE, rate="onbind", max_body=MAX_BODY),
        *endpoint("POST", V1 + "/3pid/onbind", onbind, auth=Auth.NONE, rate="onbind", max_body=MAX_BODY),
    ]
