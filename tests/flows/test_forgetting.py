"""Forgetting: a room that somebody has left and forgotten is gone from all that they are told, until they come back to it."""

from __future__ import annotations

from urllib.parse import quote

from tests.flows.world import Person, World

WITH_LEFT = {"filter": '{"room":{"include_leave":true}}'}


async def told(person: Person) -> dict[str, list[str]]:
    """The rooms of an initial sync, left ones included, by section."""
    rooms = (await person.ok("GET", "/sync", query={"timeout": "0", **WITH_LEFT})).get("rooms", {})
    return {section: list(found) for section, found in rooms.items() if found}


async def test_a_forgotten_room_is_told_of_no_more_until_one_is_back(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice, bob = await a.person("alice"), await a.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        path = f"/rooms/{quote(room_id)}"
        await bob.join(room_id)
        await bob.sync()
        answer = await bob.request("POST", f"{path}/forget")
        assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN")
        await bob.ok("POST", f"{path}/leave")
        assert room_id in (await bob.sync())["rooms"]["leave"]
        assert await told(bob) == {"leave": [room_id]}
        await bob.ok("POST", f"{path}/forget")
        await bob.ok("POST", f"{path}/forget")  # once more does no harm
        assert room_id not in str((await bob.sync()).get("rooms"))
        assert await told(bob) == {}
        assert await bob.ok("GET", "/joined_rooms") == {"joined_rooms": []}
        assert (await bob.request("GET", f"{path}/messages?dir=b")).status == 403
        # Being banned, and no longer, is nothing that one comes back by.
        for what in ("ban", "unban"):
            await alice.ok("POST", f"{path}/{what}", {"user_id": bob.user_id})
            assert room_id not in str((await bob.sync()).get("rooms"))
            assert await told(bob) == {}
        await alice.invite(room_id, bob.user_id)
        assert await told(bob) == {"invite": [room_id]}
        await bob.ok("POST", f"{path}/leave")
        assert await told(bob) == {"leave": [room_id]}
        await bob.ok("POST", f"{path}/forget")
        await bob.join(room_id)
        assert await told(bob) == {"join": [room_id]}


async def test_an_invite_from_elsewhere_is_declined_and_forgotten_and_a_knock_ends_forgetting(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}])
        path = f"/rooms/{quote(room_id)}"
        await alice.invite(room_id, bob.user_id)
        answer = await bob.request("POST", f"{path}/forget")
        assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN")
        await bob.ok("POST", f"{path}/leave")
        await bob.ok("POST", f"{path}/forget")
        assert await told(bob) == {}
        await bob.ok("POST", f"/knock/{quote(room_id)}?via=a.test")
        assert await told(bob) == {"knock": [room_id]}
