"""What every link keeps, whatever wire it runs on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
import trio
import trio.lowlevel

from tests.transports.rigs import ALICE, BOB, RIGS, MemoryRig, Rig, UdpRig, both_up, clock_for
from transports.exchange import Interrupted, Priority, TooLarge, Unreachable
from transports.framing import hdlc
from transports.link.connection import LinkDown, NotDelivered, PerhapsDelivered
from transports.link.secure import WAKE
from transports.link.wire import Driver, LinkStats, Wire
from transports.memory import Medium

WAKE_FRAME = hdlc.encode(bytes([WAKE]))


@pytest.fixture(params=list(RIGS))
def rig(request) -> Rig:
    return RIGS[request.param]()


def rigs(wanted: Callable[[Rig], bool]) -> pytest.MarkDecorator:
    """Only those wires to which a promise applies."""
    return pytest.mark.parametrize("rig", [name for name, make in RIGS.items() if wanted(make())], indirect=True)


@pytest.fixture
def clock(rig: Rig) -> trio.abc.Clock:
    return clock_for(rig)


@pytest.fixture
async def ends(rig: Rig, clock, nursery):
    async with rig.wired(), trio.open_nursery() as inner:
        alice, bob = rig.start_alice(inner), rig.start_bob(inner)
        with trio.fail_after(rig.patience):
            a, b = await both_up(alice, bob)
        yield alice, bob, a, b
        inner.cancel_scope.cancel()


async def test_each_end_learns_who_the_other_is(clock, ends) -> None:
    _, _, a, b = ends
    assert (a.profile.peer, b.profile.peer) == ("bob.example", "alice.example")
    assert (a.peer_key, b.peer_key) == (BOB.public_key, ALICE.public_key)
    assert a.handshake_hash == b.handshake_hash


async def test_messages_of_any_size_arrive_whole_and_once_in_both_directions(clock, rig, ends) -> None:
    _, _, a, b = ends
    chance = random.Random(1)
    sizes = [0, 1, 50, 200, 239, 240, 241, 1000, 5000, 0, 20_000]
    outward = [chance.randbytes(size) for size in sizes]
    inward = [chance.randbytes(size) for size in reversed(sizes)]
    got: dict[str, list[bytes]] = {"a": [], "b": []}

    async def collect(connection, into: list[bytes], count: int) -> None:
        for _ in range(count):
            into.append(await connection.receive())  # noqa: PERF401

    with trio.fail_after(rig.patience):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, a, got["a"], len(inward))
            nursery.start_soon(collect, b, got["b"], len(outward))
            for message in outward:
                nursery.start_soon(lambda m=message: a.send(m, priority=chance.choice(list(Priority))))
            for message in inward:
                nursery.start_soon(lambda m=message: b.send(m, priority=chance.choice(list(Priority))))
    assert Counter(got["b"]) == Counter(outward)
    assert Counter(got["a"]) == Counter(inward)
    with trio.move_on_after(0.3):
        pytest.fail(f"a message too many: {await b.receive()!r}")


async def test_a_hundred_kilobytes_arrive(clock, rig, ends) -> None:
    _, _, a, b = ends
    message = random.Random(2).randbytes(100_000)
    with trio.fail_after(2 * rig.patience):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.send, message)
            assert await b.receive() == message


async def test_an_urgent_message_overtakes_a_large_one(clock, rig, ends) -> None:
    _, _, a, b = ends
    with trio.fail_after(2 * rig.patience):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: a.send(bytes(60_000), priority=Priority.MEDIA))
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            nursery.start_soon(lambda: a.send(b"fire", priority=Priority.INTERACTIVE))
            assert await b.receive() == b"fire"
            assert await b.receive() == bytes(60_000)


async def test_a_killed_end_that_comes_back_is_noticed_on_an_idle_line(clock, rig, ends, nursery) -> None:
    alice, bob, a, _ = ends
    bob.kill()
    await trio.sleep(0.05)
    again = rig.start_bob(nursery)
    with trio.fail_after(rig.patience):
        await a.wait_down()
        a2, b2 = await both_up(alice, again)
        nursery.start_soon(a2.send, b"still there?")
        assert await b2.receive() == b"still there?"
    with pytest.raises(NotDelivered):
        await a.send(b"into the void")
    with pytest.raises(LinkDown):
        await a.receive()


async def test_a_killed_caller_that_comes_back_replaces_its_session(clock, rig, ends, nursery) -> None:
    alice, bob, _, b = ends
    alice.kill()
    again = rig.start_alice(nursery)
    with trio.fail_after(rig.patience):
        a2, b2 = await both_up(again, bob)
        await b.wait_down()
        nursery.start_soon(b2.send, b"welcome back")
        assert await a2.receive() == b"welcome back"


async def test_a_flood_of_garbage_neither_breaks_nor_hides_messages(clock, rig, ends) -> None:
    _, _, a, b = ends
    chance = random.Random(3)
    with trio.fail_after(rig.patience):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.send, bytes(3000))
            for _ in range(20):
                rig.garbage(chance.randbytes(3000))
                rig.garbage(b"\x7e\x20" + chance.randbytes(102) + b"\x7e\x7e\x24\x7e\x7e\x80\x01" + bytes(30) + b"\x7e")
                await trio.sleep(0.01)
            assert await b.receive() == bytes(3000)
    assert a.is_up
    assert b.is_up


@rigs(lambda rig: not isinstance(rig, UdpRig))  # a socket does not vanish
async def test_a_port_that_vanished_and_returned_is_used_again(clock, rig, ends, nursery) -> None:
    alice, bob, a, _ = ends
    rig.unplug()
    with trio.fail_after(rig.patience):
        await a.wait_down()
        await trio.sleep(0.5)
        assert alice.link.trouble
        rig.plug()
        a2, b2 = await both_up(alice, bob)
        nursery.start_soon(a2.send, b"back")
        assert await b2.receive() == b"back"
    assert alice.link.trouble is None


async def test_a_cancelled_send_is_withdrawn_and_leaves_the_line_usable(clock, rig, ends) -> None:
    _, _, a, b = ends
    with trio.move_on_after(0.02):
        await a.send(bytes(900_000), priority=Priority.MEDIA)
    with trio.fail_after(rig.patience):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(lambda n=number: a.send(bytes([n]), priority=Priority.MEDIA))
            assert {await b.receive() for _ in range(3)} == {b"\0", b"\1", b"\2"}


async def test_a_cancelled_receive_loses_nothing(clock, ends) -> None:
    _, _, a, b = ends
    with trio.move_on_after(0.01):
        await b.receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.send, b"one")
        assert await b.receive() == b"one"


@rigs(lambda rig: not (rig.virtual and rig.medium.loss))  # the farewell is not repeated and may be lost
async def test_closing_tells_the_other_end(clock, rig, ends) -> None:
    _, _, a, b = ends
    await a.aclose()
    with trio.fail_after(rig.patience):
        assert "closed" in await b.wait_down()
    with pytest.raises(Unreachable):
        await b.send(b"too late")
    with pytest.raises(LinkDown):
        await a.receive()


async def test_a_message_beyond_the_limit_is_refused_at_once(clock, ends) -> None:
    _, _, a, _ = ends
    with pytest.raises(TooLarge):
        await a.send(bytes(a.max_message + 1))


# ---- on the memory cable only, with time to spare


class OlderDriver:
    """A driver on whose wires the link does not offer compact frames, as a release that has never heard of them."""

    def __init__(self, driver: Driver) -> None:
        self.name = driver.name
        self._driver = driver

    async def open(self, stats: LinkStats) -> Wire:
        return OlderWire(await self._driver.open(stats))


class OlderWire:
    ordered = False

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def __getattr__(self, name: str):
        return getattr(self._wire, name)


@pytest.fixture
def cable() -> MemoryRig:
    return MemoryRig(Medium(2400))


async def test_an_idle_link_sends_nothing_for_a_day(cable, autojump_clock, nursery) -> None:
    alice, bob = cable.start_alice(nursery), cable.start_bob(nursery)
    await both_up(alice, bob)
    await trio.sleep(10)
    before = alice.link.stats.bytes_out + bob.link.stats.bytes_out
    await trio.sleep(86_400)
    assert alice.link.stats.bytes_out + bob.link.stats.bytes_out == before
    nursery.cancel_scope.cancel()


async def test_a_message_and_its_acknowledgement_cost_twenty_four_bytes_beside_it(cable, autojump_clock, nursery) -> None:
    alice = cable.start_alice(nursery, random=random.Random(1).randbytes)
    bob = cable.start_bob(nursery, random=random.Random(2).randbytes)
    a, b = await both_up(alice, bob)
    await trio.sleep(10)
    message = random.Random(0).randbytes(30)
    before = alice.link.stats.bytes_out, bob.link.stats.bytes_out
    await a.send(message)
    assert await b.receive() == message
    await trio.sleep(10)
    # flag, counter, head, message, tag, flag; flag, counter, acknowledgement, tag, flag. No byte of these needs an escape.
    assert alice.link.stats.bytes_out - before[0] == 1 + 1 + 1 + 30 + 8 + 1
    assert bob.link.stats.bytes_out - before[1] == 1 + 1 + 1 + 8 + 1
    nursery.cancel_scope.cancel()


async def test_the_frames_of_a_message_are_acknowledged_together(cable, autojump_clock, nursery) -> None:
    alice, bob = cable.start_alice(nursery), cable.start_bob(nursery)
    a, b = await both_up(alice, bob)
    await trio.sleep(10)
    before = alice.link.stats.frames_out, bob.link.stats.frames_out
    message = bytes(5 * 200)
    await a.send(message)
    assert await b.receive() == message
    await trio.sleep(10)
    assert (alice.link.stats.frames_out - before[0], bob.link.stats.frames_out - before[1]) == (5, 2)
    nursery.cancel_scope.cancel()


async def test_an_end_that_knows_no_compact_frames_is_understood_in_whole_ones(cable, autojump_clock, nursery) -> None:
    for older in ("alice", "bob"):
        ends = {"alice": cable.start_alice, "bob": cable.start_bob}
        running = {name: start(nursery) for name, start in ends.items() if name != older}
        driver, identity, peer = (cable.cable.a, ALICE, BOB.public_key) if older == "alice" else (cable.cable.b, BOB, None)
        running[older] = cable._start(nursery, OlderDriver(driver), identity, peer, {})
        a, b = await both_up(running["alice"], running["bob"])
        await trio.sleep(10)
        seen = []
        cable.cable.watch = lambda end, sent, _, seen=seen: seen.append(sent)
        for here, there in ((a, b), (b, a)):
            async with trio.open_nursery() as inner:
                inner.start_soon(here.send, bytes(700))
                assert await there.receive() == bytes(700)
        await trio.sleep(10)
        assert all(frame[-2:] != b"\x7e\x7e" and frame.lstrip(b"\x7e")[0] >= 0x80 for frame in seen)
        assert len(seen) >= 8
        for each in running.values():
            each.kill()
    nursery.cancel_scope.cancel()


async def test_a_damaged_frame_without_crc_is_counted_as_damage_and_sent_again(autojump_clock, nursery) -> None:
    rig = MemoryRig(Medium(9600, bit_errors=3e-4))
    alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
    a, b = await both_up(alice, bob)
    handshake = bob.link.stats.crc_errors
    async with trio.open_nursery() as inner:
        for number in range(100):
            inner.start_soon(a.send, bytes([number]) * 60)
        assert {(await b.receive())[0] for _ in range(100)} == set(range(100))
    assert bob.link.stats.crc_errors > handshake + 3
    assert bob.link.stats.refused_frames <= 1
    assert alice.link.stats.handshakes == 1
    nursery.cancel_scope.cancel()


async def test_frames_that_follow_each_other_closely_share_a_flag(cable, autojump_clock, nursery) -> None:
    alice, bob = cable.start_alice(nursery), cable.start_bob(nursery)
    a, b = await both_up(alice, bob)
    await trio.sleep(10)
    sent = []
    cable.cable.watch = lambda end, data, _: sent.append(data) if end == cable.cable.a.name else None
    for _ in range(2):
        async with trio.open_nursery() as inner:
            inner.start_soon(a.send, bytes(1000))
            assert await b.receive() == bytes(1000)
        await trio.sleep(10)
    opened = [data[:1] == b"\x7e" for data in sent]
    assert opened == 2 * ([True] + [False] * (len(sent) // 2 - 1))
    assert all(data[-1:] == b"\x7e" for data in sent)
    nursery.cancel_scope.cancel()


async def test_calling_into_the_void_costs_under_a_kilobyte_an_hour(cable, autojump_clock, nursery) -> None:
    alice = cable.start_alice(nursery)
    await trio.sleep(3600)
    before = alice.link.stats.bytes_out
    await trio.sleep(3600)
    assert alice.link.stats.bytes_out - before < 1000
    nursery.cancel_scope.cancel()


async def test_waiting_for_a_call_that_never_comes_costs_under_a_hundred_bytes_an_hour(cable, autojump_clock, nursery) -> None:
    bob = cable.start_bob(nursery)
    await trio.sleep(3600)
    before = bob.link.stats.bytes_out
    await trio.sleep(3600)
    assert 0 < bob.link.stats.bytes_out - before < 100
    nursery.cancel_scope.cancel()


async def test_an_end_that_began_anew_while_the_line_was_silent_is_called_though_the_caller_is_idle(cable, autojump_clock, nursery) -> None:
    alice, bob = cable.start_alice(nursery), cable.start_bob(nursery)
    a, _ = await both_up(alice, bob)
    await trio.sleep(10)
    cable.cable.medium = Medium(2400, loss=1.0)
    bob.kill()
    anew = cable.start_bob(nursery)
    await trio.sleep(7200)
    assert a.is_up  # as far as Alice, who has not said a word, can know
    cable.cable.medium = Medium(2400)
    with trio.fail_after(750):
        await anew.link.connections().receive()
        await alice.link.connections().receive()
    assert not a.is_up
    nursery.cancel_scope.cancel()


async def test_a_session_costs_under_two_hundred_and_thirty_bytes_when_one_side_calls(cable, autojump_clock, nursery) -> None:
    bob = cable.start_bob(nursery)
    await trio.sleep(200)
    alice = cable.start_alice(nursery)
    before = bob.link.stats.bytes_out
    started = trio.current_time()
    await both_up(alice, bob)
    assert trio.current_time() - started < 1.0
    await trio.sleep(30)
    assert alice.link.stats.bytes_out + bob.link.stats.bytes_out - before < 230
    nursery.cancel_scope.cancel()


async def test_two_ends_that_call_each_other_at_once_make_one_session(cable, autojump_clock, nursery) -> None:
    alice = cable.start_alice(nursery)
    bob = cable.start_bob(nursery, peer_key=ALICE.public_key)
    a, b = await both_up(alice, bob)
    await trio.sleep(300)
    assert a.is_up
    assert b.is_up
    assert a.handshake_hash == b.handshake_hash
    assert alice.link.stats.handshakes == bob.link.stats.handshakes == 1
    nursery.cancel_scope.cancel()


async def test_an_end_that_dies_for_good_is_noticed_by_whoever_sends(cable, autojump_clock, nursery) -> None:
    alice, bob = cable.start_alice(nursery), cable.start_bob(nursery)
    a, _ = await both_up(alice, bob)
    await trio.sleep(5)
    bob.kill()
    with trio.fail_after(180), pytest.raises(PerhapsDelivered) as short:
        await a.send(b"anybody?")
    assert isinstance(short.value, Interrupted)
    nursery.cancel_scope.cancel()


async def test_a_message_that_had_not_wholly_left_is_surely_not_delivered(cable, autojump_clock, nursery) -> None:
    alice, bob = cable.start_alice(nursery), cable.start_bob(nursery)
    a, _ = await both_up(alice, bob)

    async def send() -> None:
        with pytest.raises(NotDelivered):
            await a.send(bytes(100_000))

    async with trio.open_nursery() as inner:
        inner.start_soon(send)
        await trio.sleep(10)
        cable.unplug()
    nursery.cancel_scope.cancel()


async def test_a_peer_that_stops_reading_holds_bounded_memory_and_the_sender_waits(autojump_clock, nursery) -> None:
    rig = MemoryRig(Medium(None, delay=0.01))
    alice, bob = rig.start_alice(nursery, max_message=4096), rig.start_bob(nursery, max_message=4096)
    a, b = await both_up(alice, bob)
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while True:
            await a.send(bytes(4000))
            sent += 1

    async with trio.open_nursery() as inner:
        inner.start_soon(pour)
        await trio.sleep(3600)
        stuck = sent
        assert 10 <= stuck <= 25
        assert a.is_up
        for _ in range(100):
            await b.receive()
        assert sent > stuck
        inner.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


async def test_nothing_starves_under_a_stream_of_urgent_messages(autojump_clock, nursery) -> None:
    rig = MemoryRig(Medium(9600))
    alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
    a, b = await both_up(alice, bob)

    async def urgent() -> None:
        while True:
            await a.send(bytes(700), priority=Priority.INTERACTIVE)

    async with trio.open_nursery() as inner:
        for _ in range(8):
            inner.start_soon(urgent)
        inner.start_soon(lambda: a.send(b"picture" * 1000, priority=Priority.MEDIA))
        with trio.fail_after(3600):
            while (await b.receive())[:7] != b"picture":
                pass
        inner.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


async def test_an_unknown_key_gets_no_answer_at_all(cable, autojump_clock, nursery) -> None:
    from transports.identity import Identity

    stranger = Identity(b"m" * 32)
    bob = cable.start_bob(nursery)
    answers = []
    cable.cable.watch = lambda end, sent, _: answers.append(sent) if end == cable.cable.b.name and sent != WAKE_FRAME else None
    cable._start(nursery, cable.alice_driver(), stranger, BOB.public_key, {})
    await trio.sleep(100)
    assert bob.link.connection is None
    assert answers == []
    assert bob.link.stats.refused_frames > 2
    nursery.cancel_scope.cancel()


async def test_hundreds_of_lone_messages_at_thirty_percent_loss_stay_in_one_session(autojump_clock, nursery) -> None:
    rig = MemoryRig(Medium(9600, delay=0.1, loss=0.3))
    alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
    a, b = await both_up(alice, bob)
    for number in range(200):
        async with trio.open_nursery() as inner:
            inner.start_soon(a.send, str(number).encode())
            assert await b.receive() == str(number).encode()
    assert alice.link.stats.handshakes == 1
    nursery.cancel_scope.cancel()


async def test_a_minute_of_noise_that_spoils_every_frame_is_survived_with_what_was_said_into_it(autojump_clock, nursery) -> None:
    rig, chance = MemoryRig(Medium(2400)), random.Random(4)
    alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
    a, b = await both_up(alice, bob)
    nursery.start_soon(b.send, b"before")
    assert await a.receive() == b"before"
    rig.cable.medium = Medium(2400, loss=1.0)
    nursery.start_soon(a.send, b"into it")
    nursery.start_soon(b.send, b"so did I")
    for _ in range(600):
        rig.cable.a.inject(chance.randbytes(24))
        rig.cable.b.inject(chance.randbytes(24))
        await trio.sleep(0.1)
    rig.cable.medium = Medium(2400)
    with trio.fail_after(15):
        assert (await a.receive(), await b.receive()) == (b"so did I", b"into it")
    assert alice.link.stats.handshakes == bob.link.stats.handshakes == 1
    nursery.cancel_scope.cancel()
