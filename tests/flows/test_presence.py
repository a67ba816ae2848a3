"""Presence between two boxes, and on one that has it switched off; and the index of the search after a power cut."""

from __future__ import annotations

from urllib.parse import quote

import trio

from tests.asgi import AsgiClient
from tests.flows.world import Person, World, until
from transports.exchange import LinkProfile

ON = "[accounts]\npresence = true\n"


async def heard(person: Person, timeout: int = 0) -> dict[str, dict[str, object]]:
    """m.presence of a sync: user id → content."""
    answer = await person.sync(timeout)
    return {one["sender"]: one["content"] for one in answer.get("presence", {}).get("events", [])}


def status(person: Person) -> str:
    return f"/presence/{quote(person.user_id)}/status"


async def test_people_on_two_boxes_see_each_other_come_and_go(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", ON), await world.box("b", ON)
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        await alice.sync()
        await trio.sleep(60)
        positions = [box.box.ground.db.position for box in (a, b)]
        await bob.ok("PUT", status(bob), {"presence": "online", "status_msg": "on watch"})

        async def is_seen() -> bool:
            return (await heard(alice, 30_000)).get(bob.user_id, {}).get("status_msg") == "on watch"

        await until(is_seen)
        assert [box.box.ground.db.position for box in (a, b)] == positions  # nothing of it is written, nor waits in an outbox
        shown = await alice.ok("GET", status(bob))
        assert (shown["presence"], shown["status_msg"], shown["currently_active"]) == ("online", "on watch", True)

        async def is_gone() -> bool:
            return (await heard(alice, 30_000)).get(bob.user_id, {}).get("presence") == "offline"

        await until(is_gone)
        none = '{"presence":{"not_types":["m.presence"]}}'
        await bob.ok("PUT", status(bob), {"presence": "unavailable"})
        await trio.sleep(10)
        answer = await alice.ok("GET", "/sync", query={"since": alice.since, "filter": none})
        assert "presence" not in answer
        assert (await heard(alice))[bob.user_id]["presence"] == "unavailable"


async def test_a_client_on_a_thin_line_is_told_of_nobody(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", ON)
        alice, bob = await a.person("alice"), await a.person("bob")
        await bob.join(await alice.create_room(preset="public_chat"))
        await bob.ok("PUT", status(bob), {"presence": "online"})
        told = {}
        for bit_rate in (2400, None):
            client = AsgiClient(a.box.app, token=alice.token, link=LinkProfile("line", bit_rate=bit_rate))
            answer = await client.request("GET", "/_matrix/client/v3/sync", headers={"host": "client"})
            told[bit_rate] = "presence" in answer.json
        assert told == {2400: False, None: True}


async def test_a_box_without_presence_says_and_takes_nothing_of_it(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", ON), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        await bob.sync()
        await alice.ok("PUT", status(alice), {"presence": "online"})
        assert await bob.ok("PUT", status(bob), {"presence": "online"}) == {}
        await trio.sleep(60)
        assert await bob.ok("GET", status(bob)) == {"presence": "offline"}
        assert await bob.ok("GET", status(alice)) == {"presence": "offline"}
        assert await heard(bob) == {}
        assert await alice.ok("GET", status(bob)) == {"presence": "offline"}


async def test_a_server_that_cannot_be_told_is_left_alone_for_a_while(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", ON), await world.box("b", ON)
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        await trio.sleep(60)
        world.internet.cut("a.test", "b.test")
        before = len(world.internet.signed)
        for number in range(10):
            await alice.ok("PUT", status(alice), {"presence": "unavailable", "status_msg": f"{number}"})
            await trio.sleep(10)
        tried = [what for origin, _, what, _ in world.internet.signed[before:] if origin == "a.test" and "/send/" in what]
        assert len(tried) == 1


async def test_what_was_said_before_a_power_cut_is_found_after_it(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", "[limits]\nrate_limits = false\n")
        alice = await box.person("alice")
        room_id = await alice.create_room()

        async def found() -> list[str]:
            body = {"search_categories": {"room_events": {"search_term": "buoy", "order_by": "recent"}}}
            results = (await alice.ok("POST", "/search", body))["search_categories"]["room_events"]["results"]
            return [one["result"]["content"]["body"] for one in results]

        await alice.say(room_id, "buoy one")
        assert await found() == ["buoy one"]
        await alice.say(room_id, "buoy two")
        await box.kill()
        await box.start()
        await alice.say(room_id, "buoy three")
        assert await found() == ["buoy three", "buoy two", "buoy one"]
        await trio.sleep(1300)
        for number in range(250):
            await alice.say(room_id, f"noise {number}")
        done = await box.box.ground.db.read(lambda tx: tx.one("SELECT high FROM search_progress"))
        await trio.sleep(700)
        later = await box.box.ground.db.read(lambda tx: tx.one("SELECT high FROM search_progress"))
        assert later[0] > done[0] + 200  # nobody has searched: it was worked off in the background
