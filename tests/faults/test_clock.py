"""A clock that is wrong, jumps, or stands at 1970: what is sent carries a sane time, nobody is locked out, and nothing waits for years."""

from __future__ import annotations

import pytest
import trio

from edgeserver.clock import NEVER_BEFORE_MS, Clock, TimeSource
from tests.faults.test_lines import LINE, are_up, holds
from tests.flows.world import EPOCH, World, until
from transports.memory import Medium, MemoryCable

YEAR = 365 * 86_400
HOUR_MS = 3_600_000
NOW_MS = int(EPOCH * 1000)


async def sent_at(person, room_id: str) -> list[int]:
    page = await person.ok("GET", f"/rooms/{room_id}/messages", query={"dir": "f", "limit": "100"})
    return [event["origin_server_ts"] for event in page["chunk"] if event["type"] == "m.room.message"]


@pytest.mark.parametrize("jump", [YEAR, -YEAR, 3 * YEAR])
async def test_a_jump_of_a_year_while_running_stops_nothing(tmp_path, autojump_clock, jump):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        await alice.sync()
        for offset, text in ((0, "before"), (jump, "jumped"), (0, "back")):
            a.wall_offset = offset
            await alice.say(room_id, text)
            await bob.say(room_id, f"b {text}")
            await alice.ok("PUT", f"/rooms/{room_id}/typing/{alice.user_id}", {"typing": True, "timeout": 5000})
            await alice.sync()
        said = {"b back", "b before", "b jumped", "back", "before"}

        async def all_of_it() -> bool:
            # What was signed in a year for which nobody knows a key yet is not taken by others (signing key validity period).
            return set(await alice.texts(room_id)) == {*said, "jumped"} and set(await bob.texts(room_id)) >= said

        await until(all_of_it, seconds=600)
        assert (await alice.request("GET", "/account/whoami")).status == 200
        await alice.sync(timeout=30_000)


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
async def test_a_session_that_is_refreshed_lives_through_a_jump(tmp_path, autojump_clock, jump):
    async with World(tmp_path) as world:
        a = await world.box("a")
        await a.person("alice", "correct horse battery")
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}
        anybody = await a.person("anybody")
        session = await anybody.ok("POST", "/login", {**login, "refresh_token": True})
        a.wall_offset = jump
        anybody.token = session["access_token"]
        answer = await anybody.request("GET", "/account/whoami")
        assert answer.status == 200 or answer.json["soft_logout"] is True
        fresh = await anybody.ok("POST", "/refresh", {"refresh_token": session["refresh_token"]})
        a.wall_offset = 0
        anybody.token = fresh["access_token"]
        assert (await anybody.request("GET", "/account/whoami")).status == 200


async def test_after_a_power_cut_a_box_without_a_clock_goes_on_from_its_newest_event(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice = await a.person("alice")
        room_id = await alice.create_room()
        await trio.sleep(10 * 3600)
        await alice.say(room_id, "late")
        last = (await sent_at(alice, room_id))[-1]
        db = a.box.ground.db
        await a.stop()
        forget_the_end(tmp_path / "a" / "data" / "edgeserver.db")
        a.synchronised, a.wall_offset = False, -EPOCH  # 1 January 1970
        await a.start()
        assert a.box.ground.db is not db
        assert last <= a.box.ground.now_ms() <= last + HOUR_MS
        assert not a.box.ground.clock.trusted
        await alice.say(room_id, "later")
        first, second = await sent_at(alice, room_id)
        assert first == last <= second


def forget_the_end(path) -> None:
    """What was noted in good order at the end is gone, as after a power cut."""
    from edgeserver.store.database import connect

    connection = connect(path)
    connection.cursor().execute("DELETE FROM meta WHERE key = 'clock_floor'")
    connection.close()


async def test_an_idle_box_notes_the_time_once_an_hour_and_at_its_end(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        db = a.box.ground.db
        commits = db.commits
        await trio.sleep(10 * 3600 + 60)
        assert db.commits - commits == 10
        ended = a.box.ground.now_ms()
        await a.stop()
        a.synchronised, a.wall_offset = False, -EPOCH
        await a.start()
        assert a.box.ground.now_ms() >= ended


async def test_a_time_that_was_wrong_once_is_not_kept_once_it_has_been_set_right(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice = await a.person("alice")
        room_id = await alice.create_room()
        a.wall_offset = YEAR
        await alice.say(room_id, "from next year")
        a.wall_offset = 0
        await alice.say(room_id, "from now")
        await a.stop()
        a.synchronised, a.wall_offset = False, -EPOCH
        await a.start()
        assert abs(a.box.ground.now_ms() - NOW_MS) < 24 * HOUR_MS


def test_a_synchronised_clock_goes_before_a_floor_from_the_future():
    assert Hands().clock(NOW_MS + YEAR * 1000).now_ms() == NOW_MS


async def test_a_box_that_boots_in_1970_takes_the_time_of_the_box_at_the_other_end_and_talks(tmp_path, autojump_clock):
    cable = MemoryCable(Medium(9600), seed=8)
    async with World(tmp_path) as world:
        a, b = await world.box("a", LINE, {"line": cable.a}), await world.box("b", LINE, {"line": cable.b})
        code, _ = b.box.links.open_offer(front=False)
        await a.box.links.join_offer("line", code, gateway=False)
        await until(lambda: are_up(a, b))
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        await a.stop()
        a.synchronised, a.wall_offset = False, -EPOCH
        forget_the_end(tmp_path / "a" / "data" / "edgeserver.db")
        cable.medium = Medium(9600, loss=1.0)
        await trio.sleep(30 * 86_400)
        await a.start()
        assert not a.box.ground.clock.trusted
        assert a.box.ground.now_ms() < NOW_MS + 86_400_000
        await alice.say(room_id, "when is it?")
        cable.medium = Medium(9600)
        await until(lambda: holds(bob, room_id, ["when is it?"]), seconds=3600)
        await until(lambda: trusts(a))
        assert abs(a.box.ground.now_ms() - b.box.ground.now_ms()) < 2_000
        await bob.say(room_id, "a month later")
        await until(lambda: holds(alice, room_id, ["when is it?", "a month later"]), seconds=3600)


async def trusts(box) -> bool:
    return box.box.ground.clock.trusted


async def test_events_of_peers_are_taken_while_nobody_knows_the_time(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        await a.stop()
        a.synchronised, a.wall_offset = False, -EPOCH
        b.wall_offset = 3 * YEAR  # beyond every key validity that a could know of
        await a.start()
        await bob.say(room_id, "from another time")
        await until(lambda: holds(alice, room_id, ["from another time"]), seconds=600)


class Hands:
    """A wall clock and a monotonic one, set by hand (s)."""

    def __init__(self, wall: float = EPOCH, synchronised: bool = True) -> None:
        self.wall, self.monotonic, self.synchronised = wall, 0.0, synchronised

    def clock(self, floor_ms: int = 0) -> Clock:
        return Clock(TimeSource(lambda: self.wall, lambda: self.monotonic, lambda: self.synchronised), floor_ms)


def test_an_unsynchronised_wall_clock_that_jumps_is_not_followed():
    hands = Hands(synchronised=False)
    clock = hands.clock()
    hands.wall += YEAR
    hands.monotonic += 5
    assert clock.now_ms() == NOW_MS + 5000


@pytest.mark.parametrize("wall", [0.0, -1e9, 1e12, 5e9])
@pytest.mark.parametrize("floor", [0, NOW_MS, 10**18])
@pytest.mark.parametrize("synchronised", [True, False])
def test_no_system_clock_makes_a_time_that_events_cannot_carry(wall, floor, synchronised):
    clock = Hands(wall, synchronised).clock(floor)
    assert NEVER_BEFORE_MS <= clock.now_ms() < 2**42


def test_a_synchronised_clock_that_is_set_back_a_little_stands_still_and_one_set_back_a_lot_is_followed():
    hands = Hands()
    clock = hands.clock()
    hands.wall -= 30
    assert clock.now_ms() == NOW_MS
    hands.wall -= YEAR / 2
    assert clock.now_ms() < NOW_MS - 180 * 86_400_000
