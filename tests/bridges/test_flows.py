"""Application services in whole boxes, on a virtual clock: who they act for, what they are sent, and what they are asked."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
import yaml

from edgeserver.bridges import contents, registration
from edgeserver.bridges.contents import Batch, Ephemera
from edgeserver.bridges.registration import RegistrationError
from edgeserver.bridges.services import Service
from edgeserver.store.database import Transaction
from tests.asgi import AsgiClient
from tests.flows.world import BoxInWorld, Person, World, until
from tests.lab.bridge import Bridge

FAST = "[limits]\nrate_limits = false\n"
ENCRYPTING = {"receive_ephemeral": True, "org.matrix.msc3202": True, "io.element.msc4190": True}


@asynccontextmanager
async def bridged(tmp_path: Path, text: str = "", **registration: Any) -> AsyncIterator[tuple[World, BoxInWorld, Bridge, Person]]:
    """A world with one box, its bridge and a person of it."""
    bridge = Bridge(registration=registration)
    async with World(tmp_path) as world:
        bridge.register_in(world, "a")
        a = bridge.box = await world.box("a", bridge.config + text)
        yield world, a, bridge, await a.person("alice")


async def heard(bridge: Bridge, *texts: str) -> None:
    async def all_there() -> bool:
        return bridge.texts == list(texts)

    try:
        await until(all_there, seconds=2000)
    except trio.TooSlowError:
        raise AssertionError(f"{bridge.texts} instead of {list(texts)}") from None


async def portal(bridge: Bridge, alice: Person, ghost: str = "irc_bob") -> tuple[str, str]:
    """A room of Alice's with a ghost in it; returns the room and the ghost."""
    user_id = await bridge.register(ghost)
    room = await alice.create_room(preset="public_chat")
    await bridge.ok("POST", f"/join/{quote(room)}", as_user=user_id)
    return room, user_id


async def say(bridge: Bridge, room: str, text: str, as_user: str, **query: str) -> str:
    content = {"msgtype": "m.text", "body": text}
    sent = await bridge.ok("PUT", f"/rooms/{quote(room)}/send/m.room.message/{text}", content, as_user=as_user, **query)
    return str(sent["event_id"])


# Transactions


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
        await until(lambda: _is(bridge.told()))
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
        await until(lambda: _is(bridge.told()))
        [invite] = bridge.told()
        assert (invite["state_key"], invite["room_id"], invite["content"]["membership"]) == (ghost, room, "invite")
        shown = {one["type"]: one["content"] for one in invite["unsigned"]["invite_room_state"]}
        assert shown["m.room.name"] == {"name": "Far hills"}
        await bridge.ok("POST", f"/join/{quote(room)}", as_user=ghost, via="b.test")
        await bob.say(room, "welcome")
        await heard(bridge, "welcome")
        private = await bob.create_room()
        await bob.invite(private, other)
        await until(lambda: _is(bridge.told()[-1].get("state_key") == other))
        await bridge.ok("POST", f"/rooms/{quote(private)}/leave", as_user=other)
        await until(lambda: _is(bridge.told()[-1]["content"]["membership"] == "leave"))
        memberships = [event["content"]["membership"] for event in bridge.told() if "state_key" in event]
        assert memberships == ["invite", "join", "invite", "leave"]


async def _is(value: Any) -> bool:
    return bool(value)


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
        await until(lambda: _is(bridge.told()))
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
        await until(lambda: _is(bridge.told()))
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
        await until(lambda: _is(bridge.told()))
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


async def test_a_transaction_whose_answer_is_lost_is_taken_once(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        await until(lambda: _is(bridge.told()))
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
        assert flows == [{"type": "m.login.password"}]
        assert await alice.ok("GET", "/thirdparty/protocols") == {}
        ping = await alice.request("POST", "/../v1/appservice/irc/ping")
        assert ping.json["errcode"] == "M_UNRECOGNIZED"


async def test_one_message_costs_one_note_of_the_position(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, _ = await portal(bridge, alice)
        quiet = await alice.create_room()
        await until(lambda: _is(bridge.told()))
        await trio.sleep(1)
        commits = a.box.ground.db.commits
        await alice.say(room, "one")
        await heard(bridge, "one")
        assert a.box.ground.db.commits == commits + 2
        await alice.say(quiet, "two")
        await trio.sleep(1)
        assert a.box.ground.db.commits == commits + 3


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


# Ephemeral data, and what end-to-end encryption needs


async def test_typing_and_receipts_are_told_with_receive_ephemeral(tmp_path, autojump_clock):
    async with bridged(tmp_path, receive_ephemeral=True) as (_, _, bridge, alice):
        room, ghost = await portal(bridge, alice)
        other = await alice.create_room()
        event_id = await say(bridge, room, "read me", ghost)
        for one in (room, other):
            await alice.ok("PUT", f"/rooms/{quote(one)}/typing/{quote(alice.user_id)}", {"typing": True, "timeout": 20000})
        await alice.ok("POST", f"/rooms/{quote(room)}/receipt/m.read/{quote(event_id)}")
        await alice.ok("POST", f"/rooms/{quote(room)}/receipt/m.read.private/{quote(event_id)}")
        hers = await alice.say(room, "and me")
        await bridge.ok("POST", f"/rooms/{quote(room)}/receipt/m.read.private/{quote(hers)}", as_user=ghost)
        await trio.sleep(60)
        told = bridge.told("ephemeral")
        assert bridge.told("de.sorunome.msc2409.ephemeral") == told
        assert {one["room_id"] for one in told} == {room}
        assert [one["content"]["user_ids"] for one in told if one["type"] == "m.typing"] == [[alice.user_id], []]
        receipts = [(event, kind, user) for one in told if one["type"] == "m.receipt"
                    for event, kinds in one["content"].items() for kind, users in kinds.items() for user in users]  # fmt: skip
        assert receipts == [(event_id, "m.read", alice.user_id), (hers, "m.read.private", ghost)]


async def test_presence_of_whoever_shares_a_room_is_told(tmp_path, autojump_clock):
    async with bridged(tmp_path, receive_ephemeral=True) as (_, a, bridge, alice):
        _, ghost = await portal(bridge, alice)
        bob = await a.person("bob")
        await bob.create_room()
        await trio.sleep(1)
        service = Service(registration.parse(yaml.safe_dump(bridge.file()).encode()), "a.test")
        shown = {one: {"presence": "online"} for one in (alice.user_id, bob.user_id, ghost)}

        def read(tx: Transaction) -> Batch:
            return contents.read(tx, service, tx.position, tx.position, Ephemera({}, shown), 0)

        body = (await a.box.ground.db.read(read)).body
        assert body is not None
        assert [one["sender"] for one in body["ephemeral"]] == [alice.user_id, ghost]
        assert body["ephemeral"][0] == {"type": "m.presence", "sender": alice.user_id, "content": {"presence": "online"}}


async def test_an_encrypting_bridge_makes_devices_without_a_password_and_acts_from_them(tmp_path, autojump_clock):
    async with bridged(tmp_path, **ENCRYPTING) as (_, _, bridge, alice):
        path = "/devices/BRIDGE"
        made = await bridge.call("PUT", path, {"display_name": "irc bridge"})
        assert (made.status, made.json) == (201, {})
        assert (await bridge.call("PUT", path, {"display_name": "renamed"})).status == 200
        assert (await bridge.ok("GET", path))["display_name"] == "renamed"
        assert (await bridge.ok("GET", "/account/whoami", device_id="BRIDGE"))["device_id"] == "BRIDGE"
        for name in ("device_id", "org.matrix.msc3202.device_id"):
            answer = await bridge.call("GET", "/account/whoami", **{name: "NONE"})
            assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN_DEVICE")
        too_long = await bridge.call("PUT", f"/devices/{'x' * 256}", {})
        assert (too_long.status, too_long.json["errcode"]) == (400, "M_INVALID_PARAM")
        assert (await alice.request("PUT", path, {})).status == 404
        key = {"user_id": "@ircbot:a.test", "usage": ["master"], "keys": {f"ed25519:{'A' * 43}": "A" * 43}}
        signed = await bridge.call("POST", "/keys/device_signing/upload", {"master_key": key})
        assert signed.status == 200
        again = {**key, "keys": {f"ed25519:{'B' * 42}A": f"{'B' * 42}A"}}
        assert (await bridge.call("POST", "/keys/device_signing/upload", {"master_key": again})).status == 200
        assert (await bridge.call("DELETE", path)).status == 200
        assert (await bridge.call("GET", path)).status == 404


async def upload_keys(bridge: Bridge, user_id: str, device_id: str, count: int = 2) -> None:
    keys = {
        "device_keys": {"user_id": user_id, "device_id": device_id, "algorithms": ["m.megolm.v1.aes-sha2"],
                        "keys": {f"ed25519:{device_id}": "x"}, "signatures": {user_id: {f"ed25519:{device_id}": "s"}}},
        "one_time_keys": {f"signed_curve25519:{number}": {"key": f"k{number}", "signatures": {}} for number in range(count)},
        "fallback_keys": {"signed_curve25519:f": {"key": "f", "signatures": {}, "fallback": True}},
    }  # fmt: skip
    await bridge.ok("POST", "/keys/upload", keys, as_user=user_id, device_id=device_id)


async def test_an_encrypting_bridge_is_told_of_messages_to_its_devices_key_counts_and_device_lists(tmp_path, autojump_clock):
    async with bridged(tmp_path, **ENCRYPTING) as (_, a, bridge, alice):
        bot = "@ircbot:a.test"
        await bridge.ok("PUT", "/devices/BRIDGE", {})
        await upload_keys(bridge, bot, "BRIDGE")
        encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        room = await alice.create_room(preset="public_chat", initial_state=[encryption])
        await bridge.ok("POST", f"/join/{quote(room)}")
        await until(lambda: _is(bridge.told()))
        await trio.sleep(1)

        wanted = {"one_time_keys": {bot: {"BRIDGE": "signed_curve25519"}}}
        claimed = (await alice.ok("POST", "/keys/claim", wanted))["one_time_keys"][bot]["BRIDGE"]
        await trio.sleep(1)
        *_, last = bridge.transactions.values()
        assert last["events"] == []
        assert last["device_one_time_keys_count"] == {bot: {"BRIDGE": {"signed_curve25519": 1}}}
        assert last["org.matrix.msc3202.device_one_time_keys_count"] == last["device_one_time_keys_count"]
        assert last["device_unused_fallback_key_types"] == {bot: {"BRIDGE": ["signed_curve25519"]}}
        assert claimed

        await alice.ok("PUT", "/sendToDevice/m.room.encrypted/t1", {"messages": {bot: {"BRIDGE": {"body": "secret"}}}})
        await alice.ok("PUT", "/sendToDevice/m.room.encrypted/t2", {"messages": {bot: {"*": {"body": "second"}}}})
        await trio.sleep(1)
        secret = {"type": "m.room.encrypted", "sender": alice.user_id, "content": {"body": "secret"},
                  "to_user_id": bot, "to_device_id": "BRIDGE"}  # fmt: skip
        assert bridge.told("to_device") == [secret, {**secret, "content": {"body": "second"}}]
        assert bridge.told("de.sorunome.msc2409.to_device") == bridge.told("to_device")
        assert await a.box.ground.db.read(lambda tx: tx.all("SELECT * FROM to_device")) == []

        device_id = (await alice.ok("GET", "/account/whoami"))["device_id"]
        own = {"user_id": alice.user_id, "device_id": device_id, "algorithms": [], "keys": {}, "signatures": {}}
        await alice.ok("POST", "/keys/upload", {"device_keys": own})
        await trio.sleep(1)
        *_, last = bridge.transactions.values()
        assert last["device_lists"] == last["org.matrix.msc3202.device_lists"] == {"changed": [alice.user_id], "left": []}
        await alice.ok("POST", f"/rooms/{quote(room)}/leave")
        await trio.sleep(1)
        *_, last = bridge.transactions.values()
        assert last["device_lists"] == {"changed": [], "left": [alice.user_id]}


async def test_messages_to_devices_wait_for_a_bridge_that_is_down_and_survive_a_power_cut(tmp_path, autojump_clock):
    async with bridged(tmp_path, FAST, **ENCRYPTING) as (_, a, bridge, alice):
        await bridge.ok("PUT", "/devices/BRIDGE", {})
        bridge.down = True
        for number in range(250):
            messages = {"@ircbot:a.test": {"BRIDGE": {"number": number}}}
            await alice.ok("PUT", f"/sendToDevice/m.test/{number}", {"messages": messages})
        await trio.sleep(100)
        await a.kill()
        await a.start()
        bridge.down = False

        async def all_there() -> bool:
            return len(bridge.told("to_device")) >= 250

        await until(all_there)
        assert [one["content"]["number"] for one in bridge.told("to_device")] == list(range(250))
        assert max(len(body["to_device"]) for body in bridge.transactions.values()) == 100


async def test_a_bridge_that_did_not_ask_for_it_is_told_nothing_but_events(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _a, bridge, alice):
        room, ghost = await portal(bridge, alice)
        await bridge.ok("PUT", "/devices/GHOST", {}, as_user=ghost)
        await upload_keys(bridge, ghost, "GHOST")
        await alice.ok("POST", "/keys/claim", {"one_time_keys": {ghost: {"GHOST": "signed_curve25519"}}})
        await alice.ok("PUT", "/sendToDevice/m.test/t1", {"messages": {ghost: {"*": {}}}})
        await alice.ok("PUT", f"/rooms/{quote(room)}/typing/{quote(alice.user_id)}", {"typing": True})
        await alice.say(room, "one")
        await heard(bridge, "one")
        assert all(set(body) == {"events"} for body in bridge.transactions.values())
        synced = await bridge.ok("GET", "/sync", as_user=ghost, device_id="GHOST")  # and reads the rest as any client does
        assert [one["type"] for one in synced["to_device"]["events"]] == ["m.test"]


async def test_nothing_to_devices_of_people_goes_to_a_bridge_that_may_act_for_them(tmp_path, autojump_clock):
    namespaces = {"users": [{"regex": "@.*", "exclusive": False}], "aliases": [], "rooms": []}
    async with bridged(tmp_path, **{**ENCRYPTING, "namespaces": namespaces}) as (_, _, bridge, alice):
        assert (await bridge.ok("GET", "/account/whoami", as_user=alice.user_id))["user_id"] == alice.user_id
        await alice.ok("PUT", "/sendToDevice/m.test/t1", {"messages": {alice.user_id: {"*": {"for": "me"}}}})
        await alice.say(await alice.create_room(), "one")
        await heard(bridge, "one")
        assert bridge.told("to_device") == []
        assert [one["content"] for one in (await alice.sync())["to_device"]["events"]] == [{"for": "me"}]


# Queries


async def test_an_unknown_ghost_is_made_when_somebody_wants_it(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (world, _a, bridge, alice):
        async def make(user_id: str) -> bool:
            if "nobody" in user_id:
                return False
            await bridge.register(user_id[1:].partition(":")[0])
            await bridge.ok("PUT", f"/profile/{quote(user_id)}/displayname", {"displayname": "Made"}, as_user=user_id)
            return True

        bridge.user = make
        assert (await alice.ok("GET", "/profile/@irc_one:a.test")) == {"displayname": "Made"}
        room = await alice.create_room()
        await alice.invite(room, "@irc_two:a.test")
        member = await alice.ok("GET", f"/rooms/{quote(room)}/state/m.room.member/@irc_two:a.test")
        assert (member["membership"], member["displayname"]) == ("invite", "Made")
        b = await world.box("b")
        bob = await b.person("bob")
        assert (await bob.ok("GET", "/profile/@irc_three:a.test")) == {"displayname": "Made"}
        await bob.invite(await bob.create_room(), "@irc_four:a.test")
        for _ in range(3):
            assert (await alice.request("GET", "/profile/@irc_nobody:a.test")).status == 404
        assert (await alice.request("GET", "/profile/@other:a.test")).status == 404
        names = [quote(f"/users/@irc_{name}:a.test", safe="/:@") for name in ("one", "two", "three", "four", "nobody")]
        assert bridge.asked == names
        await trio.sleep(60)
        assert (await alice.request("GET", "/profile/@irc_nobody:a.test")).status == 404
        assert bridge.asked == [*names, names[-1]]


async def test_an_unknown_alias_gets_its_room_when_somebody_wants_it(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (world, _, bridge, alice):
        made: dict[str, str] = {}

        async def make(alias: str) -> bool:
            assert (await bridge.call("GET", f"/directory/room/{quote(alias)}")).status == 404  # it looks itself, as bridges do
            name = alias[1:].partition(":")[0]
            made[alias] = (await bridge.ok("POST", "/createRoom", {"room_alias_name": name, "preset": "public_chat"}))["room_id"]
            return True

        bridge.alias = make
        one, two = "#irc_one:a.test", "#irc_two:a.test"
        await alice.join(one)
        assert made[one] in (await alice.ok("GET", "/joined_rooms"))["joined_rooms"]
        b = await world.box("b")
        bob = await b.person("bob")
        assert (await bob.ok("GET", f"/directory/room/{quote(two)}"))["room_id"] == made[two]
        bridge.down = True
        assert (await alice.request("GET", f"/directory/room/{quote('#irc_three:a.test')}")).status == 408
        assert (await alice.request("GET", f"/directory/room/{quote('#other:a.test')}")).status == 404


async def test_a_bridge_that_hangs_keeps_nobody_waiting_for_long(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        bridge.hangs = True
        began = trio.current_time()
        assert (await alice.request("GET", "/profile/@irc_one:a.test")).status == 408
        assert trio.current_time() - began < 20
        assert (await alice.request("GET", "/profile/@irc_one:a.test")).status == 408
        assert trio.current_time() - began < 20
        await alice.invite(await alice.create_room(), "@irc_two:a.test")


async def test_a_bridge_that_is_back_within_moments_is_asked_again(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        async def make(user_id: str) -> bool:
            await bridge.register("irc_one")
            return True

        bridge.user, bridge.down = make, True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.ok, "GET", "/profile/@irc_one:a.test")
            await trio.sleep(1.5)
            bridge.down = False


async def test_a_service_that_knows_the_older_paths_alone_is_served(tmp_path, autojump_clock):
    async with bridged(tmp_path, protocols=["irc"]) as (_, _, bridge, alice):
        async def make(user_id: str) -> bool:
            await bridge.register("irc_one")
            return True

        bridge.legacy, bridge.user, bridge.third_party = True, make, {"protocol/irc": PROTOCOL}
        room, _ = await portal(bridge, alice)
        await alice.say(room, "one")
        await heard(bridge, "one")
        await alice.ok("GET", "/profile/@irc_one:a.test")
        assert list(await alice.ok("GET", "/thirdparty/protocols")) == ["irc"]
        bridge.legacy = False
        await trio.sleep(4000)
        await alice.say(room, "two")
        await heard(bridge, "one", "two")


async def test_of_queries_to_a_bridge_only_so_many_wait(tmp_path, autojump_clock):
    async with bridged(tmp_path, FAST) as (_, _a, bridge, alice):
        bridge.hangs = True
        took: list[float] = []

        async def ask(number: int) -> None:
            began = trio.current_time()
            assert (await alice.request("GET", f"/profile/@irc_{number}:a.test")).status == 408
            took.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(ask, number)
        assert max(took) < 90
        assert sum(one < 1 for one in took) >= 40


async def test_who_is_not_logged_in_has_no_bridge_asked_for_aliases(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, _alice):
        path = f"/_matrix/client/v3/directory/room/{quote('#irc_one:a.test')}"
        answer = await AsgiClient(a.box.app).get(path)
        assert (answer.status, answer.json["errcode"], bridge.asked) == (404, "M_NOT_FOUND", [])


PROTOCOL = {
    "user_fields": ["nick"], "location_fields": ["channel"], "icon": "mxc://a.test/x",
    "field_types": {"nick": {"regexp": ".*", "placeholder": "nick"}},
    "instances": [{"desc": "Hills", "fields": {}, "network_id": "hills", "icon": "mxc://a.test/y"}, {"desc": 7}],
}  # fmt: skip


async def test_third_party_networks_are_told_and_looked_up(tmp_path, autojump_clock):
    async with bridged(tmp_path, FAST, protocols=["irc", "gone"]) as (_, _, bridge, alice):
        user = {"userid": "@irc_bob:a.test", "protocol": "irc", "fields": {"nick": "bob"}}
        place = {"alias": "#irc_hills:a.test", "protocol": "irc", "fields": {}}
        bridge.third_party = {
            "protocol/irc": PROTOCOL,
            "user/irc?nick=b+b%26": [user, {"userid": 3}],
            "location/irc?channel=hills": [place],
            "user?userid=%40irc_bob%3Aa.test": [user],
            "location?alias=%23irc_hills%3Aa.test": [place],
            "location/irc?channel=broken": {"no": "list"},
        }
        shown = {**PROTOCOL, "instances": [{**PROTOCOL["instances"][0], "instance_id": "irc|hills"}]}
        assert await alice.ok("GET", "/thirdparty/protocols") == {"irc": shown}
        assert await alice.ok("GET", "/thirdparty/protocol/irc") == shown
        assert bridge.asked.count("/thirdparty/protocol/irc") == 1
        assert await alice.ok("GET", "/thirdparty/user/irc", query={"nick": "b b&"}) == [user]
        assert await alice.ok("GET", "/thirdparty/location/irc", query={"channel": "hills"}) == [place]
        assert await alice.ok("GET", "/thirdparty/user", query={"userid": "@irc_bob:a.test"}) == [user]
        assert await alice.ok("GET", "/thirdparty/location", query={"alias": "#irc_hills:a.test"}) == [place]
        for path, query in (("protocol/gone", {}), ("protocol/none", {}), ("user/none", {}), ("user/irc", {"nick": "x"}),
                            ("location/irc", {"channel": "broken"}), ("user", {"userid": "@alice:a.test"})):  # fmt: skip
            answer = await alice.request("GET", f"/thirdparty/{path}", query=query)
            assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND"), path
        for path, code in (("user", "M_MISSING_PARAM"), ("user?userid=x", "M_INVALID_PARAM"), ("location?alias=x", "M_INVALID_PARAM")):
            answer = await alice.request("GET", f"/thirdparty/{path}")
            assert (answer.status, answer.json["errcode"]) == (400, code)


async def test_rooms_of_a_network_are_listed_apart(tmp_path, autojump_clock):
    async with bridged(tmp_path, protocols=["irc"]) as (world, a, bridge, alice):
        own = await alice.create_room(visibility="public", preset="public_chat", name="Own")
        theirs = await alice.create_room(preset="public_chat", name="Bridged")
        path = f"/directory/list/appservice/hills/{quote(theirs)}"
        await bridge.ok("PUT", path, {"visibility": "public"})
        b = await world.box("b")
        bob = await b.person("bob")

        async def listed(person: Person, **body: Any) -> list[str]:
            query = {} if person is alice else {"server": "a.test"}
            return [room["room_id"] for room in (await person.ok("POST", "/publicRooms", body, query=query))["chunk"]]

        for person in (alice, bob):
            assert await listed(person) == [own]
            assert await listed(person, third_party_instance_id="irc|hills") == [theirs]
            assert await listed(person, third_party_instance_id="irc|other") == []
            assert set(await listed(person, include_all_networks=True)) == {own, theirs}
        found = await listed(alice, include_all_networks=True, filter={"generic_search_term": "bridg"})
        assert found == [theirs]
        await bridge.ok("PUT", path, {"visibility": "private"})
        assert await listed(alice, third_party_instance_id="irc|hills") == []
        for json, code in (({}, "M_MISSING_PARAM"), ({"visibility": "x"}, "M_INVALID_PARAM")):
            assert (await bridge.call("PUT", path, json)).json["errcode"] == code
        unknown = await bridge.call("PUT", "/directory/list/appservice/hills/!x:a.test", {"visibility": "public"})
        assert (unknown.status, unknown.json["errcode"]) == (404, "M_NOT_FOUND")
        refused = await alice.request("PUT", path, {"visibility": "public"})
        assert (refused.status, refused.json["errcode"]) == (403, "M_FORBIDDEN")
        for other in (f"/directory/list/appservice/{'x' * 256}/{quote(theirs)}", "/directory/list/appservice/hills/nonsense"):
            refused = await bridge.call("PUT", other, {"visibility": "public"})
            assert (refused.status, refused.json["errcode"]) == (400, "M_INVALID_PARAM")
        many = [("irc", "hills", f"!{number}:a.test") for number in range(10_000)]
        await a.box.ground.db.write(lambda tx: tx.executemany("INSERT INTO bridge_rooms VALUES (?, ?, ?)", many))
        refused = await bridge.call("PUT", path, {"visibility": "public"})
        assert (refused.status, refused.json["errcode"]) == (400, "M_INVALID_PARAM")


PING = "/_matrix/client/v1/appservice/irc/ping"


async def test_a_ping_says_how_long_it_took_or_what_is_wrong(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        assert 0 < (await bridge.ok("POST", PING, {"transaction_id": "t"}))["duration_ms"] < 1000
        bridge.status = 418
        answer = await bridge.call("POST", PING)
        assert (answer.status, answer.json["errcode"], answer.json["status"]) == (502, "M_BAD_STATUS", 418)
        assert "out of order" in answer.json["body"]
        bridge.hangs = True
        answer = await bridge.call("POST", PING)
        assert (answer.status, answer.json["errcode"]) == (504, "M_CONNECTION_TIMEOUT")
        bridge.down = True
        answer = await bridge.call("POST", PING)
        assert (answer.status, answer.json["errcode"]) == (502, "M_CONNECTION_FAILED")
        other = await bridge.call("POST", "/_matrix/client/v1/appservice/xmpp/ping")
        assert (other.status, other.json["errcode"]) == (403, "M_FORBIDDEN")
        for txn_id in (7, "x" * 256):
            assert (await bridge.call("POST", PING, {"transaction_id": txn_id})).json["errcode"] == "M_BAD_JSON"
        people = await alice.request("POST", "/../v1/appservice/irc/ping")
        assert people.status in (403, 404)


async def test_a_service_without_a_url_is_sent_nothing_and_cannot_be_pinged(tmp_path, autojump_clock):
    async with bridged(tmp_path, url=None) as (_, _, bridge, alice):
        room, _ = await portal(bridge, alice)
        await alice.say(room, "one")
        answer = await bridge.call("POST", PING)
        assert (answer.status, answer.json["errcode"]) == (400, "M_URL_NOT_SET")
        assert (await alice.request("GET", "/profile/@irc_one:a.test")).status == 404
        assert bridge.attempts == []


# Who it is


async def test_the_services_own_account_is_made_and_the_first_person_is_still_the_owner(tmp_path, autojump_clock):
    from edgeserver.app.box import _owner

    bridge = Bridge()
    async with World(tmp_path) as world:
        bridge.register_in(world, "a")
        a = bridge.box = await world.box("a", bridge.config)
        assert (await bridge.ok("GET", "/account/whoami"))["user_id"] == "@ircbot:a.test"
        owner = await _owner(a.box)
        assert owner is not None
        assert owner[0] == "@owner:a.test"


async def test_names_in_exclusive_namespaces_are_nobody_elses(tmp_path, autojump_clock):
    text = '[accounts]\nregistration = "open"\n'
    async with bridged(tmp_path, text) as (_, _, bridge, alice):
        for name, code in (("irc_eve", "M_EXCLUSIVE"), ("ircbot", "M_USER_IN_USE")):
            body = {"username": name, "password": "correct horse battery"}
            refused = await alice.request("POST", "/register", body)
            assert (refused.status, refused.json["errcode"]) == (400, code)
            available = await alice.request("GET", f"/register/available?username={name}")
            assert (available.status, available.json["errcode"]) == (400, code)
        room = await alice.create_room()
        refused = await alice.request("PUT", f"/directory/room/{quote('#irc_x:a.test')}", {"room_id": room})
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        refused = await alice.request("POST", "/createRoom", {"room_alias_name": "irc_x"})
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        ghost = await bridge.register("irc_eve")
        theirs = await bridge.ok("POST", "/createRoom", {"room_alias_name": "irc_x", "preset": "public_chat"}, as_user=ghost)
        await alice.join(theirs["room_id"])
        refused = await alice.request("DELETE", f"/directory/room/{quote('#irc_x:a.test')}")
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        refused = await bridge.call("PUT", f"/directory/room/{quote('#x:a.test')}", {"room_id": theirs["room_id"]}, as_user=ghost)
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        await bridge.ok("PUT", f"/directory/room/{quote('#irc_y:a.test')}", {"room_id": room})  # its namespace, whoever is in the room
        await bridge.ok("DELETE", f"/directory/room/{quote('#irc_x:a.test')}")
        taken = await bridge.call("POST", "/register", {"type": "m.login.application_service", "username": "irc_eve"})
        assert (taken.status, taken.json["errcode"]) == (400, "M_USER_IN_USE")
        outside = await bridge.call("POST", "/register", {"type": "m.login.application_service", "username": "eve"})
        assert (outside.status, outside.json["errcode"]) == (400, "M_EXCLUSIVE")


async def test_a_ghost_logs_in_syncs_and_logs_out(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, ghost = await portal(bridge, alice)
        login = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": ghost}}
        session = await bridge.ok("POST", "/login", login)
        person = Person(a, ghost, session["access_token"])
        assert room in (await person.sync())["rooms"]["join"]
        await person.ok("POST", "/logout")
        assert (await person.request("GET", "/account/whoami")).status == 401
        assert room in (await bridge.ok("GET", "/sync", as_user=ghost))["rooms"]["join"]
        human = {**login, "identifier": {"type": "m.id.user", "user": "alice"}}
        refused = await bridge.call("POST", "/login", human)
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        for path in ("/login", "/register"):
            refused = await alice.request("POST", path, {**login, "username": "irc_eve"})
            assert (refused.status, refused.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")
            nobody = await AsgiClient(a.box.app).post(f"/_matrix/client/v3{path}", login)
            assert (nobody.status, nobody.json["errcode"]) == (401, "M_MISSING_TOKEN")
        await bridge.ok("POST", "/account/deactivate", {}, as_user=ghost)
        gone = await bridge.call("GET", "/account/whoami", as_user=ghost)
        assert (gone.status, gone.json["errcode"]) == (403, "M_USER_DEACTIVATED")


OUTSIDE = ["@alice:a.test", "@irc_stranger:b.test", "@irc_unregistered:a.test", "nonsense", f"@irc_{'x' * 300}:a.test"]
OF_A_USER = [
    ("GET", "/account/whoami"), ("GET", "/sync"), ("GET", "/devices"), ("GET", "/joined_rooms"), ("POST", "/createRoom"),
    ("POST", "/account/deactivate"), ("PUT", "/devices/X"), ("POST", "/delete_devices"), ("GET", "/pushrules/"), ("POST", "/keys/upload"),
    ("POST", "/keys/query"), ("POST", "/keys/device_signing/upload"), ("PUT", "/sendToDevice/m.test/t"), ("POST", "/logout/all"),
    ("PUT", "/profile/@alice:a.test/displayname"), ("GET", "/user/@alice:a.test/account_data/m.x"), ("GET", "/room_keys/version"),
]  # fmt: skip


async def test_an_as_token_reaches_nobody_outside_its_namespaces(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        for method, path in OF_A_USER:
            for as_user in OUTSIDE:
                answer = await bridge.call(method, path, {"displayname": "x", "messages": {}}, as_user=as_user)
                assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN"), (method, path, as_user)
        assert (await alice.ok("GET", "/account/whoami"))["user_id"] == alice.user_id


async def test_a_ghost_may_no_more_than_any_user(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        ghost = await bridge.register("irc_bob")
        room = await alice.create_room()
        device = (await alice.ok("GET", "/account/whoami"))["device_id"]
        for method, path, body in (
            ("PUT", f"/rooms/{quote(room)}/send/m.room.message/1", {"msgtype": "m.text", "body": "x"}),
            ("GET", f"/rooms/{quote(room)}/messages", None), ("GET", f"/rooms/{quote(room)}/state", None),
            ("PUT", "/profile/@alice:a.test/displayname", {"displayname": "x"}), ("GET", "/user/@alice:a.test/account_data/m.x", None),
            ("GET", "/admin/whois/@alice:a.test", None), ("PUT", f"/rooms/{quote(room)}/typing/@alice:a.test", {"typing": True}),
            ("POST", f"/rooms/{quote(room)}/join", {}),
        ):  # fmt: skip
            for user in (ghost, None):
                answer = await bridge.call(method, path, body, as_user=user, dir="b")
                assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN"), (path, answer.body)
        assert (await bridge.call("GET", f"/devices/{device}", as_user=ghost)).status == 404
        forged = {"device_keys": {"user_id": "@alice:a.test", "device_id": device, "algorithms": [], "keys": {}, "signatures": {}}}
        await bridge.ok("PUT", f"/devices/{device}", {}, as_user=ghost)
        answer = await bridge.call("POST", "/keys/upload", forged, as_user=ghost, device_id=device)
        assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("limited", [True, False])
async def test_rate_limits_are_lifted_unless_the_registration_says_otherwise(tmp_path, autojump_clock, limited):
    async with bridged(tmp_path, rate_limited=limited) as (_, _, bridge, _alice):
        ghost = await bridge.register("irc_bob")
        answers = [(await bridge.call("POST", "/createRoom", as_user=ghost)).status for _ in range(12)]
        assert (429 in answers) is limited
        own = [(await bridge.call("POST", "/createRoom")).status for _ in range(12)]
        assert set(own) == {200}


async def test_a_bad_registration_keeps_the_box_from_starting(tmp_path):
    from edgeserver.app.box import Wires, open_box
    from edgeserver.config import parse

    (tmp_path / "bad.yaml").write_text("id: [")
    with pytest.raises(RegistrationError, match=r"bad\.yaml: it is not valid YAML"):
        async with open_box(parse('[bridges]\nregistrations = ["bad.yaml"]\n', tmp_path), Wires(inline=True)):
            pass
    with pytest.raises(RegistrationError, match=r"none\.yaml cannot be read"):
        async with open_box(parse('[bridges]\nregistrations = ["none.yaml"]\n', tmp_path), Wires(inline=True)):
            pass
