"""One client's session: what many or silent requests, replaced observers and hostile datagrams come to, under the virtual clock."""

from __future__ import annotations

import json
import random
from contextlib import asynccontextmanager

import trio

from tests.transports.coap_client import CoapClient, datagrams
from transports.coap.blockwise import Allowance
from transports.coap.message import Code, Message, Option, Type, decode, encode
from transports.coap.server import MAX_OPEN
from transports.exchange import Response, TooLarge
from transports.msc3079 import session

JSON_TYPE = (("content-type", "application/json"),)


class Syncs:
    """An application that only syncs: `news` come one by one, and who waits is counted."""

    def __init__(self):
        self.put, self.news = trio.open_memory_channel[str](100)
        self.targets = []
        self.waiting = 0

    async def __call__(self, request, gone):
        self.targets.append(request.target)
        if "timeout=0" in request.target or "sync" not in request.target:
            return Response(200, JSON_TYPE, b'{"next_batch":"0","rooms":{}}')
        self.waiting += 1
        try:
            text = await self.news.receive()
        finally:
            self.waiting -= 1
        if text == "too large":
            raise TooLarge("beyond the bound")
        return Response(200, JSON_TYPE, json.dumps({"next_batch": text, "rooms": {"join": {"!r": {"x": text}}}}).encode())


@asynccontextmanager
async def running(handler, **options):
    near, far = datagrams()
    client = CoapClient(near)
    allowance = Allowance(1 << 22)
    ended = trio.Event()

    async def serve():
        await session.serve(far, handler, allowance, chance=random.Random(1).random, **options)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await nursery.start(client.run)
        yield client, near, far, ended
        nursery.cancel_scope.cancel()


async def test_each_notification_is_the_next_sync(autojump_clock):
    syncs = Syncs()
    async with running(syncs) as (client, _, _, _), client.asking("GET", "/_matrix/client/v3/sync?filter=1") as answers:
        heard = [json.loads((await anext(answers)).body)["next_batch"]]
        for text in ("1", "2"):
            syncs.put.send_nowait(text)
            heard.append(json.loads((await anext(answers)).body)["next_batch"])
        await trio.sleep(1)
    assert heard == ["0", "1", "2"]
    path = "/_matrix/client/r0/sync?filter=1"
    assert syncs.targets == [f"{path}&timeout=0", *(f"{path}&since={since}&timeout=300000" for since in (0, 1, 2))]


async def test_the_next_sync_waits_until_the_client_has_the_last_answer(autojump_clock):
    syncs = Syncs()
    async with running(syncs) as (client, near, _, _), client.asking("GET", "/_matrix/client/v3/sync") as answers:
        await anext(answers)
        near.loss = 1.0  # acknowledgements do not arrive
        syncs.put.send_nowait("1")
        await anext(answers)
        await trio.sleep(20)
        assert syncs.waiting == 0
        near.loss = 0.0
        await trio.sleep(60)
        assert syncs.waiting == 1
        assert "since=1" in syncs.targets[-1]


async def test_registering_again_replaces_the_observer(autojump_clock):
    syncs = Syncs()
    async with running(syncs) as (_, near, far, _):
        for number in range(3):
            options = ((Option.OBSERVE, b""), (Option.URI_PATH, b"7"))
            await near.send(encode(Message(Type.CON, Code.GET, number, b"same", options)))
            await trio.sleep(2)
            assert syncs.waiting == 1
        await near.send(encode(Message(Type.CON, Code.GET, 9, b"same", ((Option.OBSERVE, b"\x01"), (Option.URI_PATH, b"7")))))
        await trio.sleep(2)
        assert syncs.waiting == 0
        assert decode(far.sent[-1]).value(Option.OBSERVE) is None


async def test_more_requests_at_once_than_are_carried_out_are_put_off(autojump_clock):
    syncs = Syncs()
    async with running(syncs) as (_, near, far, ended):
        for number in range(MAX_OPEN + 4):
            query = (Option.URI_QUERY, b"timeout=1000")
            await near.send(encode(Message(Type.CON, Code.GET, number, bytes([number]), ((Option.URI_PATH, b"7"), query))))
        await trio.sleep(2)
        assert syncs.waiting == MAX_OPEN
        assert [decode(data).code for data in far.sent].count(Code.SERVICE_UNAVAILABLE) == 4
        near.outgoing.close()
        await ended.wait()
        assert syncs.waiting == 0


async def test_who_is_silent_for_long_has_gone(autojump_clock):
    syncs = Syncs()
    async with running(syncs, idle=600.0) as (client, near, _, ended), client.asking("GET", "/_matrix/client/v3/sync") as answers:
        await anext(answers)
        for _ in range(10):
            await trio.sleep(60)
            await near.send(bytes.fromhex("40001234"))  # a ping
        began = trio.current_time()
        await ended.wait()
        assert trio.current_time() - began == 600
        assert syncs.waiting == 0


async def test_an_answer_that_is_too_large_is_told_to_an_observer_as_an_error(autojump_clock):
    syncs = Syncs()
    async with running(syncs) as (client, _, _, _), client.asking("GET", "/_matrix/client/v3/sync") as answers:
        await anext(answers)
        for _ in range(3):
            syncs.put.send_nowait("too large")
        answer = await anext(answers)
        assert (answer.status, json.loads(answer.body)["errcode"]) == (500, "M_TOO_LARGE")


async def test_a_token_in_the_first_block_of_a_body_holds_for_all_of_it(autojump_clock):
    asked = []

    async def handler(request, gone):
        asked.append((request.header("authorization"), request.body))
        return Response(200, JSON_TYPE, b"{}")

    async with running(handler) as (_, near, _, _):
        for number, (block, part) in enumerate(((b"\x08", b"x" * 16), (b"\x10", b"y"))):
            options = ((Option.URI_PATH, b"1"), (Option.BLOCK1, block), *([(256, b"first")] if not number else []))
            await near.send(encode(Message(Type.CON, Code.POST, number, b"t", options, part)))
            await trio.sleep(1)
    assert asked == [("Bearer first", b"x" * 16 + b"y")]


async def test_noise_does_not_end_a_session(autojump_clock):
    chance = random.Random(2)
    async with running(Syncs()) as (client, near, _, ended):
        for _ in range(500):
            data = bytearray(encode(Message(Type.CON, Code.GET, chance.randrange(65536), b"t", ((Option.URI_PATH, b"0"),), b"x" * 20)))
            for _ in range(3):
                data[chance.randrange(len(data))] = chance.randrange(256)
            await near.send(bytes(data))
        await trio.sleep(5)
        assert not ended.is_set()
        assert (await client.request("GET", "/_matrix/client/versions")).status == 200
