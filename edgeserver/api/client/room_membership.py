"""POST /join, POST /knock, and /rooms/{}/join, leave, invite, kick, ban, unban, forget; GET /joined_rooms.

Spec: client-server API, "Room membership".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors, server_names
from edgeserver.matrix.identifiers import is_room_id, is_user_id
from edgeserver.store import rooms

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.directory import Directory
    from edgeserver.rooms.membership import Memberships
    from edgeserver.store.database import Database

V3 = "/_matrix/client/v3"
ROOMS = V3 + "/rooms/{roomId}"
MAX_VIA = 20


class RoomMembershipSection:
    """The handlers."""

    def __init__(self, db: Database, memberships: Memberships, directory: Directory) -> None:
        self._db = db
        self._memberships = memberships
        self._directory = directory

    async def join_any(self, call: Call) -> dict[str, Any]:
        """POST /join/{roomIdOrAlias}"""
        return await self._join(call, *await self._named(call))

    async def knock(self, call: Call) -> dict[str, Any]:
        """POST /knock/{roomIdOrAlias}"""
        room_id, servers = await self._named(call)
        if not is_room_id(room_id):
            raise errors.InvalidParam("That is neither a room id nor an alias.")
        await self._memberships.knock(call.user_id, room_id, servers, reason=_reason(await call.json(optional=True)))
        return {"room_id": room_id}

    async def _named(self, call: Call) -> tuple[str, list[str]]:
        """The room of the path, and the servers through which it may be reached."""
        named, servers = call.path["roomIdOrAlias"], _via(call)
        if named.startswith("#"):
            room_id, known = await self._directory.resolve(named)
            return room_id, [*known, *servers]
        return named, servers

    async def join(self, call: Call) -> dict[str, Any]:
        """POST /rooms/{roomId}/join"""
        return await self._join(call, call.path["roomId"], _via(call))

    async def _join(self, call: Call, room_id: str, servers: list[str]) -> dict[str, Any]:
        if not is_room_id(room_id):
            raise errors.InvalidParam("That is neither a room id nor an alias.")
        reason = _reason(await call.json(optional=True))
        await self._memberships.join(call.user_id, room_id, servers, reason=reason, is_guest=call.requester.is_guest)
        return {"room_id": room_id}

    async def leave(self, call: Call) -> dict[str, Any]:
        """POST /rooms/{roomId}/leave"""
        reason = _reason(await call.json(optional=True))
        await self._memberships.leave(call.user_id, call.path["roomId"], reason=reason)
        return {}

    async def forget(self, call: Call) -> dict[str, Any]:
        """POST /rooms/{roomId}/forget"""
        await self._memberships.forget(call.user_id, call.path["roomId"])
        return {}

    async def invite(self, call: Call) -> dict[str, Any]:
        """POST /rooms/{roomId}/invite"""
        body = await call.json()
        if body.get("user_id") is None and ("medium" in body or "address" in body):
            raise errors.ThreepidDenied("This server cannot invite by third-party identifiers.")
        target, reason = await _target(call)
        await self._memberships.invite(call.user_id, call.path["roomId"], target, reason=reason)
        return {}

    async def kick(self, call: Call) -> dict[str, Any]:
        """POST /rooms/{roomId}/kick"""
        target, reason = await _target(call)
        await self._memberships.kick(call.user_id, call.path["roomId"], target, reason=reason)
        return {}

    async def ban(self, call: Call) -> dict[str, Any]:
        """POST /rooms/{roomId}/ban"""
        target, reason = await _target(call)
        await self._memberships.ban(call.user_id, call.path["roomId"], target, reason=reason)
        return {}

    async def unban(self, call: Call) -> dict[str, Any]:
        """POST /rooms/{roomId}/unban"""
        target, reason = await _target(call)
        await self._memberships.unban(call.user_id, call.path["roomId"], target, reason=reason)
        return {}

    async def joined_rooms(self, call: Call) -> dict[str, Any]:
        """GET /joined_rooms"""
        user_id = call.user_id
        found = await self._db.read(lambda tx: rooms.memberships_of(tx, user_id))
        return {"joined_rooms": [one.room_id for one in found if one.membership == "join"]}


def _via(call: Call) -> list[str]:
    """Servers to join through, as the client names them: `via`, or `server_name` as it was called before v1.12."""
    named = [*call.query.getlist("via"), *call.query.getlist("server_name")]
    return [name for name in dict.fromkeys(named) if server_names.is_valid(name)][:MAX_VIA]


def _reason(body: dict[str, Any]) -> str | None:
    reason = body.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise errors.BadJson("reason is not a string.")
    return reason


async def _target(call: Call) -> tuple[str, str | None]:
    """The user that the request is about, and the reason. Raises M_MISSING_PARAM, M_INVALID_PARAM."""
    body = await call.json()
    target = body.get("user_id")
    if target is None:
        raise errors.MissingParam("user_id is missing.")
    if not is_user_id(target):
        raise errors.InvalidParam("user_id is not a user id.")
    return target, _reason(body)


def routes(db: Database, memberships: Memberships, directory: Directory) -> list[Route]:
    section = RoomMembershipSection(db, memberships, directory)
    return [
        *endpoint("POST", V3 + "/join/{roomIdOrAlias}", section.join_any, rate="join"),
        *endpoint("POST", V3 + "/knock/{roomIdOrAlias}", section.knock, rate="join"),
        *endpoint("POST", ROOMS + "/join", section.join, rate="join"),
        *endpoint("POST", ROOMS + "/leave", section.leave, rate="message"),
        *endpoint("POST", ROOMS + "/forget", section.forget, rate="account"),
        *endpoint("POST", ROOMS + "/invite", section.invite, rate="invite"),
        *endpoint("POST", ROOMS + "/kick", section.kick, rate="message"),
        *endpoint("POST", ROOMS + "/ban", section.ban, rate="message"),
        *endpoint("POST", ROOMS + "/unban", section.unban, rate="message"),
        *endpoint("GET", V3 + "/joined_rooms", section.joined_rooms),
    ]
