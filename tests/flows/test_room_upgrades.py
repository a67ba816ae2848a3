"""A room is upgraded on one box: the people of both boxes follow it, and find there what they had set for the old one."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.flows.world import Person, World, until


async def settings(person: Person, room_id: str, friend: str) -> None:
    """What a client sets for a room: a tag, a direct chat, a rule of the kind room, one that mutes it, and one of no room."""
    user = f"/user/{quote(person.user_id)}"
    await person.ok("PUT", f"{user}/rooms/{quote(room_id)}/tags/m.favourite", {"order": 0.5})
    await person.ok("PUT", f"{user}/account_data/m.direct", {friend: [room_id], "@other:x": ["!else:x"], "odd": 1})
    await person.ok("PUT", f"/pushrules/global/room/{quote(room_id, safe='')}", {"actions": []})
    mute = {"actions": [], "conditions": [{"kind": "event_match", "key": "room_id", "pattern": room_id}]}
    await person.ok("PUT", f"/pushrules/global/override/{quote(room_id, safe='')}", mute)
    await person.ok("PUT", f"/pushrules/global/override/{quote(room_id, safe='')}/enabled", {"enabled": False})
    await person.ok("PUT", "/pushrules/global/content/tea", {"actions": ["notify"], "pattern": "tea"})


async def assert_settings(person: Person, old: str, new: str, friend: str) -> None:
    user = f"/user/{quote(person.user_id)}"
    for room_id in (old, new):
        tags = await person.ok("GET", f"{user}/rooms/{quote(room_id)}/tags")
        assert tags == {"tags": {"m.favourite": {"order": 0.5}}}
    assert await person.ok("GET", f"{user}/account_data/m.direct") == {friend: [old, new], "@other:x": ["!else:x"], "odd": 1}
    rules = (await person.ok("GET", "/pushrules/"))["global"]
    assert {rule["rule_id"] for rule in rules["room"]} == {old, new}
    override = {rule["rule_id"]: rule for rule in rules["override"] if not rule["default"]}
    assert {rule_id: (rule["conditions"][0]["pattern"], rule["enabled"]) for rule_id, rule in override.items()} == {
        old: (old, False),
        new: (new, False),
    }


@pytest.mark.parametrize("version", ["11", "12"])
async def test_people_of_two_boxes_follow_a_room_with_their_settings(tmp_path, autojump_clock, version):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        old = await alice.create_room(preset="public_chat", room_version="10", name="Harbour")
        await bob.join(old, via="a.test")
        await bob.ok("PUT", "/directory/room/" + quote("#harbour:b.test"), {"room_id": old})
        await settings(alice, old, bob.user_id)
        await settings(bob, old, alice.user_id)
        new = (await alice.ok("POST", f"/rooms/{quote(old)}/upgrade", {"new_version": version}))["replacement_room"]
        await assert_settings(alice, old, new, bob.user_id)

        async def bob_sees_the_tombstone() -> bool:
            return ("m.room.tombstone", "") in await bob.state(old)

        await until(bob_sees_the_tombstone)
        assert (await bob.ok("GET", "/directory/room/" + quote("#harbour:b.test")))["room_id"] == old
        await bob.sync()
        await bob.join(new)  # of a room of version 12 the id names no server: the old room tells of them
        await assert_settings(bob, old, new, alice.user_id)
        heard = await bob.sync()
        told = heard["rooms"]["join"][new]["account_data"]["events"]
        assert {"type": "m.tag", "content": {"tags": {"m.favourite": {"order": 0.5}}}} in told
        assert (await bob.ok("GET", "/directory/room/" + quote("#harbour:b.test")))["room_id"] == new
        await bob.say(new, "here")

        async def alice_hears() -> bool:
            return await alice.texts(new) == ["here"]

        await until(alice_hears)
        assert (await bob.request("PUT", f"/rooms/{quote(old)}/send/m.room.message/x", {"body": "still"})).status == 403


async def test_a_room_that_merely_claims_to_replace_another_takes_nothing(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, mallory = await a.person("alice"), await b.person("mallory")
        old = await alice.create_room(preset="private_chat", room_alias_name="den", visibility="public")
        await settings(alice, old, "@friend:x")
        claim = {"predecessor": {"room_id": old}}
        trap = await mallory.create_room(preset="public_chat", creation_content=claim)
        await alice.join(trap, via="b.test")
        user = f"/user/{quote(alice.user_id)}"
        assert await alice.ok("GET", f"{user}/rooms/{quote(trap)}/tags") == {"tags": {}}
        assert (await alice.ok("GET", f"{user}/account_data/m.direct"))["@friend:x"] == [old]
        assert (await alice.ok("GET", "/directory/room/" + quote("#den:a.test")))["room_id"] == old
        assert [room["room_id"] for room in (await alice.ok("GET", "/publicRooms"))["chunk"]] == [old]


async def test_who_is_in_the_new_room_before_hearing_of_the_tombstone_keeps_their_settings_too(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        old = await alice.create_room(preset="public_chat", room_version="10")
        await bob.join(old, via="a.test")
        await settings(bob, old, alice.user_id)
        world.internet.cut("a.test", "b.test")
        new = (await alice.ok("POST", f"/rooms/{quote(old)}/upgrade", {"new_version": "12"}))["replacement_room"]
        world.internet.heal()
        await bob.join(new, via="a.test")

        async def the_tombstone_has_come() -> bool:
            return ("m.room.tombstone", "") in await bob.state(old)

        await until(the_tombstone_has_come)
        await assert_settings(bob, old, new, alice.user_id)
