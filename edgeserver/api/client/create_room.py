"""POST /createRoom. Spec: client-server API, "Creation"."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from edgeserver.api.authentication import check_new_alias
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import domain_of
from edgeserver.rooms.create import parse

if TYPE_CHECKING:
    from edgeserver.api.authentication import AppserviceTable
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.create import NewRoom, RoomCreator
    from edgeserver.rooms.membership import Memberships

log = logging.getLogger(__name__)


class CreateRoomSection:
    """The handler."""

    def __init__(
        self, creator: RoomCreator, memberships: Memberships, server_name: str, appservices: AppserviceTable | None = None
    ) -> None:
        self._appservices = appservices
        self._creator = creator
        self._memberships = memberships
        self._server_name = server_name

    async def create(self, call: Call) -> dict[str, Any]:
        """POST /createRoom"""
        body = await call.json(optional=True)
        if body.get("invite_3pid"):
            raise errors.ThreepidDenied("This server cannot invite by third-party identifiers.")
        new = parse(body, self._server_name)
        if call.user_id in new.invite:
            raise errors.InvalidParam("You cannot invite yourself.")
        if new.alias is not None:
            check_new_alias(self._appservices, new.alias, call.requester)
        room_id = await self._creator.create(call.user_id, new)
        await self._invite(call.user_id, room_id, new)
        return {"room_id": room_id}

    async def _invite(self, creator: str, room_id: str, new: NewRoom) -> None:
        """The room stands, whoever can be reached: an invite that fails may be repeated. Our own users come first."""
        content = {"membership": "invite", **({"is_direct": True} if new.is_direct else {})}
        for target in sorted(new.invite, key=lambda user_id: domain_of(user_id) != self._server_name):
            try:
                await self._memberships.invite_with(creator, room_id, target, content)
            except errors.MatrixError as error:
                log.warning("%s could not be invited to the new room %s: %s", target, room_id, error)


def routes(
    creator: RoomCreator, memberships: Memberships, server_name: str, appservices: AppserviceTable | None = None
) -> list[Route]:
    section = CreateRoomSection(creator, memberships, server_name, appservices)
    return endpoint("POST", "/_matrix/client/v3/createRoom", section.create, rate="create_room")
