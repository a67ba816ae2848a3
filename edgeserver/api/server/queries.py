"""/query/{queryType}, /publicRooms, /version and /openid/userinfo.

Spec: server-server API, "Querying for information", "Published Room Directory", "OpenID"; GET /version under
"Server implementation".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.server.parameters import boolean, integer, required
from edgeserver.matrix.errors import BadJson, InvalidParam, NotFound, UnknownToken
from edgeserver.matrix.identifiers import domain_of, is_room_alias, is_user_id
from edgeserver.rooms.directory import networks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from edgeserver.api.endpoint import Call, Guard, Route
    from edgeserver.rooms.directory import Directory, Networks
    from edgeserver.users.profiles import Profiles

V1 = "/_matrix/federation/v1"


class PublicRooms(Protocol):
    """Our room directory."""

    async def page(
        self, *, limit: int | None, since: str | None, filter_: Mapping[str, Any], networks: Networks | None = None
    ) -> dict[str, Any]:
        """One page: `{chunk, next_batch?, prev_batch?, total_room_count_estimate}`, as POST /publicRooms answers it.

        `limit` None: as many as the server likes. Raises M_INVALID_PARAM for a `since` that is none of ours.
        """
        ...


def routes(
    guard: Guard,
    aliases: Directory,
    server_name: str,
    version: str,
    profiles: Profiles,
    public_rooms: PublicRooms,
    openid_user: Callable[[str], Awaitable[str | None]],
) -> list[Route]:
    async def directory(call: Call) -> dict[str, Any]:
        alias = required(call, "room_alias")
        if not is_room_alias(alias) or domain_of(alias) != server_name:
            raise InvalidParam("That is not an alias of this server.")
        room_id, servers = await aliases.resolve(alias)
        return {"room_id": room_id, "servers": servers}

    async def profile(call: Call) -> dict[str, Any]:
        user_id, field = required(call, "user_id"), call.query.get("field")
        if not is_user_id(user_id) or domain_of(user_id) != server_name:
            raise InvalidParam("That is not a user of this server.")
        found = await profiles.local(user_id)
        # A field that the user has not set is left out: 404 is for a user that does not exist.
        return {name: value for name, value in found.items() if field in (None, name)}

    async def unknown_query(call: Call) -> dict[str, Any]:
        raise NotFound(f"Queries of the type {call.path['queryType'][:80]!r} are not answered here.")

    async def rooms_by_query(call: Call) -> Mapping[str, Any]:
        limit = integer(call, "limit", 0)
        chosen = networks(boolean(call, "include_all_networks"), call.query.get("third_party_instance_id"))
        size = limit if limit > 0 else None
        return await public_rooms.page(limit=size, since=call.query.get("since"), filter_={}, networks=chosen)

    async def rooms_by_body(call: Call) -> Mapping[str, Any]:
        body = await call.json(optional=True)
        limit, since, filter_ = body.get("limit"), body.get("since"), body.get("filter") or {}
        if not (limit is None or type(limit) is int) or not (since is None or isinstance(since, str)):
            raise BadJson("limit is not an integer, or since not a string.")
        if not isinstance(filter_, dict):
            raise BadJson("filter is not an object.")
        chosen = networks(body.get("include_all_networks"), body.get("third_party_instance_id"))
        size = limit if limit and limit > 0 else None
        return await public_rooms.page(limit=size, since=since, filter_=filter_, networks=chosen)

    async def server_version(call: Call) -> dict[str, Any]:
        return {"server": {"name": "edgeserver", "version": version}}

    async def openid_userinfo(call: Call) -> dict[str, Any]:
        user_id = await openid_user(required(call, "access_token"))
        if user_id is None:
            raise UnknownToken("The token is not valid.")
        return {"sub": user_id}

    return [
        *endpoint("GET", V1 + "/query/directory", directory, auth=guard),
        *endpoint("GET", V1 + "/query/profile", profile, auth=guard),
        *endpoint("GET", V1 + "/query/{queryType}", unknown_query, auth=guard),
        *endpoint("GET", V1 + "/publicRooms", rooms_by_query, auth=guard),
        *endpoint("POST", V1 + "/publicRooms", rooms_by_body, auth=guard),
        *endpoint("GET", V1 + "/version", server_version, auth=Auth.NONE),
        *endpoint("GET", V1 + "/openid/userinfo", openid_userinfo, auth=Auth.NONE, rate="federation"),
    ]
