"""One line of a box is hostile, another is somebody's only way: the first learns nothing, and takes nothing from the second."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from edgeserver.store import pairings
from edgeserver.store.pairings import Pairing
from tests.faults.test_lines import OFFLINE, faults
from tests.flows.world import BoxInWorld, World
from tests.transports.test_hostile_links import Cable, stranger_s_frames
from transports.client import Multiplexer
from transports.exchange import ExchangeError, Priority, Request
from transports.framing import hdlc
from transports.identity import Identity
from transports.link.connection import Link
from transports.link.secure import NN1, NN2
from transports.lowband.messages import Session
from transports.memory import Medium, MemoryCable, MemoryEnd

QUICK, GREEDY = Identity(b"q" * 32), Identity(b"g" * 32)
TWO_LINES = OFFLINE + "".join(f'[[links]]\nuri = "serial:/dev/{name},9600"\nname = "{name}"\n' for name in ("good", "bad"))


async def pair_device(box: BoxInWorld, identity: Identity, name: str) -> None:
    await box.box.ground.db.write(lambda tx: pairings.put(tx, Pairing(identity.public_key, name, False, None, False, False, 1)))
    await box.box.links.load()


def link_of(box: BoxInWorld, end: MemoryEnd, identity: Identity) -> Link:
    key = Identity(box.box.identity.seed).public_key
    return Link(end, identity, {key: "a.test"}.get, peer_key=key)


@asynccontextmanager
async def device(box: BoxInWorld, end: MemoryEnd, identity: Identity) -> AsyncIterator[Multiplexer]:
    """A paired device at the other end of a line."""
    link = link_of(box, end, identity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        multiplexer = Multiplexer(await link.wait_up())
        await nursery.start(multiplexer.run)
        yield multiplexer
        nursery.cancel_scope.cancel()


async def test_a_box_that_is_paired_with_nobody_says_not_a_byte_on_its_lines(tmp_path, caplog, autojump_clock):
    cable, said = MemoryCable(Medium(9600)), []
    async with World(tmp_path) as world:
        box = await world.box("a", TWO_LINES, {"good": cable.a, "bad": MemoryCable().a})
        cable.watch = lambda end, sent, _: said.append((end, sent))
        for frame in stranger_s_frames(Cable):
            cable.b.inject(hdlc.encode(frame) if frame else b"\x7e\x7e")
            await trio.sleep(0.2)
        await trio.sleep(24 * 3600)
        assert said == []
        box.box.links.open_offer(front=False)
        for frame in stranger_s_frames(Cable):
            if frame:
                cable.b.inject(hdlc.encode(frame))
                await trio.sleep(0.2)
        assert said
        answers = {sent[1] for _, sent in said}
        assert answers == {NN2}  # to the anonymous call; what it then has to prove is the code
        box.box.links.close_offer()
        await trio.sleep(3600)
        said.clear()
        for frame in stranger_s_frames(Cable):
            if frame:
                cable.b.inject(hdlc.encode(frame))
        cable.b.inject(hdlc.encode(bytes([NN1]) + bytes(32) + bytes.fromhex("01140100f0")))
        await trio.sleep(3600)
        assert said == []
        assert faults(caplog) == []


async def test_a_box_that_is_paired_on_one_line_is_silent_on_the_other(tmp_path, autojump_clock):
    good, bad, said = MemoryCable(Medium(9600), seed=1), MemoryCable(Medium(9600), seed=2), []
    async with World(tmp_path) as world:
        box = await world.box("a", TWO_LINES, {"good": good.a, "bad": bad.a})
        other = await world.box("b", TWO_LINES, {"good": good.b, "bad": MemoryCable().a})
        code, _ = other.box.links.open_offer(front=False)
        await box.box.links.join_offer("good", code, gateway=False)
        bad.watch = lambda end, sent, _: said.append(sent)
        for frame in stranger_s_frames(Cable):
            bad.b.inject(hdlc.encode(frame) if frame else b"\x7e")
            await trio.sleep(0.2)
        await trio.sleep(3600)
        assert said == []


async def served(multiplexer: Multiplexer, token: str, seconds: float) -> list[float]:
    """How long each of the requests took that one patient person makes in that time, one after the other."""
    took: list[float] = []
    until = trio.current_time() + seconds
    headers = (("authorization", f"Bearer {token}"),)
    while trio.current_time() < until:
        began = trio.current_time()
        response = await multiplexer.exchange(
            Request("GET", "/_matrix/client/v3/account/whoami", "", headers, priority=Priority.INTERACTIVE)
        )
        assert response.status == 200
        took.append(trio.current_time() - began)
    return took


def noise(end: MemoryEnd, chance: random.Random, size: int) -> None:
    """As many bytes of whole frames that look like ours and are not."""
    while size > 0:
        frame = chance.choice([0x20, 0x21, 0x22, 0x23, 0x24, 0x40, 0x5A, 0x80, 0xC0]).to_bytes(1, "big") + chance.randbytes(
            chance.choice([38, 54, 102, 200])
        )
        data = hdlc.encode(frame)
        end.inject(data)
        size -= len(data)


@pytest.mark.parametrize("flood", ["noise", "requests", "requests that are never read"])
async def test_a_flood_on_one_line_does_not_slow_another(tmp_path, caplog, autojump_clock, flood: str):
    good, bad = MemoryCable(Medium(9600), seed=1), MemoryCable(Medium(115_200), seed=2)
    async with World(tmp_path) as world:
        box = await world.box("a", TWO_LINES, {"good": good.a, "bad": bad.a})
        alice = await box.person("alice")
        room_id = await alice.create_room()
        for number in range(5):
            await alice.say(room_id, f"{number} " + "x" * 5000)
        await pair_device(box, QUICK, "laptop")
        await pair_device(box, GREEDY, "greedy")
        async with device(box, good.b, QUICK) as quick, trio.open_nursery() as nursery:
            calm = await served(quick, alice.token, 20)
            if flood == "noise":
                nursery.start_soon(pour_noise, bad.b)
            else:
                nursery.start_soon(pour_requests, box, bad.b, alice.token, room_id, flood == "requests")
            await trio.sleep(10)
            loud = await served(quick, alice.token, 20)
            assert len(loud) >= 0.95 * len(calm) >= 60
            assert max(loud) <= 1.5 * max(calm)
            nursery.cancel_scope.cancel()
        assert faults(caplog) == []


async def pour_noise(end: MemoryEnd) -> None:
    chance = random.Random(3)
    while True:
        noise(end, chance, 1152)
        await trio.sleep(0.1)


async def pour_requests(box: BoxInWorld, end: MemoryEnd, token: str, room_id: str, reads: bool) -> None:
    link, session = link_of(box, end, GREEDY), Session()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        connection = await link.wait_up()
        await connection.send(session.encode_hello(), priority=Priority.INTERACTIVE)

        async def read() -> None:
            while True:
                await connection.receive()

        async def ask(first: int) -> None:
            number = first
            headers = (("authorization", f"Bearer {token}"),)
            target = f"/_matrix/client/v3/rooms/{room_id.replace('!', '%21')}/messages?dir=b&limit=100"
            while True:
                number = (number + 8) % 60_000
                await connection.send(session.encode_request(number, Request("GET", target, "", headers)), priority=Priority.INTERACTIVE)

        try:
            if reads:
                nursery.start_soon(read)
            for first in range(8):
                nursery.start_soon(ask, first)
            await trio.sleep_forever()
        except* ExchangeError:
            pass
