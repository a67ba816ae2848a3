"""Power over a room for one of its people, given by an administrator of the server.

As Synapse's admin API has it ("Make Room Admin API", "Edit Room Membership API"): the most that any user of this server has
in the room is what can be given, since only that user's word counts in the room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import errors
from edgeserver.matrix.auth_events import CREATE, POWER_LEVELS
from edgeserver.matrix.power_levels import CREATOR_LEVEL, PowerLevels
from edgeserver.rooms.create import default_power_levels
from edgeserver.store import rooms, state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.rooms.membership import Memberships
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

GIVEN_BY_CREATORS = 100
"""Creators whose power has no number (room version 12) give this, or what the room's most powerful user has."""


class RoomAdmins:
    """Acts in the name of the most powerful user of this server in a room."""

    def __init__(self, db: Database, composer: Composer, memberships: Memberships) -> None:
        self._db = db
        self._composer = composer
        self._memberships = memberships

    async def empower(self, room_id: str, user_id: str) -> None:
        """Gives the user as much power as the most powerful user of this server has, and invites them unless anybody may join.

        Raises M_NOT_FOUND (no such room), 400 M_UNKNOWN (nobody of this server may change power levels), M_FORBIDDEN.
        """
        found = await self._db.read(lambda tx: _powerful(tx, room_id, user_id))
        if found.content is not None:
            await self._composer.send(room_id, found.actor, POWER_LEVELS[0], found.content, state_key="")
        if found.needs_invite:
            await self._memberships.invite(found.actor, room_id, user_id)

    async def join(self, admin: str, room_id: str, user_id: str, servers: list[str]) -> None:
        """Joins a user of this server to a room: where not anybody may join, the administrator invites them first.

        Raises M_FORBIDDEN if the administrator may not.
        """
        if await self._db.read(lambda tx: _needs_invite(tx, room_id, user_id)):
            await self._memberships.invite(admin, room_id, user_id)
        await self._memberships.join(user_id, room_id, servers)


@dataclass(frozen=True, slots=True)
class _Powerful:
    """`actor` may send `content` as the new power levels (None: they are right as they are). `needs_invite`: who is to have the
    power is not in the room, nor could come in by themselves.
    """

    actor: str
    content: dict[str, Any] | None
    needs_invite: bool


def _powerful(tx: Transaction, room_id: str, user_id: str) -> _Powerful:
    room = rooms.get(tx, room_id)
    if room is None or room.snapshot is None:
        raise errors.NotFound("There is no such room.")
    stored = {key: one.event for key, one in state.lookup_events(tx, room.snapshot, [CREATE, POWER_LEVELS]).items()}
    levels = PowerLevels(room.rules, stored.get(CREATE), stored.get(POWER_LEVELS))
    ours = sorted(rooms.local_members(tx, room.number), key=lambda each: (levels.user(each), each), reverse=True)
    if not ours or levels.user(ours[0]) < levels.to_send(POWER_LEVELS[0], is_state=True):
        raise errors.Unknown("No local admin user in room with power to update power levels.", status=400)
    stands = stored.get(POWER_LEVELS)
    before = default_power_levels({}) if stands is None else stands.content
    wanted = _wanted(levels, before, ours[0])
    lacks = levels.user(user_id) < wanted
    content = {**before, "users": {**before.get("users", {}), user_id: wanted}} if lacks else None
    return _Powerful(ours[0], content, _needs_invite(tx, room_id, user_id))


def _wanted(levels: PowerLevels, content: Mapping[str, Any], actor: str) -> int:
    highest = levels.user(actor)
    if highest != CREATOR_LEVEL:
        return int(highest)
    numbers = [value for value in content.get("users", {}).values() if type(value) is int]
    return max([GIVEN_BY_CREATORS, *numbers])


def _needs_invite(tx: Transaction, room_id: str, user_id: str) -> bool:
    room = rooms.get(tx, room_id)
    if room is None or room.snapshot is None or _is_public(tx, room):
        return False
    member = rooms.membership(tx, user_id, room.number)
    return member is None or member.membership not in ("join", "invite")


def _is_public(tx: Transaction, room: Room) -> bool:
    stored = None if room.snapshot is None else state.lookup_event(tx, room.snapshot, "m.room.join_rules")
    return stored is not None and stored.event.content.get("join_rule") == "public"
