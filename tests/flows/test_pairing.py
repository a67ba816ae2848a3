"""Pairing as people do it: a code at one end, typed at the other."""

from __future__ import annotations

import pytest
import trio

from edgeserver.matrix import errors
from tests.flows.world import World, until
from transports.memory import Medium, MemoryCable

LINK = '[[links]]\nuri = "serial:/dev/null,9600"\nname = "{}"\n'


async def test_a_box_shows_a_code_on_one_line_while_it_types_another_on_the_next(tmp_path, autojump_clock):
    here, there = MemoryCable(Medium(9600), seed=1), MemoryCable(Medium(9600), seed=2)
    async with World(tmp_path) as world:
        a = await world.box("a", LINK.format("west") + LINK.format("east"), {"west": here.a, "east": there.a})
        b = await world.box("b", LINK.format("line"), {"line": here.b})
        c = await world.box("c", LINK.format("line"), {"line": there.b})
        await trio.sleep(1)  # until the lines are open
        shown, _ = a.box.links.open_offer(front=False)
        typed, _ = b.box.links.open_offer(front=False)
        await a.box.links.join_offer("west", typed, gateway=False)
        assert a.box.links.offer_trouble is None
        assert a.box.links.last_paired is None
        await c.box.links.join_offer("line", shown, gateway=False)

        async def told() -> bool:
            return a.box.links.last_paired is not None and b.box.links.last_paired is not None

        await until(told, seconds=10)
        assert a.box.links.last_paired.name == "c.test"
        assert b.box.links.last_paired.name == "a.test"


async def test_a_wrong_code_is_refused_with_a_sentence_and_the_right_one_still_counts(tmp_path, autojump_clock):
    cable = MemoryCable(Medium(9600), seed=1)
    async with World(tmp_path) as world:
        a = await world.box("a", LINK.format("line"), {"line": cable.a})
        b = await world.box("b", LINK.format("line"), {"line": cable.b})
        await trio.sleep(1)  # until the lines are open
        code, _ = a.box.links.open_offer(front=False)
        with pytest.raises(errors.Forbidden, match="The pairing failed"):
            await b.box.links.join_offer("line", "AAAA-AAAA", gateway=False)
        await trio.sleep(30)
        assert (await b.box.links.join_offer("line", code, gateway=False)).name == "a.test"
