"""Keys of people on other boxes: lists that follow, heal, and one-time keys that run out."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.api.test_keys import cross_signing, device, one_time
from tests.flows.world import Person, World, until

ENCRYPTED = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}


async def two_people(world: World) -> tuple[Person, Person, str]:
    a, b = await world.box("a"), await world.box("b")
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.create_room(preset="public_chat", initial_state=[ENCRYPTED])
    await bob.join(room, via="a.test")
    return alice, bob, room


async def device_id(person: Person) -> str:
    return str((await person.ok("GET", "/account/whoami"))["device_id"])


async def seen(viewer: Person, owner: Person) -> Any:
    return await viewer.ok("POST", "/keys/query", {"device_keys": {owner.user_id: []}})


async def told_of(viewer: Person, owner: Person) -> None:
    async def told() -> bool:
        return owner.user_id in (await viewer.sync()).get("device_lists", {}).get("changed", [])

    await until(told)


async def test_one_time_keys_are_claimed_across_boxes_and_then_the_fallback_key(tmp_path: Path, autojump_clock: Any):
    async with World(tmp_path) as world:
        alice, bob, _ = await two_people(world)
        its = await device_id(alice)
        fallback = {"signed_curve25519:f": {"key": "f", "fallback": True, "signatures": {}}}
        await alice.ok("POST", "/keys/upload", {"one_time_keys": one_time("k"), "fallback_keys": fallback})
        claim = {"one_time_keys": {alice.user_id: {its: "signed_curve25519", "unknown": "signed_curve25519"}}}
        for expected in (one_time("k"), fallback, fallback):
            answer = await bob.ok("POST", "/keys/claim", claim)
            assert answer == {"one_time_keys": {alice.user_id: {its: expected}}, "failures": {}}
        told = await alice.sync()
        assert told["device_one_time_keys_count"] == {"signed_curve25519": 0}
        assert told["device_unused_fallback_key_types"] == []


async def test_changes_of_devices_and_signing_keys_reach_clients_of_another_box(tmp_path: Path, autojump_clock: Any):
    async with World(tmp_path) as world:
        alice, bob, _ = await two_people(world)
        its = await device_id(alice)
        await bob.sync()
        await alice.ok("POST", "/keys/upload", {"device_keys": device(alice.user_id, its)[0]})
        await told_of(bob, alice)
        assert set((await seen(bob, alice))["device_keys"][alice.user_id]) == {its}
        keys, _ = cross_signing(alice.user_id)
        await alice.ok("POST", "/keys/device_signing/upload", keys)
        await told_of(bob, alice)
        found = await seen(bob, alice)
        assert found["master_keys"] == {alice.user_id: keys["master_key"]}
        assert found["self_signing_keys"] == {alice.user_id: keys["self_signing_key"]}
        assert "user_signing_keys" not in found
        await alice.ok("PUT", f"/devices/{quote(its)}", {"display_name": "harbour phone"})
        await told_of(bob, alice)
        shown = (await seen(bob, alice))["device_keys"][alice.user_id][its]
        assert shown["unsigned"] == {}  # other servers are not told what people call their devices


async def test_an_update_that_was_lost_is_healed_by_the_next(tmp_path: Path, autojump_clock: Any):
    async with World(tmp_path) as world:
        alice, bob, _ = await two_people(world)
        await bob.sync()
        its = await device_id(alice)
        await alice.ok("POST", "/keys/upload", {"device_keys": device(alice.user_id, its)[0]})
        await told_of(bob, alice)
        await seen(bob, alice)
        world.internet.cut("a.test", "b.test")
        box, lists = alice.box.box, alice.box.box.users.device_lists

        def lose(tx: Any) -> None:  # a change that is queued for nobody
            lists.device_changed(tx, alice.user_id, "LOST")
            tx.execute("DELETE FROM outbox WHERE edu_type = 'm.device_list_update'")

        await box.ground.db.write(lose)
        changed = device(alice.user_id, its)[0] | {"algorithms": ["m.megolm.v1.aes-sha2"]}
        await alice.ok("POST", "/keys/upload", {"device_keys": changed})
        world.internet.heal()
        await told_of(bob, alice)
        before = len(world.internet.signed)
        shown = (await seen(bob, alice))["device_keys"][alice.user_id]
        assert shown[its]["algorithms"] == ["m.megolm.v1.aes-sha2"]
        asked = [what for who, _, what, _ in world.internet.signed[before:] if who == "b.test" and "/user/devices/" in what]
        assert len(asked) == 1
