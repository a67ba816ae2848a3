"""/user/devices, /user/keys/query and /user/keys/claim.

Spec: server-server API, "Device Management" and "End-to-End Encryption".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.api.server.parameters import body_object
from edgeserver.matrix.errors import BadJson, InvalidParam
from edgeserver.matrix.identifiers import domain_of, is_user_id

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Guard, Route
    from edgeserver.users.device_keys import DeviceKeys
    from edgeserver.users.device_lists import DeviceLists

V1 = "/_matrix/federation/v1"
MAX_DEVICES = 1000
MAX_USERS = 1000


def routes(guard: Guard, server_name: str, device_keys: DeviceKeys, device_lists: DeviceLists) -> list[Route]:
    async def devices(call: Call) -> dict[str, Any]:
        user_id = call.path["userId"]
        if not is_user_id(user_id) or domain_of(user_id) != server_name:
            raise InvalidParam("That is not a user of this server.")
        return await device_lists.for_server(user_id)

    async def query(call: Call) -> dict[str, Any]:
        wanted = body_object(await call.json(), "device_keys")
        if not all(isinstance(ids, list) and all(isinstance(one, str) for one in ids) for ids in wanted.values()):
            raise BadJson("device_keys does not map users to lists of device ids.")
        if len(wanted) > MAX_USERS:
            raise InvalidParam(f"The keys of at most {MAX_USERS} users may be asked for at once.")
        return await device_keys.query_for_server(wanted)

    async def claim(call: Call) -> dict[str, Any]:
        wanted = body_object(await call.json(), "one_time_keys")
        if not all(_is_claim(by_device) for by_device in wanted.values()):
            raise BadJson("one_time_keys does not map users to devices to algorithms.")
        if sum(len(by_device) for by_device in wanted.values()) > MAX_DEVICES:
            raise InvalidParam(f"At most {MAX_DEVICES} keys may be claimed at once.")
        return await device_keys.claim_for_server(wanted)

    return [
        *endpoint("GET", V1 + "/user/devices/{userId}", devices, auth=guard),
        *endpoint("POST", V1 + "/user/keys/query", query, auth=guard),
        *endpoint("POST", V1 + "/user/keys/claim", claim, auth=guard),
    ]


def _is_claim(by_device: Any) -> bool:
    return isinstance(by_device, dict) and all(isinstance(algorithm, str) for algorithm in by_device.values())
