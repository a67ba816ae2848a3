"""Push gateways are told what notifies people: once, in order, and the newest alone where they have been away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from edgeserver.push.follower import GIVE_UP, NOTED_WITH_EVENT
from edgeserver.store import pushers
from tests.flows.world import BoxInWorld, Person, World
from tests.push.gateway import Gateway, pusher

HOUR = 3600.0


class Town:
    """Alice and Bob on one box, in a room; Bob's phone is behind a gateway on the internet."""

    def __init__(self, world: World, box: BoxInWorld, gateway: Gateway, alice: Person, bob: Person, room: str) -> None:
        self.world, self.box, self.gateway, self.alice, self.bob, self.room = world, box, gateway, alice, bob, room

    async def set_pusher(self, **more: Any) -> None:
        await self.bob.ok("POST", "/pushers/set", pusher(**more))

    async def pushers(self) -> list[dict[str, Any]]:
        return (await self.bob.ok("GET", "/pushers"))["pushers"]

    async def read(self, event_id: str) -> None:
        await self.bob.ok("POST", f"/rooms/{quote(self.room)}/receipt/m.read/{quote(event_id)}")

    async def hears_nothing_but_what_comes(self) -> None:
        """Nothing has been told by now, and what Alice says then is."""
        await trio.sleep(60)
        assert self.gateway.tries == []
        said = await self.alice.say(self.room, "heard")
        await trio.sleep(60)
        assert self.gateway.events() == [said]

    def is_idle(self) -> bool:
        nursery = self.box.box.push.follower._nursery
        return nursery is not None and not nursery.child_tasks


@asynccontextmanager
async def town(folder: Path) -> AsyncIterator[Town]:
    async with World(folder) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        await alice.ok("PUT", f"/profile/{quote(alice.user_id)}/displayname", {"displayname": "Alice"})
        room = await alice.create_room(preset="public_chat", name="Harbour", room_alias_name="harbour")
        await bob.join(room)
        gateway = Gateway()
        world.internet.plug("push.example", gateway)
        made = Town(world, box, gateway, alice, bob, room)
        await made.set_pusher()
        yield made


async def test_a_gateway_is_told_all_of_an_event(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        said = await t.alice.say(t.room, "hello")
        await trio.sleep(5)
        ts = t.gateway.told[0]["devices"][0].pop("pushkey_ts")
        assert t.gateway.told == [
            {
                "event_id": said,
                "room_id": t.room,
                "type": "m.room.message",
                "sender": t.alice.user_id,
                "sender_display_name": "Alice",
                "room_name": "Harbour",
                "room_alias": "#harbour:a.test",
                "prio": "high",
                "content": {"msgtype": "m.text", "body": "hello"},
                "counts": {"unread": 1},
                "devices": [
                    {
                        "app_id": "im.example.app",
                        "pushkey": "key",
                        "data": {"brand": "field"},
                        "tweaks": {"sound": "default"},
                    }
                ],
            }
        ]
        assert abs(ts - t.box.box.ground.now_ms() / 1000) < 60
        assert t.is_idle()


async def test_a_gateway_that_is_to_know_ids_alone_learns_nothing_else(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        await t.set_pusher(data={"format": "event_id_only"})
        said = await t.alice.say(t.room, "secret")
        await trio.sleep(5)
        [told] = t.gateway.told
        assert (told["event_id"], told["room_id"], told["counts"]) == (said, t.room, {"unread": 1})
        assert set(told) == {"event_id", "room_id", "prio", "counts", "devices"}
        assert told["devices"][0]["data"] == {"brand": "field", "format": "event_id_only"}
        assert "tweaks" not in told["devices"][0]


async def test_what_does_not_notify_is_not_told(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        await t.bob.say(t.room, "my own")
        room = f"/rooms/{quote(t.room)}"
        await t.alice.ok("PUT", f"{room}/send/m.room.message/n1", {"msgtype": "m.notice", "body": "beep"})
        await t.bob.ok("PUT", f"/pushrules/global/room/{quote(t.room)}", {"actions": []})
        await t.alice.say(t.room, "muted")
        await t.bob.ok("DELETE", f"/pushrules/global/room/{quote(t.room)}")
        await t.hears_nothing_but_what_comes()


async def test_many_messages_are_told_one_after_the_other(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        said = []
        for number in range(30):
            said.append(await t.alice.say(t.room, str(number)))
            await trio.sleep(0.5)
        await trio.sleep(10)
        assert t.gateway.events() == said
        assert [one["counts"]["unread"] for one in t.gateway.told][-1] == 30


async def test_invites_are_told_of_this_server_and_of_others(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        other = await t.world.box("b")
        carol = await other.person("carol")
        near = await t.alice.create_room(name="Near", invite=[t.bob.user_id])
        far = await carol.create_room(name="Far", invite=[t.bob.user_id])
        await trio.sleep(30)
        assert [(one["room_id"], one["room_name"], one["user_is_target"]) for one in t.gateway.told] == [
            (near, "Near", True),
            (far, "Far", True),
        ]
        assert {one["sender"] for one in t.gateway.told} == {t.alice.user_id, carol.user_id}
        assert all(one["devices"][0]["tweaks"] == {"sound": "default"} for one in t.gateway.told)


async def test_a_gateway_that_was_away_hears_the_newest_of_each_room_and_is_tried_ever_less_often(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        second = await t.alice.create_room(preset="public_chat")
        await t.bob.join(second)
        t.world.internet.unplug("push.example")
        for number in range(40):
            newest = await t.alice.say(t.room, f"{number}")
            other = await t.alice.say(second, f"{number}")
            await trio.sleep(HOUR / 4)
        asked = t.world.internet.asked("/push/v1/notify")
        assert 10 < asked < 30  # 2 s, 4 s … an hour, in ten hours
        t.world.internet.plug("push.example", t.gateway)
        await trio.sleep(2 * HOUR)
        assert t.gateway.events() == [newest, other]
        assert t.gateway.told[-1]["counts"] == {"unread": 80}
        later = await t.alice.say(t.room, "later")
        await trio.sleep(5)
        assert t.gateway.events() == [newest, other, later]


async def test_the_way_to_the_internet_returns_and_nobody_waits_any_longer(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        t.world.internet.unplug("push.example")
        said = await t.alice.say(t.room, "x")
        await trio.sleep(10 * HOUR)
        t.world.internet.plug("push.example", t.gateway)
        t.box.box.peers.internet_changed(False)
        t.box.box.peers.internet_changed(True)
        await trio.sleep(5)
        assert t.gateway.events() == [said]


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_an_answer_that_is_an_error_is_tried_again(tmp_path, autojump_clock, status):
    async with town(tmp_path) as t:
        t.gateway.status = status
        t.gateway.headers = [(b"retry-after", b"300")]
        said = await t.alice.say(t.room, "x")
        await trio.sleep(60)
        t.gateway.status = 200
        await trio.sleep(400)
        assert t.gateway.events() == [said]
        assert t.gateway.tries[1] - t.gateway.tries[0] >= 300
        assert len(t.gateway.tries) == 2


async def test_after_a_day_what_happened_is_given_up_and_what_happens_is_not(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        t.gateway.status = 500
        await t.alice.say(t.room, "x")
        await trio.sleep(GIVE_UP + 2 * HOUR)
        assert t.is_idle()
        t.gateway.status = 200
        await trio.sleep(24 * HOUR)
        assert t.gateway.told == []
        said = await t.alice.say(t.room, "y")
        await trio.sleep(5)
        assert t.gateway.events() == [said]


async def test_a_pushkey_that_is_rejected_is_told_nothing_more(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        await t.set_pusher(pushkey="other")
        t.gateway.rejected = ["key"]
        await t.alice.say(t.room, "x")
        await trio.sleep(5)
        assert [one["pushkey"] for one in await t.pushers()] == ["other"]
        t.gateway.told.clear()
        await t.alice.say(t.room, "y")
        await trio.sleep(5)
        assert [one["devices"][0]["pushkey"] for one in t.gateway.told] == ["other"]


async def test_reading_updates_the_count_once_and_what_is_read_is_not_told(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        said = [await t.alice.say(t.room, str(number)) for number in range(3)]
        await trio.sleep(5)
        for event_id in said:
            await t.read(event_id)
        await trio.sleep(60)
        assert t.gateway.badges() == [0]
        assert t.is_idle()
        t.gateway.status = 500
        unseen = await t.alice.say(t.room, "read on the desk meanwhile")
        await trio.sleep(1)
        await t.read(unseen)
        t.gateway.status = 200
        await trio.sleep(HOUR)
        assert unseen not in t.gateway.events()
        assert t.gateway.badges() == [0]  # it is what the gateway knows


async def test_what_was_said_before_an_answer_of_ones_own_is_read_and_not_told(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        other = await t.alice.create_room(preset="public_chat")
        await t.bob.join(other)
        t.gateway.status = 500
        await t.alice.say(t.room, "who is there?")
        await trio.sleep(1)
        await t.bob.say(t.room, "me, at the desk")
        after = await t.alice.say(other, "come here")
        t.gateway.status = 200
        await trio.sleep(HOUR)
        assert t.gateway.events() == [after]


async def test_what_is_read_while_a_gateway_is_being_told_changes_the_count_afterwards(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        t.world.internet.delay = 10
        said = await t.alice.say(t.room, "x")
        await trio.sleep(5)
        await t.read(said)
        await trio.sleep(120)
        assert [one["counts"] for one in t.gateway.told] == [{"unread": 1}, {"unread": 0}]


async def test_an_app_that_wants_no_counts_gets_none(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        await t.set_pusher(data={"org.matrix.msc4076.disable_badge_count": True})
        said = await t.alice.say(t.room, "x")
        await trio.sleep(5)
        await t.read(said)
        await trio.sleep(60)
        assert [one["counts"] for one in t.gateway.told] == [{}]


async def test_a_pusher_that_is_off_is_told_nothing_and_of_that_time_nothing_later(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        await t.set_pusher(**{"org.matrix.msc3881.enabled": False})
        assert [one["org.matrix.msc3881.enabled"] for one in await t.pushers()] == [False]
        await t.alice.say(t.room, "unheard")
        await trio.sleep(60)
        await t.set_pusher(**{"org.matrix.msc3881.enabled": True})
        await t.hears_nothing_but_what_comes()


async def test_a_pusher_goes_with_its_device(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        await t.bob.ok("POST", "/logout")
        await t.alice.say(t.room, "x")
        await trio.sleep(60)
        assert t.gateway.tries == []


async def test_a_box_that_stops_and_starts_repeats_nothing_and_loses_nothing(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        said = [await t.alice.say(t.room, str(number)) for number in range(3)]
        await trio.sleep(5)
        t.world.internet.unplug("push.example")
        said.append(await t.alice.say(t.room, "while the gateway is away"))
        await t.box.stop()
        t.world.internet.plug("push.example", t.gateway)
        await t.box.start()
        await trio.sleep(60)
        assert t.gateway.events() == said
        assert t.is_idle()


async def test_a_box_that_loses_power_repeats_one_at_most_and_loses_nothing(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        said = []
        for number in range(5):
            said.append(await t.alice.say(t.room, str(number)))
            await trio.sleep(2)
        assert t.gateway.events() == said
        await t.box.kill()
        await t.box.start()
        await trio.sleep(60)
        assert t.gateway.events() == [*said, said[-1]]
        await t.box.kill()
        await t.box.start()
        await trio.sleep(120)
        told = t.gateway.events()
        await t.box.kill()  # a minute after the last word everything is noted
        await t.box.start()
        await trio.sleep(60)
        assert t.gateway.events() == told


async def test_telling_a_gateway_costs_the_disk_no_commit_of_its_own(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        await t.alice.say(t.room, "first")
        await trio.sleep(70)
        db = t.box.box.ground.db
        before = db.commits
        for number in range(20):
            await t.alice.say(t.room, str(number))
            await trio.sleep(2)
        assert len(t.gateway.told) == 21
        assert db.commits - before == 20
        await trio.sleep(120)
        assert db.commits - before == 21


async def test_of_a_crowd_the_positions_are_noted_once_a_minute(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        for number in range(NOTED_WITH_EVENT):
            await t.set_pusher(pushkey=f"phone {number}")
        await trio.sleep(70)
        db = t.box.box.ground.db
        before = db.commits
        for number in range(10):
            await t.alice.say(t.room, str(number))
            await trio.sleep(2)
        positions = await db.read(pushers.active)
        await trio.sleep(120)
        assert len(t.gateway.told) == 10 * (NOTED_WITH_EVENT + 1)
        assert db.commits - before == 11
        assert dict(positions) != dict(await db.read(pushers.active))
        await t.box.kill()
        await t.box.start()
        await trio.sleep(60)
        assert len(t.gateway.told) == 10 * (NOTED_WITH_EVENT + 1)


async def test_power_is_lost_while_the_gateway_is_away(tmp_path, autojump_clock):
    async with town(tmp_path) as t:
        t.world.internet.unplug("push.example")
        await t.alice.say(t.room, "old")
        newest = await t.alice.say(t.room, "new")
        await trio.sleep(30)
        await t.box.kill()
        t.world.internet.plug("push.example", t.gateway)
        await t.box.start()
        await trio.sleep(60)
        assert t.gateway.events() == [newest]
