"""A jump to a date: the nearest event that we hold, or, where we have a gap, the one that another server names."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.api.answer_schemas import faults_of
from tests.asgi import AsgiClient
from tests.flows.world import EPOCH, Person, World

STEP = 600.0
QUIET = "[limits]\nrate_limits = false\n"


async def at(person: Person, room: str, ts: Any, direction: str | None) -> tuple[int, Any]:
    """(status, event id or errcode)"""
    query = {name: str(value) for name, value in (("ts", ts), ("dir", direction)) if value is not None}
    path = f"/_matrix/client/v1/rooms/{quote(room)}/timestamp_to_event"
    answer = await AsgiClient(person.box.box.app, token=person.token).request("GET", path, query=query)
    if answer.status != 200:
        return answer.status, answer.json["errcode"]
    assert faults_of("GET", path, answer.json) == []
    return 200, answer.json["event_id"]


async def times(person: Person, room: str, *event_ids: str) -> list[int]:
    found = [await person.ok("GET", f"/rooms/{quote(room)}/event/{quote(event_id)}") for event_id in event_ids]
    return [event["origin_server_ts"] for event in found]


async def test_the_nearest_event_on_the_asked_side_is_named(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        alice = await (await world.box("a", QUIET)).person("alice")
        room = await alice.create_room(preset="public_chat")
        said = []
        for text in ("first", "second", "third"):
            await trio.sleep(STEP)
            said.append(await alice.say(room, text))
        first, second, third = await times(alice, room, *said)
        assert await at(alice, room, second, "f") == await at(alice, room, second, "b") == (200, said[1])
        assert await at(alice, room, first + 1, "f") == (200, said[1])
        assert await at(alice, room, second + 5, "b") == (200, said[1])
        assert await at(alice, room, third + 1, "f") == (404, "M_NOT_FOUND")
        assert await at(alice, room, -5, "b") == (404, "M_NOT_FOUND")
        assert await at(alice, room, 10**15, "b") == (200, said[2])
        assert world.internet.asked("/timestamp_to_event/") == 0


@pytest.mark.parametrize(
    ("ts", "direction", "refusal"),
    [
        (None, "f", (400, "M_MISSING_PARAM")),
        (1, None, (400, "M_MISSING_PARAM")),
        ("soon", "f", (400, "M_INVALID_PARAM")),
        ("--1", "f", (400, "M_INVALID_PARAM")),
        ("1" * 30, "f", (400, "M_INVALID_PARAM")),
        (1, "up", (400, "M_INVALID_PARAM")),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(tmp_path, autojump_clock, ts, direction, refusal):
    async with World(tmp_path) as world:
        alice = await (await world.box("a", QUIET)).person("alice")
        assert await at(alice, "!r:a.test", ts, direction) == refusal


async def test_only_what_the_asker_may_see_is_named(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", QUIET)
        alice, bob, carol = await box.person("alice"), await box.person("bob"), await box.person("carol")
        visibility = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
        room = await alice.create_room(preset="public_chat", initial_state=[visibility])
        await trio.sleep(STEP)
        hidden = await alice.say(room, "not for bob")
        await trio.sleep(STEP)
        await bob.join(room)
        shown = await alice.say(room, "for bob")
        await trio.sleep(STEP)
        await bob.ok("POST", f"/rooms/{quote(room)}/leave")
        await trio.sleep(STEP)
        later = await alice.say(room, "bob is gone")
        (ts,) = await times(alice, room, hidden)
        assert await at(alice, room, ts, "f") == (200, hidden)
        named = (await at(bob, room, ts, "f"))[1]
        seen = await bob.ok("GET", f"/rooms/{quote(room)}/event/{quote(named)}")
        assert (seen["type"], seen["state_key"]) == ("m.room.member", bob.user_id)
        status, made = await at(bob, room, ts, "b")  # from when the room was made, before it said who may see what
        assert (status, made == hidden) == (200, False)
        assert (await at(bob, room, (await times(alice, room, later))[0], "b"))[1] not in (later, shown)
        assert await at(carol, room, ts, "f") == (403, "M_FORBIDDEN")


async def test_beyond_what_we_hold_another_server_is_asked_and_its_event_is_taken_in(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", QUIET), await world.box("b", QUIET)
        alice, bob = await a.person("alice"), await b.person("bob")
        room = await alice.create_room(preset="public_chat")
        said = []
        for number in range(40):
            await trio.sleep(STEP)
            said.append(await alice.say(room, str(number)))
        await bob.join(room, "a.test")
        stated = await times(alice, room, *said)
        assert await at(bob, room, stated[9] + 1, "f") == (200, said[10])
        assert await at(bob, room, stated[4] + 1, "b") == (200, said[4])
        context = await bob.ok("GET", f"/rooms/{quote(room)}/context/{quote(said[10])}", query={"limit": "4"})
        assert [one["content"]["body"] for one in context["events_before"]] == ["9", "8"]
        asked = world.internet.asked("/timestamp_to_event/")
        assert await at(bob, room, stated[9], "f") == (200, said[9])  # came with the other
        assert world.internet.asked("/timestamp_to_event/") == asked
        assert await bob.texts(room) == [str(number) for number in range(40)]
        assert (await bob.state(room)) == (await alice.state(room))


async def test_what_cannot_be_asked_for_is_answered_by_what_we_hold(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", QUIET), await world.box("b", QUIET)
        alice, bob = await a.person("alice"), await b.person("bob")
        room = await alice.create_room(preset="public_chat")
        said = await alice.say(room, "before bob")
        await trio.sleep(STEP)
        await bob.join(room, "a.test")
        world.internet.cut("a.test", "b.test")
        (ts,) = await times(alice, room, said)
        status, named = await at(bob, room, ts, "f")
        assert (status, (await bob.ok("GET", f"/rooms/{quote(room)}/event/{quote(named)}"))["sender"]) == (200, bob.user_id)
        assert await at(bob, room, ts, "b") == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("word", [("$" + "x" * 43, 0), ("nonsense", 1000), ("$" + "x" * 43, 10**14)])
async def test_a_server_that_names_what_there_is_not_changes_nothing(tmp_path, autojump_clock, word):
    """It lies about the event or about its time, or names one on the wrong side."""
    from edgeserver.rooms.timestamps import Timestamps

    class Liar:
        async def timestamp_to_event(self, server: str, room_id: str, ts: int, *, backwards: bool) -> tuple[str, int]:
            await trio.lowlevel.checkpoint()
            return word[0], ts + word[1]

    async with World(tmp_path) as world:
        a, b = await world.box("a", QUIET), await world.box("b", QUIET)
        alice, bob = await a.person("alice"), await b.person("bob")
        room = await alice.create_room(preset="public_chat")
        await bob.join(room, "a.test")
        timestamps = Timestamps(b.box.ground.db, b.box.rooms.history, Liar(), "b.test")
        found = await timestamps.event_at(bob.user_id, room, int(EPOCH * 1000), backwards=False)
        assert found.event.sender == bob.user_id
