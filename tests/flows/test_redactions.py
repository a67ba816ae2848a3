"""Redactions that another box sends: people are told of them once they are known to mean something, and never of the others."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from edgeserver.matrix.event import Event
from edgeserver.matrix.verdicts import Accepted
from edgeserver.rooms.placing import Task
from edgeserver.store import events
from tests.asgi import AsgiClient
from tests.flows.world import Person, World, until

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
VERSIONS = ["10", "11"]
"""Two that keep `redacts` at different places."""


async def drafted(person: Person, room_id: str, kind: str, content: dict[str, Any], **options: Any) -> Task:
    """An event that the person's box makes whatever its own rules for them are, as a hostile one would. Nobody has it yet."""

    def draft(tx: Any) -> Task:
        composer = person.box.box.rooms.composer
        room = composer.joined_room(tx, room_id, person.user_id)
        return Task(room.number, composer.draft(tx, room, person.user_id, kind, content, **options)[0], deliver=True)

    return await person.box.box.ground.db.read(draft)


async def sent(task: Task, sender: Person, to: Person) -> Event:
    """The event, when its box has sent it and the other's has taken it in."""
    assert isinstance(await sender.box.box.rooms.placer.place(task), Accepted)

    async def has_come() -> bool:
        held = await to.box.box.ground.db.read(lambda tx: events.get(tx, task.event.event_id))
        return held is not None and held.stream is not None

    await until(has_come)
    return task.event


async def redaction(by: Person, room_id: str, target: str, to: Person, **content: Any) -> str:
    """An m.room.redaction; returns its id."""
    task = await drafted(by, room_id, "m.room.redaction", content, redacts=target)
    return (await sent(task, by, to)).event_id


async def told(person: Person, room_id: str, event_id: str, beside: str) -> set[str]:
    """By which of what a client asks it is told of the event; `beside` is one near it."""
    room, found = f"/rooms/{quote(room_id)}", {}
    whole = await person.ok("GET", "/sync", query={"filter": '{"room": {"timeline": {"limit": 100}}}'})
    found["sync"] = whole["rooms"]["join"][room_id]["timeline"]["events"]
    since = await person.ok("GET", "/sync", query={"since": str(person.since)})
    found["sync since"] = since.get("rooms", {}).get("join", {}).get(room_id, {}).get("timeline", {}).get("events", [])
    wish = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 50, "required_state": []}}}
    client = AsgiClient(person.box.box.app, token=person.token)
    sliding = await client.request("POST", SLIDING, json=wish, headers={"host": "client"})
    found["sliding"] = sliding.json["rooms"][room_id]["timeline"]
    for way in ("b", "f"):
        found[f"messages {way}"] = (await person.ok("GET", f"{room}/messages", query={"dir": way, "limit": "100"}))["chunk"]
    near = await person.ok("GET", f"{room}/context/{quote(beside)}", query={"limit": "50"})
    found["context"] = [*near["events_before"], *near["events_after"]]
    one = await person.request("GET", f"{room}/event/{quote(event_id)}")
    found["event"] = [one.json] if one.status == 200 else []
    around = await person.request("GET", f"{room}/context/{quote(event_id)}")
    found["context of it"] = [around.json["event"]] if around.status == 200 else []
    return {way for way, listed in found.items() if any(event["event_id"] == event_id for event in listed)}


ALL = {"sync", "sync since", "sliding", "messages b", "messages f", "context", "event", "context of it"}


async def shown(person: Person, room_id: str, event_id: str) -> dict[str, Any]:
    found: dict[str, Any] = await person.ok("GET", f"/rooms/{quote(room_id)}/event/{quote(event_id)}")
    return found


async def unread(person: Person, room_id: str) -> dict[str, int]:
    found: dict[str, int] = (await person.ok("GET", "/sync"))["rooms"]["join"][room_id]["unread_notifications"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
async def test_nobody_is_told_of_a_redaction_by_one_who_may_not(tmp_path, autojump_clock, version):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat", room_version=version, initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}},
        ])  # fmt: skip
        await bob.join(room_id, via="a.test")
        target = await alice.say(room_id, "mine")
        await alice.sync()
        refused = await redaction(bob, room_id, target, alice, **{"m.mentions": {"user_ids": [alice.user_id]}})
        nameless = await sent(await drafted(bob, room_id, "m.room.redaction", {}), bob, alice)
        for one in (refused, nameless.event_id):
            assert await told(alice, room_id, one, target) == set()
        assert (await shown(alice, room_id, target))["content"]["body"] == "mine"
        assert await unread(alice, room_id) == {"notification_count": 0, "highlight_count": 0}
        # It is part of the room all the same: what comes after it is after it
        last = await alice.say(room_id, "still here")
        stored = await a.box.ground.db.read(lambda tx: events.get(tx, last))
        assert stored is not None
        assert stored.event.prev_events == (nameless.event_id,)
        # The same by the same person counts when they have the power
        await alice.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.power_levels", {"users": {alice.user_id: 100, bob.user_id: 50}})

        async def has_power() -> bool:
            return bool((await bob.ok("GET", f"/rooms/{quote(room_id)}/state/m.room.power_levels"))["users"].get(bob.user_id))

        await until(has_power)
        applied = await redaction(bob, room_id, target, alice)
        assert await told(alice, room_id, applied, target) == ALL
        now = await shown(alice, room_id, target)
        assert (now["content"], now["unsigned"]["redacted_because"]["event_id"]) == ({}, applied)
        assert await told(alice, room_id, refused, target) == set()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_redaction_that_comes_before_its_target_is_not_told_and_the_target_comes_redacted(tmp_path, autojump_clock, version):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat", room_version=version)
        beside = await alice.say(room_id, "hello")
        await bob.join(room_id, via="a.test")
        await alice.sync()
        regretted = await drafted(bob, room_id, "m.room.message", {"msgtype": "m.text", "body": "regretted"})
        early = await redaction(bob, room_id, regretted.event.event_id, alice)
        assert await told(alice, room_id, early, beside) == set()
        target = (await sent(regretted, bob, alice)).event_id
        assert await told(alice, room_id, target, beside) == ALL
        now = await shown(alice, room_id, target)
        assert (now["content"], now["unsigned"]["redacted_because"]["event_id"]) == ({}, early)


async def test_the_redaction_of_what_the_box_holds_as_state_alone_is_told(tmp_path, autojump_clock):
    """Whoever joins later has the topic, in the room's state, and no timeline with it."""
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        path = f"/rooms/{quote(room_id)}/state/m.room.topic"
        topic = (await alice.ok("PUT", path, {"topic": "regretted"}))["event_id"]
        beside = await alice.say(room_id, "hello")
        await bob.join(room_id, via="a.test")
        held = await b.box.ground.db.read(lambda tx: events.get(tx, topic))
        assert held is not None
        assert held.is_outlier
        await bob.sync()
        gone = await redaction(alice, room_id, topic, bob)
        assert {"sync", "sync since", "sliding", "event"} <= await told(bob, room_id, gone, beside)
