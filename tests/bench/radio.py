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
from typing import Any, TypeVar
from urllib.parse import quote

import trio
from trio.testing import MockClock

from edgeserver.paired.facts import HeardFile
from edgeserver.paired.line import Line
from edgeserver.paired.pairing import pair
from edgeserver.paired.state import State, open_state
from edgeserver.proxy.application import ProxyApplication
from tests.bench.report import Report, say
from tests.bench.servers import PASSWORD
from tests.bench.thin import CLIENT, ON_SCREEN, SCREEN, SLIDING, text_message
from tests.flows.world import BoxInWorld, Person, World, until
from tests.lab.programs import LabError
from tests.proxy.rig import HttpClient
from transports.link.connection import Link
from transports.link.lora import MESHTASTIC_LONG_FAST, LoRa
from transports.memory import Air, Medium, Station

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

    @property
    def bytes(self) -> int:
        """Of all time."""
        return self._air.bytes_sent

    async def settle(self) -> int:
        """Waits until nothing has been sent for a while; returns the bytes of all time."""
        count = -1
        while count != (count := self.bytes):
            await trio.sleep(QUIET)
        return count

    async def measure(self, step: Callable[[], Awaitable[object]]) -> tuple[int, float]:
        """Bytes until it is quiet again, and seconds of the step."""
        before, began = await self.settle(), trio.current_time()
        await step()
        seconds = trio.current_time() - began
        return await self.settle() - before, seconds


class Paired:
    """A box, a radio channel and a device that has been paired; it comes and goes."""

    def __init__(self, nursery: trio.Nursery, station: Station, state: State, air: Air) -> None:
        self.meter = Meter(air)
        self.state = state
        self._nursery, self._station = nursery, station
        self._scope = trio.CancelScope()
        self._gone = trio.Event()

    def line(self) -> Line:
        """A new one, as `paired.joining` makes it."""
        assert self.state.box is not None
        name, key = self.state.box.name, self.state.box.public_key
        facts = HeardFile(self.state.facts_file, self.state.identity.public_key, inline=True)
        return Line(Link(self._station, self.state.identity, {key: name}.get, peer_key=key), name, facts)

    async def begin(self, story: Callable[..., Awaitable[None]]) -> None:
        """Runs it, which tells when it has started, until `hang_up`."""
        self._scope, self._gone = trio.CancelScope(), trio.Event()
        await self._nursery.start(self._run, story)

    async def _run(self, story: Callable[..., Awaitable[None]], task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            await story(task_status=task_status)
        self._gone.set()

    async def hang_up(self) -> None:
        self._scope.cancel()
        await self._gone.wait()
        await self.meter.settle()

    def forget(self) -> None:
        """What was heard so far; the next connection is like a first one."""
        self.state.facts_file.unlink(missing_ok=True)


class Proxied(Paired):
    """The device is a proxy."""

    client: HttpClient

    async def connect(self) -> None:
        """Returns when the line is up."""
        line = self.line()
        app = ProxyApplication(line, self.state)
        self.client = HttpClient(app, "")

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(app.run)
                nursery.start_soon(line.run)
                task_status.started()

        await self.begin(serve)
        while not line.is_up:
            await line.change()

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

    async def screen(self, rooms: int = ON_SCREEN, pos: str = "") -> str:
        """What is new on the first screen until so many rooms were told: a thin line brings them by and by, and a poll may be over before
        the next ones are there. Returns the position.
        """
        told: set[str] = set()
        with trio.fail_after(3600):
            while len(told) < rooms:
                answer = await self.call("POST", f"{SLIDING}?timeout=30000" + (pos and f"&pos={pos}"), SCREEN)
                told |= answer["rooms"].keys()
                pos = answer["pos"]
        return pos


Device = TypeVar("Device", bound=Paired)


@asynccontextmanager
async def paired(
    kind: Callable[[trio.Nursery, Station, State, Air], Device], folder: Path, radio: Radio, seed: int
) -> AsyncIterator[tuple[Device, BoxInWorld]]:
    """The device is paired and away. The box is that of `folder`, if one has been there."""
    air = radio.air(seed)
    async with World(folder, seed=seed) as world:
        box = await world.box("box", CONFIG, {"line": air.station("box")}, server_name="")
        station, state = air.station("device"), open_state(folder / "device", "device")
        code, _ = box.box.links.open_offer(front=False)
        state.pair(await pair(station, state.identity, code, "device on a laptop", lambda sentence: None))
        yield kind(world.nursery, station, state, air), box


Samples = list[tuple[int, float]]


def on_the_air(report: Report, folder: Path) -> None:
    """What lines of serial cable are asked, of radios."""
    folder.mkdir()
    for radio in RADIOS:
        prefix = f"line.{radio.name}"
        say_of = partial(tell, report, prefix, radio)
        if report.wants(*both(prefix, "connect", "login", "send"), f"{prefix}.push.bytes"):
            say(f"behind the proxy, {radio.name}")
            for name, samples in run(_behind_the_proxy, report, radio, fresh(folder, radio, "proxy"), threads=True).items():
                say_of(name, samples)
        if report.wants(*both(prefix, "box.join"), f"{prefix}.box.message.bytes"):
            say(f"between boxes, {radio.name}")
            for name, samples in run(_between_boxes, report, radio, fresh(folder, radio, "boxes")).items():
                say_of(name, samples)
        if report.wants(f"{prefix}.idle_hour.bytes"):
            say(f"idle hour, {radio.name}")
            say_of("idle_hour", [(run(_idle_hour, report, radio, fresh(folder, radio, "idle")), 3600.0)])


def fresh(folder: Path, radio: Radio, name: str) -> Path:
    made = folder / f"{radio.name}-{name}"
    made.mkdir()
    return made


def both(prefix: str, *names: str) -> list[str]:
    return [f"{prefix}.{name}.{unit}" for name in names for unit in ("bytes", "s")]


Story = Callable[[Report, Radio, Path], Awaitable[Any]]


def run(story: Story, report: Report, radio: Radio, folder: Path, *, threads: bool = False) -> Any:
    """`threads`: what they work at must not cost virtual time, so the clock waits a little before it leaps."""
    clock = MockClock(autojump_threshold=0.02 if threads else 0)
    clock.jump(86_400)  # it is later than all that a box may have been furnished with
    return trio.run(story, report, radio, folder, clock=clock)


ONLY_BYTES = ("push", "push.text", "send.text", "box.message", "idle_hour")


def tell(report: Report, prefix: str, radio: Radio, name: str, samples: Samples, more: str = "") -> None:
    """`more` is added to the note."""
    note = f"virtual clock; {radio.note}" + (more and f"; {more}")
    report.median(f"{prefix}.{name}.bytes", [count for count, _ in samples], "B", note)
    if name not in ONLY_BYTES:
        report.median(f"{prefix}.{name}.s", [seconds for _, seconds in samples], "s", note)


async def _behind_the_proxy(report: Report, radio: Radio, folder: Path) -> dict[str, Samples]:
    text = report.texts()
    found: dict[str, Samples] = {"connect": [], "login": [], "send": [], "push": []}
    async with paired(Proxied, folder, radio, report.random.randrange(1 << 30)) as (bench, box):
        alice, bob = await box.person("alice", PASSWORD), await box.person("bob")
        rooms = [await make_room(bob, alice, number, text) for number in range(20)]
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


async def make_room(bob: Person, alice: Person, number: int, text: Callable[[], str]) -> str:
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
    async with paired(Proxied, folder, radio, report.random.randrange(1 << 30)) as (bench, box):
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
