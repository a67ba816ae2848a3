"""Many stations on one pair of wires: each meets its peers, each gets its turn, and what a person waits for overtakes pictures."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest
import trio
import trio.testing

from transports.exchange import Priority
from transports.identity import Identity
from transports.link.connection import Connection, Link
from transports.link.switchboard import Switchboard
from transports.link.wire import LinkStats, WireGone
from transports.memory import PartyLine
from transports.multidrop import Bus

BOX = Identity(b"B" * 32)


class Village:
    """A box and some stations that are paired with it, all on the same two wires."""

    def __init__(
        self, nursery: trio.Nursery, size: int, *, bit_rate: int = 9600, seed: int = 1, echo: bool = False, loss: float = 0.0
    ) -> None:
        self.line = PartyLine(bit_rate, seed=seed, echo=echo, loss=loss)
        self.chance = random.Random(seed)
        self.stations = [Identity(bytes([65 + number]) * 32) for number in range(size)]
        self.names = {each.public_key: f"station {number}" for number, each in enumerate(self.stations)}
        self.buses = [self.bus(f"bus {number}", bit_rate) for number in range(size)]
        self.box_bus = self.bus("box", bit_rate)
        board = Switchboard()
        self.seats = [
            Link(self.box_bus, BOX, self.names.get, switchboard=board, random=self.chance.randbytes) for _ in self.stations
        ]
        self.links = [
            Link(bus, each, {BOX.public_key: "box"}.get, peer_key=BOX.public_key, random=self.chance.randbytes)
            for bus, each in zip(self.buses, self.stations, strict=True)
        ]
        for link in self.seats + self.links:
            nursery.start_soon(link.run)

    def bus(self, name: str, bit_rate: int) -> Bus:
        return Bus(name, self.line.open, bit_rate, chance=random.Random(self.chance.random()))

    async def all_meet(self) -> list[tuple[Connection, Connection]]:
        """(the box's end, the station's end) of each."""
        theirs = [await link.wait_up() for link in self.links]
        await trio.sleep(10)
        ours = {link.connection.peer_key: link.connection for link in self.seats if link.connection is not None and link.connection.is_up}
        return [(ours[each.public_key], there) for each, there in zip(self.stations, theirs, strict=True)]


async def pour(
    sender: Connection, receiver: Connection, count: Counter[int], number: int, priority: Priority, *, lanes: int = 4
) -> None:
    """Messages of 400 bytes without end, so many at a time; `count` has the bytes that arrived."""
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            while True:
                await sender.send(bytes(400), priority=priority)

        for _ in range(lanes):
            nursery.start_soon(send)
        while True:
            count[number] += len(await receiver.receive())


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("size", [1, 2, 8])
async def test_all_stations_meet_the_box_and_stay(autojump_clock, nursery, size: int, echo: bool) -> None:
    village = Village(nursery, size, echo=echo)
    with trio.fail_after(60 + 30 * size):
        pairs = await village.all_meet()
    await trio.sleep(3600)
    for number, (ours, theirs) in enumerate(pairs):
        assert ours.profile.peer == f"station {number}"
        assert ours.is_up
        assert theirs.is_up
        async with trio.open_nursery() as talking:
            talking.start_soon(ours.send, b"to %d" % number)
            talking.start_soon(theirs.send, b"from %d" % number)
            assert await theirs.receive() == b"to %d" % number
            assert await ours.receive() == b"from %d" % number
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_eight_stations_get_equal_shares(autojump_clock, nursery, direction: str) -> None:
    village = Village(nursery, 8, bit_rate=57_600)
    pairs = await village.all_meet()
    count: Counter[int] = Counter()
    async with trio.open_nursery() as pouring:
        for number, (ours, theirs) in enumerate(pairs):
            sender, receiver = (ours, theirs) if direction == "down" else (theirs, ours)
            pouring.start_soon(partial(pour, sender, receiver, count, number, Priority.MESSAGE, lanes=16))
        await trio.sleep(120)
        pouring.cancel_scope.cancel()
    shares = [count[number] for number in range(8)]
    assert max(shares) <= 1.5 * min(shares), shares
    assert sum(shares) / 120 >= 0.3 * 5760, sum(shares) / 120  # bytes a second, of wires that carry 5,760
    nursery.cancel_scope.cancel()


async def test_what_a_person_waits_for_overtakes_the_pictures_of_all_others(autojump_clock, nursery) -> None:
    village = Village(nursery, 8, bit_rate=19_200)
    pairs = await village.all_meet()
    count: Counter[int] = Counter()
    took = []
    async with trio.open_nursery() as pouring:
        for number, (ours, theirs) in enumerate(pairs[:7]):
            pouring.start_soon(pour, ours, theirs, count, number, Priority.MEDIA)
        await trio.sleep(20)
        ours, theirs = pairs[7]
        for _ in range(11):
            began = trio.current_time()
            async with trio.open_nursery() as one:
                one.start_soon(lambda: ours.send(b"hello" * 10, priority=Priority.INTERACTIVE))
                await theirs.receive()
            took.append(trio.current_time() - began)
            await trio.sleep(3)
        before = dict(count)
        await trio.sleep(40)
        assert all(count[number] > before[number] for number in range(7))  # and none of them starves
        pouring.cancel_scope.cancel()
    assert sorted(took)[5] < 1.0, took
    nursery.cancel_scope.cancel()


async def test_of_what_waits_for_five_stations_the_most_urgent_arrives_first(autojump_clock, nursery) -> None:
    village = Village(nursery, 5)
    pairs = await village.all_meet()
    arrived = []

    async def carry(ours: Connection, theirs: Connection, priority: Priority) -> None:
        async with trio.open_nursery() as one:
            one.start_soon(lambda: ours.send(bytes(3000), priority=priority))
            await theirs.receive()
            arrived.append(priority)

    async with trio.open_nursery() as carrying:
        for (ours, theirs), priority in zip(pairs, reversed(Priority), strict=True):  # the least urgent is there first
            carrying.start_soon(carry, ours, theirs, priority)
    assert arrived == list(Priority)
    nursery.cancel_scope.cancel()


async def test_media_goes_on_beside_a_stream_of_what_people_wait_for(autojump_clock, nursery) -> None:
    village = Village(nursery, 2, bit_rate=9600)
    pairs = await village.all_meet()
    count: Counter[int] = Counter()
    async with trio.open_nursery() as pouring:
        pouring.start_soon(partial(pour, *pairs[0], count, 0, Priority.INTERACTIVE, lanes=16))
        pouring.start_soon(pour, *pairs[1], count, 1, Priority.MEDIA)
        await trio.sleep(180)
        pouring.cancel_scope.cancel()
    assert count[0] > 8 * count[1] > 0, count
    nursery.cancel_scope.cancel()


async def test_a_port_that_vanishes_takes_all_its_wires_along_and_is_opened_once_when_it_is_back(autojump_clock, nursery) -> None:
    opened, there = [], [True]
    line = PartyLine(9600)

    async def open_port():
        if not there[0]:
            raise WireGone("no such port")
        opened.append(await line.open())
        return opened[-1]

    bus = Bus("bus", open_port, 9600)
    wires = [await bus.open(LinkStats()) for _ in range(3)]
    assert len(opened) == 1
    there[0] = False

    async def hear(wire) -> None:
        with pytest.raises(WireGone):
            await wire.receive()

    async with trio.open_nursery() as hearing:
        for wire in wires:
            hearing.start_soon(hear, wire)
        await trio.sleep(1)
        await opened[0].aclose()
    with pytest.raises(WireGone, match="no such port"):
        await bus.open(LinkStats())
    for wire in wires:
        with pytest.raises(WireGone):
            await wire.send(b"\x22nobody")
        await wire.aclose()
    there[0] = True
    again = await bus.open(LinkStats())
    await again.send(b"\x22somebody")
    await again.aclose()
    assert len(opened) == 2
    assert line.ports == []


async def test_a_cancelled_reader_leaves_the_port_to_the_others(autojump_clock, nursery) -> None:
    line = PartyLine(9600)
    one, other = Bus("one", line.open, 9600), Bus("other", line.open, 9600)
    reader, waiter = [await one.open(LinkStats()) for _ in range(2)]
    speaker = await other.open(LinkStats())
    heard = []

    async def hear() -> None:
        heard.append(await waiter.receive())

    with trio.move_on_after(1):
        async with trio.open_nursery() as reading:
            reading.start_soon(reader.receive)  # reads the port for both
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(hear)
    await speaker.send(b"\x22hear me")
    await trio.sleep(1)
    assert heard == [b"\x22hear me"]
    assert await reader.receive() == b"\x22hear me"
