"""POST /v1/appservice/{appserviceId}/ping and PUT /directory/list/appservice/{networkId}/{roomId}: for application services alone.

Spec: client-server API, "Application services": the ping, and the published room directory of an application service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import is_room_id

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route

MAX_TRANSACTION_ID = 255


class Pings(Protocol):
    """Who pings a service; see `bridges.calls.ServiceCalls`."""

    async def ping(self, appservice_id: str, txn_id: str | None) -> int:
        """How long it took, in ms.

        Raises 400 M_URL_NOT_SET, 502 M_BAD_STATUS or M_CONNECTION_FAILED, 504 M_CONNECTION_TIMEOUT.
        """
        ...


class ListedRooms(Protocol):
    """Who keeps the rooms that services list; see `bridges.third_party.ThirdParty`."""

    async def list_room(self, appservice_id: str, network_id: str, room_id: str, *, listed: bool) -> None:
        """Raises M_NOT_FOUND, M_INVALID_PARAM."""
        ...


class ApplicationServiceSection:
    """The handlers."""

    def __init__(self, pings: Pings, rooms: ListedRooms) -> None:
        self._pings = pings
        self._rooms = rooms

    async def ping(self, call: Call) -> dict[str, Any]:
        """POST /v1/appservice/{appserviceId}/ping"""
        appservice_id = _own_id(call)
        if appservice_id != call.path["appserviceId"]:
            raise errors.Forbidden("The access token is not that of this application service.")
        txn_id = (await call.json(optional=True)).get("transaction_id")
        if txn_id is not None and (type(txn_id) is not str or len(txn_id) > MAX_TRANSACTION_ID):
            raise errors.BadJson(f"transaction_id is no text of at most {MAX_TRANSACTION_ID} characters.")
        return {"duration_ms": await self._pings.ping(appservice_id, txn_id)}

    async def list_room(self, call: Call) -> dict[str, Any]:
        """PUT /directory/list/appservice/{networkId}/{roomId}"""
        appservice_id, room_id = _own_id(call), call.path["roomId"]
        wanted = (await call.json()).get("visibility")
        if wanted is None:
            raise errors.MissingParam("visibility is missing.")
        if wanted not in ("public", "private"):
            raise errors.InvalidParam("visibility is neither public nor private.")
        if not is_room_id(room_id):
            raise errors.InvalidParam("That is not a room id.")
        await self._rooms.list_room(appservice_id, call.path["networkId"], room_id, listed=wanted == "public")
        return {}


def _own_id(call: Call) -> str:
    appservice_id = call.requester.appservice_id
    if appservice_id is None:
        raise errors.Forbidden("The access token is not that of an application service.")
    return appservice_id


def routes(pings: Pings, rooms: ListedRooms) -> list[Route]:
    section = ApplicationServiceSection(pings, rooms)
    return [
        *endpoint("POST", "/_matrix/client/v1/appservice/{appserviceId}/ping", section.ping),
        *endpoint("PUT", "/_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}", section.list_room),
    ]
