"""/room_keys/… Spec: client-server API, "Server-side key backups"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.users.key_backup import checked_rooms

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.key_backup import KeyBackup, Rooms

MAX_BODY: Final = 4 * 1024 * 1024


class BackupSection:
    """The handlers. Those of keys serve all rooms, one room and one session: what the path names."""

    def __init__(self, backup: KeyBackup) -> None:
        self._backup = backup

    async def create(self, call: Call) -> dict[str, Any]:
        """POST /room_keys/version"""
        return {"version": await self._backup.create(call.user_id, await call.json())}

    async def version(self, call: Call) -> dict[str, Any]:
        """GET /room_keys/version, GET /room_keys/version/{version}"""
        return await self._backup.version(call.user_id, call.path.get("version"))

    async def update(self, call: Call) -> dict[str, Any]:
        """PUT /room_keys/version/{version}"""
        await self._backup.update(call.user_id, call.path["version"], await call.json())
        return {}

    async def delete(self, call: Call) -> dict[str, Any]:
        """DELETE /room_keys/version/{version}"""
        await self._backup.delete(call.user_id, call.path["version"])
        return {}

    async def put_keys(self, call: Call) -> dict[str, Any]:
        """PUT /room_keys/keys, …/{roomId}, …/{roomId}/{sessionId}"""
        version, body = _version(call), await call.json()
        room_id, session_id = call.path.get("roomId"), call.path.get("sessionId")
        if room_id is None:
            rooms: Rooms = checked_rooms(body)
        elif session_id is None:
            rooms = checked_rooms({"rooms": {room_id: body}})
        else:
            rooms = checked_rooms({"rooms": {room_id: {"sessions": {session_id: body}}}})
        return await self._backup.put(call.user_id, version, rooms)

    async def get_keys(self, call: Call) -> Response:
        """GET /room_keys/keys, …/{roomId}, …/{roomId}/{sessionId}"""
        place = call.path.get("roomId"), call.path.get("sessionId")
        body = await self._backup.get(call.user_id, _version(call), *place)
        return Response(body, media_type="application/json")

    async def delete_keys(self, call: Call) -> dict[str, Any]:
        """DELETE /room_keys/keys, …/{roomId}, …/{roomId}/{sessionId}"""
        place = call.path.get("roomId"), call.path.get("sessionId")
        return await self._backup.delete_keys(call.user_id, _version(call), *place)


def _version(call: Call) -> str:
    version = call.query.get("version")
    if version is None:
        raise errors.MissingParam("version is missing.")
    return version


def routes(backup: KeyBackup) -> list[Route]:
    handlers = BackupSection(backup)
    base = "/_matrix/client/v3/room_keys"
    found = [
        *endpoint("POST", f"{base}/version", handlers.create, rate="keys"),
        *endpoint("GET", f"{base}/version", handlers.version),
        *endpoint("GET", f"{base}/version/{{version}}", handlers.version),
        *endpoint("PUT", f"{base}/version/{{version}}", handlers.update, rate="keys"),
        *endpoint("DELETE", f"{base}/version/{{version}}", handlers.delete, rate="keys"),
    ]
    for path in (f"{base}/keys", f"{base}/keys/{{roomId}}", f"{base}/keys/{{roomId}}/{{sessionId}}"):
        found += endpoint("PUT", path, handlers.put_keys, rate="keys", max_body=MAX_BODY)
        found += endpoint("GET", path, handlers.get_keys)
        found += endpoint("DELETE", path, handlers.delete_keys, rate="keys")
    return found
