"""Deactivated accounts leave their rooms, decline their invites and withdraw their knocks.

Client-server API, "Account deactivation". What is still to be left is stored with the deactivation, so a box that is killed in the
middle goes on where it was. A room whose servers cannot be reached is tried again, ever more seldom, and in the end given up.
"""

from __future__ import annotations

import logging
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
"""Seconds between two rounds."""
MOST_ROUNDS: Final = 16


class Departures:
    """The follower that empties the table `departures`. `run` has to run for as long as the box does."""

    def __init__(self, db: Database, wakeups: Wakeups, memberships: Memberships) -> None:
        self._db = db
        self._wakeups = wakeups
        self._memberships = memberships

    async def run(self) -> None:
        """Leaves what is to be left, at once after a wake-up (`DEPARTURES`) and then in rounds."""
        with self._wakeups.listening(topics.DEPARTURES) as listener:
            while True:
                rounds = await self._round()
                pause = float("inf") if rounds is None else min(FIRST_PAUSE * 2 ** max(0, rounds - 1), LONGEST_PAUSE)
                with trio.move_on_after(pause):
                    await listener.wait()

    async def _round(self) -> int | None:
        """One round. Returns how many rounds the newest of those has been through who have not left everything; None if all have."""
        for user_id, tries in await self._db.read(departures.pending):
            left = await self._leave_all(user_id)
            if left or tries + 1 >= MOST_ROUNDS:
                await self._db.write(lambda tx, user_id=user_id: departures.done(tx, user_id))  # type: ignore[misc]
            else:
                await self._db.write(lambda tx, user_id=user_id: departures.failed(tx, user_id))  # type: ignore[misc]
        return min((tries for _, tries in await self._db.read(departures.pending)), default=None)

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
