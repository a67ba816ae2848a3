"""Other networks: which there are, who and what of them is reached by which name, and the rooms that they list.

Spec: client-server API, "Third-party Networks"; application service API, "Third-party networks" and "Published room directory".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import trio

from edgeserver.matrix import errors
from edgeserver.store import bridges, rooms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.bridges.calls import ServiceCalls
    from edgeserver.store.database import Database, Transaction

METADATA_SECONDS: Final = 3600.0
FAILED_SECONDS: Final = 60.0
MAX_FOUND: Final = 1000
"""Results of one look-up."""
MAX_NETWORK: Final = 255


class ThirdParty:
    """Asks the services that bridge a network. Answers that are not what the spec says are left out."""

    def __init__(self, calls: Sequence[ServiceCalls], db: Database) -> None:
        self._calls = [one for one in calls if one.can_be_asked]
        self._db = db
        self._known: dict[tuple[str, str], tuple[float, dict[str, Any] | None]] = {}

    async def protocols(self) -> dict[str, Any]:
        """GET /thirdparty/protocols: protocol → what its services say of it."""
        names = dict.fromkeys(name for one in self._calls for name in one.service.registration.protocols)
        found = {name: await self._protocol(name) for name in names}
        return {name: shown for name, shown in found.items() if shown is not None}

    async def protocol(self, name: str) -> dict[str, Any]:
        """GET /thirdparty/protocol/{protocol}. Raises M_NOT_FOUND."""
        found = await self._protocol(name)
        if found is None:
            raise errors.NotFound("No such third-party network is bridged here.")
        return found

    async def _protocol(self, name: str) -> dict[str, Any] | None:
        """The metadata of the first service that has any, with the instances of all."""
        parts: dict[int, dict[str, Any] | None] = {}

        async def ask(place: int, one: ServiceCalls) -> None:
            parts[place] = await self._metadata(one, name)

        async with trio.open_nursery() as nursery:
            for place, one in enumerate(self._bridging(name)):
                nursery.start_soon(ask, place, one)
        known = [part for _, part in sorted(parts.items()) if part is not None]
        return {**known[0], "instances": [each for part in known for each in part["instances"]]} if known else None

    async def _metadata(self, one: ServiceCalls, name: str) -> dict[str, Any] | None:
        key, now = (one.service.id, name), trio.current_time()
        until, found = self._known.get(key, (0.0, None))
        if until <= now:
            found = _metadata_in(await one.third_party(f"protocol/{quote(name, safe='')}"), one.service.id)
            self._known[key] = now + (FAILED_SECONDS if found is None else METADATA_SECONDS), found
        return found

    async def users(self, protocol: str, fields: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """GET /thirdparty/user/{protocol}: users of the network. Raises M_NOT_FOUND if there are none."""
        return await self._look_up(self._bridging(protocol), f"user/{quote(protocol, safe='')}", fields, "userid")

    async def locations(self, protocol: str, fields: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """GET /thirdparty/location/{protocol}: places of the network. Raises M_NOT_FOUND if there are none."""
        return await self._look_up(self._bridging(protocol), f"location/{quote(protocol, safe='')}", fields, "alias")

    async def users_of(self, user_id: str) -> list[dict[str, Any]]:
        """GET /thirdparty/user: who on other networks this Matrix user stands for. Raises M_NOT_FOUND."""
        asked = [one for one in self._calls if one.service.has_user(user_id)]
        return await self._look_up(asked, "user", [("userid", user_id)], "userid")

    async def locations_of(self, alias: str) -> list[dict[str, Any]]:
        """GET /thirdparty/location: which places of other networks this alias leads to. Raises M_NOT_FOUND."""
        asked = [one for one in self._calls if one.service.has_alias(alias)]
        return await self._look_up(asked, "location", [("alias", alias)], "alias")

    def _bridging(self, protocol: str) -> list[ServiceCalls]:
        return [one for one in self._calls if protocol in one.service.registration.protocols]

    async def _look_up(
        self, asked: Sequence[ServiceCalls], path: str, fields: Sequence[tuple[str, str]], name: str
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        async def ask(one: ServiceCalls) -> None:
            answer = await one.third_party(path, fields)
            if isinstance(answer, list):
                found.extend(each for each in answer if _is_result(each, name))

        async with trio.open_nursery() as nursery:
            for one in asked:
                nursery.start_soon(ask, one)
        if not found:
            raise errors.NotFound("Nothing of the kind was found on a third-party network.")
        return found[:MAX_FOUND]

    # The room directory of a network

    async def list_room(self, appservice_id: str, network_id: str, room_id: str, *, listed: bool) -> None:
        """PUT /directory/list/appservice/{networkId}/{roomId}. Raises M_NOT_FOUND for a room that is not known here, M_INVALID_PARAM."""
        if not network_id or len(network_id) > MAX_NETWORK:
            raise errors.InvalidParam(f"A network id has 1 to {MAX_NETWORK} characters.")

        def work(tx: Transaction) -> None:
            room = rooms.get(tx, room_id)
            if listed and (room is None or room.snapshot is None):
                raise errors.NotFound("That room is not known here.")
            if not bridges.list_room(tx, appservice_id, network_id, room_id, listed=listed):
                raise errors.InvalidParam(f"A service lists at most {bridges.MAX_LISTED} rooms.")

        await self._db.write(work)


def _metadata_in(answer: Any, service_id: str) -> dict[str, Any] | None:
    """A service's answer, if it is the metadata of a protocol; each instance named so that its rooms can be asked for."""
    if not isinstance(answer, dict) or not isinstance(answer.get("instances"), list):
        return None
    shapes = {"user_fields": list, "location_fields": list, "icon": str, "field_types": dict}
    if any(not isinstance(answer.get(key), shape) for key, shape in shapes.items()):
        return None
    instances = [
        {**one, "instance_id": f"{service_id}|{one['network_id']}"}
        for one in answer["instances"]
        if isinstance(one, dict) and isinstance(one.get("network_id"), str)
        if isinstance(one.get("desc"), str) and isinstance(one.get("fields"), dict)
    ]
    return {**{key: answer[key] for key in shapes}, "instances": instances}


def _is_result(value: Any, name: str) -> bool:
    """Whether this is a user or a location as the spec has them."""
    if not isinstance(value, dict) or not isinstance(value.get("fields"), dict):
        return False
    return isinstance(value.get(name), str) and isinstance(value.get("protocol"), str)
