"""POST /rooms/{roomId}/upgrade. Spec: client-server API, "Room Upgrades"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import is_user_id
from edgeserver.matrix.room_versions import SUPPORTED
from edgeserver.rooms.create import MAX_INVITES
from edgeserver.rooms.upgrade import Upgrade

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.upgrade import RoomUpgrader


def parse(body: dict[str, Any]) -> Upgrade:
    """Checks the body. Raises M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM, M_UNSUPPORTED_ROOM_VERSION."""
    version = body.get("new_version")
    if version is None:
        raise errors.MissingParam("new_version is missing.")
    if not isinstance(version, str):
        raise errors.BadJson("new_version is not a string.")
    rules = SUPPORTED.get(version)
    if rules is None:
        raise errors.UnsupportedRoomVersion(f"This server does not make rooms of version {version[:32]}.")
    if not rules.privileged_creators:
        return Upgrade(rules)
    more = body.get("additional_creators") or []
    if not isinstance(more, list) or not all(is_user_id(one) for one in more):
        raise errors.InvalidParam("additional_creators is not a list of user ids.")
    if len(more) > MAX_INVITES:
        raise errors.InvalidParam(f"At most {MAX_INVITES} people can be additional creators.")
    return Upgrade(rules, tuple(dict.fromkeys(more)))


def routes(upgrader: RoomUpgrader) -> list[Route]:
    async def upgrade(call: Call) -> dict[str, Any]:
        wanted = parse(await call.json())
        return {"replacement_room": await upgrader.upgrade(call.user_id, call.path["roomId"], wanted)}

    return endpoint("POST", "/_matrix/client/v3/rooms/{roomId}/upgrade", upgrade, rate="create_room")
