"""GET /voip/turnServer. Spec: client-server API, "Voice over IP": credentials as coturn's `use-auth-secret` checks
them.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.endpoint import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeserver.api.endpoint import Call, Route

LIFETIME_S: Final = 24 * 60 * 60


def routes(now_ms: Callable[[], int], uris: Sequence[str] = (), secret: str = "", lifetime: int = LIFETIME_S) -> list[Route]:
    """Without `uris` there is no TURN server, and the answer is an empty object. `lifetime`: of the credentials, in seconds."""

    async def turn_server(call: Call) -> dict[str, Any]:
        if not uris:
            return {}
        username = f"{now_ms() // 1000 + lifetime}:{call.user_id}"
        password = b64encode(hmac.digest(secret.encode(), username.encode(), "sha1")).decode()
        return {"username": username, "password": password, "uris": list(uris), "ttl": lifetime}

    return endpoint("GET", "/_matrix/client/v3/voip/turnServer", turn_server, rate="account")
