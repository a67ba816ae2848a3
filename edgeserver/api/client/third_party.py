"""/thirdparty/…: the networks that application services bridge. Spec: client-server API, "Third-party Networks"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from edgeserver.api.endpoint import endpoint
from edgeserver.api.responses import JsonResponse
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import is_room_alias, is_user_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.api.endpoint import Call, Route

_OF_THE_CALL = frozenset({"access_token", "user_id", "device_id", "org.matrix.msc3202.device_id"})
"""What a query says of who asks, which is not for the network."""


class Networks(Protocol):
    """Who knows the networks; see `bridges.third_party.ThirdParty`. All but `protocols` raise M_NOT_FOUND."""

    async def protocols(self) -> dict[str, Any]: ...
    async def protocol(self, name: str) -> dict[str, Any]: ...
    async def users(self, protocol: str, fields: Sequence[tuple[str, str]]) -> list[dict[str, Any]]: ...
    async def locations(self, protocol: str, fields: Sequence[tuple[str, str]]) -> list[dict[str, Any]]: ...
    async def users_of(self, user_id: str) -> list[dict[str, Any]]: ...
    async def locations_of(self, alias: str) -> list[dict[str, Any]]: ...


class ThirdPartySection:
    """The handlers. `networks` None: none is bridged."""

    def __init__(self, networks: Networks | None) -> None:
        self._networks = networks

    @property
    def _bridged(self) -> Networks:
        if self._networks is None:
            raise errors.NotFound("No such third-party network is bridged here.")
        return self._networks

    async def protocols(self, call: Call) -> dict[str, Any]:
        """GET /thirdparty/protocols"""
        return {} if self._networks is None else await self._networks.protocols()

    async def protocol(self, call: Call) -> dict[str, Any]:
        """GET /thirdparty/protocol/{protocol}"""
        return await self._bridged.protocol(call.path["protocol"])

    async def users(self, call: Call) -> JsonResponse:
        """GET /thirdparty/user/{protocol}"""
        return JsonResponse(await self._bridged.users(call.path["protocol"], _fields(call)))

    async def locations(self, call: Call) -> JsonResponse:
        """GET /thirdparty/location/{protocol}"""
        return JsonResponse(await self._bridged.locations(call.path["protocol"], _fields(call)))

    async def users_of(self, call: Call) -> JsonResponse:
        """GET /thirdparty/user?userid="""
        networks, user_id = self._bridged, _required(call, "userid")
        if not is_user_id(user_id):
            raise errors.InvalidParam("userid is not a user id.")
        return JsonResponse(await networks.users_of(user_id))

    async def locations_of(self, call: Call) -> JsonResponse:
        """GET /thirdparty/location?alias="""
        networks, alias = self._bridged, _required(call, "alias")
        if not is_room_alias(alias):
            raise errors.InvalidParam("alias is not a room alias.")
        return JsonResponse(await networks.locations_of(alias))


def _required(call: Call, key: str) -> str:
    value = call.query.get(key)
    if value is None:
        raise errors.MissingParam(f"{key} is missing.")
    return value


def _fields(call: Call) -> list[tuple[str, str]]:
    return [(key, value) for key, value in call.query.multi_items() if key not in _OF_THE_CALL]


def routes(networks: Networks | None = None) -> list[Route]:
    section = ThirdPartySection(networks)
    base = "/_matrix/client/v3/thirdparty"
    return [
        *endpoint("GET", f"{base}/protocols", section.protocols),
        *endpoint("GET", f"{base}/protocol/{{protocol}}", section.protocol),
        *endpoint("GET", f"{base}/user/{{protocol}}", section.users, rate="search"),
        *endpoint("GET", f"{base}/location/{{protocol}}", section.locations, rate="search"),
        *endpoint("GET", f"{base}/user", section.users_of, rate="search"),
        *endpoint("GET", f"{base}/location", section.locations_of, rate="search"),
    ]
