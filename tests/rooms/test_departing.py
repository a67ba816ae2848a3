"""Rooms that a deactivated account cannot leave: tried again, ever more seldom, and given up in the end."""

from __future__ import annotations

from pathlib import Path

import trio

from edgeserver.matrix import errors
from edgeserver.rooms.departing import MOST_ROUNDS, Departures
from edgeserver.store import departures
from edgeserver.store.database import open_database
from edgeserver.wakeups import DEPARTURES, Wakeups
from tests.users.room_story import RoomStory

ALICE = "@alice:test"


class Doors:
    """Rooms out of which nobody gets before the nth try; each try is noted with its time."""

    def __init__(self, opens_after: int) -> None:
        self.opens_after = opens_after
        self.tried: list[float] = []

    async def leave(self, user_id: str, room_id: str) -> None:
        self.tried.append(trio.current_time())
        if len(self.tried) <= self.opens_after:
            raise errors.Forbidden("The door is shut.")


async def leaving(folder: Path, doors: Doors) -> bool:
    """Runs a departure to its end, at most thirty days; True if there is nothing more to do."""
    wakeups = Wakeups()
    async with open_database(folder / "edge.db", inline=True) as db, trio.open_nursery() as nursery:
        await db.write(lambda tx: RoomStory(tx, "!room:test").join(tx, ALICE))
        nursery.start_soon(Departures(db, wakeups, doors).run)  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        await db.write(lambda tx: departures.begin(tx, ALICE))
        wakeups.notify([DEPARTURES])
        await trio.sleep(30 * 24 * 3600)
        is_done = not await db.read(departures.pending)
        nursery.cancel_scope.cancel()
    return is_done


async def test_a_shut_door_is_tried_again_after_longer_and_longer_pauses(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    doors = Doors(3)
    assert await leaving(tmp_path, doors)
    pauses = [round(later - earlier) for earlier, later in zip(doors.tried, doors.tried[1:], strict=False)]
    assert pauses == [60, 120, 240]


async def test_a_door_that_never_opens_is_left_alone_in_the_end(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    doors = Doors(10**6)
    assert await leaving(tmp_path, doors)
    assert len(doors.tried) == MOST_ROUNDS


async def test_others_who_leave_meanwhile_do_not_wear_out_the_patience(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    doors, wakeups = Doors(2), Wakeups()
    async with open_database(tmp_path / "edge.db", inline=True) as db, trio.open_nursery() as nursery:
        await db.write(lambda tx: RoomStory(tx, "!room:test").join(tx, ALICE))
        await db.write(lambda tx: departures.begin(tx, ALICE))
        nursery.start_soon(Departures(db, wakeups, doors).run)  # type: ignore[arg-type]
        for number in range(MOST_ROUNDS):
            await trio.sleep(1)
            await db.write(lambda tx, number=number: departures.begin(tx, f"@{number}:test"))
            wakeups.notify([DEPARTURES])
        await trio.testing.wait_all_tasks_blocked()
        assert await db.read(departures.pending) == [(ALICE, 1)]
        await trio.sleep(3600)
        assert await db.read(departures.pending) == []
        nursery.cancel_scope.cancel()
    assert len(doors.tried) == 3
