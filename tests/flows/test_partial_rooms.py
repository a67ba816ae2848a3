"""Whole boxes and a room that is joined without its members: what its clients see meanwhile, what other servers are told, a restart."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import orjson
import pytest

from edgeserver.federation.errors import PeerError
from edgeserver.federation.resident import SMALL_ROOM
from edgeserver.store import rooms
from tests.asgi import AsgiClient
from tests.flows.world import BoxInWorld, Person, World, until

LAZY = quote(orjson.dumps({"room": {"state": {"lazy_load_members": True}}}).decode())
METERED = "[federation]\nmetered = true\n"


async def crowded(host: BoxInWorld, version: str = "12") -> tuple[Person, str]:
    """A room with so many members that they are left out of a join."""
    alice = await host.person("alice")
    room_id = await alice.create_room(preset="public_chat", name="Square", room_version=version)
    for number in range(SMALL_ROOM + 5):
        guest = await host.person(f"guest{number}")
        await guest.join(room_id)
    return alice, room_id


async def lazily(person: Person, since: str | None = None) -> dict:
    query = {"timeout": "0", "filter": orjson.dumps({"room": {"state": {"lazy_load_members": True}}}).decode()}
    return await person.ok("GET", "/sync", query=query | ({"since": since} if since else {}))


def members_in(entry: dict) -> set[str]:
    every = [*entry["state"]["events"], *entry["timeline"]["events"]]
    return {event["state_key"] for event in every if event["type"] == "m.room.member"}


async def is_whole(box: BoxInWorld, room_id: str) -> bool:
    room = await box.box.ground.db.read(lambda tx: rooms.get(tx, room_id))
    assert room is not None
    return not room.is_partial


async def test_lazy_clients_use_a_partial_room_at_once_and_others_once_it_is_whole(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b", METERED)
        alice, room_id = await crowded(a)
        bob = await b.person("bob")
        await bob.sync()
        await bob.join(room_id, "a.test")
        assert not await is_whole(b, room_id)
        # An eager client is told nothing yet, a lazy one of the room and of whom it needs.
        assert room_id not in (await bob.sync()).get("rooms", {}).get("join", {})
        first = await lazily(bob)
        entry = first["rooms"]["join"][room_id]
        assert "Square" in {event["content"].get("name") for event in entry["state"]["events"]}
        assert members_in(entry) == {bob.user_id}
        # Both talk; who speaks is made known though the room's state lacks them.
        await bob.say(room_id, "Hello from afar")
        await until(lambda: _has(alice, room_id, "Hello from afar"))
        await alice.say(room_id, "Hello, Bob")
        await until(lambda: _has(bob, room_id, "Hello, Bob"))
        news = (await lazily(bob, first["next_batch"]))["rooms"]["join"][room_id]
        assert "Hello, Bob" in {event["content"].get("body") for event in news["timeline"]["events"]}
        assert alice.user_id in members_in(news)
        page = await bob.ok(
            "GET", f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "filter": '{"lazy_load_members":true}', "limit": "3"}
        )
        assert alice.user_id in {event["state_key"] for event in page["state"] if event["type"] == "m.room.member"}
        assert not await is_whole(b, room_id)
        # Somebody asks who is there.
        listed = await bob.ok("GET", f"/rooms/{quote(room_id)}/joined_members")
        assert len(listed["joined"]) == SMALL_ROOM + 7
        assert await is_whole(b, room_id)
        entry = (await bob.sync())["rooms"]["join"][room_id]
        assert len(members_in(entry)) == SMALL_ROOM + 7
        assert entry["summary"]["m.joined_member_count"] == SMALL_ROOM + 7
        assert await alice.state(room_id) == await bob.state(room_id)


async def _has(person: Person, room_id: str, text: str) -> bool:
    return text in await person.texts(room_id)


async def test_other_servers_are_not_answered_by_half(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        a, b, c = await world.box("a"), await world.box("b", METERED), await world.box("c")
        _, room_id = await crowded(a)
        bob, carol = await b.person("bob"), await c.person("carol")
        await bob.join(room_id, "a.test")
        said = await bob.say(room_id, "anyone?")
        await carol.join(room_id, "a.test")
        for target in (f"state_ids/{quote(room_id)}?event_id={quote(said)}", f"make_join/{quote(room_id)}/@cora:c.test?ver=12"):
            assert await _refusal(c, target) == (404, "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE")
        # What was said can be had all the same.
        await until(lambda: _has(carol, room_id, "anyone?"))
        assert await _refusal(c, f"event/{quote(said)}") is None


async def _refusal(box: BoxInWorld, target: str) -> tuple[int, str] | None:
    from edgeserver.federation.client import Ask, FederationClient

    client = FederationClient(box.server_name, box.box.identity.signing_key, box.box.peers)
    try:
        await client.json("b.test", Ask("GET", f"/_matrix/federation/v1/{target}"))
    except PeerError as refusal:
        return refusal.status, refusal.errcode
    return None


async def test_a_room_becomes_whole_by_itself_though_the_box_is_restarted_and_the_line_cut(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, room_id = await crowded(a, "10")
        bob = await b.person("bob")
        await bob.join(await alice.create_room(preset="public_chat"), "a.test")  # so that the keys are known
        world.internet.cut_after("/send_join/")
        await bob.join(room_id, "a.test")
        await bob.say(room_id, "is anybody there?")
        await b.stop()
        assert not await _partial_after(b, room_id)
        world.internet.heal()
        await until(lambda: is_whole(b, room_id))
        await until(lambda: _has(alice, room_id, "is anybody there?"))
        assert await alice.state(room_id) == await bob.state(room_id)


async def _partial_after(box: BoxInWorld, room_id: str) -> bool:
    await box.start()
    return await is_whole(box, room_id)


async def test_small_rooms_are_joined_whole(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b", METERED)
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, "a.test")
        assert await is_whole(b, room_id)


SLIDING = {"deployed": "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", "accepted": "/_matrix/client/v4/sync"}


class Sliding:
    """A connection of either dialect that wants one room's members lazily, or all of them; `members` are those that it knows."""

    def __init__(self, person: Person, dialect: str, room_id: str, *, lazy: bool) -> None:
        self.person, self.dialect, self.room_id = person, dialect, room_id
        pairs = [["m.room.member", "$LAZY"]] if lazy else [["*", "*"]]
        elements = {"include": [], "lazy_members": True} if lazy else {"include": [{}]}
        required = pairs if dialect == "deployed" else elements
        self.body: dict = {"room_subscriptions": {room_id: {"timeline_limit": 10, "required_state": required}}, "conn_id": f"{lazy}"}
        self.pos: str | None = None
        self.members: dict[str, str] = {}

    async def poll(self) -> dict:
        """What is told of the room."""
        client = AsgiClient(self.person.box.box.app, token=self.person.token)
        at = {} if self.pos is None else {"pos": self.pos}
        query, body = (at, self.body) if self.dialect == "deployed" else ({}, self.body | at)
        answer = await client.request("POST", SLIDING[self.dialect], json=body, query=query)
        assert answer.status == 200, answer.body
        self.pos = answer.json["pos"]
        told = answer.json.get("rooms", {}).get(self.room_id, {})
        members = [event for event in told.get("required_state", ()) if event["type"] == "m.room.member"]
        self.members |= {event["state_key"]: event["content"]["membership"] for event in members}
        return told


@pytest.mark.parametrize("dialect", SLIDING)
async def test_sliding_clients_use_a_partial_room_at_once_and_are_told_the_rest_once_it_is_whole(
    tmp_path: Path, autojump_clock: object, dialect: str
) -> None:
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b", METERED)
        alice, room_id = await crowded(a)
        await alice.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": ""})
        bob = await b.person("bob")
        await bob.join(room_id, "a.test")
        lazy, eager = (Sliding(bob, dialect, room_id, lazy=each) for each in (True, False))
        first = await lazy.poll()
        assert (await eager.poll())["joined_count"] == first["joined_count"] < SMALL_ROOM
        assert lazy.members == {bob.user_id: "join"}
        heroes = [hero["user_id"] for hero in first["heroes"]]
        classic = await lazily(bob)
        # Both talk; who speaks is made known though the room's state lacks them.
        await bob.say(room_id, "Hello from afar")
        await until(lambda: _has(alice, room_id, "Hello from afar"))
        await alice.say(room_id, "Hello, Bob")
        await until(lambda: _has(bob, room_id, "Hello, Bob"))
        told = await lazy.poll()
        assert "Hello, Bob" in str(told)
        assert lazy.members == {bob.user_id: "join", alice.user_id: "join"}
        await eager.poll()
        assert not await is_whole(b, room_id)
        # Somebody asks who is there.
        listed = await bob.ok("GET", f"/rooms/{quote(room_id)}/joined_members")
        assert await is_whole(b, room_id)
        told, whole = await lazy.poll(), await eager.poll()
        assert told["joined_count"] == whole["joined_count"] == len(listed["joined"]) == SMALL_ROOM + 7
        assert len(heroes) <= len(told["heroes"]) == len(whole["heroes"]) == 5
        assert lazy.members.keys() == {bob.user_id, alice.user_id}
        entry = (await lazily(bob, classic["next_batch"]))["rooms"]["join"][room_id]
        assert entry["summary"]["m.heroes"] == [hero["user_id"] for hero in told["heroes"]]
        assert members_in(entry) | members_in(classic["rooms"]["join"][room_id]) >= {*entry["summary"]["m.heroes"]}
        assert entry["summary"]["m.joined_member_count"] == SMALL_ROOM + 7
        assert eager.members == dict.fromkeys(listed["joined"], "join")
        assert await lazy.poll() == await eager.poll() == {}
