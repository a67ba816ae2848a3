"""Deactivated accounts leave their rooms, decline their invites and withdraw their knocks.

Client-server API, "Account deactivation". What is still to be left is stored with the deactivation, so a box that is killed in the
middle goes on where it was. A room whose servers cannot be reached is tried again, ever more seldom, and in the end given up.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from edgeserver import wakeups as topics
from edgeserver.matrix import errors
from edgeserver.store import departures, rooms

if TYPE_CHECKING:
    from edgeserver.rooms.membership import Memberships
    from edgeserver.store.database import Database, Transaction
    from edgeserver.wakeups import Wakeups

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 60.0
LONGEST_PAUSE: Final = 6 * 3600.0
"""Seconds between two rounds of one user."""
MOST_ROUNDS: Final = 16


class Departures:
    """The follower that empties the table `departures`. `run` has to run for as long as the box does."""

    def __init__(self, db: Database, wakeups: Wakeups, memberships: Memberships) -> None:
        self._db = db
        self._wakeups = wakeups
        self._memberships = memberships
        self._due: dict[str, float] = {}

    async def run(self) -> None:
        """Leaves what is to be left: at once after a wake-up (`DEPARTURES`), and then in rounds of each user's own."""
        with self._wakeups.listening(topics.DEPARTURES) as listener:
            while True:
                with trio.move_on_at(await self._round()):
                    await listener.wait()

    async def _round(self) -> float:
        """One round for everybody whose time has come. Returns when the next one's comes."""
        for user_id, tries in await self._db.read(departures.pending):
            if self._due.get(user_id, -inf) > trio.current_time():
                continue
            left = await self._leave_all(user_id)
            self._due[user_id] = trio.current_time() + min(FIRST_PAUSE * 2**tries, LONGEST_PAUSE)
            if left or tries + 1 >= MOST_ROUNDS:
                await self._db.write(lambda tx, user_id=user_id: departures.done(tx, user_id))  # type: ignore[misc]
            else:
                await self._db.write(lambda tx, user_id=user_id: departures.failed(tx, user_id))  # type: ignore[misc]
        self._due = {user_id: self._due.get(user_id, -inf) for user_id, _ in await self._db.read(departures.pending)}
        return min(self._due.values(), default=inf)

    async def _leave_all(self, user_id: str) -> bool:
        """True if nothing is left to be left."""
        all_left = True
        for room_id in await self._db.read(lambda tx: _to_leave(tx, user_id)):
            try:
                await self._memberships.leave(user_id, room_id)
            except errors.MatrixError as error:
                log.info("%s, who is deactivated, could not leave %s yet: %s", user_id, room_id, error)
                all_left = False
        return all_left


def _to_leave(tx: Transaction, user_id: str) -> list[str]:
    return [one.room_id for one in rooms.memberships_of(tx, user_id) if one.membership in ("join", "invite", "knock")]
