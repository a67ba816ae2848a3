"""A sync over a link that the answering end goes on with: who asked hears of each news, once and in order, to whatever end."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager

import orjson
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Route
from trio.testing import wait_all_tasks_blocked

from tests.transports.rigs import ALICE, BOB, NAMES
from tests.transports.test_link_asgi import FakeConnection
from transports.client import LinkExchange, Multiplexer
from transports.exchange import Interrupted, Priority, Request, TooLarge, Unreachable
from transports.link.connection import Link
from transports.lowband.messages import Kind
from transports.memory import Medium, MemoryCable
from transports.server import serve

CLASSIC = "/_matrix/client/v3/sync"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
TOKEN = (("authorization", "Bearer T"),)


class Syncing:
    """A server whose classic and sliding sync tell what `news` holds: (position, what else stands in the answer)."""

    def __init__(self) -> None:
        self.news: list[dict] = []
        self.asked: list[str] = []
        self.status = 200
        self._change = trio.Event()
        self.waiting = 0

    def tell(self, **told) -> None:
        self.news.append(told)
        change, self._change = self._change, trio.Event()
        change.set()

    async def answer(self, request: StarletteRequest) -> JSONResponse:
        key, told_key = ("since", "next_batch") if request.method == "GET" else ("pos", "pos")
        at = int(request.query_params.get(key, 0))
        self.asked.append(f"{at} for {int(request.query_params.get('timeout', 0)) // 1000} s")
        self.waiting += 1
        try:
            with trio.move_on_after(int(request.query_params.get("timeout", 0)) / 1000):
                while at >= len(self.news) and self.status == 200:
                    await self._change.wait()
        finally:
            self.waiting -= 1
        if self.status != 200:
            return JSONResponse({"errcode": "M_UNKNOWN_TOKEN"}, self.status)
        if at >= len(self.news):
            return JSONResponse({told_key: str(at) if key == "since" else str(at + 1000)})
        return JSONResponse({told_key: str(at + 1), **self.news[at]})

    def fail(self, status: int) -> None:
        self.status = status
        self._change.set()


def asgi(syncing: Syncing) -> Starlette:
    return Starlette(routes=[Route(CLASSIC, syncing.answer, methods=["GET"]), Route(SLIDING, syncing.answer, methods=["POST"])])


@asynccontextmanager
async def linked(app, **options):
    """The asking end and both ends of a pair that delivers whole messages at once."""
    left, right = FakeConnection(), FakeConnection()
    left.other, right.other = right, left
    asking, answering = Multiplexer(left), Multiplexer(right, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(asking.run)
        await nursery.start(serve, answering, app)
        yield LinkExchange(asking), left, right
        nursery.cancel_scope.cancel()


def sync(position: int | None = 0, method: str = "GET") -> Request:
    where = "" if position is None else f"?{'since' if method == 'GET' else 'pos'}={position}"
    return Request(method, f"{CLASSIC if method == 'GET' else SLIDING}{where}", headers=TOKEN, timeout=math.inf)


async def told(observation) -> dict:
    return orjson.loads((await observation.receive()).body)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_each_news_comes_by_itself_and_the_asking_end_says_no_more(method, autojump_clock):
    server = Syncing()
    async with linked(asgi(server)) as (exchange, left, right), exchange.observe(sync(0, method)) as observation:
        for number in range(5):
            await trio.sleep(10)
            server.tell(rooms={"!r": number})
            assert (await told(observation))["rooms"] == {"!r": number}
            assert not observation.is_over
        await wait_all_tasks_blocked()
        assert left.kinds() == [Kind.HELLO, Kind.REQUEST]
        assert right.kinds() == [Kind.HELLO, *[Kind.NOTIFICATION] * 5]
    assert server.asked == [f"{number} for 300 s" for number in range(6)]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_hour_without_news_costs_not_one_message(method, autojump_clock):
    server = Syncing()
    async with linked(asgi(server)) as (exchange, left, right), exchange.observe(sync(0, method)) as observation:
        with trio.move_on_after(3600):
            await observation.receive()
        assert (left.kinds(), right.kinds()) == ([Kind.HELLO, Kind.REQUEST], [Kind.HELLO])
        server.tell(rooms={"!r": 1})
        assert (await told(observation))["rooms"] == {"!r": 1}
        await wait_all_tasks_blocked()
    assert {place.partition(" ")[0] for place in server.asked} == {"0", "1"}, "a sliding sync without news stays where it was"


async def test_the_next_poll_begins_only_when_the_last_answer_has_arrived(autojump_clock):
    server = Syncing()
    async with linked(asgi(server)) as (exchange, _, right), exchange.observe(sync()) as observation:
        right.acknowledges = trio.Event()
        server.tell(rooms={"!r": 1})
        server.tell(rooms={"!r": 2})
        assert (await told(observation))["next_batch"] == "1"
        await trio.sleep(100)
        assert server.asked == ["0 for 300 s"]
        right.acknowledges.set()
        assert (await told(observation))["next_batch"] == "2"


async def test_messages_to_the_device_end_it_so_that_only_the_client_acknowledges_them(autojump_clock):
    server = Syncing()
    async with linked(asgi(server)) as (exchange, _, right):
        async with exchange.observe(sync()) as observation:
            server.tell(to_device={"events": [{"type": "m.room_key"}]})
            assert (await told(observation))["to_device"]
            assert observation.is_over
        await trio.sleep(1000)
        assert server.asked == ["0 for 300 s"]
        assert right.kinds() == [Kind.HELLO, Kind.RESPONSE]
        server.tell(rooms={"!r": 2})
        async with exchange.observe(sync(1)) as observation:
            assert (await told(observation))["next_batch"] == "2"


async def test_an_error_is_the_last_answer_and_one_that_passes_is_waited_out(autojump_clock):
    server = Syncing()
    async with linked(asgi(server)) as (exchange, _, _):
        async with exchange.observe(sync()) as observation:
            await wait_all_tasks_blocked()
            server.fail(503)
            await trio.sleep(5)
            server.status = 200
            server.tell(rooms={"!r": 1})
            assert (await told(observation))["next_batch"] == "1"
            await wait_all_tasks_blocked()
            server.fail(401)
            response = await observation.receive()
            assert (response.status, observation.is_over) == (401, True)
        server.fail(502)
        async with exchange.observe(sync()) as observation:
            assert (await observation.receive()).status == 502


async def test_a_sliding_sync_whose_place_another_has_taken_is_over():
    async def displaced(request: StarletteRequest) -> JSONResponse:
        return JSONResponse({"pos": "7", "lists": {}, "rooms": {}})

    app = Starlette(routes=[Route(SLIDING, displaced, methods=["POST"])])
    async with linked(app) as (exchange, _, _), exchange.observe(sync(7, "POST")) as observation:
        assert (await told(observation))["pos"] == "7"
        assert observation.is_over


async def test_who_leaves_ends_the_poll_at_the_other_end():
    server = Syncing()
    async with linked(asgi(server)) as (exchange, left, right):
        async with exchange.observe(sync()):
            await wait_all_tasks_blocked()
            assert server.waiting == 1
        await wait_all_tasks_blocked()
        assert server.waiting == 0
        assert left.kinds()[-1] == Kind.CANCEL
        assert right.kinds()[-1] == Kind.FAILURE


async def test_a_cut_line_ends_it_after_all_that_has_arrived():
    server = Syncing()
    async with linked(asgi(server)) as (exchange, left, _), exchange.observe(sync()) as observation:
        server.tell(rooms={"!r": 1})
        await wait_all_tasks_blocked()
        left.cut()
        assert (await told(observation))["next_batch"] == "1"
        with pytest.raises(Interrupted):
            await observation.receive()
        assert observation.is_over
        with pytest.raises(Unreachable):
            async with exchange.observe(sync()):
                pass


async def test_who_does_not_read_is_interrupted_before_memory_is_full(autojump_clock):
    server = Syncing()
    for number in range(200):
        server.tell(rooms={"!r": number})
    async with linked(asgi(server)) as (exchange, left, _), exchange.observe(sync()) as observation:
        await trio.sleep(100)
        assert left.kinds()[-1] == Kind.CANCEL
        for number in range(65):
            assert (await told(observation))["rooms"] == {"!r": number}
        with pytest.raises(Interrupted, match="faster"):
            await observation.receive()


async def test_more_observations_than_an_end_allows_are_requests_that_are_answered_once(autojump_clock):
    server = Syncing()
    async with linked(asgi(server), max_observed=2) as (exchange, _, _), trio.open_nursery() as nursery:

        async def watch(observation_over: list[bool]) -> None:
            async with exchange.observe(sync()) as observation:
                await observation.receive()
                observation_over.append(observation.is_over)

        over: list[bool] = []
        for _ in range(3):
            nursery.start_soon(watch, over)
        await wait_all_tasks_blocked()
        server.tell(rooms={"!r": 1})
        with trio.fail_after(10):
            while len(over) < 3:
                await trio.sleep(1)
        assert sorted(over) == [False, False, True]


async def test_what_is_no_sync_is_answered_once_whatever_its_headers_say():
    async def once(request: StarletteRequest) -> JSONResponse:
        return JSONResponse({"headers": sorted(request.headers)})

    app = Starlette(routes=[Route("/other", once)])
    async with linked(app) as (exchange, _, _), exchange.observe(Request("GET", "/other")) as observation:
        assert "observe" in (await told(observation))["headers"]
        assert observation.is_over


async def test_an_answer_beyond_what_the_link_carries_is_told_as_such():
    server = Syncing()
    server.tell(rooms={"!r": [hex(number * 7919 % 1_000_003) for number in range(100_000)]})
    async with linked(asgi(server)) as (exchange, _, _), exchange.observe(sync()) as observation:
        with pytest.raises(TooLarge):
            await observation.receive()


@pytest.mark.parametrize("loss", [0.0, 0.25])
async def test_over_a_thin_lossy_line_every_news_arrives_once_in_order_beside_other_requests(loss, autojump_clock):
    server = Syncing()
    cable = MemoryCable(Medium(bit_rate=2400, loss=loss), seed=11)
    async with trio.open_nursery() as nursery:
        calling, called = Link(cable.a, ALICE, NAMES.get, peer_key=BOB.public_key), Link(cable.b, BOB, NAMES.get)
        nursery.start_soon(calling.run)
        nursery.start_soon(called.run)
        ends = [await link.connections().receive() for link in (calling, called)]
        asking, answering = (Multiplexer(connection) for connection in ends)
        await nursery.start(asking.run)
        await nursery.start(serve, answering, asgi(server))

        async def others() -> None:
            for _ in range(20):
                await LinkExchange(asking).exchange(Request("GET", f"{CLASSIC}?since=0", headers=TOKEN, priority=Priority.INTERACTIVE))
                await trio.sleep(3)

        async with LinkExchange(asking).observe(sync()) as observation:
            nursery.start_soon(others)
            for number in range(40):
                server.tell(rooms={"!r": number}, more={"body": "Words " * (number % 9)})
                if number % 3 == 0:
                    await trio.sleep(2)
            for number in range(40):
                assert (await told(observation))["rooms"] == {"!r": number}
        nursery.cancel_scope.cancel()
