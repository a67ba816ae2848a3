"""/devices, POST /delete_devices, and GET /admin/whois. Spec: client-server API, "Device Management", "Server
Administration".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.endpoint import endpoint
from edgeserver.api.responses import JsonResponse
from edgeserver.api.user_interactive import PASSWORD
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.api.user_interactive import UserInteractive
    from edgeserver.users.devices import Devices

MAX_AT_ONCE: Final = 1000


class DeviceSection:
    """The handlers."""

    def __init__(self, devices: Devices, interactive: UserInteractive) -> None:
        self._devices = devices
        self._interactive = interactive

    async def list(self, call: Call) -> dict[str, Any]:
        """GET /devices"""
        return {"devices": await self._devices.list(call.user_id)}

    async def get(self, call: Call) -> dict[str, Any]:
        """GET /devices/{deviceId}"""
        return await self._devices.get(call.user_id, call.path["deviceId"])

    async def rename(self, call: Call) -> dict[str, Any] | JsonResponse:
        """PUT /devices/{deviceId}. An application service makes a device with it: 201."""
        name = (await call.json()).get("display_name")
        if name is not None and type(name) is not str:
            raise errors.BadJson("display_name must be a string.")
        if call.requester.appservice_id is not None:
            is_new = await self._devices.create(call.user_id, call.path["deviceId"], name)
            return JsonResponse({}, 201 if is_new else 200)
        if name is None:
            await self._devices.get(call.user_id, call.path["deviceId"])
            return {}
        await self._devices.rename(call.user_id, call.path["deviceId"], name)
        return {}

    async def delete(self, call: Call) -> dict[str, Any]:
        """DELETE /devices/{deviceId}"""
        device_id = call.path["deviceId"]
        await self._prove(call, await call.json(optional=True), f"DELETE /devices/{device_id}")
        await self._devices.delete(call.user_id, [device_id])
        return {}

    async def delete_several(self, call: Call) -> dict[str, Any]:
        """POST /delete_devices"""
        body = await self._prove(call, await call.json(), "POST /delete_devices")
        device_ids = body.get("devices")
        if device_ids is None:
            raise errors.MissingParam("devices is missing.")
        is_list = type(device_ids) is list and len(device_ids) <= MAX_AT_ONCE
        if not is_list or any(type(device_id) is not str for device_id in device_ids):
            raise errors.BadJson("devices must be a list of device ids.")
        await self._devices.delete(call.user_id, device_ids)
        return {}

    async def _prove(self, call: Call, body: dict[str, Any], operation: str) -> dict[str, Any]:
        if call.requester.appservice_id is not None:
            return body
        proven = await self._interactive.authenticate(body, operation, [[PASSWORD]], user_id=call.user_id)
        return proven.body

    async def whois(self, call: Call) -> dict[str, Any]:
        """GET /admin/whois/{userId}"""
        user_id = call.path["userId"]
        if user_id != call.user_id and not call.requester.is_admin:
            raise errors.Forbidden("Only an administrator may ask about others.")
        connections = {
            device["device_id"]: {"sessions": [{"connections": [_connection(device)]}]} for device in await self._devices.list(user_id)
        }
        return {"user_id": user_id, "devices": connections}


def _connection(device: dict[str, Any]) -> dict[str, Any]:
    seen = {"ip": device.get("last_seen_ip"), "last_seen": device.get("last_seen_ts")}
    return {key: value for key, value in seen.items() if value is not None}


def routes(devices: Devices, interactive: UserInteractive) -> list[Route]:
    handlers = DeviceSection(devices, interactive)
    base = "/_matrix/client/v3"
    return [
        *endpoint("GET", f"{base}/devices", handlers.list),
        *endpoint("GET", f"{base}/devices/{{deviceId}}", handlers.get),
        *endpoint("PUT", f"{base}/devices/{{deviceId}}", handlers.rename, rate="account"),
        *endpoint("DELETE", f"{base}/devices/{{deviceId}}", handlers.delete, rate="account"),
        *endpoint("POST", f"{base}/delete_devices", handlers.delete_several, rate="account"),
        *endpoint("GET", f"{base}/admin/whois/{{userId}}", handlers.whois),
    ]
