"""Requests and answers over one connection, in both directions, to an ASGI application and back."""

from contextlib import asynccontextmanager

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from trio.testing import wait_all_tasks_blocked

from transports.client import LinkExchange, Multiplexer
from transports.exchange import Interrupted, LinkProfile, Priority, Request, Response, TimedOut, TooLarge, Unreachable
from transports.link.connection import NotDelivered, PerhapsDelivered
from transports.lowband.messages import Kind
from transports.server import AsgiHandler, serve

PROFILE = LinkProfile("fake", bit_rate=2400, mtu=200, peer="box.example")


class FakeConnection:
    """One end of a pair that delivers whole messages at once; `cut` takes the link down, `hold` keeps messages back."""

    max_message = 50_000

    def __init__(self):
        self.profile = PROFILE
        self.other = None
        self.sent = []
        self.acknowledges = trio.Event()
        self.acknowledges.set()
        self.delivers = True
        self.verdict = PerhapsDelivered
        self._send, self._receive = trio.open_memory_channel(1000)
        self._down = trio.Event()

    async def send(self, message, *, priority=Priority.MESSAGE):
        await trio.lowlevel.checkpoint()
        if self._down.is_set():
            raise NotDelivered("down before it left")
        self.sent.append((message, priority))
        if self.delivers:
            self.other._send.send_nowait(message)
        async with trio.open_nursery() as nursery:
            for event in (self.acknowledges, self._down):
                nursery.start_soon(self._leave_when, event, nursery.cancel_scope)
        if not self.acknowledges.is_set():
            raise self.verdict("down before it was acknowledged")

    async def _leave_when(self, event, scope):
        await event.wait()
        scope.cancel()

    async def receive(self):
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise NotDelivered("down") from None

    def cut(self):
        for end in (self, self.other):
            end._down.set()
            end._send.close()

    def kinds(self):
        return [Kind(message[0] >> 5) for message, _ in self.sent]


@asynccontextmanager
async def link(app=None, other_app=None, **options):
    """Two multiplexers that serve `app` (right) and `other_app` (left) to each other."""
    left, right = FakeConnection(), FakeConnection()
    left.other, right.other = right, left
    ends = [Multiplexer(left, **options), Multiplexer(right, **options)]
    async with trio.open_nursery() as nursery:
        for end, served in zip(ends, (other_app, app), strict=True):
            if served is None:
                await nursery.start(end.run)
            else:
                await nursery.start(serve, end, served)
        yield LinkExchange(ends[0]), LinkExchange(ends[1]), left, right
        nursery.cancel_scope.cancel()


class Trace:
    """What happened in the application."""

    def __init__(self):
        self.events = []
        self.release = trio.Event()


def application(trace):
    async def echo(request: StarletteRequest):
        return JSONResponse(
            {
                "method": request.method,
                "path": request.url.path,
                "raw": request.scope["raw_path"].decode(),
                "query": request.url.query,
                "host": request.headers.get("host", ""),
                "token": request.headers.get("authorization", ""),
                "body": (await request.body()).decode(),
                "peer": request.scope["extensions"]["link"].peer,
            },
            status_code=418,
            headers={"x-custom": "yes"},
        )

    async def wait(request: StarletteRequest):
        await request.body()
        trace.events.append("began")
        try:
            await trace.release.wait()
        except trio.Cancelled:
            trace.events.append("cancelled")
            raise
        trace.events.append(f"ended, gone={await request.is_disconnected()}")
        return PlainTextResponse("done")

    async def stream(request: StarletteRequest):
        async def chunks():
            for _ in range(int(request.query_params["chunks"])):
                yield b"x" * 1000

        return StreamingResponse(chunks(), media_type="application/octet-stream")

    async def fail(request: StarletteRequest):
        raise RuntimeError("a bug")

    return Starlette(
        routes=[
            Route("/echo/{rest:path}", echo, methods=["GET", "PUT", "POST", "OPTIONS"]),
            Route("/wait", wait, methods=["GET", "POST"]),
            Route("/stream", stream),
            Route("/fail", fail),
        ]
    )


async def test_an_endpoint_sees_an_ordinary_http_request_with_the_lines_profile():
    async with link(application(Trace())) as (exchange, _, _, _):
        request = Request("PUT", "/echo/%21r%3Ax/a?b=c%20d", "box.example", (("Authorization", "Bearer t"),), b'{"x":1}')
        response = await exchange.exchange(request)
    assert response.status == 418
    assert response.header("x-custom") == "yes"
    assert response.header("content-type") == "application/json"
    assert response.header("content-length") is None
    assert b'"path":"/echo/!r:x/a"' in response.body
    for part in (b'"raw":"/echo/%21r%3Ax/a"', b'"query":"b=c%20d"', b'"host":"box.example"', b'"token":"Bearer t"'):
        assert part in response.body
    assert b'"peer":"box.example"' in response.body
    assert rb'"body":"{\"x\":1}"' in response.body


async def test_both_ends_ask_and_answer_at_the_same_time():
    answers = []

    async def ask(exchange, n):
        response = await exchange.exchange(Request("GET", f"/echo/{n}"))
        assert f'"path":"/echo/{n}"'.encode() in response.body
        answers.append(n)

    async with link(application(Trace()), application(Trace())) as (left, right, _, _), trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(ask, left, n)
            nursery.start_soon(ask, right, n)
    assert sorted(answers) == sorted([*range(20)] * 2)


async def test_the_answer_has_the_requests_priority():
    async with link(application(Trace())) as (exchange, _, left, right):
        await exchange.exchange(Request("GET", "/echo/", priority=Priority.MEDIA))
        assert left.sent[-1][1] is right.sent[-1][1] is Priority.MEDIA


async def test_a_streamed_body_is_collected_whole():
    async with link(application(Trace())) as (exchange, _, _, _):
        response = await exchange.exchange(Request("GET", "/stream?chunks=20"))
        assert response.body == b"x" * 20_000


async def test_an_answer_beyond_the_bound_is_too_large():
    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})

    handler = AsgiHandler(endless, PROFILE, max_response=5000)
    with pytest.raises(TooLarge):
        await handler(Request("GET", "/"), trio.Event())


async def test_what_does_not_fit_the_link_is_too_large_in_either_direction():
    import hashlib

    noise = hashlib.shake_128(b"noise").digest(60_000)

    async def big(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": noise})

    async with link(big) as (exchange, _, _, _):
        with pytest.raises(TooLarge):
            await exchange.exchange(Request("GET", "/"))
        with pytest.raises(TooLarge):
            await exchange.exchange(Request("POST", "/", body=noise))


async def test_an_exception_is_a_500_without_a_word_of_it(caplog):
    async with link(application(Trace())) as (exchange, _, _, _):
        response = await exchange.exchange(Request("GET", "/fail"))
    assert response.status == 500
    assert b"M_UNKNOWN" in response.body
    assert b"bug" not in response.body


async def test_an_application_that_does_not_answer_is_a_500(caplog):
    async def silent(scope, receive, send):
        await receive()

    async with link(silent) as (exchange, _, _, _):
        assert (await exchange.exchange(Request("GET", "/"))).status == 500


async def test_an_end_that_serves_nothing_refuses():
    async with link() as (exchange, _, _, _):
        with pytest.raises(Unreachable):
            await exchange.exchange(Request("GET", "/"))


async def test_too_many_requests_at_a_time_are_refused_and_not_queued():
    trace = Trace()
    async with link(application(trace), max_concurrent=2) as (exchange, _, _, _), trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(exchange.exchange, Request("POST", "/wait"))
        await wait_all_tasks_blocked()
        with pytest.raises(Unreachable):
            await exchange.exchange(Request("POST", "/wait"))
        trace.release.set()
    assert trace.events.count("began") == 2


async def test_a_timeout_cancels_a_safe_request_at_the_other_end(autojump_clock):
    trace = Trace()
    async with link(application(trace)) as (exchange, _, left, right):
        with pytest.raises(TimedOut):
            await exchange.exchange(Request("GET", "/wait", timeout=5))
        await wait_all_tasks_blocked()
        assert trace.events == ["began", "cancelled"]
        assert left.kinds()[-1] is Kind.CANCEL
        assert right.kinds() == [Kind.HELLO, Kind.FAILURE]


async def test_a_request_that_changes_something_runs_to_its_end_though_nobody_waits(autojump_clock):
    trace = Trace()
    async with link(application(trace)) as (exchange, _, left, right):
        with trio.move_on_after(5):
            await exchange.exchange(Request("POST", "/wait"))
        await wait_all_tasks_blocked()
        trace.release.set()
        await wait_all_tasks_blocked()
        assert trace.events == ["began", "ended, gone=True"]
        assert left.kinds()[-1] is Kind.CANCEL
        assert right.kinds() == [Kind.HELLO, Kind.FAILURE]


async def test_an_id_is_used_again_only_after_its_answer(autojump_clock):
    trace = Trace()
    async with link(application(trace)) as (exchange, _, left, _):
        with pytest.raises(TimedOut):
            await exchange.exchange(Request("POST", "/wait", timeout=1))
        for _ in range(200):
            await exchange.exchange(Request("GET", "/echo/"))
        ids = [message[1] for message, _ in left.sent if Kind(message[0] >> 5) is Kind.REQUEST]
        assert ids.count(ids[0]) == 1
        assert max(ids) < 128


async def test_a_link_that_is_down_is_unreachable():
    async with link(application(Trace())) as (exchange, _, left, _):
        left.cut()
        await wait_all_tasks_blocked()
        with pytest.raises(Unreachable):
            await exchange.exchange(Request("GET", "/echo/"))


async def outcome_of(exchange, request, outcomes):
    try:
        outcomes.append(await exchange.exchange(request))
    except (Unreachable, Interrupted) as error:
        outcomes.append(type(error))


async def test_a_link_that_breaks_after_the_request_left_interrupts_it(autojump_clock):
    trace, outcomes = Trace(), []
    async with link(application(trace), linger=5) as (exchange, _, left, _), trio.open_nursery() as nursery:
        nursery.start_soon(outcome_of, exchange, Request("GET", "/wait"), outcomes)
        nursery.start_soon(outcome_of, exchange, Request("POST", "/wait"), outcomes)
        await wait_all_tasks_blocked()
        left.cut()
        await wait_all_tasks_blocked()
        trace.release.set()
    assert outcomes == [Interrupted, Interrupted]
    assert sorted(trace.events) == ["began", "began", "cancelled", "ended, gone=True"]


async def test_a_request_of_which_nothing_was_acknowledged_may_have_arrived():
    outcomes = []
    async with link(application(Trace())) as (exchange, _, left, _), trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        left.acknowledges, left.delivers = trio.Event(), False
        nursery.start_soon(outcome_of, exchange, Request("POST", "/wait"), outcomes)
        await wait_all_tasks_blocked()
        left.cut()
    assert outcomes == [PerhapsDelivered]


async def test_a_request_that_surely_did_not_arrive_is_unreachable():
    outcomes = []
    async with link(application(Trace())) as (exchange, _, left, _), trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        left.acknowledges, left.delivers, left.verdict = trio.Event(), False, NotDelivered
        nursery.start_soon(outcome_of, exchange, Request("POST", "/wait"), outcomes)
        await wait_all_tasks_blocked()
        left.cut()
    assert outcomes == [NotDelivered]


async def test_an_answer_counts_though_the_acknowledgement_is_late():
    async with link(application(Trace())) as (exchange, _, left, _):
        await wait_all_tasks_blocked()
        left.acknowledges = trio.Event()
        response = await exchange.exchange(Request("GET", "/echo/"))
        assert response.status == 418


async def test_a_first_request_waits_for_the_other_ends_hello_but_not_for_ever(autojump_clock):
    left, right = FakeConnection(), FakeConnection()
    left.other, right.other = right, left
    right.delivers = False
    async with trio.open_nursery() as nursery:
        alone = Multiplexer(left)
        await nursery.start(alone.run)
        before = trio.current_time()
        with pytest.raises(TimedOut):
            await alone.exchange(Request("GET", "/_matrix/client/versions", timeout=60))
        assert trio.current_time() - before == pytest.approx(60)
        assert left.kinds()[:2] == [Kind.HELLO, Kind.REQUEST]
        with pytest.raises(Unreachable):
            await alone.exchange(Request("GET", "/", timeout=3))
        nursery.cancel_scope.cancel()


async def test_noise_and_answers_to_nothing_do_no_harm(caplog):
    async with link(application(Trace())) as (exchange, _, _, right):
        for noise in (b"", b"\xff", b"\x20\x01\xff\xff", b"\x21\x02garbage", b"\x40\x09\x00", b"\x60\x07", b"\x80\x05\x00\x00"):
            right._send.send_nowait(noise)
        assert (await exchange.exchange(Request("GET", "/echo/"))).status == 418
        assert right.kinds().count(Kind.FAILURE) == 2


async def test_a_response_that_is_no_response_interrupts_its_request(caplog):
    async with link(application(Trace())) as (exchange, _, left, _), trio.open_nursery() as nursery:
        outcomes = []
        nursery.start_soon(outcome_of, exchange, Request("POST", "/wait"), outcomes)
        await wait_all_tasks_blocked()
        exchange_id = left.sent[-1][0][1]
        left._send.send_nowait(bytes((Kind.RESPONSE << 5, exchange_id)))
        await wait_all_tasks_blocked()
        assert outcomes == [Interrupted]
        nursery.cancel_scope.cancel()


async def test_a_handler_may_be_any_function():
    async def handler(request, gone):
        return Response(204)

    left, right = FakeConnection(), FakeConnection()
    left.other, right.other = right, left
    async with trio.open_nursery() as nursery:
        a, b = Multiplexer(left), Multiplexer(right)
        await nursery.start(a.run)
        await nursery.start(b.run, handler)
        assert (await a.exchange(Request("DELETE", "/"))) == Response(204)
        nursery.cancel_scope.cancel()
