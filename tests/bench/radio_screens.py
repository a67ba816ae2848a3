"""What a person sees over a radio, at first and when they come back: with `edgeserver chat`, and with an app behind the proxy."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio
from trio.testing import MockClock

from edgeserver.config import parse
from tests.bench.radio import CONFIG, PASSWORD, RADIOS, Paired, Proxied, Radio, Samples, both, make_room, paired, run, tell
from tests.bench.report import Report, say
from tests.bench.rooms import furnish
from tests.bench.screen import Visit
from tests.bench.thin import ENCRYPTED, ON_SCREEN
from tests.flows.world import BoxInWorld, Person, World

RETURNED = 5
MANY = 1000
Found = dict[str, tuple[Samples, str]]
"""What was measured, by name, with a note."""


@dataclass(frozen=True)
class Furnished:
    """A folder with a box in which alice has `rooms`, and her token."""

    folder: Path
    rooms: int
    alice: str
    token: str

    async def five_rooms(self, box: BoxInWorld, text: Callable[[], str]) -> tuple[Person, list[str]]:
        """Bob, and rooms that he and alice share with messages in them."""
        alice, bob = Person(box, self.alice, self.token), await box.person("bob")
        return bob, [await make_room(bob, alice, number, text) for number in range(RETURNED)]


class Visited(Paired):
    """The device is that of somebody with chat."""

    visit: Visit

    async def connect(self) -> None:
        """Returns when the line is up and alice has logged in, for whom nothing was asked yet."""
        self.visit = Visit(self.line(), self.state.file.parent)
        await self.begin(self.visit.run)

    async def until(self, holds: Callable[[Visit], bool]) -> None:
        with trio.fail_after(3600):
            await self.visit.session.wait(lambda: holds(self.visit))

    async def look(self, *texts: str) -> None:
        """Until the list and these texts are on the screen."""
        self.visit.look()
        await self.until(lambda visit: visit.has_list and visit.has_read(*texts))


def screens_on_the_air(report: Report, folder: Path) -> None:
    """As on a serial line: rooms of few and of many members; each first screen on a new connection, which remembers nothing."""
    folder.mkdir()
    for rooms in (20, MANY):
        names = {_chat: [f"first_screen.rooms{rooms}"], _app: []}
        if rooms == MANY:
            names[_chat] += ["return5", "push.text", "send.text"]
            names[_app] += ["first_screen.stock.rooms1000", "return5.stock"]
        wanted = [(radio, story) for radio in RADIOS for story in names if report.wants(*both(f"line.{radio.name}", *names[story]))]
        if not wanted:
            continue
        say(f"furnishing {rooms} rooms")
        furnished = _furnished(report, folder / f"rooms{rooms}", rooms)
        for number, (radio, story) in enumerate(wanted):
            say(f"screens of {rooms} rooms, {radio.name}")
            place = folder / f"screens{rooms}.{number}"
            shutil.copytree(furnished.folder, place)
            found: Found = run(partial(story, furnished), report, radio, place, threads=story is _app)
            for name, (samples, note) in found.items():
                tell(report, f"line.{radio.name}", radio, name, samples, note)


def _furnished(report: Report, folder: Path, rooms: int) -> Furnished:
    folder.mkdir()

    async def move_in() -> Furnished:
        async with World(folder) as world:
            box = await world.box("box", CONFIG, {"line": RADIOS[0].air(0).station("box")}, server_name="")
            alice = await box.person("alice", PASSWORD)
            return Furnished(folder, rooms, alice.user_id, alice.token)

    made = trio.run(move_in, clock=MockClock(autojump_threshold=0))
    database = parse(CONFIG, folder / "box").data / "edgeserver.db"
    furnish(database, made.alice.partition(":")[2], made.alice, rooms, report.random, report.texts(), ENCRYPTED)
    return made


# `edgeserver chat`


async def _chat(furnished: Furnished, report: Report, radio: Radio, folder: Path) -> Found:
    found: Found = {}
    text = report.texts()
    async with paired(Visited, folder, radio, report.random.randrange(1 << 30)) as (bench, box):
        bob, rooms = await furnished.five_rooms(box, text)
        first: Samples = []
        for number in range(report.runs(5, 2)):
            if number:
                await bench.hang_up()
                bench.forget()
            await bench.connect()
            first.append(await bench.meter.measure(bench.look))
        note = "a new connection; the compact screen as chat asks for it; room ids included, event ids left out"
        found[f"first_screen.rooms{furnished.rooms}"] = first, note
        if furnished.rooms == MANY:
            back = await _chat_returns(report, bench, bob, rooms, text)
            found["return5"] = back, "the same chat on the same connection, one message in each of five rooms"
            found |= await _texts(report, bench, bob, rooms[0], text)
        await bench.hang_up()
    return found


async def _chat_returns(report: Report, bench: Visited, bob: Person, rooms: list[str], text: Callable[[], str]) -> Samples:
    found: Samples = []
    for _ in range(report.runs(5, 2)):
        bench.visit.look_away()
        await bench.meter.settle()
        said = [text() for _ in rooms]
        for room, body in zip(rooms, said, strict=True):
            await bob.say(room, body)
        found.append(await bench.meter.measure(partial(bench.look, *said)))
    return found


async def _texts(report: Report, bench: Visited, bob: Person, room: str, text: Callable[[], str]) -> Found:
    """Messages that somebody reads and writes in an open room. Bytes: what has passed when the person sees it; the rest comes after."""
    bench.visit.open(room)
    await bench.until(lambda visit: visit.has_opened(room))

    async def read(body: str) -> None:
        await bob.say(room, body)
        await bench.until(lambda visit: visit.has_read(body))

    async def write(body: str) -> None:
        count = bench.visit.sent_count
        bench.visit.say(room, body)
        await bench.until(lambda visit: visit.sent_count > count)

    found: Found = {}
    for name, step, seen, rest in (("push.text", read, "readable", ", with the receipt"), ("send.text", write, "shown as accepted", "")):
        texts = [text() for _ in range(report.runs(20, 6))]
        until: Samples = []
        whole: list[int] = []
        for body in texts:
            before, began = await bench.meter.settle(), trio.current_time()
            await step(body)
            until.append((bench.meter.bytes - before, trio.current_time() - began))
            whole.append(await bench.meter.settle() - before)
        seconds = statistics.median(each for _, each in until)
        note = f"texts of {statistics.mean(map(len, texts)):.0f} characters on average; until it is {seen}, after {seconds:.2f} s"
        found[name] = until, f"{note}; {statistics.median(whole):.0f} B until the air is quiet{rest}"
    return found


# An app behind the proxy


async def _app(furnished: Furnished, report: Report, radio: Radio, folder: Path) -> Found:
    text = report.texts()
    first: Samples = []
    back: Samples = []
    async with paired(Proxied, folder, radio, report.random.randrange(1 << 30)) as (bench, box):
        bob, rooms = await furnished.five_rooms(box, text)
        position = ""

        async def look(count: int) -> None:
            nonlocal position
            position = await bench.screen(count, position)

        for number in range(report.runs(5, 2)):
            if number:
                await bench.hang_up()
                bench.forget()
            position = ""
            await bench.connect()
            await bench.login()
            first.append(await bench.meter.measure(partial(look, ON_SCREEN)))

        async def look_after_messages() -> None:
            for room in rooms:
                await bob.say(room, text())
            await look(RETURNED)

        for _ in range(report.runs(5, 2)):
            back.append(await bench.meter.measure(look_after_messages))
        await bench.hang_up()
    note = (
        "a new connection; sliding sync of a stock client behind the proxy that asks for what is shown; event ids and room ids included; "
        f"until all {ON_SCREEN} rooms are there"
    )
    return {
        "first_screen.stock.rooms1000": (first, note),
        "return5.stock": (back, "the same client on the same connection, one message in each of five rooms"),
    }
