"""Invites that nobody takes, and people who are ignored: what does not arrive, from here and from other servers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from edgeserver.store import unread
from tests.flows.world import Person, World, until

BLOCK = {"default_action": "block"}


async def set_data(person: Person, kind: str, content: dict[str, Any]) -> None:
    await person.ok("PUT", f"/user/{person.user_id}/account_data/{kind}", content)


async def invite(person: Person, room: str, target: str) -> tuple[int, str]:
    answer = await person.request("POST", f"/rooms/{quote(room)}/invite", {"user_id": target})
    return answer.status, answer.json.get("errcode", "")


async def invites(person: Person) -> set[str]:
    """Rooms to which a client that starts anew sees itself invited."""
    person.since = None
    return set((await person.sync()).get("rooms", {}).get("invite", {}))


async def test_who_takes_no_invites_gets_none_from_here(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice, bob = await a.person("alice"), await a.person("bob")
        before, room = await alice.create_room(), await alice.create_room()
        await alice.invite(before, bob.user_id)
        assert await invites(bob) == {before}
        await set_data(bob, "m.invite_permission_config", BLOCK)
        assert await invites(bob) == set()  # what is in the store already is not shown either
        refused = (403, "M_INVITE_BLOCKED")
        assert await invite(alice, room, bob.user_id) == refused
        member = f"/rooms/{quote(room)}/state/m.room.member/{bob.user_id}"
        answer = await alice.request("PUT", member, {"membership": "invite"})
        assert (answer.status, answer.json["errcode"]) == refused
        answer = await alice.request("POST", "/createRoom", {"invite": [bob.user_id]})
        assert (answer.status, answer.json["errcode"]) == refused
        await set_data(bob, "m.invite_permission_config", {})
        assert await invites(bob) == {before}
        assert await invite(alice, room, bob.user_id) == (200, "")
        for odd in ({"default_action": "allow"}, {"default_action": ["block"]}, {"something": "else"}):
            await set_data(bob, "m.invite_permission_config", odd)
            assert await invites(bob) == {before, room}


async def test_who_takes_no_invites_gets_none_from_other_servers(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        await set_data(bob, "m.invite_permission_config", BLOCK)
        for version in ("1", "10", "12"):  # PUT /v1/invite and /v2/invite
            room = await alice.create_room(room_version=version)
            assert await invite(alice, room, bob.user_id) == (403, "M_INVITE_BLOCKED")
        assert await invites(bob) == set()
        await set_data(bob, "m.invite_permission_config", {})
        assert await invite(alice, room, bob.user_id) == (200, "")


async def test_an_invite_that_is_blocked_notifies_nobody_even_where_it_comes_as_an_event(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob, carol = await a.person("alice"), await b.person("bob"), await b.person("carol")
        room = await alice.create_room()
        await alice.invite(room, carol.user_id)
        await carol.join(room, "a.test")
        await set_data(bob, "m.invite_permission_config", BLOCK)
        # A server that does not ask first: the invite is sent to the room, of which bob's server is a part
        await a.box.rooms.composer.send(room, alice.user_id, "m.room.member", {"membership": "invite"}, state_key=bob.user_id)

        async def arrived() -> bool:
            return ("m.room.member", bob.user_id) in await carol.state(room)

        await until(arrived)
        assert await invites(bob) == set()
        await set_data(bob, "m.invite_permission_config", {})
        assert await invites(bob) == {room}


async def test_ignored_people_are_neither_heard_nor_seen_typing_or_reading_and_their_state_is(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob, eve = await a.person("alice"), await a.person("bob"), await b.person("eve")
        room = await alice.create_room(preset="public_chat", power_level_content_override={"state_default": 0})
        await bob.join(room)
        await eve.join(room, "a.test")
        await until(lambda: _has_member(alice, room, eve.user_id))
        await alice.sync()
        await set_data(alice, "m.ignored_user_list", {"ignored_users": {eve.user_id: {}}})
        path = f"/rooms/{quote(room)}"
        said, kept = await eve.say(room, "@room look"), await bob.say(room, "hello")
        await eve.ok("PUT", f"{path}/state/m.room.topic", {"topic": "Eve was here"})
        await eve.ok("POST", f"{path}/receipt/m.read/{quote(said)}")
        await eve.ok("PUT", f"{path}/typing/{eve.user_id}", {"typing": True, "timeout": 60_000})
        await bob.ok("PUT", f"{path}/typing/{bob.user_id}", {"typing": True, "timeout": 60_000})
        await bob.ok("POST", f"{path}/receipt/m.read/{quote(kept)}")

        async def eve_is_typing() -> bool:
            return eve.user_id in a.box.users.typing.in_room(room) and "Eve was here" in str(await alice.ok("GET", f"{path}/state"))

        await until(eve_is_typing)
        section = (await alice.sync())["rooms"]["join"][room]
        events = section["timeline"]["events"]
        assert [event["content"].get("body") for event in events if event["type"] == "m.room.message"] == ["hello"]
        assert "m.room.topic" in [event["type"] for event in events]
        assert bob.user_id in str(section["ephemeral"])
        assert eve.user_id not in str(section["ephemeral"])
        number = (await a.box.ground.db.read(lambda tx: _room(tx, room)))
        counted = await a.box.ground.db.read(lambda tx: unread.of_user(tx, number, alice.user_id))
        assert counted[unread.MAIN].notifications == 1
        # Invites of ignored people are not shown; those of others are
        theirs = await eve.create_room()
        await eve.invite(theirs, alice.user_id)
        assert await invites(alice) == set()
        await set_data(alice, "m.ignored_user_list", {"ignored_users": {}})
        assert await invites(alice) == {theirs}
        await eve.say(room, "am I heard?")

        async def heard() -> bool:
            await alice.sync()
            return "am I heard?" in [event["content"].get("body") for event in alice.heard[room]]

        await until(heard)


async def _has_member(person: Person, room: str, user_id: str) -> bool:
    return ("m.room.member", user_id) in await person.state(room)


def _room(tx: Any, room_id: str) -> int:
    from edgeserver.store import rooms

    found = rooms.get(tx, room_id)
    assert found is not None
    return found.number
