"""Classic sync, both dialects of sliding sync, `/state` and `/messages` tell the same, however a client polls."""

from __future__ import annotations

import random

import pytest

from tests.flows.world import World
from tests.sync import histories
from tests.sync.classic_client import ClassicClient


@pytest.mark.parametrize("seed", range(12))
def test_every_way_of_polling_comes_to_the_same(seed: int) -> None:
    histories.run(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(100, 3100, 50))
def test_three_thousand_more_histories_come_to_the_same(first: int) -> None:
    for seed in range(first, first + 50):
        histories.run(seed)


@pytest.mark.parametrize("seed", range(4))
async def test_what_somebody_had_said_before_they_were_ignored_keeps_its_place_for_who_leaves_and_comes_back(tmp_path, seed: int) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a", histories.CONFIG)
        alice, bob = await box.person("alice"), await box.person("bob")
        room = await bob.create_room(preset="public_chat")
        ignored: set[str] = set()
        client = ClassicClient(alice, random.Random(seed), ignored)
        await alice.join(room)
        await bob.say(room, "hello")
        await bob.ok("PUT", f"/rooms/{room}/state/m.room.topic/", {"topic": "harbours"})
        await client.poll()
        ignored.add(bob.user_id)
        await alice.ok("PUT", f"/user/{alice.user_id}/account_data/m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
        await alice.ok("POST", f"/rooms/{room}/leave")
        await client.poll()
        await bob.say(room, "gone?")
        await alice.join(room)
        await client.check(ignored)
