"""What is particular to one driver."""

from __future__ import annotations

import os
import random
import tty

import pytest
import trio

from tests.transports.rigs import ALICE, BOB, NAMES, RealClock, UdpRig, both_up
from transports.exchange import Priority
from transports.framing import hdlc
from transports.identity import Identity
from transports.link.connection import Link
from transports.link.wire import LinkStats, StreamWire, WireGone, default_mtu
from transports.memory import Air, Medium, MemoryCable
from transports.serial import SerialDriver
from transports.udp import UdpDriver


@pytest.fixture
def real_clock() -> RealClock:
    return RealClock()


# ---- serial


async def test_a_missing_port_is_said_to_be_gone(nursery) -> None:
    with pytest.raises(WireGone, match=r"^/dev/nosuch: No such file or directory$"):
        await SerialDriver("/dev/nosuch", 9600).open(LinkStats())


async def test_a_port_is_opened_once() -> None:
    master, slave = os.openpty()
    path = os.ttyname(slave)
    wire = await SerialDriver(path, 9600).open(LinkStats())
    with pytest.raises(WireGone, match="another program uses it"):
        await SerialDriver(path, 9600).open(LinkStats())
    await wire.aclose()
    os.close(slave)
    os.close(master)


async def test_a_port_that_hangs_up_ends_the_wire(nursery) -> None:
    master, slave = os.openpty()
    wire = await SerialDriver(os.ttyname(slave), 9600).open(LinkStats())
    os.close(slave)
    nursery.start_soon(trio.to_thread.run_sync, os.close, master)
    with trio.fail_after(5), pytest.raises(WireGone):
        await wire.receive()
    await wire.aclose()


async def test_bytes_pass_a_port_unchanged_all_256_of_them() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    wire = await SerialDriver(path, 115_200).open(LinkStats())
    everything = bytes(range(256)) * 2
    with trio.fail_after(5):
        await wire.send(everything)
        os.write(master, await trio.to_thread.run_sync(os.read, master, 4096))
        assert await wire.receive() == everything
    await wire.aclose()
    os.close(slave)
    os.close(master)


def test_a_frame_takes_about_a_second_at_most() -> None:
    assert [default_mtu(rate) for rate in (300, 2400, 9600, 115_200, None)] == [128, 240, 960, 1024, 1024]


async def test_a_stream_is_not_filled_beyond_a_fifth_of_a_second(autojump_clock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    wire = StreamWire(ours, LinkStats(), bit_rate=2400)
    written: list[tuple[float, int]] = []

    async def watch() -> None:
        total = 0
        while True:
            total += len(await theirs.receive_some(1000))
            written.append((trio.current_time() - start, total))

    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        nursery.start_soon(watch)
        for _ in range(3):
            await wire.send(bytes(240))
        nursery.cancel_scope.cancel()
    assert all(total <= 240 * (at + 0.21) for at, total in written)


async def test_a_flag_between_two_frames_is_sent_once_unless_the_line_was_idle_or_the_frame_before_was_broken_off(autojump_clock) -> None:
    for bit_rate in (2400, None):
        ours, theirs = trio.testing.memory_stream_pair()
        wire = StreamWire(ours, LinkStats(), bit_rate=bit_rate)
        crc = 2
        await wire.send(b"\x20first")
        await wire.send(b"\x20second")
        assert len(await theirs.receive_some(1000)) == 1 + 6 + crc + 1 + 7 + crc + 1
        await trio.sleep(0.5)
        await wire.send(b"\x20third")
        third = await theirs.receive_some(1000)
        assert (third[:1], third[-1:]) == (b"~", b"~")
        if bit_rate is not None:
            with trio.move_on_after(0.3):
                await wire.send(b"\x20" + bytes(200))
            broken = await theirs.receive_some(1000)
            assert broken[-1:] != b"~"
            await wire.send(b"\x20next")
            assert (await theirs.receive_some(1000))[:1] == b"~"


async def test_a_wire_tells_that_a_frame_is_arriving_until_it_is_there_or_has_broken_off(autojump_clock, nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    wire = StreamWire(ours, LinkStats(), bit_rate=2400)
    nursery.start_soon(wire.receive)
    frame = hdlc.encode(b"\x20" + bytes(50))
    assert not wire.receiving()
    for piece, arriving in ((frame[:20], True), (frame[20:], False)):
        await theirs.send_all(piece)
        await trio.sleep(0.05)
        assert wire.receiving() is arriving
    nursery.start_soon(wire.receive)
    await theirs.send_all(frame[:20])
    await trio.sleep(0.1)
    assert wire.receiving()
    await trio.sleep(0.1)
    assert not wire.receiving()
    cable = MemoryCable(Medium(2400, delay=0.5))
    speaker, hearer = await cable.a.open(LinkStats()), await cable.b.open(LinkStats())
    nursery.start_soon(speaker.send, bytes(236))  # a second on the line
    heard = []
    for _ in range(8):
        await trio.sleep(0.24)
        heard.append(hearer.receiving())
    assert heard == [False, False, True, True, True, True, False, False]
    nursery.cancel_scope.cancel()


async def test_a_port_that_takes_no_bytes_is_given_up(autojump_clock) -> None:
    ours, _ = trio.testing.lockstep_stream_pair()
    wire = StreamWire(ours, LinkStats(), bit_rate=None)
    with pytest.raises(WireGone, match="takes no bytes"):
        await wire.send(b"hello")


# ---- UDP


async def test_a_peer_that_moves_to_another_address_keeps_its_session(real_clock, nursery) -> None:
    rig = UdpRig()
    async with rig.wired():
        alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
        with trio.fail_after(10):
            a, b = await both_up(alice, bob)
            await rig.rebind()
            nursery.start_soon(a.send, b"from elsewhere")
            assert await b.receive() == b"from elsewhere"
            nursery.start_soon(b.send, b"found you")
            assert await a.receive() == b"found you"
        assert b.is_up
        nursery.cancel_scope.cancel()


async def test_a_listener_that_restarted_is_noticed_by_the_next_keepalive(real_clock, nursery) -> None:
    rig = UdpRig()
    async with rig.wired():
        alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
        with trio.fail_after(10):
            a, _ = await both_up(alice, bob)
            bob.kill()
            await trio.sleep(0.05)
            again = rig.start_bob(nursery)
            await a.wait_down()
            await both_up(alice, again)
        nursery.cancel_scope.cancel()


async def test_an_idle_caller_sends_a_few_bytes_for_the_nat_and_the_listener_sends_none(real_clock, nursery) -> None:
    rig = UdpRig()
    async with rig.wired():
        alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
        with trio.fail_after(10):
            a, b = await both_up(alice, bob)
            await trio.sleep(0.2)
            before, heard = alice.link.stats.bytes_out, b.stats.bytes_out
            await trio.sleep(0.7)
            assert alice.link.stats.bytes_out - before in (44, 66)
            assert b.stats.bytes_out == heard
            assert a.is_up
        nursery.cancel_scope.cancel()


async def test_a_caller_that_fell_silent_is_given_up_by_the_listener(real_clock, nursery) -> None:
    rig = UdpRig()
    rig.keepalive = 0.1  # told to the other end in whole seconds: 1
    async with rig.wired():
        alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
        with trio.fail_after(10):
            _, b = await both_up(alice, bob)
            rig.deaf = True
            assert "keep-alives" in await b.wait_down()
        nursery.cancel_scope.cancel()


async def test_one_listener_serves_many_callers(real_clock, nursery) -> None:
    rig = UdpRig()
    callers = [Identity(bytes([n]) * 32) for n in range(5)]
    names = {caller.public_key: f"caller-{n}" for n, caller in enumerate(callers)}
    NAMES.update(names)
    async with rig.wired():
        bob = rig.start_bob(nursery)
        await bob.link.ready.wait()
        links = [
            Link(UdpDriver("127.0.0.1", rig.listener_port), caller, NAMES.get, peer_key=BOB.public_key)
            for caller in callers
        ]
        for link in links:
            nursery.start_soon(link.run)
        with trio.fail_after(10):
            for link in links:
                await (await link.wait_up()).send(b"hello")
            seen = set()
            for _ in links:
                connection = await bob.link.connections().receive()
                assert await connection.receive() == b"hello"
                seen.add(connection.profile.peer)
        assert seen == set(names.values()) == set(bob.link.peers)
        nursery.cancel_scope.cancel()
    for key in names:
        del NAMES[key]


async def test_an_unknown_host_is_said_to_be_gone() -> None:
    with pytest.raises(WireGone):
        await UdpDriver("256.256.256.256", 1).open(LinkStats())


# ---- memory


async def test_a_cable_takes_its_time_and_a_seed_repeats_its_chances(autojump_clock) -> None:
    async def run(seed: int) -> list[tuple[float, bytes]]:
        cable = MemoryCable(Medium(2400, delay=1.0, loss=0.3, bit_errors=1e-3), seed=seed)
        a, b = await cable.a.open(LinkStats()), await cable.b.open(LinkStats())
        arrived, started = [], trio.current_time()
        for n in range(40):
            await a.send(bytes([n]) * 20)
        with trio.move_on_after(10):
            while True:
                frame = await b.receive()
                arrived.append((round(trio.current_time() - started, 6), frame))
        return arrived

    first = await run(1)
    assert first == await run(1) != await run(2)
    assert 10 < len(first) < 35


async def test_who_draws_the_next_slot_hears_that_the_channel_is_taken(autojump_clock) -> None:
    tries = spoilt = equal = 0
    autojump_clock.jump(86_400)  # a time of which slots are no whole parts
    for seed in range(100):
        chance = random.Random(seed)
        equal += 2 * (chance.randint(1, 16) == chance.randint(1, 16))
        air = Air(Medium(9600), seed=seed)
        wires = [await air.station(name).open(LinkStats()) for name in "ab"]
        async with trio.open_nursery() as both:
            for wire in wires:
                both.start_soon(wire.send, bytes(100))
        tries += 2
        spoilt += air.collisions
    assert tries > spoilt == equal > 0


async def test_stations_on_one_channel_each_reach_their_own_peer(autojump_clock, nursery) -> None:
    air = Air(Medium(9600, loss=0.05), seed=3)
    carol, dave = Identity(b"c" * 32), Identity(b"d" * 32)
    names = {**NAMES, carol.public_key: "carol", dave.public_key: "dave"}

    def link(station, identity: Identity, peer: Identity) -> Link:
        made = Link(station, identity, names.get, peer_key=peer.public_key)
        nursery.start_soon(made.run)
        return made

    hub = air.station("hub")
    spokes = {who: link(air.station(names[who.public_key]), who, BOB) for who in (ALICE, carol, dave)}
    ends = {who: link(hub, BOB, who) for who in spokes}
    with trio.fail_after(1200):
        for each in (*spokes.values(), *ends.values()):
            await each.wait_up()
        await trio.sleep(300)
        for who, spoke in spokes.items():
            up, across = await spoke.wait_up(), await ends[who].wait_up()
            assert across.profile.peer == names[who.public_key]
            message = who.public_key * 100
            async with trio.open_nursery() as inner:
                inner.start_soon(lambda u=up, m=message: u.send(m, priority=Priority.MESSAGE))
                inner.start_soon(across.send, b"and back")
                assert await across.receive() == message
                assert await up.receive() == b"and back"
    assert air.busy_seconds > 0
    before = air.busy_seconds
    await trio.sleep(60)
    quiet = air.busy_seconds
    await trio.sleep(3600)
    assert air.busy_seconds == quiet >= before
    nursery.cancel_scope.cancel()
