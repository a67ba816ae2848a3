"""/devices and POST /delete_devices. Spec: client-server API, "Device Management"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.endpoint import endpoint
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

    async def rename(self, call: Call) -> dict[str, Any]:
        """PUT /devices/{deviceId}"""
        name = (await call.json()).get("display_name")
        if name is None:
            await self._devices.get(call.user_id, call.path["deviceId"])
            return {}
        if type(name) is not str:
            raise errors.BadJson("display_name must be a string.")
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


def routes(devices: Devices, interactive: UserInteractive) -> list[Route]:
    handlers = DeviceSection(devices, interactive)
    base = "/_matrix/client/v3"
    return [
        *endpoint("GET", f"{base}/devices", handlers.list),
        *endpoint("GET", f"{base}/devices/{{deviceId}}", handlers.get),
        *endpoint("PUT", f"{base}/devices/{{deviceId}}", handlers.rename, rate="account"),
        *endpoint("DELETE", f"{base}/devices/{{deviceId}}", handlers.delete, rate="account"),
        *endpoint("POST", f"{base}/delete_devices", handlers.delete_several, rate="account"),
    ]
