"""GET /_matrix/key/v2/server, GET and POST /_matrix/key/v2/query. Spec: server-server API, "Retrieving server keys"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.server.parameters import body_object, integer

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.federation.keyring import Keyring
    from edgeserver.federation.notary import Notary


def routes(keyring: Keyring, notary: Notary, now_ms: Callable[[], int]) -> list[Route]:
    async def own_keys(call: Call) -> dict[str, Any]:
        return keyring.own_response()

    async def query_one(call: Call) -> dict[str, Any]:
        until = integer(call, "minimum_valid_until_ts", now_ms())
        return {"server_keys": await notary.query({call.path["serverName"]: until})}

    async def query_many(call: Call) -> dict[str, Any]:
        wanted = body_object(await call.json(), "server_keys")
        return {"server_keys": await notary.query({name: _until(by_key) for name, by_key in wanted.items()})}

    def _until(by_key: Any) -> int:
        """The latest time that any of the keys of a server is wanted for: now, where none is told, or no key is named."""
        now = now_ms()
        criteria = by_key.values() if isinstance(by_key, dict) else ()
        told = [one.get("minimum_valid_until_ts") for one in criteria if isinstance(one, dict)]
        return max((time if type(time) is int else now for time in told), default=now)

    return [
        *endpoint("GET", "/_matrix/key/v2/server", own_keys, auth=Auth.NONE),
        *endpoint("GET", "/_matrix/key/v2/server/{keyId}", own_keys, auth=Auth.NONE),
        *endpoint("GET", "/_matrix/key/v2/query/{serverName}", query_one, auth=Auth.NONE, rate="federation"),
        *endpoint("POST", "/_matrix/key/v2/query", query_many, auth=Auth.NONE, rate="federation"),
    ]
