"""The time of a box that may have no clock."""

from __future__ import annotations

import pytest

from edgeserver.clock import NEVER_AFTER_MS, NEVER_BEFORE_MS, Clock, TimeSource, system_time
from edgeserver.matrix.event import Event
from edgeserver.store import clock_floor
from edgeserver.store.database import open_database
from tests.store.places import make_event, make_room, store

NOW = 1_800_000_000_000
DAY = 86_400_000


class World:
    """What a box's hardware says, to be changed."""

    def __init__(self, wall_ms: float = NOW, *, synchronised: bool = False) -> None:
        self.wall = wall_ms / 1000
        self.monotonic = 77.0
        self.synchronised = synchronised

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def clock(self, floor_ms: int = 0) -> Clock:
        return Clock(TimeSource(lambda: self.wall, lambda: self.monotonic, lambda: self.synchronised), floor_ms)


def test_time_runs_with_the_monotonic_clock():
    world = World()
    clock = world.clock()
    assert clock.now_ms() == NOW
    world.pass_(90)
    assert clock.now_ms() == NOW + 90_000
    assert not clock.trusted


def test_a_box_without_a_clock_goes_on_from_where_it_has_been():
    world = World(0)
    clock = world.clock(NOW)
    assert clock.now_ms() == NOW
    world.pass_(5)
    assert clock.now_ms() == NOW + 5_000


def test_no_box_is_older_than_its_release():
    assert World(0).clock().now_ms() == NEVER_BEFORE_MS


@pytest.mark.parametrize("absurd", [NEVER_AFTER_MS, 2**60])
def test_an_absurd_time_is_not_taken_from_anybody(absurd):
    assert World(absurd).clock(NOW).now_ms() == NOW
    assert World(NOW).clock(absurd).now_ms() == NOW
    world = World(NOW)
    clock = world.clock()
    for told in (absurd, 0, NEVER_BEFORE_MS - 1):
        clock.learn("b.test", told)
    assert clock.now_ms() == NOW
    assert not clock.trusted
    world.wall, world.synchronised = absurd / 1000, True
    assert clock.now_ms() == NOW


def test_a_system_clock_that_nobody_vouches_for_is_not_followed_when_it_jumps():
    world = World()
    clock = world.clock()
    world.wall += 86_400
    assert clock.now_ms() == NOW


def test_a_system_clock_that_is_synchronised_later_is_followed():
    world = World(0)
    clock = world.clock(NOW - DAY)
    world.pass_(10)
    world.wall, world.synchronised = NOW / 1000, True
    assert clock.trusted
    assert clock.now_ms() == NOW
    world.pass_(10)
    assert clock.now_ms() == NOW + 10_000


def test_a_synchronised_clock_is_followed_back_too():
    world = World(NOW + DAY)
    clock = world.clock()
    assert clock.now_ms() == NOW + DAY
    world.wall, world.synchronised = NOW / 1000, True
    assert clock.now_ms() == NOW


def test_a_clock_set_back_a_little_stands_still_until_time_has_caught_up():
    world = World(synchronised=True)
    clock = world.clock()
    assert clock.now_ms() == NOW
    world.wall -= 30
    assert [clock.now_ms(), clock.now_ms()] == [NOW, NOW]
    world.pass_(31)
    assert clock.now_ms() == NOW + 1_000


def test_a_paired_peer_is_believed_while_nothing_nearer_vouches():
    world = World(0)
    clock = world.clock()
    clock.learn("b.test", NOW)
    assert (clock.now_ms(), clock.trusted) == (NOW, True)
    clock.learn("c.test", NOW - DAY)
    assert clock.now_ms() == NOW - DAY
    world.wall, world.synchronised = (NOW + 5_000) / 1000, True
    assert clock.now_ms() == NOW + 5_000
    clock.learn("b.test", NOW - DAY)
    assert clock.now_ms() == NOW + 5_000


def test_this_machine_tells_the_time_and_whether_it_is_synchronised():
    source = system_time()
    assert source.wall() * 1000 > NEVER_BEFORE_MS
    assert source.monotonic() <= source.monotonic()
    assert source.synchronised() in (True, False)


async def test_the_floor_is_the_last_note_or_a_newer_event_of_this_server(tmp_path):
    def with_time(name: str, sender: str, sent: int) -> Event:
        return make_event(name, sender=sender, origin_server_ts=sent)

    async with open_database(tmp_path / "edgeserver.db", inline=True) as db:

        async def floor() -> int:
            return await db.read(lambda tx: clock_floor.newest(tx, "test", before_ms=NEVER_AFTER_MS))

        assert await floor() == 0
        room = await db.write(make_room)
        await db.write(lambda tx: store(tx, room, with_time("before", "@alice:test", NOW + 9 * DAY)))
        await db.write(lambda tx: clock_floor.note(tx, NOW))
        assert await floor() == NOW, "what was sent before the note, by a wrong clock, does not count"
        await db.write(lambda tx: store(tx, room, with_time("theirs", "@bob:other", NOW + 8 * DAY)))
        assert await floor() == NOW, "others' clocks may be wrong"
        await db.write(lambda tx: store(tx, room, with_time("absurd", "@alice:test", NEVER_AFTER_MS)))
        await db.write(lambda tx: store(tx, room, with_time("ours", "@alice:test", NOW + DAY)))
        assert await floor() == NOW + DAY
