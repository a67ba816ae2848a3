"""`edgeserver demo`: three whole boxes on one simulated radio channel, live in the terminal.

Nothing is pretended but the radio: the boxes sign, federate and store as they do in the field, and what is shown crossing are the frames
that a modem would send, with their size and the time that they hold the channel.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import trio

from edgeserver.app import identity as identities
from edgeserver.app.box import Wires, open_box
from edgeserver.config import Config, Discovery, Federation, Http, Limits, Link, Server
from edgeserver.store import database, pairings
from edgeserver.store.pairings import Pairing
from edgeserver.users.accounts import DeviceWish
from transports.exchange import LinkProfile, Request
from transports.memory import Air, Medium
from transports.server import AsgiHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.app.box import Box
    from edgeserver.app.identity import BoxIdentity
    from transports.memory import Station

PEOPLE = {"harbour": "ana", "hill": "ben", "ship": "cleo"}
TALK = (
    ("harbour", "Storm warning from noon. Everybody in before eleven, please."),
    ("hill", "Seen. The relay on the hill stands, 12.4 V."),
    ("ship", "We are 6 miles out, back by ten. Two passengers need the doctor."),
    ("harbour", "Doctor will be at the pier."),
    ("ship", "Thank you!"),
)
RATES = {"lora-sf7": 5_470, "longfast": 1_070, "packet": 1_200, "fast": 38_400}


class WatchedAir(Air):
    """The channel, telling what it carries."""

    def __init__(self, medium: Medium, tell: Telling) -> None:
        super().__init__(medium, seed=1)
        self._medium_shown = medium
        self._tell = tell

    async def transmit(self, station: Station, data: bytes) -> None:
        await super().transmit(station, data)
        self._tell.frame(station.name, len(data), self._medium_shown.seconds(len(data)))


@dataclass
class Telling:
    """What the person in front of the terminal sees. `quiet` leaves single frames out."""

    quiet: bool = False
    started: float = 0.0
    frames: int = 0
    sent: int = 0
    airtime: float = 0.0
    since: dict[str, int] = field(default_factory=dict)

    def line(self, text: str) -> None:
        sys.stdout.write(f"{trio.current_time() - self.started:7.1f} s  {text}\n")
        sys.stdout.flush()

    def frame(self, station: str, size: int, seconds: float) -> None:
        self.frames += 1
        self.sent += size
        self.airtime += seconds
        if not self.quiet:
            self.line(f"    ~ {station:<8} sends {size:4d} B, {1000 * seconds:6.0f} ms on the air")


@dataclass
class Person:
    """Somebody with an app at a box: an ordinary client of the client-server API."""

    name: str
    place: str
    box: Box
    token: str
    since: str | None = None

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = (("authorization", f"Bearer {self.token}"), ("content-type", "application/json"))
        request = Request(method, f"/_matrix/client/v3{path}", "", headers, b"" if body is None else orjson.dumps(body))
        response = await AsgiHandler(self.box.app, LinkProfile("demo"))(request, trio.Event())
        answer: dict[str, Any] = orjson.loads(response.body)
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {answer}")
        return answer

    async def news(self, timeout_ms: int) -> list[dict[str, Any]]:
        """New timeline events of all rooms."""
        since = f"&since={self.since}" if self.since else ""
        answer = await self.ask("GET", f"/sync?timeout={timeout_ms}{since}")
        self.since = answer["next_batch"]
        found = answer.get("rooms", {}).get("join", {}).values()
        return [event for room in found for event in room["timeline"]["events"]]


def main(arguments: Sequence[str]) -> int:
    """Runs the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgeserver demo", description="Three boxes on a simulated radio channel, talking.")
    parser.add_argument("--radio", choices=sorted(RATES), default="lora-sf7", help="the channel's speed (default: lora-sf7)")
    parser.add_argument("--loss", type=float, default=0.02, help="the share of frames that is lost (default: 0.02)")
    parser.add_argument("--quiet", action="store_true", help="leave single frames out")
    options = parser.parse_args(list(arguments))
    try:
        trio.run(_demo, RATES[options.radio], options.loss, Telling(options.quiet))
    except* KeyboardInterrupt:
        sys.stdout.write("Stopped.\n")
    return 0


async def _demo(bit_rate: int, loss: float, tell: Telling) -> None:
    tell.started = trio.current_time()
    tell.line(f"three boxes on one channel of {bit_rate} bit/s, {100 * loss:g} % of frames lost; no internet, no DNS, no IP")
    with tempfile.TemporaryDirectory(prefix="edgeserver-demo-") as folder:
        configs = {place: _config(Path(folder) / place, place) for place in PEOPLE}
        identity = {place: identities.load_or_make(config.data, "", "mesh") for place, config in configs.items()}
        for place in PEOPLE:
            await _pair(configs[place], place, identity)
        air = WatchedAir(Medium(bit_rate, loss=loss, mtu=200), tell)
        async with AsyncExitStack() as stack:
            people = {}
            for place, config in configs.items():
                station = air.station(place)
                drivers = dict.fromkeys((link.name for link in config.links), station)
                box = await stack.enter_async_context(open_box(config, Wires(drivers=drivers)))
                people[place] = await _move_in(box, place)
                tell.line(f"{place}: {box.identity.server_name[:12]}… is up, {people[place].name} lives there")
            await _talk(people, tell)
    tell.line(f"{len(TALK)} messages, 2 joins and all around them: {tell.frames} frames, {tell.sent} B, {tell.airtime:.1f} s on the air")


def _config(folder: Path, place: str) -> Config:
    folder.mkdir()
    links = [Link(uri="radio", name=f"to-{other}") for other in PEOPLE if other != place]
    return Config(
        server=Server(data="."),
        http=Http(client=[], federation=[]),
        limits=Limits(rate_limits=False),
        federation=Federation(internet=False),
        discovery=Discovery(mdns=False),
        links=links,
        folder=folder,
    )


async def _pair(config: Config, place: str, identity: dict[str, BoxIdentity]) -> None:
    """Pairs a box with the two others, as `edgeserver pair` would. Of two, the one that comes first in the list calls."""
    order = list(PEOPLE)

    def write(tx: database.Transaction) -> None:
        for other in PEOPLE:
            if other != place:
                box = identity[other]
                calls = f"to-{other}" if order.index(place) < order.index(other) else None
                pairings.put(tx, Pairing(box.signing_key.verify_key, box.server_name, True, calls, False, False, 0))

    async with database.open_database(config.data / "edgeserver.db", inline=True) as db:
        await db.write(write)


async def _move_in(box: Box, place: str) -> Person:
    name = PEOPLE[place]
    _, session = await box.users.accounts.create_person(name, "only for the demo", device=DeviceWish(None, "demo"))
    assert session is not None
    return Person(name, place, box, session.tokens.access_token)


async def _talk(people: dict[str, Person], tell: Telling) -> None:
    ana = people["harbour"]
    room_id = (await ana.ask("POST", "/createRoom", {"name": "Coast", "preset": "public_chat"}))["room_id"]
    via = ana.box.identity.server_name
    for place in ("hill", "ship"):
        await _meet(ana.box, people[place].box)
        tell.line(f"{people[place].name} joins the room over the air")
        before = replace(tell)
        await people[place].ask("POST", f"/join/{quote(room_id)}?server_name={via}", {})
        tell.line(f"{people[place].name} is in: {tell.sent - before.sent} B, {tell.airtime - before.airtime:.1f} s on the air")
    for person in people.values():
        await person.news(0)
    for number, (place, text) in zip(itertools.count(1), TALK):
        before = replace(tell)
        tell.line(f"{people[place].name} at the {place}: {text}")
        content = {"msgtype": "m.text", "body": text}
        await people[place].ask("PUT", f"/rooms/{quote(room_id)}/send/m.room.message/{number}", content)
        async with trio.open_nursery() as nursery:
            for person in people.values():
                if person.place != place:
                    nursery.start_soon(_hear, person, text, tell)
        tell.line(f"  everybody has it: {tell.sent - before.sent} B in {tell.frames - before.frames} frames")


async def _meet(one: Box, other: Box) -> None:
    """Waits until the link between two boxes is up at both ends."""
    for here, there in ((one, other), (other, one)):
        met = trio.Event()
        here.peers.on_return(lambda name, there=there, met=met: met.set() if name == there.identity.server_name else None)  # type: ignore[misc]
        if there.identity.server_name not in here.peers.links():
            await met.wait()


async def _hear(person: Person, text: str, tell: Telling) -> None:
    while True:
        for event in await person.news(60_000):
            if event["content"].get("body") == text:
                tell.line(f"  {person.name} at the {person.place} reads it")
                return
