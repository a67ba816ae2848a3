"""Sliding sync of rooms that one is not in, or not in any more: what is told of them, what is not, and how clients read it. MSC4186.

A client of the deployed dialect knows what it is in a room by this alone (matrix-rust-sdk): with `invite_state` it is invited or knocks;
else its own membership in `required_state` says what it is; else it is in the room.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.asgi import AsgiClient
from tests.flows.world import Person, World

DEPLOYED = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
ACCEPTED = "/_matrix/client/v4/sync"
EVERYTHING = {"ranges": [[0, 99]], "timeline_limit": 20, "required_state": [["*", "*"]]}
FEW = {"ranges": [[0, 99]], "timeline_limit": 20, "required_state": [["m.room.name", ""], ["m.room.member", "$ME"]]}


@pytest.fixture
async def two(tmp_path) -> AsyncIterator[tuple[Person, Person]]:
    async with World(tmp_path) as world:
        box = await world.box("a", "[limits]\nrate_limits = false\n")
        yield await box.person("alice"), await box.person("bob")


class Phone:
    """A connection of the deployed dialect: `rooms` is what the last answer told."""

    def __init__(self, person: Person, wish: dict[str, Any] = EVERYTHING, **body: Any) -> None:
        self.person, self.body = person, {"lists": {"all": wish}, **body}
        self.pos: str | None = None
        self.rooms: dict[str, Any] = {}
        self.count = 0

    async def poll(self) -> dict[str, Any]:
        query = {"timeout": "0", **({} if self.pos is None else {"pos": self.pos})}
        client = AsgiClient(self.person.box.box.app, token=self.person.token)
        answer = await client.request("POST", DEPLOYED, json=self.body, query=query)
        assert answer.status == 200, answer.body
        self.pos, self.rooms, self.count = answer.json["pos"], answer.json["rooms"], answer.json["lists"]["all"]["count"]
        return self.rooms

    def membership(self, room_id: str) -> str:
        """As matrix-rust-sdk reads it."""
        told = self.rooms[room_id]
        events = told.get("invite_state") or told.get("required_state", [])
        own = [one for one in events if (one["type"], one["state_key"]) == ("m.room.member", self.person.user_id)]
        if "invite_state" in told:
            return "knock" if own and own[-1]["content"]["membership"] == "knock" else "invite"
        return own[-1]["content"]["membership"] if own else "join"

    def texts(self, room_id: str) -> list[str]:
        return [one["content"].get("body") or one["content"].get("membership") for one in self.rooms[room_id].get("timeline", ())]


async def accepted(person: Person) -> Any:
    body = {"conn_id": "v4", "lists": {"all": {"timeline_limit": 20, "required_state": {"include": [{}]}}}}
    return (await AsgiClient(person.box.box.app, token=person.token).request("POST", ACCEPTED, json=body)).json.get("rooms", {})


async def act(person: Person, room: str, what: str, target: Person, **more: str) -> None:
    await person.ok("POST", f"/rooms/{quote(room)}/{what}", {"user_id": target.user_id, **more})


async def rename(person: Person, room: str, name: str) -> None:
    await person.ok("PUT", f"/rooms/{quote(room)}/state/m.room.name/", {"name": name})


async def leave(person: Person, room: str) -> None:
    await person.ok("POST", f"/rooms/{quote(room)}/leave")


@pytest.mark.parametrize("what", ["kick", "ban"])
@pytest.mark.parametrize("wish", [EVERYTHING, FEW])
async def test_who_is_sent_away_is_told_of_it_with_all_that_was_said_before_and_nothing_after(two, what, wish):
    alice, bob = two
    became = "leave" if what == "kick" else "ban"
    room = await alice.create_room(name="Harbour", preset="public_chat")
    await bob.join(room)
    phone = Phone(bob, wish)
    await phone.poll()
    await alice.say(room, "last words")
    await act(alice, room, what, bob, reason="noise")
    await alice.say(room, "at last")
    await rename(alice, room, "Quiet harbour")
    await phone.poll()
    assert (phone.texts(room), phone.membership(room)) == (["last words", became], became)
    assert "initial" not in phone.rooms[room]
    assert "Quiet" not in str(phone.rooms)
    await alice.say(room, "still at it")
    assert await phone.poll() == {}
    again = Phone(bob, wish)
    await again.poll()
    assert (again.membership(room), again.texts(room)[-2:]) == (became, ["last words", became])
    assert again.rooms[room]["name"] == "Harbour"


async def test_a_ban_after_the_kick_is_told_and_shows_nothing_of_what_was_between(two):
    alice, bob = two
    room = await alice.create_room(name="Harbour", preset="public_chat")
    await bob.join(room)
    phone = Phone(bob)
    await phone.poll()
    await act(alice, room, "kick", bob)
    await phone.poll()
    assert phone.membership(room) == "leave"
    await rename(alice, room, "Not for Bob")
    await act(alice, room, "ban", bob, reason="and stay out")
    await phone.poll()
    assert (phone.membership(room), phone.texts(room)) == ("ban", ["ban"])
    assert phone.rooms[room]["timeline"][0]["content"]["reason"] == "and stay out"
    fresh = Phone(bob, conn_id="fresh")
    await fresh.poll()
    assert (fresh.membership(room), fresh.rooms[room]["name"], fresh.texts(room)[-2:]) == ("ban", "Harbour", ["leave", "ban"])
    assert (await accepted(bob))[room]["membership"] == "ban"
    archived = {"filter": '{"room":{"include_leave":true}}', "use_state_after": "true"}
    whole = (await bob.ok("GET", "/sync", query=archived))["rooms"]["leave"][room]
    own = [one for one in whole["state_after"]["events"] if one.get("state_key") == bob.user_id]
    assert [one["content"]["membership"] for one in own] == ["ban"]
    assert "Not for Bob" not in f"{fresh.rooms}{await accepted(bob)}{whole}"
    await act(alice, room, "unban", bob)
    await phone.poll()
    assert phone.membership(room) == "leave"


@pytest.mark.parametrize("end", ["withdrawn", "declined", "banned"])
async def test_an_invite_that_comes_to_nothing_ends_and_opens_nothing_of_the_room(two, end):
    alice, bob = two
    room = await alice.create_room(name="Secret", preset="private_chat", topic="Treasure")
    phone, other = Phone(bob), Phone(bob, conn_id="other")
    await phone.poll()
    await alice.invite(room, bob.user_id)
    await phone.poll()
    assert phone.membership(room) == "invite"
    await alice.say(room, "the chest is under the oak")
    await alice.ok("PUT", f"/rooms/{quote(room)}/state/x.map/", {"where": "oak"})
    if end == "declined":
        await leave(bob, room)
    else:
        await act(alice, room, "kick" if end == "withdrawn" else "ban", bob)
    await phone.poll()
    wanted = "ban" if end == "banned" else "leave"
    assert (phone.membership(room), phone.texts(room)) == (wanted, [wanted])
    assert await phone.poll() == {}
    assert await other.poll() == {}
    assert (other.count, await accepted(bob)) == (0, {})
    subscribed = Phone(bob, room_subscriptions={room: {"timeline_limit": 20, "required_state": [["*", "*"]]}})
    assert await subscribed.poll() == {}
    left = await bob.ok("GET", "/sync", query={"filter": '{"room":{"include_leave":true}}'})
    entry = left["rooms"]["leave"][room]
    assert [one["content"]["membership"] for one in entry["timeline"]["events"]] == [wanted]
    assert "oak" not in str(entry)
    assert entry["state"]["events"] == []


async def test_a_knock_that_is_turned_down_ends_as_one(two):
    alice, bob = two
    rule = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    room = await alice.create_room(name="Hut", initial_state=rule)
    phone = Phone(bob)
    await phone.poll()
    await bob.ok("POST", f"/knock/{quote(room)}")
    await phone.poll()
    assert phone.membership(room) == "knock"
    await act(alice, room, "kick", bob)
    await phone.poll()
    assert phone.membership(room) == "leave"
    await bob.ok("POST", f"/knock/{quote(room)}")
    await phone.poll()
    assert phone.membership(room) == "knock"
    await alice.invite(room, bob.user_id)
    await phone.poll()
    assert phone.membership(room) == "invite"


async def test_who_comes_back_is_given_the_room_whole_and_a_forgotten_one_is_gone(two):
    alice, bob = two
    room = await alice.create_room(name="Harbour", preset="public_chat")
    await bob.join(room)
    phone = Phone(bob)
    await phone.poll()
    await act(alice, room, "kick", bob)
    await phone.poll()
    await rename(alice, room, "Haven")
    await bob.join(room)
    await phone.poll()
    assert (phone.rooms[room]["initial"], phone.rooms[room]["name"], phone.membership(room)) == (True, "Haven", "join")
    await act(alice, room, "kick", bob)
    await phone.poll()
    await bob.ok("POST", f"/rooms/{quote(room)}/forget")
    assert await phone.poll() == {}
    assert phone.count == 0
    fresh = Phone(bob, conn_id="fresh")
    assert (await fresh.poll(), fresh.count) == ({}, 0)
    await bob.join(room)
    await phone.poll()
    assert (phone.rooms[room]["initial"], phone.membership(room)) == (True, "join")


async def test_a_room_that_was_left_is_known_as_left_whatever_else_is_told_of_it(two):
    alice, bob = two
    room = await alice.create_room(name="Harbour", preset="public_chat")
    await bob.join(room)
    phone = Phone(bob, {**FEW, "timeline_limit": 1, "required_state": []})
    await phone.poll()
    await leave(bob, room)
    await phone.poll()
    assert phone.membership(room) == "leave"
    await bob.ok("PUT", f"/user/{bob.user_id}/account_data/m.direct", {alice.user_id: [room]})
    await phone.poll()
    assert (phone.rooms[room]["is_dm"], phone.membership(room)) == (True, "leave")
    phone.body["lists"]["all"] = {**FEW, "timeline_limit": 5, "required_state": []}
    await phone.poll()
    assert (phone.rooms[room]["unstable_expanded_timeline"], phone.membership(room)) == (True, "leave")
    assert phone.texts(room)[-1] == "leave"


async def test_an_upgraded_room_and_its_successor_are_both_there(two):
    alice, bob = two
    room = await alice.create_room(name="Old", preset="public_chat")
    await bob.join(room)
    phone = Phone(bob)
    await phone.poll()
    new = (await alice.ok("POST", f"/rooms/{quote(room)}/upgrade", {"new_version": "12"}))["replacement_room"]
    await bob.join(new)
    await phone.poll()
    tombstone = [one for one in phone.rooms[room]["required_state"] if one["type"] == "m.room.tombstone"]
    assert [one["content"]["replacement_room"] for one in tombstone] == [new]
    created = [one for one in phone.rooms[new]["required_state"] if one["type"] == "m.room.create"]
    assert created[0]["content"]["predecessor"]["room_id"] == room
    assert phone.count == 2


async def test_a_phone_that_was_away_learns_of_a_room_left_and_forgotten_and_then_it_is_gone(two):
    alice, bob = two
    room = await alice.create_room(name="Harbour", preset="public_chat")
    await bob.join(room)
    phone = Phone(bob)
    await phone.poll()
    await alice.say(room, "not for who has forgotten")
    await leave(bob, room)
    await bob.ok("POST", f"/rooms/{quote(room)}/forget")
    await phone.poll()
    assert (phone.membership(room), phone.texts(room)) == ("leave", ["leave"])
    assert await phone.poll() == {}
    assert phone.count == 0
    await act(alice, room, "ban", bob)
    assert await phone.poll() == {}
    await act(alice, room, "unban", bob)
    await alice.invite(room, bob.user_id)
    await phone.poll()
    assert phone.membership(room) == "invite"


async def test_who_is_put_out_and_asked_back_by_somebody_ignored_is_told_that_they_are_out(two):
    alice, bob = two
    room = await alice.create_room(name="Harbour", preset="public_chat")
    await bob.join(room)
    ignoring = f"/user/{bob.user_id}/account_data/m.ignored_user_list"
    await bob.ok("PUT", ignoring, {"ignored_users": {alice.user_id: {}}})
    phone = Phone(bob)
    await phone.poll()
    await act(alice, room, "kick", bob)
    await rename(alice, room, "Haven")
    await alice.invite(room, bob.user_id)
    await phone.poll()
    assert (phone.membership(room), phone.texts(room)) == ("leave", ["leave"])
    assert "Haven" not in str(phone.rooms)
    assert await phone.poll() == {}
    assert phone.count == 0
    assert await Phone(bob, conn_id="fresh").poll() == {}
    await bob.ok("PUT", ignoring, {"ignored_users": {}})
    await phone.poll()
    assert phone.membership(room) == "invite"


async def test_who_knocked_and_is_invited_by_somebody_ignored_goes_on_knocking(two):
    alice, bob = two
    rule = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    room = await alice.create_room(name="Harbour", preset="public_chat", initial_state=rule)
    ignoring = f"/user/{bob.user_id}/account_data/m.ignored_user_list"
    await bob.ok("PUT", ignoring, {"ignored_users": {alice.user_id: {}}})
    phone = Phone(bob)
    await bob.ok("POST", f"/knock/{quote(room)}", {})
    await phone.poll()
    assert phone.membership(room) == "knock"
    await alice.invite(room, bob.user_id)
    assert await phone.poll() == {}
    assert phone.count == 1
    fresh = Phone(bob, conn_id="fresh")
    await fresh.poll()
    assert fresh.membership(room) == "knock"
    assert await fresh.poll() == {}
    asked = {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": [], "filters": {"is_invite": True}}
    assert await Phone(bob, asked, conn_id="invites").poll() == {}
    await bob.ok("PUT", ignoring, {"ignored_users": {}})
    for one in (phone, fresh):
        await one.poll()
        assert one.membership(room) == "invite"
        assert await one.poll() == {}


async def test_an_invite_stands_though_somebody_ignored_invites_as_well(two):
    alice, bob = two
    carol = await alice.box.person("carol")
    room = await alice.create_room(preset="private_chat", invite=[carol.user_id])
    await carol.join(room)
    await bob.ok("PUT", f"/user/{bob.user_id}/account_data/m.ignored_user_list", {"ignored_users": {carol.user_id: {}}})
    await alice.invite(room, bob.user_id)
    phone = Phone(bob)
    await phone.poll()
    await carol.invite(room, bob.user_id)
    assert await phone.poll() == {}
    fresh = Phone(bob, conn_id="fresh")
    told = await fresh.poll()
    assert fresh.membership(room) == "invite"
    assert told[room]["invite_state"][-1]["sender"] == alice.user_id
