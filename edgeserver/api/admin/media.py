"""Media: lists, deletion, quarantine, statistics. Synapse's admin API, "Querying media", "Quarantine media", "Delete local media", "Purge
Remote Media API", "Users' media usage statistics".

Who put media into quarantine is not kept: `quarantined_by` is this server's name. Nothing is safe from quarantine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.admin.admission import (
    LARGEST,
    admin_endpoint,
    backwards,
    flag,
    local_user,
    number,
    number_needed,
    one_of,
    page,
)
from edgeserver.api.admin.rooms import known_room
from edgeserver.matrix import errors
from edgeserver.store import admin_media, admin_users
from edgeserver.store.media_upkeep import ORDERS, USAGE_ORDERS, WantedUsage

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.media.repository import MediaRepository
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.media_upkeep import ListedMedia, UserMedia

class MediaSection:
    """The handlers."""

    def __init__(self, db: Database, server_name: str, media: MediaRepository) -> None:
        self._db = db
        self._server_name = server_name
        self._media = media

    # Of one user

    async def list_of_user(self, call: Call) -> dict[str, Any]:
        """GET /v1/users/{user_id}/media"""
        user_id = await self._owner(call)
        start, limit = page(call)
        found, total = await self._of_user(call, user_id, start, limit)
        answer: dict[str, Any] = {"media": [self._told(one) for one in found], "total": total}
        if start + limit < total:
            answer["next_token"] = start + len(found)
        return answer

    async def delete_of_user(self, call: Call) -> dict[str, Any]:
        """DELETE /v1/users/{user_id}/media"""
        user_id = await self._owner(call)
        start, limit = page(call)
        found, _ = await self._of_user(call, user_id, start, limit)
        return await self._delete([one.media_id for one in found])

    async def quarantine_of_user(self, call: Call) -> dict[str, Any]:
        """POST /v1/user/{user_id}/media/quarantine"""
        return {"num_quarantined": await self._media.quarantine_of_user(await self._owner(call))}

    async def _owner(self, call: Call) -> str:
        user_id = local_user(call, self._server_name)
        if await self._db.read(lambda tx: admin_users.get(tx, user_id)) is None:
            raise errors.NotFound("Unknown user")
        return user_id

    async def _of_user(self, call: Call, user_id: str, start: int, limit: int) -> tuple[list[ListedMedia], int]:
        """The newest first unless the query says otherwise."""
        if "order_by" not in call.query and "dir" not in call.query:
            return await self._media.list_of_user(user_id, start, limit)
        order = one_of(call, "order_by", tuple(ORDERS), "created_ts")
        return await self._media.list_of_user(user_id, start, limit, order, backwards=backwards(call))

    def _told(self, one: ListedMedia) -> dict[str, Any]:
        return {
            "created_ts": one.created_at,
            "last_access_ts": one.used_at,
            "media_id": one.media_id,
            "media_length": one.size,
            "media_type": one.content_type,
            "quarantined_by": self._server_name if one.is_quarantined else None,
            "safe_from_quarantine": False,
            "upload_name": one.filename,
        }

    # Deletion

    async def delete(self, call: Call) -> dict[str, Any]:
        """DELETE /v1/media/{server_name}/{media_id}"""
        if call.path["server_name"] != self._server_name:
            raise errors.Unknown("Can only delete local media", status=400)
        answer = await self._delete([call.path["media_id"]])
        if not answer["total"]:
            raise errors.NotFound("Unknown media")
        return answer

    async def delete_old(self, call: Call) -> dict[str, Any]:
        """POST /v1/media/delete: what was last used before a moment and is larger than so many bytes"""
        before, size, keep = number_needed(call, "before_ts"), number(call, "size_gt", 0), flag(call, "keep_profiles", True)
        return _deleted(await self._media.delete_old(before, size, keep_pictures=bool(keep)))

    async def _delete(self, media_ids: list[str]) -> dict[str, Any]:
        return _deleted(await self._media.delete_several(self._server_name, media_ids))

    async def purge_cache(self, call: Call) -> dict[str, Any]:
        """POST /v1/purge_media_cache"""
        return {"deleted": await self._media.purge_remote(number_needed(call, "before_ts"))}

    # Rooms and quarantine

    async def list_of_room(self, call: Call) -> dict[str, Any]:
        """GET /v1/room/{room_id}/media"""
        found = [f"mxc://{server}/{media_id}" for server, media_id in await self._of_room(call)]
        ours = f"mxc://{self._server_name}/"
        return {
            "local": [uri for uri in found if uri.startswith(ours)],
            "remote": [uri for uri in found if not uri.startswith(ours)],
        }

    async def quarantine_of_room(self, call: Call) -> dict[str, Any]:
        """POST /v1/room/{room_id}/media/quarantine"""
        wanted = await self._of_room(call)
        await self._media.quarantine_several(wanted)
        return {"num_quarantined": len(wanted)}

    async def _of_room(self, call: Call) -> list[tuple[str, str]]:
        def read(tx: Transaction) -> list[tuple[str, str]]:
            return admin_media.of_room(tx, known_room(tx, call.path["room_id"]).number)

        return await self._db.read(read)

    async def quarantine(self, call: Call) -> dict[str, Any]:
        """POST /v1/media/quarantine/{server_name}/{media_id}"""
        await self._media.quarantine(call.path["server_name"], call.path["media_id"], True)
        return {}

    async def unquarantine(self, call: Call) -> dict[str, Any]:
        """POST /v1/media/unquarantine/{server_name}/{media_id}"""
        await self._media.quarantine(call.path["server_name"], call.path["media_id"], False)
        return {}

    # Statistics

    async def statistics(self, call: Call) -> dict[str, Any]:
        """GET /v1/statistics/users/media"""
        start, limit = page(call)
        order, turned = one_of(call, "order_by", tuple(USAGE_ORDERS), "user_id"), backwards(call)
        wanted = WantedUsage(number(call, "from_ts", 0), number(call, "until_ts", LARGEST), call.query.get("search_term", ""))
        found, total = await self._media.statistics(wanted, order, start, limit, backwards=turned)
        answer: dict[str, Any] = {"users": [_usage(one) for one in found], "total": total}
        if start + limit < total:
            answer["next_token"] = start + limit
        return answer


def _deleted(gone: list[str]) -> dict[str, Any]:
    return {"deleted_media": gone, "total": len(gone)}


def _usage(one: UserMedia) -> dict[str, Any]:
    return {"displayname": one.displayname, "media_count": one.count, "media_length": one.size, "user_id": one.user_id}


def routes(db: Database, server_name: str, media: MediaRepository) -> list[Route]:
    section = MediaSection(db, server_name, media)
    one = "{server_name}/{media_id}"
    return [
        *admin_endpoint("GET", "/v1/users/{user_id}/media", section.list_of_user),
        *admin_endpoint("DELETE", "/v1/users/{user_id}/media", section.delete_of_user),
        *admin_endpoint("POST", "/v1/user/{user_id}/media/quarantine", section.quarantine_of_user),
        *admin_endpoint("DELETE", f"/v1/media/{one}", section.delete),
        *admin_endpoint("POST", "/v1/media/delete", section.delete_old),
        *admin_endpoint("POST", "/v1/purge_media_cache", section.purge_cache),
        *admin_endpoint("GET", "/v1/room/{room_id}/media", section.list_of_room),
        *admin_endpoint("POST", "/v1/room/{room_id}/media/quarantine", section.quarantine_of_room),
        *admin_endpoint("POST", "/v1/quarantine_media/{room_id}", section.quarantine_of_room),
        *admin_endpoint("POST", f"/v1/media/quarantine/{one}", section.quarantine),
        *admin_endpoint("POST", f"/v1/media/unquarantine/{one}", section.unquarantine),
        *admin_endpoint("GET", "/v1/statistics/users/media", section.statistics),
    ]
