"""How much of a line is left where frames are lost: both ends ask and answer in bulk, as programs do, over the product's link in memory."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from functools import partial

import orjson
import trio
from trio.testing import MockClock

from tests.bench.radio import RADIOS
from tests.bench.report import Report, say
from tests.bench.thin import CLIENT, text_message
from tests.lab.programs import LabError
from tests.transports.rigs import ALICE, BOB, NAMES
from transports.client import Multiplexer
from transports.exchange import Request, Response
from transports.link.connection import Link
from transports.memory import Air, Medium, MemoryCable

SHARES = (0.1, 0.3)
AT_ONCE = 16
"""Requests under way at each end: half of what the other answers at a time."""
ROOM = "%21abcdefghijklmnopqr%3Abox.example"
JSON = (("content-type", "application/json"), ("authorization", "Bearer bench"))


def losses(report: Report) -> None:
    """Of every line, the share of its goodput without loss; a request that came twice, never or out of turn fails the benchmark."""
    lines: dict[str, tuple[Callable[[int], MemoryCable | Air], str]] = {
        "line": (lambda seed: MemoryCable(Medium(2400), seed=seed), "2400 bit/s in memory, both directions at once"),
        **{f"line.{radio.name}": (radio.air, radio.note) for radio in RADIOS},
    }
    for prefix, (lay, what) in lines.items():
        names = {share: f"{prefix}.loss{100 * share:.0f}.goodput" for share in SHARES}
        if not report.wants(*names.values()):
            continue
        say(f"loss, {prefix}")
        count, seeds = report.runs(100, 60), report.runs(5, 3)
        found: dict[float, list[float]] = {0.0: [], **{share: [] for share in SHARES}}
        for seed in range(seeds):
            text = report.texts()
            texts = [text() for _ in range(2 * count)]
            for share in found:
                story = partial(_bulk, lay(seed), share, seed, texts)
                found[share].append(trio.run(story, clock=MockClock(autojump_threshold=0)))
        whole = statistics.median(found[0.0])
        for share, name in names.items():
            note = (
                f"virtual clock; {what}; {count} messages each way as requests, {AT_ONCE} at a time, each answered with an event id; "
                f"of {sum(map(len, texts)) / whole:.0f} characters/s without loss; every request once and in its turn"
            )
            report.median(name, [whole / seconds for seconds in found[share]], "share", note)


async def _bulk(line: MemoryCable | Air, loss: float, seed: int, texts: list[str]) -> float:
    """Seconds in which each end has sent half of the texts and has all answers. Raises `LabError`."""
    chance = random.Random(seed)
    ends = (line.station("a"), line.station("b")) if isinstance(line, Air) else (line.a, line.b)
    links = [
        Link(ends[0], ALICE, NAMES.get, peer_key=BOB.public_key, random=chance.randbytes),
        Link(ends[1], BOB, NAMES.get, random=chance.randbytes),
    ]
    async with trio.open_nursery() as nursery:
        for link in links:
            nursery.start_soon(link.run)
        sides = [_Side(Multiplexer(await link.wait_up()), chance) for link in links]
        for side in sides:
            await nursery.start(side.multiplexer.run, side.answer)
        for side in sides:
            await side.ask(-1, "The two have greeted each other.")
        line.medium = Medium(line.medium.bit_rate, loss=loss, mtu=line.medium.mtu, lora=line.medium.lora)
        began = trio.current_time()
        async with trio.open_nursery() as both:
            for number, side in enumerate(sides):
                both.start_soon(side.ask_all, texts[number::2])
        seconds = trio.current_time() - began
        if any(side.asked != list(range(-1, len(texts) // 2)) for side in sides):
            raise LabError("a request came twice, never or out of turn")
        nursery.cancel_scope.cancel()
    return seconds


class _Side:
    def __init__(self, multiplexer: Multiplexer, chance: random.Random) -> None:
        self.multiplexer = multiplexer
        self.asked: list[int] = []
        self._chance = chance
        self._room = trio.Semaphore(AT_ONCE)

    async def answer(self, request: Request, gone: trio.Event) -> Response:
        self.asked.append(int(request.target.rpartition("/m")[2]))
        event_id = "$" + "".join(self._chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", k=43))
        return Response(200, JSON[:1], orjson.dumps({"event_id": event_id}))

    async def ask(self, number: int, text: str) -> None:
        target = f"{CLIENT}/rooms/{ROOM}/send/m.room.message/m{number}"
        await self.multiplexer.exchange(Request("PUT", target, "", JSON, orjson.dumps(text_message(text)), timeout=36_000.0))

    async def ask_all(self, texts: list[str]) -> None:
        async with trio.open_nursery() as nursery:
            for number, text in enumerate(texts):
                await self._room.acquire()
                nursery.start_soon(self._ask_in_turn, number, text)
                await trio.sleep(0.001)  # it has been written before the next one is

    async def _ask_in_turn(self, number: int, text: str) -> None:
        await self.ask(number, text)
        self._room.release()
