"""Who is typing where. Spec: client-server API, "Typing Notifications"; server-server API, the EDU `m.typing`.

Kept in memory only, and forgotten by a restart. Changes have versions of their own, beside the stream of the store: numbers that
grow, from a start that chance gives, so that one from before a restart is known as such, whatever the clock says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from edgeserver import wakeups as topics
from edgeserver.matrix import errors
from edgeserver.store import outbox, rooms

if TYPE_CHECKING:
    from edgeserver.store.database import Database, Transaction
    from edgeserver.wakeups import Wakeups

DEFAULT_MS: Final = 30_000
MAX_MS: Final = 120_000
REMOTE_MS: Final = 60_000
"""So long a user of another server counts as typing unless it says so again."""
REPEAT_S: Final = 40.0
"""Other servers are told again of somebody who goes on typing after so long."""
MAX_TYPING: Final = 100
"""People who can be typing in one room."""
MAX_ROOMS: Final = 1000


@dataclass(slots=True)
class _Room:
    """`until`: user id → when their typing ends (s of trio's clock); `told`: when other servers were last told of them."""

    version: int
    until: dict[str, float] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)


class Typing:
    """Who is typing. `run` ends what has timed out; it has to run for as long as the object is in use. `start` is a number from 1 to 2^40
    that no other run is likely to have begun with.
    """

    def __init__(self, db: Database, wakeups: Wakeups, server_name: str, start: int) -> None:
        self._db = db
        self._wakeups = wakeups
        self._server_name = server_name
        self.version = self._start = start
        self._rooms: dict[str, _Room] = {}  # the most recently changed last
        self._busy: set[str] = set()  # those of them where somebody types
        self._rescheduled = trio.Event()

    async def set(self, user_id: str, room_id: str, typing: bool, timeout_ms: int = DEFAULT_MS) -> None:
        """A local user types, for so long, or has stopped. Raises M_FORBIDDEN if they are not in the room."""

        def read(tx: Transaction) -> tuple[list[str], list[str]] | None:
            membership = rooms.membership_in(tx, user_id, room_id)
            if membership is None or membership.membership != "join":
                return None
            return rooms.local_members(tx, membership.room), rooms.servers(tx, membership.room)

        found = await self._db.read(read)
        if found is None:
            raise errors.Forbidden(f"You are not in the room {room_id}.")
        members, servers = found
        changed = self._note(room_id, user_id, max(0, min(timeout_ms, MAX_MS)) if typing else None)
        if changed:
            self._wakeups.notify(members)
        others = [name for name in servers if name != self._server_name]
        if others and self._is_to_be_told(room_id, user_id, changed):
            await self._tell(others, room_id, user_id, typing)

    async def received(self, room_id: str, user_id: str, typing: bool) -> None:
        """A user of another server, who is in the room, types or has stopped."""
        if self._note(room_id, user_id, REMOTE_MS if typing else None):
            await self._wake(room_id)

    def next_version(self) -> int:
        """A version for a change beside typing that is kept in memory only (presence)."""
        self.version += 1
        return self.version

    def knows(self, version: int) -> bool:
        """Whether it is a version of this run: of what was before a restart nothing is known."""
        return self._start <= version <= self.version

    def in_this_run(self, version: int) -> int:
        """The version, or in place of another run's the one that this run began with: all that is known has changed since."""
        return version if self.knows(version) else self._start

    def in_room(self, room_id: str) -> list[str]:
        """Who is typing, in order of user id."""
        known = self._rooms.get(room_id)
        return [] if known is None else sorted(known.until)

    def everywhere(self) -> dict[str, list[str]]:
        """The rooms where somebody is typing, and who."""
        return {room_id: self.in_room(room_id) for room_id in self._busy}

    def changed(self, since: int) -> dict[str, list[str]]:
        """Rooms whose typing changed after this version, with who is typing there now; of another run's version, all that have changed."""
        since = self.in_this_run(since)
        found: dict[str, list[str]] = {}
        for room_id in reversed(self._rooms):
            if self._rooms[room_id].version <= since:
                break
            found[room_id] = self.in_room(room_id)
        return found

    async def run(self) -> None:
        """Ends typing that has timed out. Sleeps while nobody types."""
        while True:
            ends = min((end for room in self._rooms.values() for end in room.until.values()), default=float("inf"))
            with trio.move_on_at(ends):
                await self._rescheduled.wait()
            self._rescheduled = trio.Event()
            now = trio.current_time()
            due = [
                (room_id, user_id)
                for room_id, room in self._rooms.items()
                for user_id, end in room.until.items()
                if end <= now
            ]
            for room_id, user_id in due:
                self._note(room_id, user_id, None)
            for room_id in {room_id for room_id, _ in due}:
                await self._wake(room_id)

    def _note(self, room_id: str, user_id: str, for_ms: int | None) -> bool:
        """True if who is typing is not who it was."""
        room = self._rooms.get(room_id)
        if room is None:
            if for_ms is None:
                return False
            self._bound()
            room = self._rooms[room_id] = _Room(self.version)
        was = user_id in room.until
        if for_ms is None:
            room.until.pop(user_id, None)
        elif was or len(room.until) < MAX_TYPING:
            room.until[user_id] = trio.current_time() + for_ms / 1000
        self._rescheduled.set()
        if was == (user_id in room.until):
            return False
        if room.until:
            self._busy.add(room_id)
        else:
            self._busy.discard(room_id)
        self.version += 1
        room.version = self.version
        self._rooms[room_id] = self._rooms.pop(room_id)
        return True

    def _bound(self) -> None:
        """Rooms where nobody types are kept, so that whoever waits learns of the end; but not too many."""
        if len(self._rooms) >= MAX_ROOMS:
            oldest = next((room_id for room_id, room in self._rooms.items() if not room.until), next(iter(self._rooms)))
            del self._rooms[oldest]
            self._busy.discard(oldest)

    def _is_to_be_told(self, room_id: str, user_id: str, changed: bool) -> bool:
        room = self._rooms.get(room_id)
        if room is None or user_id not in room.until:
            if room is not None:
                room.told.pop(user_id, None)
            return changed
        now = trio.current_time()
        if not changed and now - room.told.get(user_id, now) < REPEAT_S:
            return False
        room.told[user_id] = now
        return True

    async def _tell(self, servers: list[str], room_id: str, user_id: str, typing: bool) -> None:
        content = {"room_id": room_id, "user_id": user_id, "typing": typing}

        def run(tx: Transaction) -> None:
            outbox.queue_edu(tx, servers, "m.typing", content, key=f"{room_id} {user_id}")
            tx.on_commit(lambda: self._wakeups.notify([topics.OUTBOX]))

        await self._db.write(run)

    async def _wake(self, room_id: str) -> None:
        def read(tx: Transaction) -> list[str]:
            room = rooms.get(tx, room_id)
            return [] if room is None else rooms.local_members(tx, room.number)

        self._wakeups.notify(await self._db.read(read))
