"""A RoomSummary (or a PublicRoomsChunk, which is less of one) out of what another server says is one.

Spec: client-server API, RoomSummary and PublicRoomsChunk.
"""

from __future__ import annotations

from typing import Any, Final

from edgeserver.matrix.identifiers import is_room_alias, is_room_id

MAX_TEXT: Final = 8192
MAX_SHORT: Final = 255
MAX_ALLOWED: Final = 100
_TEXTS: Final = ("name", "topic")
_WORDS: Final = ("join_rule", "room_type", "encryption", "room_version")


def read_summary(told: Any) -> dict[str, Any] | None:
    """A RoomSummary out of what a server says is one; texts that are too long are cut, what has the wrong shape is left out."""
    if not isinstance(told, dict) or not is_room_id(told.get("room_id")):
        return None
    members = told.get("num_joined_members")
    found: dict[str, Any] = {
        "room_id": told["room_id"],
        "num_joined_members": members if type(members) is int and 0 <= members < 2**53 else 0,
        "world_readable": told.get("world_readable") is True,
        "guest_can_join": told.get("guest_can_join") is True,
    }
    found |= {key: told[key][:MAX_TEXT] for key in _TEXTS if isinstance(told.get(key), str)}
    found |= {key: told[key] for key in _WORDS if isinstance(told.get(key), str) and len(told[key]) <= MAX_SHORT}
    avatar = told.get("avatar_url")
    if is_room_alias(told.get("canonical_alias")):
        found["canonical_alias"] = told["canonical_alias"]
    if isinstance(avatar, str) and avatar.startswith("mxc://") and len(avatar) <= 2 * MAX_SHORT:
        found["avatar_url"] = avatar
    allowed = told.get("allowed_room_ids")
    if isinstance(allowed, list) and allowed:
        found["allowed_room_ids"] = [one for one in allowed[:MAX_ALLOWED] if is_room_id(one)]
    return found
