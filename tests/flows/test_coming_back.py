"""A box that was away says to each peer once that it is back, and everybody catches up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.flows.world import World, until


@pytest.mark.parametrize("has_news", [True, False])
async def test_a_box_that_comes_back_makes_one_signed_request_to_each_peer(tmp_path: Path, autojump_clock: Any, has_news: bool) -> None:
    async with World(tmp_path) as world:
        home = await world.box("home")
        others = [await world.box(f"peer{number}") for number in range(5)]
        alice, people = await home.person("alice"), [await box.person("bob") for box in others]
        room = await alice.create_room(preset="public_chat")
        for person in people:
            await person.join(room, via="home.test")
        await trio.sleep(60)
        home.box.peers.internet_changed(False)
        for box in others:
            world.internet.cut("home.test", box.server_name)
        if has_news:
            await alice.say(room, "is anybody there?")
        for person in people:
            await person.say(room, f"{person.user_id} has missed you")
        await trio.sleep(3 * 3600)
        world.internet.heal()
        world.internet.signed.clear()
        home.box.peers.internet_changed(True)
        await trio.sleep(60)
        sent = [(whom, signed) for who, whom, what, signed in world.internet.signed if who == "home.test" and "/send/" in what]
        assert sorted(sent) == [(box.server_name, True) for box in others]
        assert len(await alice.texts(room)) == len(people) + has_news  # for whoever heard of us has sent what waited

        async def all_the_same() -> bool:
            texts = sorted(await alice.texts(room))
            return all([sorted(await person.texts(room)) == texts for person in people])

        await until(all_the_same)
