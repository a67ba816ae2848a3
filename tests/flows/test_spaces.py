"""Spaces and rooms as people see them who are not in them, through their own box and through others'."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.api.answer_schemas import faults_of
from tests.asgi import Answer, AsgiClient
from tests.flows.world import Person, World

QUIET = "[limits]\nrate_limits = false\n"
SPACE = {"creation_content": {"type": "m.space"}}


async def ask(person: Person, path: str, *, query: dict[str, Any] | None = None, anonymous: bool = False) -> Answer:
    """An answer, which fits the specification if it is 200."""
    client = AsgiClient(person.box.box.app, token=None if anonymous else person.token)
    answer = await client.request("GET", path, query={key: str(value) for key, value in (query or {}).items()})
    if answer.status == 200 and "unstable" not in path:
        assert faults_of("GET", path, answer.json) == []
    return answer


async def tree(person: Person, space: str, **query: Any) -> Any:
    path = f"/_matrix/client/v1/rooms/{quote(space)}/hierarchy"
    answer = await ask(person, path, query={"from" if key == "since" else key: value for key, value in query.items()})
    return answer.json if answer.status == 200 else (answer.status, answer.json["errcode"])


async def names(person: Person, space: str, **query: Any) -> list[str]:
    """Of all pages, in their order."""
    found: list[str] = []
    page = await tree(person, space, **query)
    while True:
        found += [room["name"] for room in page["rooms"]]
        if "next_batch" not in page:
            return found
        page = await tree(person, space, since=page["next_batch"], **query)


async def named(person: Person, name: str, preset: str = "public_chat", **body: Any) -> str:
    return await person.create_room(name=name, preset=preset, **body)


async def put_into(person: Person, space: str, child: str, *via: str, **more: Any) -> None:
    await person.ok("PUT", f"/rooms/{quote(space)}/state/m.space.child/{quote(child)}", {"via": list(via) or ["a.test"], **more})


def restricted_to(room: str) -> dict[str, Any]:
    allow = [{"type": "m.room_membership", "room_id": room}]
    return {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "restricted", "allow": allow}}


async def test_children_come_depth_first_in_their_order_each_once_and_in_pages(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        alice = await (await world.box("a", QUIET)).person("alice")
        top = await named(alice, "top", **SPACE)
        low = await named(alice, "low", **SPACE)
        rooms = {name: await named(alice, name) for name in ("early", "late", "a", "z", "wrong", "below")}
        await put_into(alice, top, rooms["late"], order="z")
        await put_into(alice, top, low, order="b")
        await put_into(alice, top, rooms["a"], order="a")
        await put_into(alice, top, rooms["wrong"], order="\t not an order")
        await trio.sleep(1)
        await put_into(alice, top, rooms["early"])
        await put_into(alice, top, rooms["z"], order="zz", suggested=True)
        await put_into(alice, top, "!gone:a.test")
        await alice.ok("PUT", f"/rooms/{quote(top)}/state/m.space.child/{quote('!novia:a.test')}", {})
        await alice.ok("PUT", f"/rooms/{quote(top)}/state/m.space.child/nonsense", {"via": ["a.test"]})
        await put_into(alice, low, rooms["below"])
        await put_into(alice, low, top)  # a circle
        await put_into(alice, low, rooms["late"])  # a second way to the same room
        order = ["top", "a", "low", "late", "below", "z", "wrong", "early"]
        found = await names(alice, top)
        assert sorted(found) == sorted(order)
        assert [name for name in found if name not in ("late", "below")] == ["top", "a", "low", "z", "wrong", "early"]
        assert found.index("low") < found.index("late") < found.index("z")
        assert await names(alice, top, limit=2) == found
        assert await names(alice, top, max_depth=1) == ["top", "a", "low", "late", "z", "wrong", "early"]
        assert await names(alice, top, max_depth=0) == ["top"]
        assert await names(alice, top, suggested_only="true") == ["top", "z"]
        first = await tree(alice, top)
        shown = first["rooms"][0]["children_state"]
        assert [one["state_key"] for one in shown][:2] == [rooms["a"], low]
        assert "!novia:a.test" not in {one["state_key"] for one in shown}
        assert [room["children_state"] for room in first["rooms"] if room["name"] == "a"] == [[]]


async def test_a_page_asked_for_twice_is_the_same_and_tokens_are_for_their_question_alone(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", QUIET)
        alice, bob = await box.person("alice"), await box.person("bob")
        top = await named(alice, "top", **SPACE)
        for number in range(5):
            await put_into(alice, top, await named(alice, str(number)))
        token = (await tree(alice, top, limit=2))["next_batch"]
        second = await tree(alice, top, since=token, limit=2)
        again = await tree(alice, top, since=token, limit=2)
        assert second["rooms"] == again["rooms"] != []
        refused = (400, "M_INVALID_PARAM")
        assert await tree(alice, top, since=token, max_depth=1) == refused
        assert await tree(alice, top, since=token, suggested_only="true") == refused
        assert await tree(bob, top, since=token) == refused
        assert await tree(alice, top, since="unknown") == refused
        for query in ({"limit": 0}, {"limit": "x"}, {"max_depth": -1}, {"suggested_only": "perhaps"}):
            assert await tree(alice, top, **query) == refused


async def test_who_may_not_join_or_read_a_room_is_not_told_of_it(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", QUIET)
        alice, bob = await box.person("alice"), await box.person("bob")
        top = await named(alice, "top", **SPACE)
        club = await named(alice, "club")
        knock = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
        read = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "world_readable"}}
        private = {
            "private": await named(alice, "private", "private_chat"),
            "invited": await named(alice, "invited", "private_chat"),
            "door": await named(alice, "door", "private_chat", initial_state=[knock]),
            "window": await named(alice, "window", "private_chat", initial_state=[read]),
            "hall": await named(alice, "hall", "private_chat", initial_state=[restricted_to(club)]),
            "banned": await named(alice, "banned"),
        }
        for room in private.values():
            await put_into(alice, top, room)
        await alice.invite(private["invited"], bob.user_id)
        await alice.ok("POST", f"/rooms/{quote(private['banned'])}/ban", {"user_id": bob.user_id})
        assert set(await names(alice, top)) == {"top", *private}
        assert set(await names(bob, top)) == {"top", "invited", "door", "window"}
        await bob.join(club)
        assert set(await names(bob, top)) == {"top", "invited", "door", "window", "hall"}
        assert await tree(bob, private["private"]) == (403, "M_FORBIDDEN")
        assert await tree(bob, "!nowhere:a.test") == (403, "M_FORBIDDEN")
        (hall,) = [room for room in (await tree(bob, top))["rooms"] if room["name"] == "hall"]
        assert (hall["allowed_room_ids"], hall["join_rule"]) == ([club], "restricted")


async def test_rooms_of_other_servers_are_asked_for_through_their_via_and_remembered(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b, c = [await world.box(name, QUIET) for name in "abc"]
        alice, bob, carol = await a.person("alice"), await b.person("bob"), await c.person("carol")
        top = await named(alice, "top", **SPACE)
        mid = await named(bob, "mid", **SPACE)
        club = await named(alice, "club")
        leaf, hidden = await named(bob, "leaf"), await named(bob, "hidden", "private_chat")
        hall = await named(bob, "hall", "private_chat", initial_state=[restricted_to(club)])
        await put_into(alice, top, mid, "b.test", order="1")
        await put_into(alice, top, await named(alice, "own"), order="2")
        await put_into(alice, top, "!lost:z.test", "z.test", "not a name")
        for number, room in enumerate((leaf, hidden, hall)):
            await put_into(bob, mid, room, "b.test", order=str(number))
        await put_into(bob, mid, top, "a.test")
        await carol.join(top, "a.test")
        assert await names(carol, top) == ["top", "mid", "leaf", "own"]
        asked = world.internet.asked("/hierarchy/")
        assert await names(carol, top) == ["top", "mid", "leaf", "own"]
        assert world.internet.asked("/hierarchy/") == asked
        # b tells of its hall once somebody of c is in the room whose members may enter it, and c shows it to that one alone
        dave = await c.person("dave")
        await carol.join(club, "a.test")
        await bob.join(club, "a.test")
        await trio.sleep(400)
        assert "hall" in await names(carol, top)
        await dave.join(top)
        assert "hall" not in await names(dave, top)
        (found,) = [room for room in (await tree(carol, top))["rooms"] if room["name"] == "mid"]
        assert [one["state_key"] for one in found["children_state"]] == [leaf, hidden, hall, top]


async def test_a_space_that_we_are_not_in_is_walked_by_other_servers_word(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", QUIET), await world.box("b", QUIET)
        alice, bob = await a.person("alice"), await b.person("bob")
        top = await named(alice, "top", **SPACE)
        await put_into(alice, top, await named(alice, "leaf"))
        secret = await named(alice, "secret", "private_chat", **SPACE)
        assert [room["name"] for room in (await tree(bob, top, via="a.test"))["rooms"]] == ["top", "leaf"]
        assert await tree(bob, secret, via="a.test") == (403, "M_FORBIDDEN")
        world.internet.cut("a.test", "b.test")
        await trio.sleep(400)
        assert await tree(bob, top, via="a.test") == (403, "M_FORBIDDEN")


async def test_a_server_that_the_rooms_acl_refuses_is_not_told_of_it(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", QUIET), await world.box("b", QUIET)
        alice, bob = await a.person("alice"), await b.person("bob")
        acl = {"type": "m.room.server_acl", "state_key": "", "content": {"allow": ["*"], "deny": ["b.test"]}}
        top = await named(alice, "top", **SPACE)
        await put_into(alice, top, await named(alice, "shut", initial_state=[acl]))
        assert [room["name"] for room in (await tree(bob, top, via="a.test"))["rooms"]] == ["top"]


async def summary(
    person: Person, room: str, *, anonymous: bool = False, path: str = "/_matrix/client/v1/room_summary/{}", **query: Any
) -> Any:
    answer = await ask(person, path.format(quote(room)), query=query, anonymous=anonymous)
    return answer.json if answer.status == 200 else (answer.status, answer.json["errcode"])


async def test_a_room_in_short_is_told_to_whoever_may_know_of_it(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", QUIET)
        alice, bob = await box.person("alice"), await box.person("bob")
        encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        room = await named(alice, "Harbour", room_alias_name="harbour", topic="Ships", initial_state=[encryption], room_version="11")
        told = await summary(alice, room)
        assert (told["membership"], told["encryption"], told["room_version"]) == ("join", "m.megolm.v1.aes-sha2", "11")
        assert (told["name"], told["topic"], told["canonical_alias"]) == ("Harbour", "Ships", "#harbour:a.test")
        assert (await summary(bob, "#harbour:a.test"))["membership"] == "leave"
        for path in ("summary/{}", "rooms/{}/summary"):
            assert (await summary(bob, room, path=f"/_matrix/client/unstable/im.nheko.summary/{path}"))["name"] == "Harbour"
        told = await summary(bob, room, anonymous=True)
        assert ("membership" in told, told["num_joined_members"]) == (False, 1)
        private = await named(alice, "private", "private_chat")
        missing = (404, "M_NOT_FOUND")
        assert await summary(bob, private) == await summary(bob, private, anonymous=True) == missing
        await alice.invite(private, bob.user_id)
        assert (await summary(bob, private))["membership"] == "invite"
        assert await summary(bob, "!nowhere:a.test") == await summary(bob, "#nowhere:a.test") == missing
        assert await summary(bob, "nonsense") == (400, "M_INVALID_PARAM")


async def test_a_room_of_another_server_in_short(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", QUIET), await world.box("b", QUIET)
        alice, bob = await a.person("alice"), await b.person("bob")
        room = await named(alice, "Harbour", room_alias_name="harbour")
        private = await named(alice, "private", "private_chat")
        told = await summary(bob, room, via="a.test")
        assert (told["name"], told["membership"]) == ("Harbour", "leave")
        assert (await summary(bob, "#harbour:a.test"))["room_id"] == room
        asked, missing = world.internet.asked("/hierarchy/"), (404, "M_NOT_FOUND")
        assert await summary(bob, room, anonymous=True, via="a.test") == missing  # nobody has us ask others without a name
        assert await summary(bob, "#harbour:a.test", anonymous=True) == missing
        assert world.internet.asked("/hierarchy/") == asked
        assert await summary(bob, private, via="a.test") == missing
        await alice.invite(private, bob.user_id)
        await trio.sleep(70)
        assert (await summary(bob, private))["membership"] == "invite"  # who invited says where to ask


@pytest.mark.parametrize("given", ["network", "all", "none"])
async def test_the_directory_of_another_server_and_its_networks(tmp_path, autojump_clock, given):
    async with World(tmp_path) as world:
        a, b = await world.box("a", QUIET), await world.box("b", QUIET)
        alice, bob = await a.person("alice"), await b.person("bob")
        for number in range(3):
            await named(alice, f"room {number}", visibility="public")
        await named(alice, "space", visibility="public", **SPACE)
        wish = {"network": {"third_party_instance_id": "irc"}, "all": {"include_all_networks": True}, "none": {}}[given]
        body = {"limit": 2, "filter": {"room_types": [None]}, **wish}
        found: list[str] = []
        page = await bob.ok("POST", "/publicRooms?server=a.test", body)
        assert faults_of("POST", "/_matrix/client/v3/publicRooms", page) == []
        while True:
            found += [room["name"] for room in page["chunk"]]
            if "next_batch" not in page:
                break
            page = await bob.ok("POST", "/publicRooms?server=a.test", {**body, "since": page["next_batch"]})
        assert sorted(found) == ([] if given == "network" else ["room 0", "room 1", "room 2"])
