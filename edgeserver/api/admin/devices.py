"""/v2/users/{user_id}/devices and GET /v1/whois/{user_id}. Synapse's admin API, "User devices", "Query current sessions for a user"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.admin.admission import admin_endpoint, local_user
from edgeserver.api.body import text
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.accounts import Accounts
    from edgeserver.users.dehydrated_devices import DehydratedDevices
    from edgeserver.users.devices import Devices

DEVICES: Final = "/v2/users/{user_id}/devices"
MAX_AT_ONCE: Final = 1000


class DevicesSection:
    """The handlers."""

    def __init__(self, server_name: str, accounts: Accounts, devices: Devices, dehydrated: DehydratedDevices) -> None:
        self._server_name = server_name
        self._accounts = accounts
        self._devices = devices
        self._dehydrated = dehydrated

    async def _owner(self, call: Call) -> str:
        """The user of the path, who has or had an account here. Raises M_NOT_FOUND."""
        user_id = local_user(call, self._server_name)
        if await self._accounts.account(user_id) is None:
            raise errors.NotFound("Unknown user")
        return user_id

    async def list_all(self, call: Call) -> dict[str, Any]:
        """GET …/devices"""
        user_id = await self._owner(call)
        asleep = await self._dehydrated.device_id(user_id)
        listed = await self._devices.list(user_id)
        found = [{**_told(one, user_id), "dehydrated": one["device_id"] == asleep} for one in listed]
        return {"devices": found, "total": len(found)}

    async def get(self, call: Call) -> dict[str, Any]:
        """GET …/devices/{device_id}"""
        user_id = await self._owner(call)
        return _told(await self._devices.get(user_id, call.path["device_id"]), user_id)

    async def rename(self, call: Call) -> dict[str, Any]:
        """PUT …/devices/{device_id}"""
        user_id = await self._owner(call)
        name = text(await call.json(optional=True), "display_name")
        if name is not None:
            await self._devices.rename(user_id, call.path["device_id"], name)
        return {}

    async def delete(self, call: Call) -> dict[str, Any]:
        """DELETE …/devices/{device_id}"""
        await self._devices.delete(await self._owner(call), [call.path["device_id"]])
        return {}

    async def delete_several(self, call: Call) -> dict[str, Any]:
        """POST /v2/users/{user_id}/delete_devices"""
        user_id = await self._owner(call)
        device_ids = (await call.json()).get("devices")
        if not isinstance(device_ids, list) or len(device_ids) > MAX_AT_ONCE or any(type(one) is not str for one in device_ids):
            raise errors.BadJson(f"devices must be a list of at most {MAX_AT_ONCE} device ids")
        await self._devices.delete(user_id, device_ids)
        return {}

    async def whois(self, call: Call) -> dict[str, Any]:
        """GET /v1/whois/{user_id}: all connections under one key, as Synapse has it"""
        user_id = await self._owner(call)
        connections = [
            {"ip": one.get("last_seen_ip"), "last_seen": one["last_seen_ts"], "user_agent": None}
            for one in await self._devices.list(user_id)
            if "last_seen_ts" in one
        ]
        return {"user_id": user_id, "devices": {"": {"sessions": [{"connections": connections}]}}}


def _told(device: dict[str, Any], user_id: str) -> dict[str, Any]:
    whole = {"display_name": None, "last_seen_ip": None, "last_seen_ts": None, **device}
    return {**whole, "last_seen_user_agent": None, "user_id": user_id}


def routes(server_name: str, accounts: Accounts, devices: Devices, dehydrated: DehydratedDevices) -> list[Route]:
    section = DevicesSection(server_name, accounts, devices, dehydrated)
    one = f"{DEVICES}/{{device_id}}"
    return [
        *admin_endpoint("GET", DEVICES, section.list_all),
        *admin_endpoint("GET", one, section.get),
        *admin_endpoint("PUT", one, section.rename),
        *admin_endpoint("DELETE", one, section.delete),
        *admin_endpoint("POST", "/v2/users/{user_id}/delete_devices", section.delete_several),
        *admin_endpoint("GET", "/v1/whois/{user_id}", section.whois),
    ]
