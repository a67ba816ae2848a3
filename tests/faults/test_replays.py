"""What is sent again, because an answer was lost, is answered again and happens once: at the same time, later, and after a restart."""

from __future__ import annotations

from urllib.parse import quote

import trio

from tests.faults.stranger import Stranger
from tests.faults.test_bad_peers import visited
from tests.flows.world import World

MESSAGE = {"msgtype": "m.text", "body": "once"}


async def test_a_transaction_that_comes_again_is_answered_alike_and_taken_once(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, box, alice, room_id, stranger, joined):
        await alice.sync()
        message = stranger.message(room_id, [joined.event_id], joined.depth + 1, "once")
        direct = {"sender": stranger.user_id, "type": "x.y", "message_id": "m1", "messages": {alice.user_id: {"*": {"n": 1}}}}
        edus = [{"edu_type": "m.direct_to_device", "content": direct}]
        answers = []

        async def deliver() -> None:
            answers.append(await stranger.transaction("a.test", [message.pdu], edus, "same"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(deliver)
        await box.stop()
        await box.start()
        await deliver()
        answers.append(await stranger.transaction("a.test", [message.pdu], edus, "another id"))
        assert answers == [{message.event_id: {}}] * 7
        seen = await alice.sync()
        assert [event["content"] for event in seen["to_device"]["events"]] == [{"n": 1}]
        assert await alice.texts(room_id) == ["once"]


async def test_the_transaction_ids_of_two_servers_have_nothing_to_do_with_each_other(tmp_path, autojump_clock):

    async with visited(tmp_path) as (world, _, alice, room_id, stranger, joined):
        other = Stranger(world, "bad.test", b"b" * 32)
        theirs = await other.join("a.test", room_id)
        one = stranger.message(room_id, [joined.event_id], joined.depth + 1, "one")
        two = other.message(room_id, [theirs.event_id], theirs.depth + 1, "two")
        assert await stranger.transaction("a.test", [one.pdu], txn="t") == {one.event_id: {}}
        assert await other.transaction("a.test", [two.pdu], txn="t") == {two.event_id: {}}
        assert sorted(await alice.texts(room_id)) == ["one", "two"]


async def test_a_message_that_a_client_repeats_is_sent_once(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id)
        path = f"/rooms/{quote(room_id)}/send/m.room.message/t1"
        said: list[str] = []

        async def send() -> None:
            said.append((await alice.ok("PUT", path, MESSAGE))["event_id"])

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(send)
        await box.stop()
        await box.start()
        await send()
        assert len(set(said)) == 1
        assert (await bob.ok("PUT", path, MESSAGE))["event_id"] != said[0]
        assert await alice.texts(room_id) == ["once", "once"]
        redact = f"/rooms/{quote(room_id)}/redact/{quote(said[0])}/t1"
        assert (await alice.ok("PUT", redact))["event_id"] == (await alice.ok("PUT", redact))["event_id"]


async def test_a_message_to_a_device_that_a_client_repeats_arrives_once(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        await bob.sync()
        body = {"messages": {bob.user_id: {"*": {"n": 1}}}}
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(alice.ok, "PUT", "/sendToDevice/x.y/t1", body)
        await box.stop()
        await box.start()
        await alice.ok("PUT", "/sendToDevice/x.y/t1", body)
        assert [event["content"] for event in (await bob.sync())["to_device"]["events"]] == [{"n": 1}]


async def test_a_join_that_is_repeated_is_one_join(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        for _ in range(2):
            assert await stranger.transaction("a.test", [joined.pdu]) == {joined.event_id: {}}
        target = f"/_matrix/federation/v2/send_join/{quote(room_id, safe='')}/{quote(joined.event_id, safe='')}"
        status, _ = await stranger.ask("a.test", "PUT", target, joined.pdu)
        assert status == 200
        members = await alice.ok("GET", f"/rooms/{quote(room_id)}/joined_members")
        assert len(members["joined"]) == 2
