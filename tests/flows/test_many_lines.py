"""One box, many lines: eight people behind it, each on a line of his own or all on the same wires, and one of them downloads a picture."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from edgeserver.app.links import LinkService
from edgeserver.app.wires import driver_of
from edgeserver.config import Link as LinkConfig
from edgeserver.store import pairings
from edgeserver.store.pairings import Pairing
from tests.asgi import AsgiClient
from tests.flows.world import BoxInWorld, World
from transports.client import Multiplexer
from transports.exchange import Priority, Request
from transports.identity import Identity
from transports.link.connection import Link
from transports.link.wire import Driver
from transports.memory import Medium, MemoryCable, PartyLine
from transports.multidrop import Bus

SIZE = 8
CONFIG = "[federation]\ninternet = false\n[limits]\nrate_limits = false\n"
DEVICES = [Identity(bytes([97 + number]) * 32) for number in range(SIZE)]


def config(uri: str) -> str:
    return CONFIG + "".join(f'[[links]]\nuri = "{uri}"\nname = "line{number}"\n' for number in range(SIZE))


def cables(bit_rate: int) -> tuple[dict[str, Driver], list[Driver]]:
    laid = [MemoryCable(Medium(bit_rate), seed=number) for number in range(SIZE)]
    return {f"line{number}": cable.a for number, cable in enumerate(laid)}, [cable.b for cable in laid]


def wires(bit_rate: int) -> tuple[dict[str, Driver], list[Driver]]:
    line = PartyLine(bit_rate, seed=1)
    buses = [Bus(f"bus{number}", line.open, bit_rate, chance=random.Random(number)) for number in range(SIZE + 1)]
    return {f"line{number}": buses[SIZE] for number in range(SIZE)}, list(buses[:SIZE])


@asynccontextmanager
async def eight_devices(box: BoxInWorld, ends: list[Driver]) -> AsyncIterator[list[Multiplexer]]:
    for number, device in enumerate(DEVICES):
        pairing = Pairing(device.public_key, f"laptop{number}", False, None, False, False, 1)
        await box.box.ground.db.write(lambda tx, pairing=pairing: pairings.put(tx, pairing))
    await box.box.links.load()
    key = Identity(box.box.identity.seed).public_key
    async with trio.open_nursery() as nursery:
        found = []
        for device, end in zip(DEVICES, ends, strict=True):
            link = Link(end, device, {key: "a.test"}.get, peer_key=key)
            nursery.start_soon(link.run)
            found.append(link)
        multiplexers = []
        for link in found:
            multiplexers.append(Multiplexer(await link.wait_up()))
            await nursery.start(multiplexers[-1].run)
        yield multiplexers
        nursery.cancel_scope.cancel()


async def ask(multiplexer: Multiplexer, token: str, took: list[float], first: float) -> None:
    """A person who asks for something every ten seconds, and not when the others do."""
    headers = (("authorization", f"Bearer {token}"),)
    await trio.sleep(first)
    while True:
        began = trio.current_time()
        request = Request("GET", "/_matrix/client/v3/account/whoami", "", headers, priority=Priority.INTERACTIVE)
        assert (await multiplexer.exchange(request)).status == 200
        took.append(trio.current_time() - began)
        await trio.sleep(10)


@pytest.mark.parametrize(("lay", "bit_rate", "wait"), [(cables, 9600, 1.5), (wires, 38_400, 4.0)])
async def test_none_of_eight_waits_long_while_one_downloads_a_picture(tmp_path, autojump_clock, lay, bit_rate: int, wait: float) -> None:
    drivers, ends = lay(bit_rate)
    async with World(tmp_path) as world:
        box = await world.box("a", config("radio"), drivers)
        alice = await box.person("alice")
        picture = random.Random(1).randbytes(60_000)
        client = AsgiClient(box.box.app, token=alice.token)
        uploaded = await client.request("POST", "/_matrix/media/v3/upload", headers={"content-type": "image/jpeg"}, body=picture)
        media_id = uploaded.json["content_uri"].removeprefix("mxc://")
        async with eight_devices(box, ends) as devices, trio.open_nursery() as nursery:
            times: list[list[float]] = [[] for _ in devices]
            for number, (device, took) in enumerate(zip(devices, times, strict=True)):
                nursery.start_soon(ask, device, alice.token, took, number * 1.2)
            headers = (("authorization", f"Bearer {alice.token}"),)
            target = f"/_matrix/client/v1/media/download/{media_id}"
            response = await devices[0].exchange(Request("GET", target, "", headers, priority=Priority.MEDIA, timeout=3600))
            assert response.body == picture
            for took in times:
                assert len(took) >= 2
                assert max(took[1:]) < wait, times  # he who downloads, too: the first request of each meets the handshakes
            nursery.cancel_scope.cancel()


async def test_lines_at_one_port_are_links_of_one_station(tmp_path, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a", CONFIG)
        links: LinkService = box.box.links
        configured = [LinkConfig(f"rs485:/dev/ttyUSB{port},9600", f"{port}{number}") for port in range(2) for number in range(3)]
        at_port = [links._line(one, None) for one in configured]
        drivers = [id(line.driver) for line in at_port]
        assert drivers == [drivers[0]] * 3 + [drivers[3]] * 3
        assert drivers[0] != drivers[3]
        assert isinstance(driver_of("rs485:/dev/ttyUSB0,9600"), Bus)
