"""Exchanges that go on in pieces, over a whole link in memory: both ways at once, with loss, to whatever end."""

from __future__ import annotations

import hashlib
import logging
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.transports.rigs import ALICE, BOB, NAMES
from tests.transports.test_link_asgi import FakeConnection
from transports.client import LinkExchange, Multiplexer
from transports.duplex import MAX_UNREAD, PieceStream
from transports.exchange import Answered, Interrupted, Priority, Request, Response, TimedOut, TooLarge, Unreachable
from transports.link.connection import Link
from transports.lowband.messages import Kind, Part, Session
from transports.lowband.pieces import MAX_PIECE
from transports.memory import Medium, MemoryCable
from transports.server import serve

OPEN = Request("POST", "/talk", headers=(("Authorization", "Bearer T"),), body=b"\x00first", priority=Priority.INTERACTIVE)
TWENTY = b"twenty bytes exactly"


class Talk:
    """An application that writes down what it hears; `say` is what the test lets it send."""

    def __init__(self) -> None:
        self.scope = None
        self.heard: list[bytes] = []
        self.events: list[str] = []
        self.say, self.told = trio.open_memory_channel[dict](10_000)
        self.left = trio.Event()

    async def __call__(self, scope, receive, send):
        self.scope = scope
        if scope["path"] != "/talk":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"plain"})
            return
        self.events.append("began")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, receive, nursery.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async for message in self.told:
                await send({"type": "http.response.body", **message})
                if not message.get("more_body"):
                    nursery.cancel_scope.cancel()
        self.events.append("ended")

    async def _hear(self, receive, scope):
        while (message := await receive())["type"] == "http.request":
            assert message["more_body"]
            self.heard.append(message["body"])
        self.events.append(message["type"])
        self.left.set()
        scope.cancel()

    def sends(self, *pieces: bytes, **more) -> None:
        for piece in pieces:
            self.say.send_nowait({"body": piece, "more_body": True, **more})

    def ends(self, body: bytes = b"") -> None:
        self.say.send_nowait({"body": body})


def noise(seed: str, count: int) -> list[bytes]:
    """Pieces of 1 to 60 bytes, no two alike."""
    return [b"%d:" % n + hashlib.shake_128(b"%s%d" % (seed.encode(), n)).digest(n % 57) for n in range(count)]


@asynccontextmanager
async def fake_link(app, **options):
    """The asking multiplexer and both ends of a pair that delivers whole messages at once."""
    left, right = FakeConnection(), FakeConnection()
    left.other, right.other = right, left
    asking, answering = Multiplexer(left, **options), Multiplexer(right, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(asking.run)
        await nursery.start(serve, answering, app)
        yield asking, left, right
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def memory_link(app, medium: Medium, seed: int = 7, **options):
    """The same over sealed frames on a cable, and the cable."""
    cable = MemoryCable(medium, seed=seed)
    async with trio.open_nursery() as nursery:
        calling, called = Link(cable.a, ALICE, NAMES.get, peer_key=BOB.public_key), Link(cable.b, BOB, NAMES.get)
        nursery.start_soon(calling.run)
        nursery.start_soon(called.run)
        with trio.fail_after(600):
            ends = [await link.connections().receive() for link in (calling, called)]
        asking, answering = (Multiplexer(connection, **options) for connection in ends)
        await nursery.start(asking.run)
        await nursery.start(serve, answering, app)
        yield LinkExchange(asking), cable, ends
        nursery.cancel_scope.cancel()


async def collect(duplex, into: list[bytes], count: int) -> None:
    for _ in range(count):
        into.append(await duplex.receive())  # noqa: PERF401


async def send_all(duplex, pieces: list[bytes]) -> None:
    for piece in pieces:
        await duplex.send(piece)


# — how it begins and ends


async def test_the_application_sees_a_post_whose_body_goes_on_and_its_pieces_go_out_at_once():
    talk = Talk()
    async with fake_link(talk) as (asking, _, _):
        async with asking.open(OPEN) as duplex:
            await duplex.send(b"second")
            await wait_all_tasks_blocked()
            assert talk.heard == [b"\x00first", b"second"]
            talk.sends(b"pushed")
            assert await duplex.receive() == b"pushed"
        assert talk.scope["method"] == "POST"
        assert talk.scope["extensions"]["duplex"] == {}
        assert (b"authorization", b"Bearer T") in talk.scope["headers"]
        assert not [value for name, value in talk.scope["headers"] if name == b"content-length"]


async def test_other_requests_know_nothing_of_it_and_are_collected_whole():
    talk = Talk()
    async with fake_link(talk) as (asking, _, right):
        assert (await asking.exchange(Request("POST", "/other"))).body == b"plain"
        assert "duplex" not in talk.scope["extensions"]
        assert right.kinds() == [Kind.HELLO, Kind.RESPONSE]


async def test_the_answering_end_ends_it_with_a_response_after_all_its_pieces():
    talk = Talk()
    async with fake_link(talk) as (asking, left, _):
        async with asking.open(OPEN) as duplex:
            talk.sends(b"one", b"two")
            talk.ends(b"the rest")
            assert [await duplex.receive(), await duplex.receive()] == [b"one", b"two"]
            for _ in range(2):
                with pytest.raises(Answered) as caught:
                    await duplex.receive()
                assert caught.value.response == Response(200, (), b"the rest")
            with pytest.raises(Answered):
                await duplex.send(b"too late")
        await wait_all_tasks_blocked()
        assert talk.events == ["began", "ended"]
        assert Kind.CANCEL not in left.kinds()


async def test_leaving_tells_the_application_and_the_link_goes_on():
    talk = Talk()
    async with fake_link(talk) as (asking, left, right):
        async with asking.open(OPEN) as duplex:
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert talk.events == ["began", "http.disconnect", "ended"]
        assert (left.kinds()[-1], right.kinds()[-1]) == (Kind.CANCEL, Kind.FAILURE)
        for use in (duplex.receive, lambda: duplex.send(b"x")):
            with pytest.raises(Interrupted, match="left"):
                await use()
        assert (await asking.exchange(Request("GET", "/"))).body == b"plain"


async def test_an_application_that_hears_nothing_is_ended_some_time_after_the_asking_end_has_left(autojump_clock):
    events = []

    async def deaf(scope, receive, send):
        try:
            await trio.sleep_forever()
        finally:
            events.append(trio.current_time())

    async with fake_link(deaf, linger=5) as (asking, _, _):
        async with asking.open(OPEN):
            await trio.sleep(100)
            assert not events
        left_at = trio.current_time()
        await trio.sleep(6)
        assert events == [pytest.approx(left_at + 5)]


@pytest.mark.parametrize("status", [401, 200])
async def test_an_application_that_answers_without_pieces_ends_it_with_an_ordinary_response(status):
    async def refuse(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"errcode":', "more_body": status != 200})
        await send({"type": "http.response.body", "body": b'"M_UNKNOWN_TOKEN"}'}) if status != 200 else None

    async with fake_link(refuse) as (asking, _, right), asking.open(OPEN) as duplex:
        with pytest.raises(Answered) as caught:
            await duplex.receive()
        assert caught.value.response.status == status
        if status == 401:
            assert caught.value.response.body == b'{"errcode":"M_UNKNOWN_TOKEN"}'
            assert caught.value.response.header("content-type") == "application/json"
        assert right.kinds() == [Kind.HELLO, Kind.RESPONSE]


async def test_an_application_that_fails_between_two_pieces_ends_it_with_a_500(caplog):
    async def fail(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise RuntimeError("a bug")

    async with fake_link(fail) as (asking, _, _), asking.open(OPEN) as duplex:
        assert await duplex.receive() == b"one"
        with pytest.raises(Answered) as caught:
            await duplex.receive()
        assert caught.value.response.status == 500
        assert b"bug" not in caught.value.response.body


async def test_a_peer_of_the_first_version_is_asked_for_no_duplex_and_serves_all_else():
    left, right = FakeConnection(), FakeConnection()
    left.other, right.other = right, left
    old = Session()

    async def answer_as_version_one():
        hello = old.encode_hello()
        await right.send(hello[:1] + b"\x01" + hello[2:])
        while True:
            message = old.decode(await right.receive())
            if not hasattr(message, "request"):
                continue
            assert not message.duplex
            await right.send(old.encode_response(message.exchange_id, Response(204)))

    async with trio.open_nursery() as nursery:
        asking = Multiplexer(left)
        await nursery.start(asking.run)
        nursery.start_soon(answer_as_version_one)
        assert (await asking.exchange(Request("GET", "/"))).status == 204
        with pytest.raises(Unreachable, match="knows no duplex requests"):
            async with asking.open(OPEN):
                pytest.fail("it was opened")
        assert (await asking.exchange(Request("POST", "/"))).status == 204
        assert left.kinds() == [Kind.HELLO, Kind.REQUEST, Kind.REQUEST]
        nursery.cancel_scope.cancel()


async def test_a_peer_that_says_no_hello_is_unreachable_and_one_that_confirms_nothing_late(autojump_clock):
    async with fake_link(Talk()) as (asking, left, _):
        await wait_all_tasks_blocked()
        left.acknowledges, left.delivers = trio.Event(), False
        with pytest.raises(TimedOut):
            async with asking.open(Request("POST", "/talk", timeout=20)):
                pytest.fail("it was opened")
    alone = FakeConnection()
    alone.other = FakeConnection()
    async with trio.open_nursery() as nursery:
        silent = Multiplexer(alone)
        await nursery.start(silent.run)
        with pytest.raises(Unreachable, match="could not be sent within 60 s"):
            async with silent.open(OPEN):
                pytest.fail("it was opened")
        assert alone.kinds() == [Kind.HELLO]
        nursery.cancel_scope.cancel()


async def test_an_end_that_serves_no_duplexes_refuses_them():
    async def handler(request, gone):
        return Response(204)

    left, right = FakeConnection(), FakeConnection()
    left.other, right.other = right, left
    async with trio.open_nursery() as nursery:
        asking = Multiplexer(left)
        await nursery.start(asking.run)
        await nursery.start(Multiplexer(right).run, handler)
        with pytest.raises(Unreachable, match="no duplex"):
            async with asking.open(OPEN) as duplex:
                await duplex.receive()
        assert (await asking.exchange(Request("GET", "/"))).status == 204
        nursery.cancel_scope.cancel()


# — bounds


async def test_duplexes_are_counted_apart_from_requests():
    talk = Talk()
    async with fake_link(talk, max_concurrent=1, max_duplex=2) as (asking, _, _), asking.open(OPEN), asking.open(OPEN):
        await wait_all_tasks_blocked()
        assert (await asking.exchange(Request("GET", "/"))).body == b"plain"
        with pytest.raises(Unreachable, match="too many duplexes"):
            async with asking.open(OPEN) as third:
                await third.receive()


async def test_a_piece_is_neither_empty_nor_larger_than_the_link_carries():
    talk = Talk()
    async with fake_link(talk) as (asking, left, _), asking.open(OPEN) as duplex:
        with pytest.raises(ValueError, match="at least one byte"):
            await duplex.send(b"")
        with pytest.raises(TooLarge):
            await duplex.send(bytes(MAX_PIECE + 1))
        await duplex.send(bytes(MAX_PIECE))
        await wait_all_tasks_blocked()
        assert talk.heard[1:] == [bytes(MAX_PIECE)]
        assert left.kinds().count(Kind.PART) == 1


async def test_an_application_that_sends_too_large_a_piece_ends_it(caplog):
    talk = Talk()
    async with fake_link(talk) as (asking, _, _), asking.open(OPEN) as duplex:
        talk.sends(bytes(MAX_PIECE + 1))
        with pytest.raises(TooLarge):
            await duplex.receive()


async def test_no_more_than_eight_pieces_are_under_way_and_a_send_that_waits_can_be_given_up(autojump_clock):
    talk = Talk()
    async with fake_link(talk) as (asking, left, _), asking.open(OPEN) as duplex:
        await wait_all_tasks_blocked()
        left.acknowledges = trio.Event()
        pieces = noise("window", 30)
        for piece in pieces[:8]:
            await duplex.send(piece)
        with trio.move_on_after(100) as scope:
            await duplex.send(b"never sent")
        assert scope.cancelled_caught
        assert left.kinds().count(Kind.PART) == 8
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, duplex, pieces[8:])
            await wait_all_tasks_blocked()
            assert left.kinds().count(Kind.PART) == 8
            left.acknowledges.set()
        await wait_all_tasks_blocked()
        assert talk.heard[1:] == pieces


async def test_an_application_that_does_not_read_ends_its_own_exchange_alone(caplog):
    lazy = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/lazy":
            await lazy.wait()
        await talk(scope, receive, send)

    talk = Talk()
    async with fake_link(app) as (asking, _, _), asking.open(OPEN) as other:
        async with asking.open(Request("POST", "/lazy")) as duplex:
            for _ in range(MAX_UNREAD // MAX_PIECE + 1):
                await duplex.send(bytes(MAX_PIECE))
            await wait_all_tasks_blocked()
            lazy.set()
            with pytest.raises(Interrupted, match="faster than they were read"):
                await duplex.receive()
        await other.send(b"still here")
        await wait_all_tasks_blocked()
        assert talk.heard == [b"\x00first", b"still here"]


async def test_an_asking_end_that_does_not_read_is_interrupted_after_what_it_has(caplog):
    talk = Talk()
    async with fake_link(talk) as (asking, left, right), asking.open(OPEN) as duplex:
        pieces = noise("slow", 1500)
        talk.sends(*pieces)
        await wait_all_tasks_blocked()
        got = []
        with pytest.raises(Interrupted, match="faster than they were read"):
            await collect(duplex, got, len(pieces))
        assert 500 < len(got) < 1000
        assert got == pieces[: len(got)]
        assert sum(len(piece) + 64 for piece in got) <= MAX_UNREAD
        assert left.kinds()[-1] is Kind.CANCEL
        await wait_all_tasks_blocked()
        assert right.kinds()[-1] is Kind.FAILURE  # the application was told, and has gone
        assert (await asking.exchange(Request("GET", "/"))).body == b"plain"


@pytest.mark.parametrize("breach", [(9, b"x"), (0, b""), (0, bytes(MAX_PIECE + 1))])
async def test_a_breach_of_the_rules_by_either_end_ends_that_exchange_alone(breach, caplog):
    talk = Talk()
    async with fake_link(talk) as (asking, left, right), asking.open(OPEN) as other:
        for sender, receiver in ((left, right), (right, left)):
            async with asking.open(OPEN) as duplex:
                await wait_all_tasks_blocked()
                exchange_id = [message[1] for message, _ in left.sent if message[0] >> 5 == Kind.REQUEST][-1]
                receiver._send.send_nowait(Session().encode_part(Part(exchange_id, sender is left, *breach)))
                with pytest.raises(Interrupted, match="piece"):
                    await duplex.receive()
        await wait_all_tasks_blocked()
        assert talk.events.count("http.disconnect") == 2
        assert Kind.CANCEL in left.kinds()
        talk.sends(b"still here")
        assert await other.receive() == b"still here"


async def test_a_response_that_leaves_a_gap_before_it_is_an_interruption():
    async with trio.open_nursery() as nursery:
        stream = PieceStream(nursery, None, Priority.MESSAGE)
        stream.arrived(1, b"two")
        stream.end(Response(200))
        with pytest.raises(Interrupted, match="before all its pieces"):
            await stream.receive()


async def test_pieces_of_exchanges_that_are_not_are_nothing(caplog):
    async with fake_link(Talk()) as (asking, left, right):
        for from_asker in (True, False):
            for end in (left, right):
                end._send.send_nowait(Session().encode_part(Part(77, from_asker, 0, b"x")))
        assert (await asking.exchange(Request("GET", "/"))).body == b"plain"
        assert (left.kinds(), right.kinds()) == ([Kind.HELLO, Kind.REQUEST], [Kind.HELLO, Kind.RESPONSE])


async def test_an_id_is_not_used_again_while_a_piece_of_it_is_under_way():
    """It could arrive in the exchange that has the id next."""
    talk = Talk()
    async with fake_link(talk) as (asking, left, _):
        async with asking.open(OPEN) as duplex:
            await wait_all_tasks_blocked()
            first = left.sent[-1][0][1]
            acknowledge = left.acknowledges = trio.Event()
            await duplex.send(b"late")
            await wait_all_tasks_blocked()
            left.acknowledges = trio.Event()
            left.acknowledges.set()
        for _ in range(130):
            await asking.exchange(Request("GET", "/"))
        ids = [message[1] for message, _ in left.sent if message[0] >> 5 == Kind.REQUEST]
        assert ids.count(first) == 1
        acknowledge.set()
        await wait_all_tasks_blocked()
        for _ in range(130):
            await asking.exchange(Request("GET", "/"))
        ids = [message[1] for message, _ in left.sent if message[0] >> 5 == Kind.REQUEST]
        assert ids.count(first) >= 2


async def test_pieces_have_the_priority_of_their_request_unless_one_is_given():
    talk = Talk()
    async with fake_link(talk) as (asking, left, right), asking.open(OPEN) as duplex:
        await duplex.send(b"a")
        await duplex.send(b"b", Priority.MEDIA)
        talk.sends(b"c")
        talk.sends(b"d", priority=Priority.HISTORY)
        await wait_all_tasks_blocked()
        sent = {message[2:]: priority for end in (left, right) for message, priority in end.sent if message[0] >> 5 == Kind.PART}
        assert sent == {b"a": Priority.INTERACTIVE, b"b": Priority.MEDIA, b"c": Priority.INTERACTIVE, b"d": Priority.HISTORY}


# — over a link


MEDIA = {
    "2400 baud": Medium(2400),
    "no limit": Medium(None, delay=0.02),
    "30 % loss": Medium(9600, delay=0.05, loss=0.3, bit_errors=1e-5),
}


@pytest.mark.parametrize("medium", MEDIA.values(), ids=MEDIA)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_many_pieces_both_ways_at_once_arrive_in_order_and_once(medium, seed, autojump_clock):
    talk = Talk()
    outward, inward, got = noise("out", 120), noise("in", 120), []
    async with memory_link(talk, medium, seed) as (exchange, _, _):
        with trio.fail_after(600):
            async with exchange.open(OPEN) as duplex:
                talk.sends(*inward)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(collect, duplex, got, len(inward))
                    nursery.start_soon(send_all, duplex, outward)
                while len(talk.heard) < 1 + len(outward):
                    await trio.sleep(0.1)
                talk.ends()
                with pytest.raises(Answered):
                    await duplex.receive()
    assert got == inward
    assert talk.heard == [OPEN.body, *outward]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_priorities_that_overtake_each_other_do_not_change_the_order(seed, autojump_clock):
    talk = Talk()
    pieces, got = noise("mixed", 60), []
    async with memory_link(talk, MEDIA["30 % loss"], seed) as (exchange, _, _):
        with trio.fail_after(600):
            async with exchange.open(OPEN) as duplex:
                for n, piece in enumerate(pieces):
                    talk.sends(piece, priority=list(Priority)[n * 7 % 5])
                talk.ends()
                await collect(duplex, got, len(pieces))
                with pytest.raises(Answered):
                    await duplex.receive()
    assert got == pieces


async def test_a_line_that_breaks_tells_both_ends(autojump_clock, caplog):
    caplog.set_level(logging.CRITICAL)
    talk = Talk()
    async with memory_link(talk, Medium(9600)) as (exchange, cable, _):
        async with exchange.open(OPEN) as duplex:
            await duplex.send(b"before")
            talk.sends(b"pushed")
            assert await duplex.receive() == b"pushed"
            await trio.sleep(5)
            cable.unplug()
            with trio.fail_after(600), pytest.raises(Interrupted):
                await duplex.receive()
            with pytest.raises(Interrupted):
                await duplex.send(b"after")
        with trio.fail_after(600):
            await talk.left.wait()
    assert talk.heard == [OPEN.body, b"before"]


async def test_a_full_window_is_let_go_when_the_line_breaks(autojump_clock):
    talk = Talk()
    async with memory_link(talk, Medium(2400)) as (exchange, cable, _), exchange.open(OPEN) as duplex:

        async def break_off():
            await trio.sleep(3)
            cable.unplug()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(break_off)
            with trio.fail_after(600), pytest.raises(Interrupted):
                await send_all(duplex, [bytes(2000)] * 100)


async def test_a_piece_of_twenty_bytes_on_the_wire(autojump_clock):
    """The message is 22 bytes. What the sealed frame and its acknowledgement add is what every message of the link costs."""
    talk, frames = Talk(), []
    async with memory_link(talk, Medium(2400)) as (exchange, cable, _), exchange.open(OPEN) as duplex:
        await trio.sleep(20)
        cable.watch = lambda end, sent, arriving: frames.append((end, len(sent)))
        talk.sends(TWENTY)
        before = trio.current_time()
        assert await duplex.receive() == TWENTY
        assert trio.current_time() - before < 0.21
        await trio.sleep(20)
        assert [end for end, _ in frames] == ["memory-b", "memory-a"]
        assert frames[0][1] <= 52  # 46 and what HDLC escapes: the seal is random
        assert frames[1][1] <= 33  # 27 likewise
