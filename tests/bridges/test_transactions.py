"""What application services are sent, whatever fails meanwhile."""

from __future__ import annotations

import random
import sqlite3
from urllib.parse import quote

import pytest
import trio

from tests.bridges.story import FAST, bridged, heard, is_there, portal, say
from tests.flows.test_redactions import redaction
from tests.flows.world import Person, World, until
from tests.lab.bridge import Bridge


async def test_a_bridge_is_told_of_its_rooms_and_no_others_and_speaks_as_its_ghosts(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        other = await alice.create_room()
        await alice.say(other, "private")
        room, ghost = await portal(bridge, alice)
        await alice.say(room, "hello")
        await say(bridge, room, "from afar", ghost, ts="1234")
        await heard(bridge, "hello", "from afar")
        assert {event["room_id"] for event in bridge.told()} == {room}
        joins = [event for event in bridge.told() if event["type"] == "m.room.member"]
        assert [(event["state_key"], event["content"]["membership"]) for event in joins] == [(ghost, "join")]
        assert [event["origin_server_ts"] for event in bridge.told() if event["sender"] == ghost][-1] == 1234
        assert all(set(body) == {"events"} for body in bridge.transactions.values())
        assert (await alice.texts(room)) == ["hello", "from afar"]


async def test_an_invite_of_a_ghost_is_told_though_it_is_not_in_the_room(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        ghost = await bridge.register("irc_bob")
        room = await alice.create_room()
        await alice.say(room, "before")
        await alice.invite(room, ghost)
        await alice.say(room, "between")
        await until(lambda: is_there(bridge.told()))
        assert [event["state_key"] for event in bridge.told()] == [ghost]
        shown = bridge.told()[0]["unsigned"]["invite_room_state"]
        assert {"m.room.create", "m.room.join_rules", "m.room.member"} <= {one["type"] for one in shown}
        await bridge.ok("POST", f"/join/{quote(room)}", as_user=ghost)
        await alice.say(room, "after")
        await heard(bridge, "after")


async def test_an_invite_to_a_room_of_another_server_is_told_with_what_the_room_shows_and_so_is_its_end(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (world, _, bridge, _alice):
        ghost, other = await bridge.register("irc_bob"), await bridge.register("irc_eve")
        b = await world.box("b")
        bob = await b.person("bob")
        room = await bob.create_room(name="Far hills", preset="public_chat")
        await bob.invite(room, ghost)
        await until(lambda: is_there(bridge.told()))
        [invite] = bridge.told()
        assert (invite["state_key"], invite["room_id"], invite["content"]["membership"]) == (ghost, room, "invite")
        shown = {one["type"]: one["content"] for one in invite["unsigned"]["invite_room_state"]}
        assert shown["m.room.name"] == {"name": "Far hills"}
        await bridge.ok("POST", f"/join/{quote(room)}", as_user=ghost, via="b.test")
        await bob.say(room, "welcome")
        await heard(bridge, "welcome")
        private = await bob.create_room()
        await bob.invite(private, other)
        await until(lambda: is_there(bridge.told()[-1].get("state_key") == other))
        await bridge.ok("POST", f"/rooms/{quote(private)}/leave", as_user=other)
        await until(lambda: is_there(bridge.told()[-1]["content"]["membership"] == "leave"))
        memberships = [event["content"]["membership"] for event in bridge.told() if "state_key" in event]
        assert memberships == ["invite", "join", "invite", "leave"]


async def test_rooms_are_a_bridges_by_an_alias(tmp_path, autojump_clock):
    namespaces = {"users": [], "aliases": [{"regex": "#irc_.*", "exclusive": False}], "rooms": []}
    async with bridged(tmp_path, namespaces=namespaces) as (_, _, bridge, alice):
        await alice.say(await alice.create_room(), "elsewhere")
        await alice.say(await alice.create_room(room_alias_name="irc_hills"), "here")
        await heard(bridge, "here")


async def test_rooms_are_a_bridges_by_their_id(tmp_path, autojump_clock):
    namespaces = {"users": [], "aliases": [], "rooms": [{"regex": "!.*:b.test", "exclusive": False}]}
    async with bridged(tmp_path, namespaces=namespaces) as (world, _, bridge, alice):
        b = await world.box("b")
        bob = await b.person("bob")
        theirs = await bob.create_room(preset="public_chat", room_version="10")
        await alice.join(theirs, "b.test")
        await alice.say(await alice.create_room(room_version="10"), "ours")
        await alice.say(theirs, "theirs")
        await bob.say(theirs, "from there")
        await heard(bridge, "theirs", "from there")


async def test_a_bridge_that_was_down_for_a_week_gets_everything_in_order_and_nothing_piles_up(tmp_path, autojump_clock):
    async with bridged(tmp_path, FAST) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        await until(lambda: is_there(bridge.told()))
        bridge.down = True
        said = [f"line {number}" for number in range(250)]
        for text in said:
            await alice.say(room, text)
        await trio.sleep(7 * 24 * 3600)
        bridge.down = False
        await heard(bridge, *said)
        sizes = [len(body["events"]) for body in bridge.transactions.values()]
        assert max(sizes) == 100
        assert not await a.box.ground.db.read(lambda tx: tx.all("SELECT * FROM outbox"))


async def test_a_transaction_that_fails_is_sent_again_as_it_was_with_growing_pauses(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        room, _ = await portal(bridge, alice)
        await until(lambda: is_there(bridge.told()))
        bridge.status, before = 500, len(bridge.attempts)
        await alice.say(room, "one")
        await trio.sleep(10)
        await alice.say(room, "two")
        await trio.sleep(3600)
        tried = bridge.attempts[before:]
        assert 15 < len(tried) < 30
        assert len({txn_id for txn_id, _ in tried}) == 1
        assert all(body == tried[0][1] for _, body in tried)
        bridge.status = 200
        await heard(bridge, "one", "two")


async def test_a_request_of_the_bridge_ends_a_pause(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        room, _ = await portal(bridge, alice)
        bridge.down = True
        await alice.say(room, "one")
        await trio.sleep(2000)
        bridge.down = False
        began = trio.current_time()
        await bridge.ok("GET", "/account/whoami")
        await heard(bridge, "one")
        assert trio.current_time() - began < 5


async def test_after_a_power_cut_a_transaction_that_failed_has_the_same_id_and_nothing_is_lost(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        await until(lambda: is_there(bridge.told()))
        bridge.status, before = 503, len(bridge.attempts)
        await alice.say(room, "one")
        await trio.sleep(60)
        await a.kill()
        await a.start()
        await alice.say(room, "two")
        await trio.sleep(600)
        tried = bridge.attempts[before:]
        assert len({txn_id for txn_id, _ in tried}) == 1
        assert {tuple(event["event_id"] for event in body["events"]) for _, body in tried} == {(tried[0][1]["events"][0]["event_id"],)}
        bridge.status = 200
        await heard(bridge, "one", "two")


async def test_that_a_bridge_has_an_event_is_noted_with_the_next_one(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        quiet = await alice.create_room()
        await until(lambda: is_there(bridge.told()))
        await trio.sleep(1)
        commits = a.box.ground.db.commits
        said = [f"line {number}" for number in range(10)]
        for number, text in enumerate(said):
            await alice.say(room, text)
            await heard(bridge, *said[: number + 1])
        assert a.box.ground.db.commits == commits + 10
        await alice.say(quiet, "private")
        await trio.sleep(1)
        assert a.box.ground.db.commits == commits + 11


async def test_after_a_power_cut_what_was_taken_last_comes_again_with_the_same_id_whatever_happened_elsewhere(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        other = await alice.create_room()
        for text in ("one", "two"):
            await alice.say(other, "private")
            await trio.sleep(1)
            await alice.say(room, text)
            await heard(bridge, *(("one", "two")[: 1 + (text == "two")]))
        taken = len(bridge.transactions)
        await a.kill()
        await a.start()
        await trio.sleep(10)
        assert bridge.attempts[-1][0] == bridge.attempts[-2][0]
        await alice.say(room, "three")
        await heard(bridge, "one", "two", "three")
        assert len(bridge.transactions) == taken + 1


async def test_a_transaction_whose_answer_is_lost_is_taken_once(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        await until(lambda: is_there(bridge.told()))
        bridge.mute = True
        await alice.say(room, "one")
        await trio.sleep(200)
        await alice.say(room, "two")
        await a.kill()
        await a.start()
        await trio.sleep(200)
        bridge.mute = False
        await heard(bridge, "one", "two")
        assert len(bridge.attempts) > len(bridge.transactions)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_fails_and_whenever_every_event_arrives_and_in_order(tmp_path, autojump_clock, seed):
    chance = random.Random(seed)
    async with bridged(tmp_path, FAST) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        sent = []
        for number in range(60):
            bridge.status, bridge.down, bridge.mute = chance.choice([200, 200, 500]), chance.random() < 0.2, chance.random() < 0.2
            sent.append(f"line {number}")
            await alice.say(room, sent[-1])
            await trio.sleep(chance.choice([0, 0, 0.003, 1, 90]))
            if chance.random() < 0.1:
                await chance.choice([a.kill, a.stop])()
                await a.start()
        bridge.status, bridge.down, bridge.mute = 200, False, False

        async def all_there() -> bool:
            return bridge.texts[-1:] == sent[-1:]

        await until(all_there, seconds=2000)
        told = {event["event_id"]: event for event in bridge.told()}
        assert [event["content"]["body"] for event in told.values() if event["type"] == "m.room.message"] == sent


async def test_large_events_are_sent_in_several_transactions(tmp_path, autojump_clock):
    async with bridged(tmp_path, FAST) as (_, _, bridge, alice):
        room, _ = await portal(bridge, alice)
        bridge.down = True
        said = [str(number) * 50_000 for number in range(1, 9) for _ in range(3)]
        for text in said:
            await alice.say(room, text)
        bridge.down = False
        await heard(bridge, *said)
        sizes = [sum(len(event["content"].get("body", "")) for event in body["events"]) for body in bridge.transactions.values()]
        assert max(sizes) < 600_000


async def test_a_store_that_has_been_put_back_to_an_older_copy_goes_on_from_now(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        await alice.say(room, "one")
        await heard(bridge, "one")
        await a.stop()
        database = sqlite3.connect(tmp_path / "a" / "data" / "edgeserver.db")
        database.execute("UPDATE bridge_positions SET position = 1000000000000")
        database.commit()
        database.close()
        await a.start()
        await alice.say(room, "two")
        await heard(bridge, "one", "two")


async def test_after_a_restart_it_goes_on_where_it_was(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        await alice.say(room, "one")
        await heard(bridge, "one")
        count = len(bridge.attempts)
        await a.stop()
        await a.start()
        await alice.say(room, "two")
        await heard(bridge, "one", "two")
        assert len(bridge.attempts) == count + 1


async def test_what_concerned_a_ghost_is_told_though_it_has_left_since_and_nothing_of_before_it_came(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        ghost = await bridge.register("irc_bob")
        room = await alice.create_room(preset="public_chat")
        bridge.down = True
        await alice.say(room, "before")
        await bridge.ok("POST", f"/join/{quote(room)}", as_user=ghost)
        await alice.say(room, "during")
        await bridge.ok("POST", f"/rooms/{quote(room)}/leave", as_user=ghost)
        await alice.say(room, "after")
        bridge.down = False
        await heard(bridge, "during")
        members = [event["content"]["membership"] for event in bridge.told() if event["type"] == "m.room.member"]
        assert members == ["join", "leave"]


async def test_two_bridges_are_served_by_themselves(tmp_path, autojump_clock):
    other = Bridge("xmpp", url="http://xmpp.invalid")
    async with World(tmp_path) as world:
        bridge = Bridge()
        bridge.register_in(world, "a")
        other.register_in(world, "a")
        a = bridge.box = other.box = await world.box("a", '[bridges]\nregistrations = ["irc.yaml", "xmpp.yaml"]\n')
        alice = await a.person("alice")
        one, _ = await portal(bridge, alice)
        two, _ = await portal(other, alice, "xmpp_eve")
        other.hangs = True
        await alice.say(one, "one")
        await alice.say(two, "two")
        await heard(bridge, "one")
        other.hangs = False
        await heard(other, "two")
        stolen = await bridge.call("GET", "/account/whoami", as_user="@xmpp_eve:a.test")
        assert (stolen.status, stolen.json["errcode"]) == (403, "M_FORBIDDEN")


async def test_a_box_without_bridges_writes_and_reads_nothing_for_them(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice = await a.person("alice")
        await alice.say(await alice.create_room(), "hello")
        assert await a.box.ground.db.read(lambda tx: tx.all("SELECT * FROM bridge_positions")) == []
        flows = (await alice.ok("GET", "/login"))["flows"]
        assert "m.login.application_service" not in [flow["type"] for flow in flows]
        assert await alice.ok("GET", "/thirdparty/protocols") == {}
        ping = await alice.request("POST", "/../v1/appservice/irc/ping")
        assert ping.json["errcode"] == "M_UNRECOGNIZED"


async def test_nothing_is_counted_as_unread_for_ghosts_that_are_logged_in_nowhere(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, ghost = await portal(bridge, alice)
        bob = await a.person("bob")
        await bob.join(room)
        await alice.say(room, "one")
        rows = await a.box.ground.db.read(lambda tx: tx.all("SELECT user_id FROM unread"))
        assert rows == [(bob.user_id,)]
        login = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": ghost}}
        reader = Person(a, ghost, (await bridge.ok("POST", "/login", login))["access_token"])
        await alice.say(room, "two")
        joined = (await reader.sync())["rooms"]["join"]
        assert joined[room]["unread_notifications"]["notification_count"] == 1


async def test_a_bridge_is_not_told_of_a_redaction_by_one_who_may_not(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (world, _, bridge, alice):
        room, _ = await portal(bridge, alice)
        bob = await (await world.box("b")).person("bob")
        await bob.join(room, via="a.test")
        target = await alice.say(room, "hers")
        await redaction(bob, room, target, alice)
        own = await bob.say(room, "his")
        await heard(bridge, "hers", "his")
        counts = await redaction(bob, room, own, alice)
        await alice.say(room, "after")
        await heard(bridge, "hers", "his", "after")
        assert [event["event_id"] for event in bridge.told() if event["type"] == "m.room.redaction"] == [counts]
