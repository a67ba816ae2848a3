"""GET /rooms/{roomId}/hierarchy and /room_summary/{roomIdOrAlias}.

Spec: client-server API, "Spaces" (v1.2) and "Room summaries" (v1.15; MSC3266, whose paths most clients still ask first).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api import query
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import is_room_alias, is_room_id

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.directory import Directory
    from edgeserver.rooms.hierarchy import Hierarchy, RoomSummaries

V1 = "/_matrix/client/v1"
UNSTABLE_SUMMARY = "/_matrix/client/unstable/im.nheko.summary"
MAX_VIA = 10


class SpacesSection:
    """The handlers."""

    def __init__(self, hierarchy: Hierarchy, summaries: RoomSummaries, directory: Directory) -> None:
        self._hierarchy = hierarchy
        self._summaries = summaries
        self._directory = directory

    async def hierarchy(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/hierarchy"""
        return await self._hierarchy.page(
            call.user_id,
            call.path["roomId"],
            since=call.query.get("from") or None,
            limit=query.number_if_any(call, "limit", at_least=1),
            max_depth=query.number_if_any(call, "max_depth", at_least=0),
            suggested_only=_boolean(call, "suggested_only"),
            via=_via(call),
        )

    async def summary(self, call: Call) -> dict[str, Any]:
        """GET /room_summary/{roomIdOrAlias}. Whoever has not logged in is told of our own rooms alone."""
        named, who = call.path["roomIdOrAlias"], call.requester_if_any
        servers = _via(call)
        if is_room_alias(named):
            room_id, known = await self._directory.resolve(named, ask_others=who is not None)
            servers = [*servers, *known]
        elif is_room_id(named):
            room_id = named
        else:
            raise errors.InvalidParam("That is neither a room id nor a room alias.")
        return await self._summaries.summary(None if who is None else who.user_id, room_id, servers)


def _via(call: Call) -> list[str]:
    return [*call.query.getlist("via"), *call.query.getlist("org.matrix.msc4235.via")][:MAX_VIA]


def _boolean(call: Call, name: str) -> bool | None:
    given = call.query.get(name)
    if given not in (None, "true", "false"):
        raise errors.InvalidParam(f"{name} is neither true nor false.")
    return None if given is None else given == "true"


def routes(hierarchy: Hierarchy, summaries: RoomSummaries, directory: Directory) -> list[Route]:
    section = SpacesSection(hierarchy, summaries, directory)
    summary_paths = (
        V1 + "/room_summary/{roomIdOrAlias}",
        UNSTABLE_SUMMARY + "/summary/{roomIdOrAlias}",
        UNSTABLE_SUMMARY + "/rooms/{roomIdOrAlias}/summary",
    )
    return [
        *endpoint("GET", V1 + "/rooms/{roomId}/hierarchy", section.hierarchy, rate="other"),
        *(
            route
            for path in summary_paths
            for route in endpoint("GET", path, section.summary, auth=Auth.OPTIONAL, rate="other")
        ),
    ]
