"""Ephemeral data, and what a bridge that encrypts has to know."""

from __future__ import annotations

from urllib.parse import quote

import trio
import yaml

from edgeserver.bridges import contents, registration
from edgeserver.bridges.contents import Batch, Ephemera
from edgeserver.bridges.services import Service
from edgeserver.store.database import Transaction
from tests.bridges.story import ENCRYPTING, FAST, bridged, heard, is_there, portal, say
from tests.flows.world import until
from tests.lab.bridge import Bridge


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


async def test_who_types_again_is_told_of_again(tmp_path, autojump_clock):
    async with bridged(tmp_path, receive_ephemeral=True) as (_, _, bridge, alice):
        room, _ = await portal(bridge, alice)
        for _ in range(3):
            await alice.ok("PUT", f"/rooms/{quote(room)}/typing/{quote(alice.user_id)}", {"typing": True, "timeout": 20000})
            await trio.sleep(60)
        assert [one["content"]["user_ids"] for one in bridge.told("ephemeral")] == [[alice.user_id], []] * 3


async def test_presence_of_whoever_shares_a_room_is_told(tmp_path, autojump_clock):
    async with bridged(tmp_path, receive_ephemeral=True) as (_, a, bridge, alice):
        _, ghost = await portal(bridge, alice)
        bob = await a.person("bob")
        await bob.create_room()
        await trio.sleep(1)
        service = Service(registration.parse(yaml.safe_dump(bridge.file()).encode()), "a.test")
        shown = {one: {"presence": "online"} for one in (alice.user_id, bob.user_id, ghost)}

        def read(tx: Transaction) -> Batch:
            return contents.read(tx, service, tx.position, tx.position, Ephemera(1, {}, shown), 0)

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
        await until(lambda: is_there(bridge.told()))
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
        await a.box.ground.db.write(lambda tx: None)  # that they are taken is noted in the next commit
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


async def test_large_messages_to_devices_are_sent_in_several_transactions(tmp_path, autojump_clock):
    async with bridged(tmp_path, FAST, **ENCRYPTING) as (_, _, bridge, alice):
        await bridge.ok("PUT", "/devices/BRIDGE", {})
        bridge.down = True
        for number in range(30):
            messages = {"@ircbot:a.test": {"BRIDGE": {"number": number, "body": "x" * 60_000}}}
            await alice.ok("PUT", f"/sendToDevice/m.test/{number}", {"messages": messages})
        bridge.down = False

        async def all_there() -> bool:
            return len(bridge.told("to_device")) >= 30

        await until(all_there)
        assert [one["content"]["number"] for one in bridge.told("to_device")] == list(range(30))
        assert max(len(body.get("to_device", [])) for body in bridge.transactions.values()) < 10


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
