"""/v1/rooms: lists, details, members, state, blocking, power over rooms. Synapse's admin API, "Rooms".

Of a forward extremity Synapse tells when it was received: that is not kept here, so `received_ts` is when its sender says that
it was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.admin.admission import admin_endpoint, backwards, flag, one_of, page
from edgeserver.api.body import needed_switch, needed_text, text
from edgeserver.matrix import errors, identifiers, server_names
from edgeserver.rooms import client_view, room_details
from edgeserver.rooms.client_view import Viewer
from edgeserver.store import accounts, events, rooms, state

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.directory import Directory
    from edgeserver.rooms.removal import RoomRemovals
    from edgeserver.rooms.room_admins import RoomAdmins
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

ROOM: Final = "/v1/rooms/{room_id}"


def known_room(tx: Transaction, room_id: str) -> Room:
    """A room whose state is known. Raises M_NOT_FOUND."""
    room = rooms.get(tx, room_id)
    if room is None or room.snapshot is None:
        raise errors.NotFound("Room not found")
    return room


def room_id_of(call: Call) -> str:
    """Raises M_INVALID_PARAM."""
    room_id = call.path["room_id"]
    if not identifiers.is_room_id(room_id):
        raise errors.InvalidParam(f"{room_id[:80]} is not a legal room ID")
    return room_id


class RoomsSection:
    """The handlers."""

    def __init__(
        self,
        db: Database,
        server_name: str,
        now_ms: Callable[[], int],
        directory: Directory,
        removals: RoomRemovals,
        admins: RoomAdmins,
    ) -> None:
        self._db = db
        self._server_name = server_name
        self._now_ms = now_ms
        self._directory = directory
        self._removals = removals
        self._admins = admins

    async def list_all(self, call: Call) -> dict[str, Any]:
        """GET /v1/rooms"""
        start, limit = page(call)
        order, turned = one_of(call, "order_by", tuple(room_details.ORDERS), "name"), backwards(call)
        term, public, empty = call.query.get("search_term"), flag(call, "public_rooms"), flag(call, "empty_rooms")
        if term == "":
            raise errors.InvalidParam("search_term cannot be an empty string")

        def read(tx: Transaction) -> tuple[list[dict[str, Any]], int]:
            found = room_details.listed(tx, order, term=term, public=public, empty=empty, backwards=turned)
            return [room_details.with_size(tx, one) for one in found[start : start + limit]], len(found)

        found, total = await self._db.read(read)
        answer: dict[str, Any] = {"rooms": found, "offset": start, "total_rooms": total}
        if start + limit < total:
            answer["next_batch"] = start + limit
        if start > 0:
            answer["prev_batch"] = max(0, start - limit)
        return answer

    async def get(self, call: Call) -> dict[str, Any]:
        """GET /v1/rooms/{room_id}"""
        return await self._db.read(lambda tx: room_details.details(tx, known_room(tx, call.path["room_id"])))

    async def members(self, call: Call) -> dict[str, Any]:
        """GET /v1/rooms/{room_id}/members"""
        found = await self._db.read(lambda tx: rooms.members(tx, known_room(tx, call.path["room_id"]).number))
        return {"members": found, "total": len(found)}

    async def state(self, call: Call) -> dict[str, Any]:
        """GET /v1/rooms/{room_id}/state"""
        wanted, viewer = call.query.get("type"), Viewer(call.user_id, None, self._now_ms())

        def read(tx: Transaction) -> list[dict[str, Any]]:
            snapshot = known_room(tx, call.path["room_id"]).snapshot
            assert snapshot is not None
            numbers = state.whole(tx, snapshot) if wanted is None else state.of_type(tx, snapshot, wanted)
            return client_view.state_events(tx, events.many_by_number(tx, numbers.values()).values(), viewer)

        return {"state": await self._db.read(read)}

    async def forward_extremities(self, call: Call) -> dict[str, Any]:
        """GET /v1/rooms/{room_id_or_alias}/forward_extremities"""
        room_id, _ = await self._named(call)

        def read(tx: Transaction) -> list[dict[str, Any]]:
            heads = events.many(tx, known_room(tx, room_id).heads)
            return [
                {
                    "event_id": event_id,
                    "state_group": head.after,
                    "depth": head.event.depth,
                    "received_ts": head.event.origin_server_ts,
                }
                for event_id, head in sorted(heads.items())
            ]

        found = await self._db.read(read)
        return {"count": len(found), "results": found}

    # Blocking

    async def block_status(self, call: Call) -> dict[str, Any]:
        """GET /v1/rooms/{room_id}/block"""
        by = await self._removals.blocked_by(room_id_of(call))
        return {"block": False} if by is None else {"block": True, "user_id": by}

    async def block(self, call: Call) -> dict[str, Any]:
        """PUT /v1/rooms/{room_id}/block"""
        room_id, on = room_id_of(call), needed_switch(await call.json(), "block")
        await self._removals.block(room_id, call.user_id, on=on)
        return {"block": on}

    # People

    async def make_room_admin(self, call: Call) -> dict[str, Any]:
        """POST /v1/rooms/{room_id_or_alias}/make_room_admin"""
        body = await call.json(optional=True)
        user_id = text(body, "user_id") or call.user_id
        if not identifiers.is_user_id(user_id):
            raise errors.InvalidParam("user_id is not a user id")
        room_id, _ = await self._named(call)
        await self._admins.empower(room_id, user_id)
        return {}

    async def join(self, call: Call) -> dict[str, Any]:
        """POST /v1/join/{room_id_or_alias}"""
        user_id = needed_text(await call.json(), "user_id")
        if not identifiers.is_user_id(user_id) or identifiers.domain_of(user_id) != self._server_name:
            raise errors.Unknown("This endpoint can only be used with local users", status=400)
        if not await self._db.read(lambda tx: accounts.exists(tx, user_id)):
            raise errors.NotFound("User not found")
        room_id, servers = await self._named(call)
        named = [*call.query.getlist("server_name"), *call.query.getlist("via")]
        await self._admins.join(call.user_id, room_id, user_id, [*servers, *filter(server_names.is_valid, named[:20])])
        return {"room_id": room_id}

    async def _named(self, call: Call) -> tuple[str, list[str]]:
        """The room of the path, and servers through which it may be reached. Raises M_INVALID_PARAM, M_NOT_FOUND."""
        named = call.path["room_id"]
        if named.startswith("#"):
            return await self._directory.resolve(named)
        return room_id_of(call), []


def routes(
    db: Database,
    server_name: str,
    now_ms: Callable[[], int],
    directory: Directory,
    removals: RoomRemovals,
    admins: RoomAdmins,
) -> list[Route]:
    section = RoomsSection(db, server_name, now_ms, directory, removals, admins)
    return [
        *admin_endpoint("GET", "/v1/rooms", section.list_all),
        *admin_endpoint("GET", ROOM, section.get),
        *admin_endpoint("GET", f"{ROOM}/members", section.members),
        *admin_endpoint("GET", f"{ROOM}/state", section.state),
        *admin_endpoint("GET", f"{ROOM}/forward_extremities", section.forward_extremities),
        *admin_endpoint("GET", f"{ROOM}/block", section.block_status),
        *admin_endpoint("PUT", f"{ROOM}/block", section.block),
        *admin_endpoint("POST", f"{ROOM}/make_room_admin", section.make_room_admin),
        *admin_endpoint("POST", "/v1/join/{room_id}", section.join),
    ]
