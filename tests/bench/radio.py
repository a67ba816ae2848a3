"""The thin lines that are not here: radios between whole boxes and a proxy in one process, half-duplex, on a virtual clock.

Bytes are all that was on the air in both directions until it was quiet again, what the modem adds to each packet included. Seconds are
virtual, what the person waits with time on air and turns at the channel; the work of programs takes none of them. No limit of the duty
cycle is set, for the configuration of boxes has none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio
from trio.testing import MockClock

from edgeserver.config import parse
from edgeserver.paired.line import Line
from edgeserver.paired.pairing import pair
from edgeserver.paired.state import State, open_state
from edgeserver.proxy.application import ProxyApplication
from tests.bench.report import Report, say
from tests.bench.rooms import furnish
from tests.bench.thin import CLIENT, ENCRYPTED, ON_SCREEN, SCREEN, SLIDING, text_message
from tests.flows.world import BoxInWorld, Person, World, until
from tests.lab.programs import LabError
from tests.proxy.rig import HttpClient
from transports.link.connection import Link
from transports.link.lora import MESHTASTIC_LONG_FAST, LoRa
from transports.memory import Air, Medium, Station

PASSWORD = "correct horse battery"
QUIET = 30.0
"""Virtual seconds without a byte after which the air counts as quiet: more than any timer of the link."""
CONFIG = """\
[federation]
internet = false
[limits]
rate_limits = false
[discovery]
mdns = false
[[links]]
uri = "radio"
name = "line"
"""


@dataclass(frozen=True)
class Radio:
    """`turnaround` in seconds: until others notice that a station has begun to send, and the slot in which they draw lots."""

    name: str
    lora: LoRa
    turnaround: float
    note: str

    def air(self, seed: int, *, loss: float = 0.0) -> Air:
        return Air(Medium.radio(self.lora, loss=loss), seed=seed, turnaround=self.turnaround)


RADIOS = (
    Radio("sf7", LoRa(7, 125_000), 0.01, "raw LoRa packets of up to 255 B, SF7, 125 kHz, 4/5, slots of 10 ms"),
    Radio(
        "longfast",
        MESHTASTIC_LONG_FAST,
        0.028,
        "Meshtastic LongFast, one hop, up to 233 B a packet and 22 B of headers that are counted, slots of 28 ms",
    ),
)


class Meter:
    """What is on the air."""

    def __init__(self, air: Air) -> None:
        self._air = air

    async def settle(self) -> int:
        """Waits until nothing has been sent for a while; returns the bytes of all time."""
        count = -1
        while count != (count := self._air.bytes_sent):
            await trio.sleep(QUIET)
        return count

    async def measure(self, step: Callable[[], Awaitable[object]]) -> tuple[int, float]:
        """Bytes until it is quiet again, and seconds of the step."""
        before, began = await self.settle(), trio.current_time()
        await step()
        seconds = trio.current_time() - began
        return await self.settle() - before, seconds


class Proxied:
    """A box, a radio channel and a proxy that has been paired; it comes and goes."""

    def __init__(self, nursery: trio.Nursery, station: Station, state: State, air: Air) -> None:
        self.meter = Meter(air)
        self._nursery, self._station, self._state = nursery, station, state
        self._scope = trio.CancelScope()
        self._gone = trio.Event()
        self.client: HttpClient

    async def connect(self) -> None:
        """Returns when the line is up."""
        assert self._state.box is not None
        name, key = self._state.box.name, self._state.box.public_key
        line = Line(Link(self._station, self._state.identity, {key: name}.get, peer_key=key), name)
        app = ProxyApplication(line, self._state)
        self.client = HttpClient(app, "")
        self._scope, self._gone = trio.CancelScope(), trio.Event()
        await self._nursery.start(self._run, line, app)
        while not line.is_up:
            await line.change()

    async def _run(self, line: Line, app: ProxyApplication, task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(app.run)
                nursery.start_soon(line.run)
                task_status.started()
        self._gone.set()

    async def hang_up(self) -> None:
        self._scope.cancel()
        await self._gone.wait()
        await self.meter.settle()

    async def call(self, method: str, target: str, body: Any = None) -> Any:
        """The JSON of a 200. Raises `LabError`."""
        answer = await self.client(method, target, body)
        if answer is None or answer.status != 200:
            raise LabError(f"{method} {target}: {answer and (answer.status, answer.body)}")
        return answer.json

    async def login(self) -> None:
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        self.client.token = ""
        self.client.token = (await self.call("POST", f"{CLIENT}/login", body))["access_token"]

    async def screen(self) -> None:
        """The whole first screen: a thin line brings its rooms by and by."""
        told: set[str] = set()
        target = f"{SLIDING}?timeout=30000"
        while len(told) < ON_SCREEN:
            answer = await self.call("POST", target, SCREEN)
            if not answer["rooms"]:
                raise LabError(f"no more than {len(told)} rooms came")
            told |= answer["rooms"].keys()
            target = f"{SLIDING}?timeout=30000&pos={answer['pos']}"


@asynccontextmanager
async def proxied(folder: Path, radio: Radio, seed: int) -> AsyncIterator[tuple[Proxied, BoxInWorld]]:
    """The proxy is paired and away."""
    air = radio.air(seed)
    async with World(folder, seed=seed) as world:
        box = await world.box("box", CONFIG, {"line": air.station("box")}, server_name="")
        station, state = air.station("proxy"), open_state(folder / "proxy", "proxy")
        code, _ = box.box.links.open_offer(front=False)
        state.pair(await pair(station, state.identity, code, "proxy on a laptop", lambda sentence: None))
        yield Proxied(world.nursery, station, state, air), box


Samples = list[tuple[int, float]]


def on_the_air(report: Report, folder: Path) -> None:
    """What lines of serial cable are asked, of radios."""
    folder.mkdir()
    for radio in RADIOS:
        prefix = f"line.{radio.name}"
        tell = partial(_tell, report, prefix, radio)
        if report.wants(*_both(prefix, "connect", "login", "send"), f"{prefix}.push.bytes"):
            say(f"behind the proxy, {radio.name}")
            for name, samples in _run(_behind_the_proxy, report, radio, _fresh(folder, radio, "proxy"), threads=True).items():
                tell(name, samples)
        if report.wants(*_both(prefix, "first_screen.rooms20")):
            say(f"first screen of 20 rooms, {radio.name}")
            tell("first_screen.rooms20", _screens(report, radio, _fresh(folder, radio, "screens")))
        if report.wants(*_both(prefix, "box.join"), f"{prefix}.box.message.bytes"):
            say(f"between boxes, {radio.name}")
            for name, samples in _run(_between_boxes, report, radio, _fresh(folder, radio, "boxes")).items():
                tell(name, samples)
        if report.wants(f"{prefix}.idle_hour.bytes"):
            say(f"idle hour, {radio.name}")
            tell("idle_hour", [(_run(_idle_hour, report, radio, _fresh(folder, radio, "idle")), 3600.0)])


def _fresh(folder: Path, radio: Radio, name: str) -> Path:
    made = folder / f"{radio.name}-{name}"
    made.mkdir()
    return made


def _both(prefix: str, *names: str) -> list[str]:
    return [f"{prefix}.{name}.{unit}" for name in names for unit in ("bytes", "s")]


Story = Callable[[Report, Radio, Path], Awaitable[Any]]


def _run(story: Story, report: Report, radio: Radio, folder: Path, *, threads: bool = False) -> Any:
    """`threads`: what they work at must not cost virtual time, so the clock waits a little before it leaps."""
    clock = MockClock(autojump_threshold=0.02 if threads else 0)
    clock.jump(86_400)  # it is later than all that a box may have been furnished with
    return trio.run(story, report, radio, folder, clock=clock)


ONLY_BYTES = ("push", "box.message", "idle_hour")


def _tell(report: Report, prefix: str, radio: Radio, name: str, samples: Samples) -> None:
    note = f"virtual clock; {radio.note}"
    report.median(f"{prefix}.{name}.bytes", [count for count, _ in samples], "B", note)
    if name not in ONLY_BYTES:
        report.median(f"{prefix}.{name}.s", [seconds for _, seconds in samples], "s", note)


async def _behind_the_proxy(report: Report, radio: Radio, folder: Path) -> dict[str, Samples]:
    text = report.texts()
    found: dict[str, Samples] = {"connect": [], "login": [], "send": [], "push": []}
    async with proxied(folder, radio, report.random.randrange(1 << 30)) as (bench, box):
        alice, bob = await box.person("alice", PASSWORD), await box.person("bob")
        rooms = [await _room(bob, alice, number, text) for number in range(20)]
        for number in range(report.runs(5, 2)):
            if number:
                await bench.hang_up()
            found["connect"].append(await bench.meter.measure(bench.connect))
        for _ in range(report.runs(5, 2)):
            found["login"].append(await bench.meter.measure(bench.login))
        target = f"{CLIENT}/rooms/{quote(rooms[0])}/send/m.room.message"
        for number in range(report.runs(20, 6)):
            found["send"].append(await bench.meter.measure(partial(bench.call, "PUT", f"{target}/m{number}", text_message(text()))))
        found["push"] = await _push(report, bench, bob, rooms[0], text)
        await bench.hang_up()
    return found


async def _room(bob: Person, alice: Person, number: int, text: Callable[[], str]) -> str:
    room_id = await bob.create_room(preset="public_chat", name=f"Room number {number}")
    await alice.join(room_id)
    for _ in range(3):
        await bob.say(room_id, text())
    return room_id


async def _push(report: Report, bench: Proxied, bob: Person, room_id: str, text: Callable[[], str]) -> Samples:
    """Messages of another user come down a client's long poll, which is renewed each time."""
    since = (await bench.call("GET", f"{CLIENT}/sync?timeout=0"))["next_batch"]
    heard = trio.Event()
    found: Samples = []

    async def poll() -> None:
        nonlocal since
        while True:
            answer = await bench.call("GET", f"{CLIENT}/sync?timeout=30000&since={since}")
            since = answer["next_batch"]
            if answer.get("rooms"):
                heard.set()

    async def say_and_hear() -> None:
        nonlocal heard
        heard = trio.Event()
        await bob.say(room_id, text())
        with trio.fail_after(600):
            await heard.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        for _ in range(report.runs(15, 5)):
            found.append(await bench.meter.measure(say_and_hear))
        nursery.cancel_scope.cancel()
    return found


def _screens(report: Report, radio: Radio, folder: Path) -> Samples:
    """As on a serial line: rooms of few and of many members, each time a new connection, which remembers nothing."""

    async def move_in() -> str:
        async with World(folder) as world:
            box = await world.box("box", CONFIG, {"line": radio.air(0).station("box")}, server_name="")
            return (await box.person("alice", PASSWORD)).user_id

    alice = trio.run(move_in, clock=MockClock(autojump_threshold=0))
    database = parse(CONFIG, folder / "box").data / "edgeserver.db"
    furnish(database, alice.partition(":")[2], alice, 20, report.random, report.texts(), ENCRYPTED)
    found: Samples = _run(_look, report, radio, folder, threads=True)
    return found


async def _look(report: Report, radio: Radio, folder: Path) -> Samples:
    found: Samples = []
    async with proxied(folder, radio, report.random.randrange(1 << 30)) as (bench, _):
        for _ in range(report.runs(5, 2)):
            await bench.connect()
            await bench.login()
            found.append(await bench.meter.measure(bench.screen))
            await bench.hang_up()
    return found


async def _between_boxes(report: Report, radio: Radio, folder: Path) -> dict[str, Samples]:
    """Federation: joining a room at the other end, and messages."""
    text, air = report.texts(), radio.air(report.random.randrange(1 << 30))
    found: dict[str, Samples] = {"box.join": [], "box.message": []}
    async with World(folder) as world:
        near, far = [await world.box(name, CONFIG, {"line": air.station(name)}, server_name="") for name in ("near", "far")]
        code, _ = near.box.links.open_offer(front=False)
        await far.box.links.join_offer("line", code, gateway=False)
        alice, bob = await near.person("alice"), await far.person("bob")

        async def are_up() -> bool:
            return all(box.box.links.lines[0].connections for box in (near, far))

        await until(are_up)
        meter, joined = Meter(air), ""
        for _ in range(report.runs(5, 2)):
            joined = await alice.create_room(preset="public_chat", name="Harbour")
            found["box.join"].append(await meter.measure(partial(bob.join, joined, near.server_name)))
        for _ in range(report.runs(20, 4)):
            body = text()
            found["box.message"].append(await meter.measure(partial(alice.say, joined, body)))
            if (await bob.texts(joined))[-1] != body:
                raise LabError("the message is not at the other box")
    return found


async def _idle_hour(report: Report, radio: Radio, folder: Path) -> int:
    """A client behind the proxy that polls for an hour and hears nothing."""
    async with proxied(folder, radio, report.random.randrange(1 << 30)) as (bench, box):
        alice = await box.person("alice", PASSWORD)
        await alice.create_room(name="Harbour")
        await bench.connect()
        await bench.login()
        since = (await bench.call("GET", f"{CLIENT}/sync?timeout=0"))["next_batch"]
        before, began = await bench.meter.settle(), trio.current_time()
        while trio.current_time() < began + 3600:
            since = (await bench.call("GET", f"{CLIENT}/sync?timeout=30000&since={since}"))["next_batch"]
        count = await bench.meter.settle() - before
        await bench.hang_up()
        return count
