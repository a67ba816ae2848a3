"""Removing rooms from this server: its people leave, perhaps for another room, the room is blocked, its rows go.

As Synapse's admin API has it ("Delete Room API"). What was asked for is on disk before it is answered and every step can be
taken again, so that it goes on after a kill. Other servers are told that our people have left before the room's rows go, for
as long as `PATIENCE_MS`: what is purged can be told to nobody.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver.matrix import errors
from edgeserver.rooms.create import NewRoom
from edgeserver.store import blocked_rooms, room_deletions, room_purge, rooms
from edgeserver.store.room_deletions import ACTIVE, COMPLETE, FAILED, SCHEDULED, Deletion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeserver.rooms.create import RoomCreator
    from edgeserver.rooms.membership import Memberships
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Database, Transaction

log = logging.getLogger(__name__)

PATIENCE_MS: Final = 60 * 60 * 1000
GRACE: Final = 3.0
"""Seconds between the last departure and the purge, in which clients that wait for news hear of it."""
LOOK_EVERY: Final = 5.0
READERS_LEVEL: Final = -10


@dataclass(frozen=True, slots=True)
class Wish:
    """What an administrator (`requester`) asks for. `new_room_user`: who makes the room that people are moved to; None: none."""

    requester: str
    new_room_user: str | None = None
    room_name: str = "Content Violation Notification"
    message: str = "Sharing illegal content on this server is not permitted and rooms in violation will be blocked."
    block: bool = False
    purge: bool = True
    force_purge: bool = False

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class BeforePurge(Protocol):
    """Called in the transaction that purges a room, while its rows are still there: for what is kept of rooms outside the schema's
    references.
    """

    def __call__(self, tx: Transaction, room: int, room_id: str) -> None: ...


class RoomRemovals:
    """Takes wishes (`start`) and carries them out (`run`, one task for the life of the box)."""

    def __init__(
        self,
        db: Database,
        creator: RoomCreator,
        memberships: Memberships,
        composer: Composer,
        now_ms: Callable[[], int],
        *,
        before_purge: tuple[BeforePurge, ...] = (),
    ) -> None:
        self._db = db
        self._creator = creator
        self._memberships = memberships
        self._composer = composer
        self._now_ms = now_ms
        self._before_purge = before_purge
        self._wake = trio.Event()
        self._ended = trio.Event()

    async def start(self, room_id: str, wish: Wish) -> str:
        """Notes the wish and returns its id; the rest happens by itself.

        Raises M_NOT_FOUND for a room that is not known, 400 M_UNKNOWN if it is being removed already.
        """
        deletion = Deletion(secrets.token_urlsafe(12), room_id, wish.as_json(), SCHEDULED, None, _nothing(), None, None)

        def work(tx: Transaction) -> None:
            room_deletions.forget_old(tx, self._now_ms())
            if any(one.finished_at is None for one in room_deletions.of_room(tx, room_id)):
                raise errors.Unknown(f"Purge already in progress for {room_id}", status=400)
            if rooms.get(tx, room_id) is None:
                raise errors.NotFound(f"Unknown room id {room_id}")
            room_deletions.put(tx, deletion)

        await self._db.write(work)
        self._wake.set()
        return deletion.delete_id

    async def block(self, room_id: str, user_id: str, *, on: bool = True) -> None:
        """Nobody of this server may enter the room (any more)."""
        if on:
            await self._db.write(lambda tx: blocked_rooms.block(tx, room_id, user_id))
        else:
            await self._db.write(lambda tx: blocked_rooms.unblock(tx, room_id))

    async def blocked_by(self, room_id: str) -> str | None:
        return await self._db.read(lambda tx: blocked_rooms.blocked_by(tx, room_id))

    async def status(self, delete_id: str) -> Deletion:
        """Raises M_NOT_FOUND for one that there never was, or that ended more than a day ago."""
        found = await self._db.read(lambda tx: room_deletions.get(tx, delete_id))
        if found is None or self._is_old(found):
            raise errors.NotFound(f"delete id '{delete_id}' not found")
        return found

    async def status_of_room(self, room_id: str) -> list[Deletion]:
        """Raises M_NOT_FOUND if nothing is known of any."""
        found = await self._db.read(lambda tx: room_deletions.of_room(tx, room_id))
        found = [one for one in found if not self._is_old(one)]
        if not found:
            raise errors.NotFound(f"No delete task for room_id '{room_id}' found")
        return found

    def _is_old(self, deletion: Deletion) -> bool:
        return deletion.finished_at is not None and deletion.finished_at < self._now_ms() - room_deletions.REMEMBERED_MS

    async def finished(self, delete_id: str) -> Deletion:
        """Waits until it has come to its end."""
        while True:
            ended = self._ended
            found = await self.status(delete_id)
            if found.finished_at is not None:
                return found
            await ended.wait()

    async def run(self) -> None:
        """Carries out what has been asked for, one room after the other; what waits for other servers holds up no other."""
        while True:
            self._wake = trio.Event()
            under_way = await self._db.read(room_deletions.unfinished)
            for deletion in under_way:
                await self._carry_out(deletion)
            pause = LOOK_EVERY if await self._db.read(room_deletions.unfinished) else float("inf")
            with trio.move_on_after(pause):
                await self._wake.wait()

    async def _carry_out(self, deletion: Deletion) -> None:
        wish = Wish(**deletion.wish)
        try:
            if deletion.evicted_at is None:
                deletion = await self._evict(deletion, wish)
                await trio.sleep(GRACE)
            for user_id in deletion.outcome["kicked_users"]:
                await self._memberships.forget(user_id, deletion.room_id)
            if wish.purge and not await self._purge(deletion, wish):
                return
            await self._put(replace(deletion, status=COMPLETE, finished_at=self._now_ms()))
        except errors.MatrixError as error:
            log.warning("the room %s could not be removed: %s", deletion.room_id, error)
            await self._put(replace(deletion, status=FAILED, error=error.error, finished_at=self._now_ms()))

    async def _put(self, deletion: Deletion) -> Deletion:
        await self._db.write(lambda tx: room_deletions.put(tx, deletion))
        if deletion.finished_at is not None:
            self._ended.set()
            self._ended = trio.Event()
        return deletion

    # The people

    async def _evict(self, deletion: Deletion, wish: Wish) -> Deletion:
        """Everybody of this server leaves; what has been done is noted after each, so that it is told right after a kill."""
        room_id, outcome = deletion.room_id, {**_nothing(), **deletion.outcome}
        if wish.block:
            await self.block(room_id, wish.requester)
        if wish.new_room_user is not None and outcome["new_room_id"] is None:
            outcome["new_room_id"] = await self._new_room(wish, wish.new_room_user)
            deletion = await self._put(replace(deletion, status=ACTIVE, outcome=outcome))
        for user_id in await self._db.read(lambda tx: _present(tx, room_id)):
            kicked = await self._move(user_id, room_id, outcome["new_room_id"], wish)
            _add(outcome["kicked_users" if kicked else "failed_to_kick_users"], user_id)
            deletion = await self._put(replace(deletion, status=ACTIVE, outcome=outcome))
        await self._db.write(lambda tx: _take_names(tx, room_id, outcome))
        return await self._put(replace(deletion, status=ACTIVE, outcome=outcome, evicted_at=self._now_ms()))

    async def _new_room(self, wish: Wish, user_id: str) -> str:
        new = NewRoom(preset="public_chat", name=wish.room_name, power_level_overrides={"users_default": READERS_LEVEL})
        room_id = await self._creator.create(user_id, new)
        await self._composer.send(room_id, user_id, "m.room.message", {"msgtype": "m.text", "body": wish.message})
        return room_id

    async def _move(self, user_id: str, room_id: str, new_room_id: str | None, wish: Wish) -> bool:
        """Whether the user could be got out of the room."""
        try:
            was_joined = await self._db.read(lambda tx: _is_joined(tx, user_id, room_id))
            await self._memberships.leave(user_id, room_id, always=True)
        except errors.MatrixError as error:
            log.warning("%s could not be got out of %s: %s", user_id, room_id, error)
            return False
        if new_room_id is not None and was_joined and user_id != wish.new_room_user:
            try:
                await self._memberships.join(user_id, new_room_id)
            except errors.MatrixError as error:
                log.warning("%s could not be moved to %s: %s", user_id, new_room_id, error)
        return True

    # The rows

    async def _purge(self, deletion: Deletion, wish: Wish) -> bool:
        """Removes the room's rows; False while other servers are still to be told. Raises 400 M_UNKNOWN if somebody is in it."""
        room_id = deletion.room_id
        waited = self._now_ms() - (deletion.evicted_at or 0)
        if waited < PATIENCE_MS and await self._db.read(lambda tx: _is_undelivered(tx, room_id)):
            return False

        def work(tx: Transaction) -> None:
            room = rooms.get(tx, room_id)
            if room is None:
                return
            if rooms.local_members(tx, room.number) and not wish.force_purge:
                raise errors.Unknown("Users are still joined to this room", status=400)
            for hook in self._before_purge:
                hook(tx, room.number, room_id)
            room_purge.purge(tx, room.number, room_id)

        await self._db.write_unchecked(work)
        return True


def _nothing() -> dict[str, Any]:
    return {"kicked_users": [], "failed_to_kick_users": [], "local_aliases": [], "new_room_id": None}


def _add(listed: list[str], item: str) -> None:
    if item not in listed:
        listed.append(item)


def _present(tx: Transaction, room_id: str) -> list[str]:
    """Our people who are in the room, invited to it or knocking."""
    room = rooms.get(tx, room_id)
    return [] if room is None else rooms.local_people(tx, room.number)


def _is_joined(tx: Transaction, user_id: str, room_id: str) -> bool:
    found = rooms.membership_in(tx, user_id, room_id)
    return found is not None and found.membership == "join"


def _is_undelivered(tx: Transaction, room_id: str) -> bool:
    room = rooms.get(tx, room_id)
    return room is not None and room_purge.undelivered(tx, room.number)


def _take_names(tx: Transaction, room_id: str, outcome: Mapping[str, Any]) -> None:
    """The room's aliases go, or are the new room's from now on; it leaves the directory."""
    aliases = rooms.aliases_of(tx, room_id)
    for alias in aliases:
        _add(outcome["local_aliases"], alias)
    if outcome["new_room_id"] is not None:
        rooms.move_aliases(tx, room_id, outcome["new_room_id"])
    else:
        for alias in aliases:
            rooms.remove_alias(tx, alias)
    room = rooms.get(tx, room_id)
    if room is not None:
        rooms.set_published(tx, room.number, False)
