"""Edits, reactions and threads between two boxes, as a person on either sees them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from edgeserver.federation.source import FederationSource
from edgeserver.store import rooms
from tests.asgi import AsgiClient
from tests.flows.world import Person, World, until

NUMBERS = iter(range(10_000))


def to(event_id: str, rel_type: str, **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id, **more}}


async def send(person: Person, room_id: str, kind: str = "m.room.message", **content: Any) -> str:
    path = f"/rooms/{quote(room_id)}/send/{kind}/n{next(NUMBERS)}"
    return str((await person.ok("PUT", path, {"msgtype": "m.text", **content}))["event_id"])


async def edit(person: Person, room_id: str, event_id: str, body: str) -> str:
    return await send(person, room_id, body=f"* {body}", **{"m.new_content": {"body": body}}, **to(event_id, "m.replace"))


async def asked(person: Person, path: str) -> dict[str, Any]:
    client = AsgiClient(person.box.box.app, token=person.token)
    answer = await client.request("GET", path, headers={"host": "client"})
    return dict(answer.json)


async def bundle(person: Person, room_id: str, event_id: str) -> dict[str, Any]:
    """`m.relations` of an event, with ids in place of whole events; empty while the event is not here."""
    answer = await person.request("GET", f"/rooms/{quote(room_id)}/event/{quote(event_id)}")
    found = answer.json.get("unsigned", {}).get("m.relations", {})
    thread = found.get("m.thread", {})
    shown = {"m.replace": found.get("m.replace", {}).get("event_id"), "m.reference": found.get("m.reference")}
    shown |= {"latest": thread.get("latest_event", {}).get("event_id"), "count": thread.get("count")}
    return {name: value for name, value in shown.items() if value is not None}


async def test_two_people_on_two_boxes_edit_react_and_speak_in_threads(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        before = await alice.say(room_id, "before bob came")
        old = await edit(alice, room_id, before, "edited before bob came")
        await bob.join(room_id, via="a.test")
        root = await alice.say(room_id, "root")

        async def bob_has(event_id: str) -> bool:
            return (await bob.request("GET", f"/rooms/{quote(room_id)}/event/{quote(event_id)}")).status == 200

        await until(lambda: bob_has(root))
        # While they are parted each relates events to what the other has
        world.internet.cut("a.test", "b.test")
        first = await send(bob, room_id, body="1", **to(root, "m.thread"))
        reference = await send(bob, room_id, "org.answer", **to(root, "m.reference"))
        newest = [await edit(alice, room_id, root, body) for body in ("new", "newest")][-1]
        mine = await send(alice, room_id, body="2", **to(root, "m.thread"))
        await send(alice, room_id, "m.reaction", **to(root, "m.annotation", key="👍"))
        world.internet.heal()

        async def agree() -> bool:
            here, there = await bundle(alice, room_id, root), await bundle(bob, room_id, root)
            return here == there and here.get("count") == 2 and "m.replace" in here and "m.reference" in here

        await until(agree, seconds=4000)
        found = await bundle(bob, room_id, root)
        assert found["m.replace"] == newest
        assert found["latest"] in (first, mine)
        assert found["m.reference"] == {"chunk": [{"event_id": reference}]}
        # A redaction on the one box takes the edit away on the other
        await alice.ok("PUT", f"/rooms/{quote(room_id)}/redact/{quote(newest)}/r", {})

        async def is_gone() -> bool:
            return (await bundle(bob, room_id, root))["m.replace"] != newest

        await until(is_gone)
        # What is fetched from before one's time brings its relations
        assert await bundle(bob, room_id, before) == {}
        await bob.ok("GET", f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "limit": "100"})
        assert await bundle(bob, room_id, before) == {"m.replace": old}
        path = f"/_matrix/client/v1/rooms/{quote(room_id)}"
        listed = [await asked(person, f"{path}/threads") for person in (alice, bob)]
        assert [[event["event_id"] for event in page["chunk"]] for page in listed] == [[root], [root]]
        pages = [await asked(person, f"{path}/relations/{quote(root)}") for person in (alice, bob)]
        assert [event["event_id"] for event in pages[0]["chunk"]] == [event["event_id"] for event in pages[1]["chunk"]]


async def test_servers_are_given_events_without_aggregations(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        said = await alice.say(room_id, "said")
        await edit(alice, room_id, said, "new")
        await bob.join(room_id, via="a.test")
        source = FederationSource(b.box.rooms.remote._calls)
        room = await b.box.ground.db.read(lambda tx: rooms.get(tx, room_id))
        backfilled = await source.backfill("a.test", room_id, room.heads, 50)
        assert {pdu["type"] for pdu in backfilled} >= {"m.room.message"}
        for pdu in [*backfilled, await source.event("a.test", said)]:
            assert "m.relations" not in pdu.get("unsigned", {})


async def test_thread_subscriptions_are_there_where_they_are_switched_on(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", "[features]\nthread_subscriptions = true")
        b = await world.box("b")
        for box, is_on in ((a, True), (b, False)):
            person = await box.person("alice")
            room_id = await person.create_room()
            root = await person.say(room_id, "root")
            path = f"/_matrix/client/unstable/io.element.msc4306/rooms/{quote(room_id)}/thread/{quote(root)}/subscription"
            client = AsgiClient(box.box.app, token=person.token)
            assert (await client.get("/_matrix/client/versions")).json["unstable_features"]["org.matrix.msc4306"] is is_on
            answer = await client.request("PUT", path, json={}, headers={"host": "client"})
            assert (answer.status, answer.json.get("errcode")) == ((200, None) if is_on else (404, "M_UNRECOGNIZED"))
            rules = (await person.ok("GET", "/pushrules/"))["global"]
            assert ("postcontent" in rules) is is_on
            synced = await person.sync()
            (item,) = [one for one in synced["account_data"]["events"] if one["type"] == "m.push_rules"]
            assert ("postcontent" in item["content"]["global"]) is is_on
