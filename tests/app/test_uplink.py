"""Noticing that the uplink is gone, and the moment that it is back."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edgeserver.app.uplink import LONGEST_PAUSE, PROBE_PATH, Uplink
from transports.exchange import LinkProfile, Request, Response, TimedOut, Unreachable


@dataclass
class Internet:
    """Servers that answer; `seen` says when which was asked for what."""

    there: set[str] = field(default_factory=lambda: {"b.test", "c.test"})
    seen: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def profile(self) -> LinkProfile:
        return LinkProfile("internet")

    async def exchange(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        self.seen.append((trio.current_time(), request.authority, request.target))
        if request.authority not in self.there:
            raise Unreachable(f"{request.authority} is not there")
        return Response(500)

    def probes(self) -> list[float]:
        return [when for when, _, target in self.seen if target == PROBE_PATH]


class Rig:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.internet = Internet()
        self.said: list[bool] = []
        self.forgotten: list[list[bool]] = []
        """What had been said each time when all conclusions were to be forgotten."""
        self.uplink = Uplink(self.internet, before_return=lambda: self.forgotten.append([*self.said]))
        self.uplink.changed = self.said.append
        nursery.start_soon(self.uplink.run)

    async def ask(self, name: str) -> bool:
        """Whether it answered; returns when everybody has drawn the conclusions."""
        try:
            await self.uplink.exchange(Request("GET", "/x", name))
        except Unreachable:
            return False
        finally:
            await wait_all_tasks_blocked()
        return True


@pytest.fixture
async def rig(nursery, mock_clock):
    return Rig(nursery)


async def test_a_working_uplink_costs_nothing(rig, mock_clock):
    assert await rig.ask("b.test")
    mock_clock.jump(86_400)
    await wait_all_tasks_blocked()
    assert (rig.internet.probes(), rig.said, rig.uplink.is_up) == ([], [], True)


async def test_one_server_that_is_away_is_not_the_uplink(rig):
    await rig.ask("b.test")
    assert not await rig.ask("d.test")
    assert len(rig.internet.probes()) == 1
    assert (rig.said, rig.uplink.is_up) == ([], True)


async def test_before_anybody_has_answered_nothing_is_concluded(rig):
    assert not await rig.ask("d.test")
    assert (rig.internet.probes(), rig.said, rig.uplink.is_up) == ([], [], True)


async def test_a_box_that_started_without_its_uplink_tries_again_when_the_machine_gets_one(rig, mock_clock, nursery):
    nursery.start_soon(rig.uplink.stir)
    await wait_all_tasks_blocked()
    assert not await rig.ask("d.test")
    assert rig.said == [], "nothing had failed before"
    for _ in range(3):  # link, address, route
        nursery.start_soon(rig.uplink.stir)
    await wait_all_tasks_blocked()
    mock_clock.jump(1)
    await wait_all_tasks_blocked()
    assert (rig.said, rig.forgotten) == ([False, True], [[False]])


async def test_when_nobody_answers_that_did_the_uplink_is_gone(rig):
    await rig.ask("b.test")
    await rig.ask("c.test")
    rig.internet.there.clear()
    assert not await rig.ask("b.test")
    assert (rig.said, rig.uplink.is_up) == ([False], False)
    assert [name for _, name, target in rig.internet.seen if target == PROBE_PATH] == ["c.test", "b.test"]


async def test_it_is_tried_with_growing_pauses_and_its_return_is_told_at_once(rig, mock_clock):
    await rig.ask("b.test")
    rig.internet.there.clear()
    await rig.ask("b.test")
    began = trio.current_time()
    for _ in range(3600):
        mock_clock.jump(0.5)
        await wait_all_tasks_blocked()
    tried = [when - began for when in rig.internet.probes() if when > began]
    pauses = [after - before for before, after in zip([0.0, *tried], tried, strict=False)]
    assert pauses[:5] == [2, 4, 8, 16, 32]
    assert set(pauses[5:]) == {LONGEST_PAUSE}
    rig.internet.there.add("b.test")
    mock_clock.jump(LONGEST_PAUSE)
    await wait_all_tasks_blocked()
    assert (rig.said, rig.uplink.is_up) == ([False, True], True)


async def test_any_answer_wakes_the_probe(rig, mock_clock):
    await rig.ask("b.test")
    rig.internet.there.clear()
    await rig.ask("b.test")
    for _ in range(60):  # pauses are long by now
        mock_clock.jump(2)
        await wait_all_tasks_blocked()
    assert rig.said == [False]
    rig.internet.there.update(("b.test", "c.test"))
    assert await rig.ask("c.test")
    mock_clock.jump(0.3)
    await wait_all_tasks_blocked()
    assert (rig.said, rig.forgotten) == ([False, True], [[False]])


async def test_a_change_of_the_machines_links_during_a_probe_has_it_probed_again_at_once(nursery, mock_clock):
    """The carrier came back while a question to DNS was on its way into the void."""

    class Slow(Internet):
        async def exchange(self, request: Request) -> Response:
            there = set(self.there)
            if request.target == PROBE_PATH:
                await trio.sleep(10)
            if request.authority not in there:
                raise Unreachable("not there")
            return await super().exchange(request)

    rig = Rig(nursery)
    rig.internet = Slow()
    rig.uplink = Uplink(rig.internet)
    rig.uplink.changed = rig.said.append
    nursery.start_soon(rig.uplink.run)
    await rig.ask("b.test")
    rig.internet.there.clear()
    await rig.ask("b.test")
    mock_clock.jump(9)
    rig.internet.there.add("b.test")
    await rig.uplink.stir()
    for _ in range(130):
        mock_clock.jump(0.1)
        await wait_all_tasks_blocked()
    assert rig.said == [False, True]


async def test_an_answer_that_is_late_does_not_put_the_uplink_in_doubt(nursery, mock_clock):
    class Late(Internet):
        async def exchange(self, request: Request) -> Response:
            await trio.lowlevel.checkpoint()
            raise TimedOut("late")

    uplink = Uplink(Late())
    said: list[bool] = []
    uplink.changed = said.append
    nursery.start_soon(uplink.run)
    with pytest.raises(TimedOut):
        await uplink.exchange(Request("GET", "/x", "b.test"))
    await wait_all_tasks_blocked()
    assert said == []
