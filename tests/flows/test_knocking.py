"""Knocking at rooms, here and elsewhere, and rooms that let in the members of others."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.flows.world import Person, World, until


def rule(name: str, *rooms: str) -> list[dict[str, Any]]:
    allow = [{"type": "m.room_membership", "room_id": room_id} for room_id in rooms]
    return [{"type": "m.room.join_rules", "content": {"join_rule": name, **({"allow": allow} if rooms else {})}}]


async def knock(person: Person, room_id: str, **query: str) -> tuple[int, str | None]:
    answer = await person.request("POST", f"/knock/{quote(room_id)}", {"reason": "let me in"}, query=query)
    return answer.status, answer.json.get("errcode")


async def section(person: Person, name: str) -> dict[str, Any]:
    return (await person.ok("GET", "/sync")).get("rooms", {}).get(name, {})


@pytest.mark.parametrize(("where", "version"), [("a", "10"), ("b", "11"), ("b", "12")])
async def test_a_knock_is_seen_answered_and_leads_in(tmp_path, autojump_clock, where, version):
    async with World(tmp_path) as world:
        boxes = {"a": await world.box("a"), "b": await world.box("b")}
        alice, bob = await boxes["a"].person("alice"), await boxes[where].person("bob")
        room_id = await alice.create_room(name="Hut", initial_state=rule("knock"), room_version=version)
        assert await knock(bob, room_id, server_name="a.test") == (200, None)
        shown = (await section(bob, "knock"))[room_id]["knock_state"]["events"]
        assert {"m.room.create", "m.room.join_rules", "m.room.name", "m.room.member"} <= {event["type"] for event in shown}

        async def is_seen() -> bool:
            member = await alice.request("GET", f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}")
            return member.status == 200 and (member.json["membership"], member.json.get("reason")) == ("knock", "let me in")

        await until(is_seen)
        await alice.invite(room_id, bob.user_id)

        async def is_invited() -> bool:
            return room_id in await section(bob, "invite")

        await until(is_invited)
        await bob.join(room_id, via="a.test")
        assert room_id in await section(bob, "join")


@pytest.mark.parametrize("where", ["a", "b"])
async def test_a_knock_may_be_taken_back_or_turned_down(tmp_path, autojump_clock, where):
    async with World(tmp_path) as world:
        boxes = {"a": await world.box("a"), "b": await world.box("b")}
        alice, bob = await boxes["a"].person("alice"), await boxes[where].person("bob")
        room_id = await alice.create_room(initial_state=rule("knock"))
        assert await knock(bob, room_id, server_name="a.test") == (200, None)
        await bob.ok("POST", f"/rooms/{quote(room_id)}/leave")
        assert room_id not in await section(bob, "knock")
        assert await knock(bob, room_id, server_name="a.test") == (200, None)
        await alice.ok("POST", f"/rooms/{quote(room_id)}/kick", {"user_id": bob.user_id})

        async def is_turned_down() -> bool:
            return room_id not in await section(bob, "knock")

        await until(is_turned_down)


@pytest.mark.parametrize("where", ["a", "b"])
async def test_who_may_not_knock_is_told(tmp_path, autojump_clock, where):
    async with World(tmp_path) as world:
        boxes = {"a": await world.box("a"), "b": await world.box("b")}
        alice, bob = await boxes["a"].person("alice"), await boxes[where].person("bob")
        shut = await alice.create_room(initial_state=rule("invite"))
        assert await knock(bob, shut, server_name="a.test") == (403, "M_FORBIDDEN")
        banned = await alice.create_room(initial_state=rule("knock"))
        await alice.ok("POST", f"/rooms/{quote(banned)}/ban", {"user_id": bob.user_id})
        assert await knock(bob, banned, server_name="a.test") == (403, "M_FORBIDDEN")
        assert await knock(alice, banned) == (403, "M_FORBIDDEN")
        assert (await knock(bob, "nonsense"))[0] == 400
        assert (await knock(bob, "!nowhere:a.test"))[0] == 404


@pytest.mark.parametrize("where", ["a", "b"])
async def test_a_restricted_room_is_joined_by_members_of_another_and_knocked_at_by_the_rest(tmp_path, autojump_clock, where):
    async with World(tmp_path) as world:
        boxes = {"a": await world.box("a"), "b": await world.box("b")}
        alice, bob, carol = await boxes["a"].person("alice"), await boxes[where].person("bob"), await boxes[where].person("carol")
        club = await alice.create_room(preset="public_chat")
        room_id = await alice.create_room(initial_state=rule("knock_restricted", club))
        await bob.join(club, via="a.test")
        refused = await carol.request("POST", f"/join/{quote(room_id)}?server_name=a.test")
        assert (refused.status, refused.json["errcode"]) == (403, "M_FORBIDDEN")
        await bob.join(room_id, via="a.test")
        member = await bob.ok("GET", f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}")
        assert member["join_authorised_via_users_server"] == alice.user_id
        assert await knock(carol, room_id, server_name="a.test") == (200, None)
