"""Who is there, as time passes: our users by their devices, others by what their servers say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from edgeserver.store.database import open_database
from edgeserver.users import presence as module
from edgeserver.users.ephemeral import Typing
from edgeserver.users.presence import Presence
from edgeserver.wakeups import PRESENCE, Wakeups
from tests.rooms.house import ALICE, BOB, CAROL, House, Street


class Place:
    """A house of server `one`, with the presence of its users running."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.wakeups = Wakeups()
        self.typing = Typing(house.db, self.wakeups, "one", 1)
        self.presence = Presence(house.db, self.wakeups, "one", self.typing.next_version, enabled=True)

    def state(self, user_id: str = ALICE) -> str:
        return str(self.presence.get(user_id)["presence"])

    async def share_a_room(self, user_id: str) -> None:
        """Puts a user of another server into a room of Alice's."""
        room_id = await self.house.room()
        await self.house.db.write(
            lambda tx: tx.execute(
                "INSERT INTO memberships (user_id, room, membership, event, stream, local)"
                " SELECT ?, room, 'join', 1, 1, 0 FROM rooms WHERE room_id = ?",
                (user_id, room_id),
            )
            and None
        )


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Place]:
    async with open_database(folder / "one.db", inline=True) as db, trio.open_nursery() as nursery:
        made = Place(House(db, "one", Street()))
        nursery.start_soon(made.presence.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_device_that_syncs_is_online_until_some_time_after_the_last(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as place:
        with place.presence.syncing(ALICE, "A", "online"):
            assert place.state() == "online"
            await trio.sleep(120)
            assert place.state() == "online"
            assert place.presence.get(ALICE)["currently_active"] is False
        await trio.sleep(20)
        assert place.state() == "online"
        await trio.sleep(20)
        assert place.state() == "offline"


async def test_who_does_nothing_is_unavailable_and_a_message_shows_them_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as place:
        with place.presence.syncing(ALICE, "A", "online"):
            await trio.sleep(301)
            assert place.state() == "unavailable"
            place.presence.active(ALICE)
            assert place.state() == "online"
            assert place.presence.get(ALICE)["currently_active"] is True
            with place.presence.syncing(ALICE, "A", "unavailable"):
                assert place.state() == "unavailable"
            with place.presence.syncing(ALICE, "A", "online"):
                assert place.state() == "online"


async def test_the_most_present_device_counts(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as place:
        with place.presence.syncing(ALICE, "PHONE", "unavailable"):
            assert place.state() == "unavailable"
            with place.presence.syncing(ALICE, "DESK", "online"):
                assert place.state() == "online"
                await trio.sleep(40)
            await trio.sleep(40)
            assert place.state() == "unavailable"
            with place.presence.syncing(ALICE, "SILENT", "offline"):
                assert place.state() == "unavailable"
        await trio.sleep(40)
        assert place.state() == "offline"


async def test_a_sync_that_says_offline_shows_nobody_and_a_message_alone_neither(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as place:
        with place.presence.syncing(ALICE, "A", "offline"):
            place.presence.active(ALICE)
            assert place.presence.get(ALICE) == {"presence": "offline"}
        assert place.presence.changed(1) == {}


async def test_who_shares_a_room_is_woken_and_nobody_else(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as place:
        room_id = await place.house.room()
        await place.house.memberships.join(BOB, room_id)
        await place.house.room(creator="@eve:one")
        since = place.typing.version
        with place.wakeups.listening(BOB) as bob, place.wakeups.listening("@eve:one") as eve:
            place.presence.set(ALICE, "A", "online", "at the well")
            await bob.wait()
            changed = place.presence.changed(since)
            assert changed[ALICE]["status_msg"] == "at the well"
            since = place.typing.version
            assert place.presence.changed(since) == {}
            await bob.wait()  # she is gone: half a minute later
            assert place.presence.changed(since)[ALICE]["presence"] == "offline"
            with trio.move_on_after(5) as waited:
                await eve.wait()
            assert waited.cancelled_caught


async def test_a_joining_user_and_who_is_there_hear_of_each_other(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as place:
        room_id = await place.house.room()
        with place.presence.syncing(ALICE, "A", "online"), place.presence.syncing(BOB, "B", "online"):
            await trio.sleep(1)
            since = place.typing.version
            await place.house.memberships.join(BOB, room_id)
            room = await place.house.db.read(lambda tx: tx.one("SELECT room FROM rooms"))
            assert room is not None
            place.presence.joined(BOB, room[0])
            await trio.sleep(1)
            assert set(place.presence.changed(since)) == {ALICE, BOB}


async def test_other_servers_are_told_once_and_again_before_they_forget(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as place:
        with place.wakeups.listening(PRESENCE) as listener, place.presence.syncing(ALICE, "A", "unavailable"):
            await listener.wait()
            [told] = place.presence.take_untold().values()
            assert (told["user_id"], told["presence"]) == (ALICE, "unavailable")
            assert place.presence.take_untold() == {}
            began = trio.current_time()
            await listener.wait()
            assert trio.current_time() - began == pytest.approx(25 * 60)
            assert set(place.presence.take_untold()) == {ALICE}


async def test_of_others_only_those_are_kept_who_share_a_room_and_not_for_ever(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as place:
        update = {"user_id": CAROL, "presence": "online", "status_msg": "hi", "last_active_ago": 5000, "currently_active": True}
        await place.presence.received([update])
        assert place.state(CAROL) == "offline"
        await place.share_a_room(CAROL)
        with place.wakeups.listening(ALICE) as alice:
            await place.presence.received([update])
            await alice.wait()
            assert place.presence.get(CAROL) == {
                "presence": "online", "status_msg": "hi", "last_active_ago": 5000, "currently_active": True,
            }  # fmt: skip
            assert place.presence.take_untold() == {}
            began = trio.current_time()
            await alice.wait()
            assert trio.current_time() - began == pytest.approx(30 * 60)
            assert place.state(CAROL) == "offline"


async def test_who_has_gone_is_not_told_of_again_when_their_server_would_be_forgotten(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as place:
        await place.share_a_room(CAROL)
        for state in ("online", "offline"):
            await place.presence.received([{"user_id": CAROL, "presence": state}])
        since = place.typing.version
        await trio.sleep(2 * module.REMOTE_S)
        assert place.presence.changed(since) == {}


@pytest.mark.parametrize("bad", [{"presence": "asleep"}, {"presence": None}, {}])
async def test_what_another_server_says_is_checked(tmp_path: Path, autojump_clock: MockClock, bad: dict[str, object]) -> None:
    async with running(tmp_path) as place:
        await place.share_a_room(CAROL)
        await place.presence.received([{"user_id": CAROL, **bad}])
        assert place.presence.get(CAROL) == {"presence": "offline"}


async def test_no_more_users_and_devices_are_known_than_so_many(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as place:
        monkeypatch.setattr(module, "KEPT", 3)
        place.presence.set("@gone:one", "A", "offline")
        for number in range(5):
            place.presence.set(f"@u{number}:one", "A", "online")
        assert [place.state(f"@u{number}:one") for number in range(5)] == ["offline", "offline", "online", "online", "online"]
        assert set(place.presence.changed(0)) == {"@u2:one", "@u3:one", "@u4:one"}
        for number in range(module.MAX_DEVICES + 1):
            place.presence.set("@u4:one", f"D{number}", "unavailable")
        assert place.state("@u4:one") == "unavailable"  # the first device, online, was forgotten


async def test_switched_off_nothing_is_kept(tmp_path: Path) -> None:
    async with open_database(tmp_path / "one.db", inline=True) as db:
        off = Presence(db, Wakeups(), "one", lambda: 1, enabled=False)
        off.set(ALICE, "A", "online", "here")
        with off.syncing(ALICE, "A", "online"):
            off.active(ALICE)
            off.joined(ALICE, 1)
            assert off.get(ALICE) == {"presence": "offline"}
        assert off.changed(0) == {}
        assert off.take_untold() == {}
