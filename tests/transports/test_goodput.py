"""How much of a line is left where frames are lost, and that requests keep their order there."""

from __future__ import annotations

import random
import statistics
from contextlib import asynccontextmanager

import orjson
import pytest
import trio
from trio.testing import MockClock

from tests.transports.rigs import ALICE, BOB, NAMES, MemoryRig, both_up
from transports.client import Multiplexer
from transports.exchange import Request, Response
from transports.link.connection import Connection, Link
from transports.link.lora import MESHTASTIC_LONG_FAST, LoRa
from transports.memory import Air, Medium, MemoryCable

LINES = {
    "2400 baud": lambda loss: MemoryCable(Medium(2400, loss=loss), seed=1),
    "LoRa SF7": lambda loss: Air(Medium.radio(LoRa(7, 125_000), loss=loss), seed=1),
    "LongFast": lambda loss: Air(Medium.radio(MESHTASTIC_LONG_FAST, loss=loss), seed=1),
}
MESSAGES, AT_ONCE = 80, 12


@asynccontextmanager
async def meeting(line: MemoryCable | Air, seed: int):
    ends = (line.station("a"), line.station("b")) if isinstance(line, Air) else (line.a, line.b)
    links = [
        Link(ends[0], ALICE, NAMES.get, peer_key=BOB.public_key, random=random.Random(seed).randbytes),
        Link(ends[1], BOB, NAMES.get, random=random.Random(seed + 1).randbytes),
    ]
    async with trio.open_nursery() as nursery:
        for link in links:
            nursery.start_soon(link.run)
        yield [await link.wait_up() for link in links], nursery
        nursery.cancel_scope.cancel()


async def talk(line: MemoryCable | Air, seed: int) -> float:
    """Seconds in which both ends have sent their messages, a few at a time, and each was there once."""
    chance = random.Random(seed)
    async with meeting(line, seed) as (connections, _):
        began = trio.current_time()

        async def send(connection: Connection) -> None:
            room = trio.CapacityLimiter(AT_ONCE)
            async with trio.open_nursery() as sending:
                for number in range(MESSAGES):
                    await room.acquire_on_behalf_of(number)

                    async def one(number: int = number) -> None:
                        await connection.send(number.to_bytes(2) + bytes(chance.randrange(10, 60)))
                        room.release_on_behalf_of(number)

                    sending.start_soon(one)

        async def take(connection: Connection) -> None:
            taken = [int.from_bytes((await connection.receive())[:2]) for _ in range(MESSAGES)]
            assert sorted(taken) == list(range(MESSAGES))
            with trio.move_on_after(0):
                pytest.fail(f"one too many: {await connection.receive()!r}")

        async with trio.open_nursery() as both:
            for connection in connections:
                both.start_soon(send, connection)
                both.start_soon(take, connection)
        return trio.current_time() - began


@pytest.mark.parametrize("kind", LINES)
def test_of_a_line_that_loses_a_tenth_or_a_third_of_its_frames_most_is_left(kind: str) -> None:
    def seconds(loss: float) -> float:
        return statistics.median(trio.run(talk, LINES[kind](loss), seed, clock=MockClock(autojump_threshold=0)) for seed in range(5))

    whole = seconds(0.0)
    assert whole / seconds(0.1) > 0.65
    # Who speaks next on a radio is chance, and the order of tasks is, too; the benchmark has the figures.
    assert whole / seconds(0.3) > (0.35 if kind == "2400 baud" else 0.25)


async def test_requests_that_waited_for_a_lost_one_are_begun_in_their_order(autojump_clock, nursery) -> None:
    rig = MemoryRig(Medium(2400))
    asking, answering = (Multiplexer(end) for end in await both_up(rig.start_alice(nursery), rig.start_bob(nursery)))
    begun: list[int] = []

    async def handler(request: Request, gone: trio.Event) -> Response:
        begun.append(orjson.loads(request.body)["number"])
        return Response(200)

    await nursery.start(asking.run)
    await nursery.start(answering.run, handler)

    def request(number: int) -> Request:
        target = f"/_matrix/client/v3/rooms/%21room/send/m.room.message/m{number}"
        return Request("PUT", target, "", (("content-type", "application/json"),), orjson.dumps({"number": number}), timeout=600.0)

    await asking.exchange(request(0))  # the two have greeted each other
    rig.cable.medium = Medium(2400, loss=0.2)
    async with trio.open_nursery() as inner:
        for number in range(1, 60):
            inner.start_soon(asking.exchange, request(number))
            await trio.sleep(0.2)
    assert begun == list(range(60))
    nursery.cancel_scope.cancel()
