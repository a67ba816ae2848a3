"""POST /rooms/{roomId}/upgrade: a room is replaced by one of another version.

Client-server API, "Room Upgrades", server behaviour. Everything happens in one transaction: the new room with its
state, the tombstone, the aliases, the directory, the old room's levels. A box that loses its power in the midst of it
has the old room as it was, and the client asks again; had it been done in steps, a crash would leave a room whose
aliases point into nothing, or two successors.

What grows without bound are the bans alone, a millisecond or two each while all other writers wait. After the first
`BANS_AT_ONCE` they go over in transactions of their own. A client whose answer was lost asks again: it is told of the
room that its first request made, and bans that a crash has left behind go over then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import errors
from edgeserver.matrix.auth_events import CREATE, POWER_LEVELS
from edgeserver.matrix.power_levels import creators
from edgeserver.rooms import upgraded_state
from edgeserver.rooms.create import TOMBSTONE
from edgeserver.rooms.policy import Unsigned
from edgeserver.rooms.succession import move_names, predecessor_of, replacement_of
from edgeserver.store import rooms, state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.rooms.create import RoomCreator
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

Ban = tuple[str, Mapping[str, Any]]
"""A banned user and the content of the ban."""

CANONICAL_ALIAS = "m.room.canonical_alias"
BODY = "This room has been replaced"
BANS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What the client asked for, checked. `additional_creators` counts where the new version has such."""

    rules: RoomVersion
    additional_creators: Sequence[str] = ()


class RoomUpgrader:
    """Replaces rooms."""

    def __init__(
        self,
        db: Database,
        composer: Composer,
        creator: RoomCreator,
        profile: Callable[[Transaction, str], Mapping[str, Any]],
    ) -> None:
        self._db = db
        self._composer = composer
        self._creator = creator
        self._profile = profile

    async def upgrade(self, user_id: str, room_id: str, wanted: Upgrade) -> str:
        """The id of the new room.

        Raises M_NOT_FOUND for a room that is not known here, M_FORBIDDEN if the user is not in it or may not send its
        tombstone, M_INVALID_ROOM_STATE if the old room's state makes no room of the new version, or if it has a policy server: that
        would have to be asked about each event in the midst of the transaction.
        """
        try:
            new_id, left = await self._db.write(lambda tx: self._upgrade(tx, user_id, room_id, wanted))
        except Unsigned as held:
            raise errors.InvalidRoomState(
                f"The room has a policy server, {held.server.server_name}. Take it out of the room's state to upgrade the room."
            ) from held
        while left:
            part, left = left[:BANS_AT_ONCE], left[BANS_AT_ONCE:]
            await self._db.write(lambda tx, part=part: self._ban(tx, user_id, new_id, part))  # type: ignore[misc]
        return new_id

    def _upgrade(self, tx: Transaction, user_id: str, room_id: str, wanted: Upgrade) -> tuple[str, list[Ban]]:
        """The new room's id, and the bans that are left to carry over."""
        if rooms.get(tx, room_id) is None:
            raise errors.NotFound("That room is not known here.")
        old = self._composer.joined_room(tx, room_id, user_id)
        carried = upgraded_state.read(tx, old)
        bans = [(banned, content) for banned, content in carried.bans.items() if banned != user_id]
        done = self._done_before(tx, user_id, old, wanted)
        if done is not None:
            return done.room_id, [ban for ban in bans if rooms.membership(tx, ban[0], done.number) is None]
        new_id = self._creator.new_room_id(wanted.rules)
        tombstone = None
        if new_id is not None:  # the new room names the tombstone, and that the new room: possible where an id is no hash
            tombstone = self._bury(tx, user_id, old, new_id)
        else:
            self._check_may_bury(tx, user_id, old)
        try:
            new = self._create(tx, user_id, wanted, carried, new_id, tombstone)
        except errors.Forbidden as error:
            raise errors.InvalidRoomState(f"The room's state makes no room of version {wanted.rules.version}. {error.error}") from error
        if tombstone is None:
            self._bury(tx, user_id, old, new.room_id)
        self._ban(tx, user_id, new.room_id, bans[:BANS_AT_ONCE])
        self._move_names(tx, user_id, old, new)
        self._settle_levels(tx, user_id, new, upgraded_state.final_levels(carried, wanted.rules, user_id, wanted.additional_creators))
        self._quieten(tx, user_id, old)
        return new.room_id, bans[BANS_AT_ONCE:]

    def _ban(self, tx: Transaction, user_id: str, room_id: str, bans: Sequence[Ban]) -> None:
        room = rooms.get(tx, room_id)
        assert room is not None
        for banned, content in bans:
            self._try(tx, user_id, room, "m.room.member", content, banned)

    def _done_before(self, tx: Transaction, user_id: str, old: Room, wanted: Upgrade) -> Room | None:
        """The room that this very request made when it was made first."""
        stone = _event(tx, old, TOMBSTONE)
        replacement = None if stone is None or stone.sender != user_id else rooms.get(tx, replacement_of(stone) or "")
        if replacement is None or replacement.snapshot is None or replacement.rules != wanted.rules:
            return None
        create = _event(tx, replacement, CREATE[0])
        if create is None or create.sender != user_id or predecessor_of(create) != old.room_id:
            return None
        if wanted.rules.privileged_creators and creators(create) != {user_id, *wanted.additional_creators}:
            return None
        membership = rooms.membership(tx, user_id, replacement.number)
        return replacement if membership is not None and membership.membership == "join" else None

    # The old room

    def _check_may_bury(self, tx: Transaction, user_id: str, old: Room) -> None:
        content = {"body": BODY, "replacement_room": old.room_id}
        event, _ = self._composer.draft(tx, old, user_id, TOMBSTONE, content, state_key="")
        self._composer.authorise(tx, old, event)

    def _bury(self, tx: Transaction, user_id: str, old: Room, new_id: str) -> Event:
        content = {"body": BODY, "replacement_room": new_id}
        return self._send(tx, user_id, old, TOMBSTONE, content)

    def _quieten(self, tx: Transaction, user_id: str, old: Room) -> None:
        """Nobody of ordinary power shall talk on in the old room, or invite to it; if the user may see to that."""
        stated = _event(tx, old, POWER_LEVELS[0])
        if stated is None:
            return
        raised = upgraded_state.raised_levels(stated.content, old.rules)
        if raised:
            self._try(tx, user_id, old, POWER_LEVELS[0], {**stated.content, **raised})

    # The new room

    def _create(
        self, tx: Transaction, user_id: str, wanted: Upgrade, carried: upgraded_state.Carried, new_id: str | None, tombstone: Event | None
    ) -> Room:
        predecessor = {"room_id": carried.room_id, **({} if tombstone is None else {"event_id": tombstone.event_id})}
        content: dict[str, Any] = {"predecessor": predecessor, **carried.create}
        if wanted.rules.privileged_creators and wanted.additional_creators:
            content["additional_creators"] = list(wanted.additional_creators)
        room = self._creator.begin(tx, user_id, wanted.rules, content, new_id)
        self._send(tx, user_id, room, "m.room.member", {**self._profile(tx, user_id), "membership": "join"}, user_id)
        levels = upgraded_state.first_levels(carried, wanted.rules, user_id, wanted.additional_creators)
        self._send(tx, user_id, room, POWER_LEVELS[0], levels)
        for (event_type, state_key), stated in upgraded_state.transferred(carried, wanted.rules).items():
            self._send(tx, user_id, room, event_type, stated, state_key)
        return rooms.by_number(tx, room.number)

    def _settle_levels(self, tx: Transaction, user_id: str, new: Room, levels: Mapping[str, Any]) -> None:
        """Takes back the power that the user was lent to build the room."""
        stated = _event(tx, new, POWER_LEVELS[0])
        if stated is not None and stated.content != levels:
            self._send(tx, user_id, new, POWER_LEVELS[0], levels)

    def _move_names(self, tx: Transaction, user_id: str, old: Room, new: Room) -> None:
        """Moves this server's aliases and the directory's entry; the canonical alias of either room says so."""
        move_names(tx, old, new)
        stated = _event(tx, old, CANONICAL_ALIAS)
        if stated is None:
            return
        ours, theirs = upgraded_state.parted_aliases(stated.content, lambda alias: rooms.alias_target(tx, alias) == new.room_id)
        if ours:
            self._try(tx, user_id, old, CANONICAL_ALIAS, theirs)
            self._send(tx, user_id, new, CANONICAL_ALIAS, ours)

    # Events

    def _send(
        self, tx: Transaction, user_id: str, room: Room, event_type: str, content: Mapping[str, Any], state_key: str = ""
    ) -> Event:
        current = rooms.by_number(tx, room.number)
        return self._composer.compose(tx, current, user_id, event_type, content, state_key=state_key).event

    def _try(
        self, tx: Transaction, user_id: str, room: Room, event_type: str, content: Mapping[str, Any], state_key: str = ""
    ) -> bool:
        """Sends what the upgrade does not depend on; False if the room does not allow it. (Nothing is written then.)"""
        try:
            self._send(tx, user_id, room, event_type, content, state_key)
        except (errors.Forbidden, errors.BadJson, errors.TooLarge):
            return False
        return True


def _event(tx: Transaction, room: Room, event_type: str) -> Event | None:
    """The room's event of this type, as of now and not of when `room` was read."""
    now = rooms.by_number(tx, room.number)
    stored = None if now.snapshot is None else state.lookup_event(tx, now.snapshot, event_type)
    return None if stored is None else stored.event
