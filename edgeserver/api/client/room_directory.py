"""/directory/room, /rooms/{}/aliases, /publicRooms and /directory/list/room.

Spec: client-server API, "Room aliases" and "Published room directory".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.authentication import check_new_alias, controls_alias
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors, server_names
from edgeserver.matrix.identifiers import is_room_id
from edgeserver.rooms.directory import networks

if TYPE_CHECKING:
    from edgeserver.api.authentication import AppserviceTable
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.directory import Directory, Networks, PublicRooms

V3 = "/_matrix/client/v3"


class RoomDirectorySection:
    """The handlers."""

    def __init__(
        self, directory: Directory, public_rooms: PublicRooms, server_name: str, appservices: AppserviceTable | None = None
    ) -> None:
        self._appservices = appservices
        self._directory = directory
        self._public_rooms = public_rooms
        self._server_name = server_name

    async def resolve(self, call: Call) -> dict[str, Any]:
        """GET /directory/room/{roomAlias}. Anybody may ask, but only our users have us ask other servers."""
        known = call.requester_if_any is not None
        room_id, servers = await self._directory.resolve(call.path["roomAlias"], ask_others=known)
        return {"room_id": room_id, "servers": servers}

    async def add(self, call: Call) -> dict[str, Any]:
        """PUT /directory/room/{roomAlias}"""
        room_id = (await call.json()).get("room_id")
        if not is_room_id(room_id):
            raise errors.InvalidParam("room_id is not a room id.")
        alias = call.path["roomAlias"]
        is_theirs = check_new_alias(self._appservices, alias, call.requester)
        await self._directory.add(call.user_id, alias, room_id, must_be_joined=not is_theirs)
        return {}

    async def remove(self, call: Call) -> dict[str, Any]:
        """DELETE /directory/room/{roomAlias}"""
        alias, is_admin = call.path["roomAlias"], call.requester.is_admin
        may = is_admin or controls_alias(self._appservices, alias, call.requester)
        await self._directory.remove(call.user_id, alias, is_admin=may)
        return {}

    async def aliases(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/aliases"""
        return {"aliases": await self._directory.aliases(call.user_id, call.path["roomId"])}

    async def is_published(self, call: Call) -> dict[str, Any]:
        """GET /directory/list/room/{roomId}"""
        published = await self._public_rooms.is_published(call.path["roomId"])
        return {"visibility": "public" if published else "private"}

    async def publish(self, call: Call) -> dict[str, Any]:
        """PUT /directory/list/room/{roomId}"""
        wanted = (await call.json(optional=True)).get("visibility", "public")
        if wanted not in ("public", "private"):
            raise errors.InvalidParam("visibility is neither public nor private.")
        is_admin = call.requester.is_admin
        await self._public_rooms.publish(call.user_id, call.path["roomId"], wanted == "public", is_admin=is_admin)
        return {}

    async def list(self, call: Call) -> dict[str, Any]:
        """GET /publicRooms"""
        given = call.query.get("limit")
        if given is not None and not (given.isascii() and given.isdecimal() and len(given) < 10):
            raise errors.InvalidParam("limit is not a number.")
        return await self._page(call, None if given is None else int(given), call.query.get("since"), {})

    async def search(self, call: Call) -> dict[str, Any]:
        """POST /publicRooms"""
        body = await call.json(optional=True)
        limit, since, wanted = body.get("limit"), body.get("since"), body.get("filter")
        if not ((limit is None or type(limit) is int) and (since is None or isinstance(since, str))):
            raise errors.BadJson("limit is not an integer, or since not a string.")
        if not (wanted is None or isinstance(wanted, dict)):
            raise errors.BadJson("filter is not an object.")
        chosen = networks(body.get("include_all_networks"), body.get("third_party_instance_id"))
        return await self._page(call, limit, since, wanted or {}, chosen)

    async def _page(
        self, call: Call, limit: int | None, since: str | None, wanted: dict[str, Any], chosen: Networks | None = None
    ) -> dict[str, Any]:
        server = call.query.get("server") or self._server_name
        if server != self._server_name:
            if call.requester_if_any is None:
                raise errors.MissingToken
            if not server_names.is_valid(server):
                raise errors.InvalidParam("server is not a server name.")
        size = limit if limit is not None and limit > 0 else None
        return await self._public_rooms.page_of(server, limit=size, since=since or None, filter_=wanted, networks=chosen)


def routes(
    directory: Directory, public_rooms: PublicRooms, server_name: str, appservices: AppserviceTable | None = None
) -> list[Route]:
    section = RoomDirectorySection(directory, public_rooms, server_name, appservices)
    alias, listed = V3 + "/directory/room/{roomAlias}", V3 + "/directory/list/room/{roomId}"
    return [
        *endpoint("GET", alias, section.resolve, auth=Auth.OPTIONAL),
        *endpoint("PUT", alias, section.add),
        *endpoint("DELETE", alias, section.remove),
        *endpoint("GET", V3 + "/rooms/{roomId}/aliases", section.aliases),
        *endpoint("GET", listed, section.is_published, auth=Auth.OPTIONAL),
        *endpoint("PUT", listed, section.publish),
        *endpoint("GET", V3 + "/publicRooms", section.list, auth=Auth.OPTIONAL),
        *endpoint("POST", V3 + "/publicRooms", section.search, rate="search"),
    ]
