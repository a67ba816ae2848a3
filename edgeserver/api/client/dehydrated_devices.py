"""/dehydrated_device: PUT, GET, DELETE, and GET and POST …/{device_id}/events. MSC3814, under its unstable prefix.

Newer drafts read the messages by GET with `from` and `limit`, older ones and the clients of today by POST with `next_batch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.users.dehydrated_devices import MAX_LIMIT

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.dehydrated_devices import DehydratedDevices

PATH: Final = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


class DehydratedDeviceSection:
    """The handlers."""

    def __init__(self, devices: DehydratedDevices) -> None:
        self._devices = devices

    async def put(self, call: Call) -> dict[str, Any]:
        """PUT /dehydrated_device"""
        return {"device_id": await self._devices.put(call.user_id, await call.json())}

    async def get(self, call: Call) -> dict[str, Any]:
        """GET /dehydrated_device"""
        device_id, data = await self._devices.get(call.user_id)
        return {"device_id": device_id, "device_data": data}

    async def delete(self, call: Call) -> dict[str, Any]:
        """DELETE /dehydrated_device"""
        return {"device_id": await self._devices.delete(call.user_id)}

    async def events(self, call: Call) -> dict[str, Any]:
        """GET /dehydrated_device/{device_id}/events: `next_batch` as long as there may be more."""
        limit = _number(call.query.get("limit", str(MAX_LIMIT)), "limit")
        found, last = await self._devices.events(call.user_id, call.path["deviceId"], _token(call.query.get("from")), limit)
        answer: dict[str, Any] = {"events": found}
        if len(found) >= min(limit, MAX_LIMIT) > 0:
            answer["next_batch"] = str(last)
        return answer

    async def post_events(self, call: Call) -> dict[str, Any]:
        """POST /dehydrated_device/{device_id}/events: an empty batch is the end."""
        token = (await call.json(optional=True)).get("next_batch")
        if token is not None and type(token) is not str:
            raise errors.BadJson("next_batch is not a string.")
        found, last = await self._devices.events(call.user_id, call.path["deviceId"], _token(token), MAX_LIMIT)
        return {"events": found, "next_batch": str(last)}


def _token(given: str | None) -> int:
    return 0 if given is None else _number(given, "The token")


def _number(given: str, name: str) -> int:
    if not (given.isascii() and given.isdecimal() and len(given) < 18):
        raise errors.InvalidParam(f"{name} is not one that was given out here.")
    return int(given)


def routes(devices: DehydratedDevices) -> list[Route]:
    handlers = DehydratedDeviceSection(devices)
    return [
        *endpoint("PUT", PATH, handlers.put, rate="keys"),
        *endpoint("GET", PATH, handlers.get, rate="keys"),
        *endpoint("DELETE", PATH, handlers.delete, rate="keys"),
        *endpoint("GET", f"{PATH}/{{deviceId}}/events", handlers.events, rate="keys"),
        *endpoint("POST", f"{PATH}/{{deviceId}}/events", handlers.post_events, rate="keys"),
    ]
