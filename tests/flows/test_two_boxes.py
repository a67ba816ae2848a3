"""Two boxes on a simulated internet: people meet, talk, are parted, and hold the same afterwards."""

from __future__ import annotations

import pytest

from tests.flows.world import World, until


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_two_people_on_two_boxes_meet_and_talk(tmp_path, autojump_clock, version):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(name="Harbour", room_version=version)
        await alice.invite(room_id, bob.user_id)
        invited = await bob.sync()
        assert room_id in invited["rooms"]["invite"]
        await bob.join(room_id)
        await alice.say(room_id, "hello")
        await bob.say(room_id, "hi")

        async def both_hold_both() -> bool:
            return sorted(await alice.texts(room_id)) == ["hello", "hi"] == sorted(await bob.texts(room_id))

        await until(both_hold_both)
        assert await alice.state(room_id) == await bob.state(room_id)


async def test_messages_of_a_partition_arrive_exactly_once_when_it_heals(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        world.internet.cut("a.test", "b.test")
        said = []
        for number in range(30):
            await alice.say(room_id, f"a{number}")
            await bob.say(room_id, f"b{number}")
            said += [f"a{number}", f"b{number}"]
        world.internet.heal()

        async def whole() -> bool:
            return sorted(await alice.texts(room_id)) == sorted(said) == sorted(await bob.texts(room_id))

        await until(whole, seconds=4000)
        assert await alice.texts(room_id) == await bob.texts(room_id)


async def test_a_box_that_was_stopped_goes_on_where_it_was(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        await b.stop()
        for number in range(60):
            await alice.say(room_id, f"{number}")
        await a.stop()
        await a.start()
        await b.start()

        async def caught_up() -> bool:
            return await bob.texts(room_id) == [str(number) for number in range(60)]

        await until(caught_up, seconds=8000)
