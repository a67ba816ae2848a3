"""DELETE /v1/rooms/{room_id}, DELETE /v2/rooms/{room_id} and how far that is. Synapse's admin API, "Delete Room API".

The first version answers when the room is gone, which may take an hour where other servers that are still to be told cannot be
reached; the second answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.admin.admission import admin_endpoint
from edgeserver.api.admin.rooms import ROOM, room_id_of
from edgeserver.api.body import switch, text
from edgeserver.matrix import errors, identifiers
from edgeserver.rooms.removal import Wish
from edgeserver.store import accounts, room_deletions, rooms

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.removal import RoomRemovals
    from edgeserver.store.database import Database
    from edgeserver.store.room_deletions import Deletion


class RoomDeletionSection:
    """The handlers."""

    def __init__(self, db: Database, server_name: str, removals: RoomRemovals) -> None:
        self._db = db
        self._server_name = server_name
        self._removals = removals

    async def delete_v1(self, call: Call) -> dict[str, Any]:
        """DELETE /v1/rooms/{room_id}: one that is not known can be blocked by it"""
        room_id, wish = room_id_of(call), await self._wish(call)
        if wish.block and await self._db.read(lambda tx: rooms.get(tx, room_id)) is None:
            await self._removals.block(room_id, call.user_id)
            return {"kicked_users": [], "failed_to_kick_users": [], "local_aliases": [], "new_room_id": None}
        done = await self._removals.finished(await self._removals.start(room_id, wish))
        if done.status == room_deletions.FAILED:
            raise errors.Unknown(done.error or "The room could not be removed.", status=400)
        return done.outcome

    async def delete_v2(self, call: Call) -> dict[str, Any]:
        """DELETE /v2/rooms/{room_id}"""
        return {"delete_id": await self._removals.start(room_id_of(call), await self._wish(call))}

    async def status(self, call: Call) -> dict[str, Any]:
        """GET /v2/rooms/delete_status/{delete_id}"""
        return _told(await self._removals.status(call.path["delete_id"]))

    async def status_of_room(self, call: Call) -> dict[str, Any]:
        """GET /v2/rooms/{room_id}/delete_status"""
        return {"results": [_told(one) for one in await self._removals.status_of_room(room_id_of(call))]}

    async def _wish(self, call: Call) -> Wish:
        """Raises M_BAD_JSON, 400 M_UNKNOWN for a creator of the new room who has no account here, or had one."""
        body = await call.json(optional=True)
        mover = text(body, "new_room_user_id")
        if mover is not None:
            is_ours = identifiers.is_user_id(mover) and identifiers.domain_of(mover) == self._server_name
            account = await self._db.read(lambda tx: accounts.account(tx, mover)) if is_ours else None
            if account is None:
                raise errors.Unknown(f"User must be our own: {mover[:80]}", status=400)
            if account.deactivated_at is not None:
                raise errors.Unknown(f"The account {mover} has been deactivated: it cannot make the new room.", status=400)
        plain = Wish(call.user_id)
        return Wish(
            call.user_id,
            mover,
            text(body, "room_name") or plain.room_name,
            text(body, "message") or plain.message,
            block=bool(switch(body, "block")),
            purge=switch(body, "purge") is not False,
            force_purge=bool(switch(body, "force_purge")),
        )


def _told(deletion: Deletion) -> dict[str, Any]:
    answer = {
        "delete_id": deletion.delete_id,
        "room_id": deletion.room_id,
        "status": deletion.status,
        "shutdown_room": deletion.outcome,
    }
    return answer if deletion.error is None else {**answer, "error": deletion.error}


def routes(db: Database, server_name: str, removals: RoomRemovals) -> list[Route]:
    section = RoomDeletionSection(db, server_name, removals)
    return [
        *admin_endpoint("DELETE", ROOM, section.delete_v1),
        *admin_endpoint("DELETE", "/v2/rooms/{room_id}", section.delete_v2),
        *admin_endpoint("GET", "/v2/rooms/{room_id}/delete_status", section.status_of_room),
        *admin_endpoint("GET", "/v2/rooms/delete_status/{delete_id}", section.status),
    ]
