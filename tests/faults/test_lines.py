"""Two boxes on a thin line to which everything happens: noise, nonsense, a pulled cable, a power cut, a driver with a fault."""

from __future__ import annotations

import logging
import random
import tracemalloc
from contextlib import asynccontextmanager

import orjson
import pytest
import trio

from edgeserver.app.links import TIME_PATH
from edgeserver.store import pairings
from edgeserver.store.pairings import Pairing
from tests.faults.test_bodies import BROKEN
from tests.flows.world import World, until
from transports.client import LinkExchange, Multiplexer
from transports.exchange import LinkProfile, Priority, Request, Response, TooLarge
from transports.framing import hdlc
from transports.identity import Identity
from transports.link.connection import Link
from transports.lowband.messages import Session
from transports.memory import Medium, MemoryCable

JSON_HEADERS = (("content-type", "application/json"),)
OFFLINE = "[federation]\ninternet = false\n[limits]\nrate_limits = false\n"
LINE = OFFLINE + '[[links]]\nuri = "serial:/dev/null,9600"\nname = "line"\n'


@asynccontextmanager
async def neighbours(tmp_path, cable):
    """Two paired boxes, and a room that alice (at a) and bob (at b) share."""
    async with World(tmp_path) as world:
        a, b = await world.box("a", LINE, {"line": cable.a}), await world.box("b", LINE, {"line": cable.b})
        code, _ = b.box.links.open_offer(front=False)
        await a.box.links.join_offer("line", code, gateway=False)
        alice, bob = await a.person("alice"), await b.person("bob")
        await until(lambda: are_up(a, b))
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        yield a, b, alice, bob, room_id


async def are_up(*boxes) -> bool:
    return all(box.box.links.lines[0].connections for box in boxes)


def faults(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.alone
async def test_a_minute_of_noise_at_full_rate_ends_nothing_and_memory_is_as_before(tmp_path, caplog, autojump_clock):
    cable = MemoryCable(Medium(9600), seed=1)
    chance = random.Random(5)
    tracemalloc.start()
    async with neighbours(tmp_path, cable) as (a, _, alice, bob, room_id):

        async def heard(*texts: str) -> bool:
            return await bob.texts(room_id) == list(texts)

        await alice.say(room_id, "before the noise")
        await until(lambda: heard("before the noise"))
        connection = a.box.links.lines[0].connections["b.test"]
        before = tracemalloc.get_traced_memory()[0]
        for tick in range(600):
            noise = chance.randbytes(96)
            cable.a.inject(hdlc.encode(noise[: chance.randrange(1, 90)]) if tick % 2 else noise)
            cable.b.inject(noise if tick % 2 else hdlc.encode(noise[:40]))
            await trio.sleep(0.1)
            if tick == 300:
                await alice.say(room_id, "into the noise")
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 3_000_000
        await alice.say(room_id, "after the noise")
        await until(lambda: heard("before the noise", "into the noise", "after the noise"), seconds=120)
        assert a.box.links.lines[0].connections["b.test"] is connection
        assert connection.is_up
        assert faults(caplog) == []


async def test_nonsense_from_a_paired_peer_is_refused_and_the_session_stays(tmp_path, caplog, autojump_clock):
    cable = MemoryCable(Medium(1_000_000), seed=1)
    chance = random.Random(6)
    async with neighbours(tmp_path, cable) as (a, _, alice, bob, room_id):
        connection = a.box.links.lines[0].connections["b.test"]
        session = Session()
        right = [
            session.encode_request(99, Request("PUT", "/_matrix/federation/v1/send/t", "b.test", JSON_HEADERS, body))
            for body in [*BROKEN[:12], b'{"pdus":[{}]}']
        ]
        for _ in range(400):
            message = bytearray(chance.choice(right) if chance.random() < 0.7 else chance.randbytes(chance.randrange(60)))
            for _ in range(chance.randrange(4)):
                if message:
                    message[chance.randrange(len(message))] = chance.randrange(256)
            await connection.send(bytes(message[: chance.randrange(len(message) + 1)]) if chance.random() < 0.3 else bytes(message))
        await trio.sleep(40)
        assert a.box.links.lines[0].connections["b.test"] is connection
        await alice.say(room_id, "sense")
        await until(lambda: holds(bob, room_id, ["sense"]))
        assert faults(caplog) == []


async def holds(person, room_id, texts) -> bool:
    return await person.texts(room_id) == texts


async def test_every_broken_body_has_an_answer_over_a_line_too(tmp_path, caplog, autojump_clock):
    cable = MemoryCable(Medium(1_000_000), seed=1)
    async with neighbours(tmp_path, cable) as (a, _, _, _, _):
        exchange = a.box.links.exchange_on("line")
        for body in BROKEN:
            for target in ("/_matrix/federation/v1/send/t", "/_matrix/federation/v1/user/keys/query", "/_edgeserver/v1/gateway/routes"):
                method = "POST" if "query" in target else "PUT"
                answer = await exchange.exchange(Request(method, target, "b.test", (("content-type", "application/json"),), body))
                assert answer.status < 500, (target, body[:99], answer)
                assert answer.status < 400 or orjson.loads(answer.body)["errcode"].startswith("M_")
        assert faults(caplog) == []


async def test_a_body_that_is_too_large_is_413_and_one_too_large_for_the_line_does_not_leave(tmp_path, caplog, autojump_clock):
    cable = MemoryCable(Medium(1_000_000), seed=1)
    async with neighbours(tmp_path, cable) as (a, _, _, _, _):
        exchange = a.box.links.exchange_on("line")
        folds_well = b'{"device_keys":{"a":"' + b"x" * 3_000_000 + b'"}}'
        answer = await exchange.exchange(Request("POST", "/_matrix/federation/v1/user/keys/query", "b.test", (), folds_well))
        assert (answer.status, orjson.loads(answer.body)["errcode"]) == (413, "M_TOO_LARGE")
        with pytest.raises(TooLarge):
            await exchange.exchange(Request("PUT", "/x", "b.test", (), random.Random(1).randbytes(2_000_000)))
        assert (await exchange.exchange(Request("GET", TIME_PATH))).status == 200
        assert faults(caplog) == []


async def test_a_port_that_vanishes_and_comes_back_delivers_what_waited_once(tmp_path, caplog, autojump_clock):
    cable = MemoryCable(Medium(2400), seed=2)
    async with neighbours(tmp_path, cable) as (a, _, alice, bob, room_id):
        for round_ in range(3):
            cable.unplug()
            await alice.say(room_id, f"{round_}")
            await trio.sleep(600)
            assert a.box.links.standing()[0].trouble
            assert a.box.links.standing()[0].peers == []
            cable.plug()
            await until(lambda texts=[str(n) for n in range(round_ + 1)]: holds(bob, room_id, texts), seconds=900)
        assert a.box.links.standing()[0].trouble is None
        assert faults(caplog) == []


async def test_a_box_that_lost_power_gets_what_it_missed_when_it_is_back(tmp_path, caplog, autojump_clock):
    cable = MemoryCable(Medium(2400), seed=3)
    async with neighbours(tmp_path, cable) as (_, b, alice, bob, room_id):
        await alice.say(room_id, "before")
        await until(lambda: holds(bob, room_id, ["before"]))
        cable.medium = Medium(2400, loss=1.0)  # not even a farewell gets through
        await b.stop()
        await alice.say(room_id, "meanwhile")
        await trio.sleep(3600)
        cable.medium = Medium(2400)
        await b.start()
        bob.box = b
        await alice.say(room_id, "after")
        await until(lambda: holds(bob, room_id, ["before", "meanwhile", "after"]), seconds=1800)
        assert faults(caplog) == []


class Faulty:
    """A driver with a fault of its own: it raises what no driver may, so many times, when opened or in the middle."""

    def __init__(self, inner, times: int, *, when: str) -> None:
        self.name, self.inner, self.times, self.when = inner.name, inner, times, when

    async def open(self, stats):
        if self.when == "open" and self.times > 0:
            self.times -= 1
            raise RuntimeError("a fault in the driver")
        wire = await self.inner.open(stats)
        return FaultyWire(wire, self) if self.when == "receive" else wire


class FaultyWire:
    def __init__(self, wire, driver: Faulty) -> None:
        self._wire, self._driver = wire, driver

    def __getattr__(self, name):
        return getattr(self._wire, name)

    async def receive(self):
        frame = await self._wire.receive()
        if self._driver.times > 0:
            self._driver.times -= 1
            raise ZeroDivisionError("a fault in the decoder")
        return frame


@pytest.mark.parametrize("when", ["open", "receive"])
async def test_a_driver_with_a_fault_is_logged_and_begun_anew_and_the_rest_of_the_box_goes_on(tmp_path, caplog, autojump_clock, when):
    good, bad = MemoryCable(Medium(9600), seed=4), MemoryCable(Medium(9600), seed=5)
    other = '[[links]]\nuri = "serial:/dev/zero,9600"\nname = "other"\n'
    async with World(tmp_path) as world:
        a = await world.box("a", LINE + other, {"line": Faulty(bad.a, 3, when=when), "other": good.a})
        b, c = await world.box("b", LINE, {"line": bad.b}), await world.box("c", LINE, {"line": good.b})
        for box in (b, c):
            code, _ = box.box.links.open_offer(front=False)
            await pair_again_and_again(a, "line" if box is b else "other", code)
        await until(lambda: are_up(a, b, c), seconds=1200)
        alice = await a.person("alice")
        assert (await alice.request("GET", "/account/whoami")).status == 200
        assert when == "receive" or any("the line line failed" in fault for fault in faults(caplog))


async def pair_again_and_again(box, line: str, code: str) -> None:
    for _ in range(10):
        try:
            await box.box.links.join_offer(line, code, gateway=False)
        except Exception:
            await trio.sleep(10)
        else:
            return
    raise AssertionError("never paired")


class Broken:
    """An internet with a fault: requests to one server raise what no exchange may."""

    profile = LinkProfile("internet")

    def __init__(self, inner, server: str) -> None:
        self.inner, self.server, self.failed = inner, server, 0

    async def exchange(self, request: Request) -> Response:
        if request.authority == self.server:
            self.failed += 1
            raise KeyError("a fault in the exchange")
        return await self.inner.exchange(request)


async def test_a_fault_on_the_way_to_one_server_does_not_stop_what_goes_to_others(tmp_path, caplog, autojump_clock):
    async with World(tmp_path) as world:
        a, b, c = await world.box("a"), await world.box("b"), await world.box("c")
        alice, bob, carol = await a.person("alice"), await b.person("bob"), await c.person("carol")
        room_id = await alice.create_room(preset="public_chat")
        for guest in (bob, carol):
            await guest.join(room_id, via="a.test")
        broken = Broken(a.box.uplink._inner, "b.test")
        a.box.uplink._inner = broken
        await alice.say(room_id, "to all")
        await until(lambda: holds(carol, room_id, ["to all"]))
        await trio.sleep(600)
        assert broken.failed > 1
        assert any("serving b.test failed" in fault for fault in faults(caplog))
        broken.server = ""
        await until(lambda: holds(bob, room_id, ["to all"]))


@pytest.mark.alone
async def test_a_peer_that_asks_and_asks_and_never_reads_holds_bounded_memory_and_others_are_served(tmp_path, caplog, autojump_clock):
    cable, greedy = MemoryCable(Medium(115_200), seed=6), Identity(b"g" * 32)
    async with World(tmp_path) as world:
        box = await world.box("a", LINE, {"line": cable.a})
        alice = await box.person("alice")
        room_id = await alice.create_room()
        for number in range(20):
            await alice.say(room_id, f"{number} " + "x" * 10_000)
        await box.box.ground.db.write(lambda tx: pairings.put(tx, Pairing(greedy.public_key, "laptop", False, None, False, False, 1)))
        await box.box.links.load()
        key = Identity(box.box.identity.seed).public_key
        link = Link(cable.b, greedy, {key: "a.test"}.get, peer_key=key)
        session = Session()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            connection = await link.wait_up()
            await connection.send(session.encode_hello(), priority=Priority.INTERACTIVE)

            async def ask_for_ever() -> None:
                number = 0
                while True:
                    number = (number + 1) % 60_000
                    headers = (("authorization", f"Bearer {alice.token}"),)
                    target = f"/_matrix/client/v3/rooms/{room_id.replace('!', '%21')}/messages?dir=b&limit=100"
                    await connection.send(session.encode_request(number, Request("GET", target, "", headers)))

            tracemalloc.start()
            nursery.start_soon(ask_for_ever)
            for _ in range(20):
                await trio.sleep(1)
                assert (await alice.request("GET", "/account/whoami")).status == 200
            grown = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            assert grown < 20_000_000
            nursery.cancel_scope.cancel()
        assert faults(caplog) == []


async def test_a_peer_that_lies_about_the_time_in_every_way_is_not_believed(tmp_path, caplog, autojump_clock):
    cable, liar = MemoryCable(Medium(9600), seed=7), Identity(b"l" * 32)
    answers = iter([b"", b"[]", b'{"now":true,"trusted":true}', b'{"now":9e99,"trusted":true}', b'{"now":1,"trusted":true}', b"{" * 200])
    async with World(tmp_path) as world:
        box = await world.box("a", LINE, {"line": cable.a})
        await box.stop()
        box.synchronised = False
        await box.start()
        pairing = Pairing(liar.public_key, "liar.test", True, None, False, False, 1)
        await box.box.ground.db.write(lambda tx: pairings.put(tx, pairing))
        await box.box.links.load()
        key = Identity(box.box.identity.seed).public_key
        before = box.box.ground.now_ms()

        async def answer(request: Request, gone: trio.Event) -> Response:
            said = next(answers) if request.target == TIME_PATH else b"{}"
            return Response(200, (("content-type", "application/json"),), said)

        for _ in range(6):
            link = Link(cable.b, liar, {key: "a.test"}.get, peer_key=key)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                multiplexer = Multiplexer(await link.wait_up())
                await nursery.start(multiplexer.run, answer)
                await trio.sleep(5)
                assert (await LinkExchange(multiplexer).exchange(Request("GET", TIME_PATH))).status == 200
                nursery.cancel_scope.cancel()
            await trio.sleep(60)
        assert next(answers, None) is None
        assert 0 <= box.box.ground.now_ms() - before < 3_600_000
        assert not box.box.ground.clock.trusted
        assert faults(caplog) == []
