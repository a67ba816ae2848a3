"""Whoever is not paired gets nothing and changes nothing; whoever is paired and breaks the rules costs his own session and no more."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transports.rigs import ALICE, BOB, NAMES, MemoryRig, both_up
from transports.exchange import Priority
from transports.framing import hdlc
from transports.identity import Identity
from transports.link import fragments
from transports.link.airtime import DutyCycle
from transports.link.connection import LinkDown
from transports.link.fragments import Reassembler, Segment, Violation
from transports.link.rendezvous import Party, Rendezvous, Spent
from transports.link.secure import IK1, IK2, NN1, NN2, SEALED, WAKE, Initiation, Terms
from transports.link.wire import LinkStats
from transports.memory import Medium
from transports.udp import UdpListener

MALLORY = Identity(b"m" * 32)
WRONG = Identity(b"w" * 32)


class Cable:
    mtu, bit_rate, ordered, shared, connection_id, keepalive = 240, 2400, True, False, b"", 0.0

    def time_on_air(self, size: int) -> float:
        return size / 240


class Channel(Cable):
    mtu, bit_rate, shared = 200, 9600, True


class Datagrams(Cable):
    mtu, bit_rate, ordered, shared, connection_id = 1232, None, False, True, b"\x01\x02\x03\x04"

    def time_on_air(self, size: int) -> float:
        return 0.0


def steady(size: int) -> bytes:
    """Not random, so that an end says the same however often it had to draw."""
    return b"\x51" * size


def end(
    identity: Identity,
    peer_key: bytes | None,
    wire: type[Cable],
    *,
    seed: int | None = None,
    party: dict | None = None,
) -> Rendezvous:
    who = Party(identity, NAMES.get, peer_key, **(party or {}))
    draw = steady if seed is None else random.Random(seed).randbytes
    made = Rendezvous(who, wire(), duty=DutyCycle(), stats=LinkStats(), random=draw)
    made.start(0.0)
    return made


def said(one: Rendezvous, now: float) -> list[bytes]:
    frames = []
    while (frame := one.next_frame(now)) is not None:
        frames.append(frame)
    return frames


def talk(one: Rendezvous, other: Rendezvous, now: float) -> list[tuple[Rendezvous, bytes]]:
    """They hear each other until both are silent; who said what."""
    heard = []
    for _ in range(8):
        for here, there in ((one, other), (other, one)):
            for frame in said(here, now):
                heard.append((here, frame))
                there.receive(frame, now)
    return heard


# ---- who is not paired


def waiting(wire: type[Cable]) -> Rendezvous:
    return end(BOB, None, wire)


def calling(wire: type[Cable]) -> Rendezvous:
    return end(BOB, ALICE.public_key, wire)


def answering(wire: type[Cable]) -> Rendezvous:
    bob = end(BOB, None, wire)
    said(bob, 0.0)
    bob.receive(said(end(ALICE, BOB.public_key, wire, seed=4), 0.0)[0], 0.0)
    return bob


def up(wire: type[Cable]) -> Rendezvous:
    bob = end(BOB, None, wire)
    talk(end(ALICE, BOB.public_key, wire, seed=5), bob, 0.0)
    assert bob.session is not None
    return bob


def over(wire: type[Cable]) -> Rendezvous:
    alice, bob = end(ALICE, BOB.public_key, wire, seed=6), end(BOB, None, wire)
    talk(alice, bob, 0.0)
    alice.session.close()
    talk(alice, bob, 1.0)
    assert bob.session is None
    return bob


def lost(wire: type[Cable]) -> Rendezvous:
    """The session ended because the peer fell silent."""
    bob = up(wire)
    bob.session.abandon("the other end does not answer")
    return bob


STATES = [waiting, calling, answering, up, over, lost]


def stranger_s_frames(wire: type[Cable]) -> list[bytes]:
    """One of every kind and then some: what somebody without a pairing can make, or can have heard elsewhere."""
    chance = random.Random(11)
    terms = Terms(1 << 20, 240, compact=True)
    unknown, mistaken = (Initiation(MALLORY, key, terms, chance.randbytes(32)).message for key in (BOB.public_key, WRONG.public_key))
    stranger = Initiation(MALLORY, None, terms, chance.randbytes(32)).message
    carol = Identity(b"c" * 32)
    one, other = end(carol, MALLORY.public_key, wire, seed=7), end(MALLORY, None, wire, seed=8)
    for each in (one, other):
        each._party = Party(each._party.identity, lambda key: "somebody", each._party.peer_key)
    elsewhere = [frame for _, frame in talk(one, other, 0.0)]
    one.session.submit(b"not for you", Priority.MESSAGE)
    elsewhere += said(one, 1.0)
    kinds = [bytes([kind]) + chance.randbytes(size) for kind in range(256) for size in (0, 1, 9, 54, 102, 180)]
    return [b"", unknown, mistaken, stranger, *elsewhere, *kinds, bytes([WAKE]) + chance.randbytes(8)]


@pytest.mark.parametrize("wire", [Cable, Channel, Datagrams])
@pytest.mark.parametrize("state", STATES)
def test_who_is_not_paired_gets_nothing_that_silence_would_not_have_got(state: Callable[[type[Cable]], Rendezvous], wire) -> None:
    """An end that hears every kind of frame from a stranger says, frame by frame, what its twin says that hears nothing.

    Two things may come sooner than in silence: the very call that it would make anyhow, sealed for its peer, and "please start one",
    which is the same from every end of every release.
    """
    told, twin = state(wire), state(wire)
    spoken: list[list[bytes]] = [[], []]
    now = 10.0
    for frame in stranger_s_frames(wire):
        told.receive(frame, now)
        for which, one in enumerate((told, twin)):
            spoken[which] += said(one, now)
        now += 0.05
    while now < 4000:
        for which, one in enumerate((told, twin)):
            spoken[which] += said(one, now)
        now += 1.0
    sealed = [[frame for frame in frames if frame[0] >= SEALED] for frames in spoken]
    assert sealed[0] == sealed[1]
    calls = [{frame for frame in frames if frame[0] < SEALED and frame[0] != WAKE} for frames in spoken]
    assert calls[0] <= calls[1] | ({told._call.initiation.message} if told._call else set())
    assert all(frame[0] in (IK1, IK2) for frame in calls[0])
    heard = stranger_s_frames(wire)
    for wake in (frame for frame in spoken[0] if frame[0] == WAKE):
        assert wake == bytes([WAKE]) or any(frame.startswith(wake[1:]) for frame in heard)
    assert not told.ups or state in (answering, up, over, lost)
    assert len(told.ups) == len(twin.ups)


@pytest.mark.parametrize("wire", [Cable, Channel, Datagrams])
def test_an_end_that_nobody_could_call_says_not_a_byte_whatever_it_hears(wire) -> None:
    alone = end(BOB, None, wire, party={"expects": lambda: False})
    now = 0.0
    for frame in stranger_s_frames(wire):
        alone.receive(frame, now)
        assert said(alone, now) == []
        now += 0.5
    while now < 50_000:
        assert said(alone, now) == []
        now += 10


def test_while_pairing_is_open_only_an_anonymous_call_is_answered_and_afterwards_none() -> None:
    for welcome in (True, False):
        bob = end(BOB, None, Cable, party={"strangers_welcome": lambda welcome=welcome: welcome, "expects": lambda: False})
        for frame in stranger_s_frames(Cable):
            bob.receive(frame, 0.0)
            answers = said(bob, 0.0)
            anonymous = frame[:1] == bytes([NN1]) and len(frame) >= 39
            assert [answer[0] for answer in answers] in ([[], [NN2]] if anonymous and welcome else [[]])


def test_who_called_while_pairing_was_open_has_no_session_after_it_was_closed() -> None:
    open_still = [True]
    bob = end(BOB, None, Cable, party={"strangers_welcome": lambda: open_still[0]})
    guest = end(ALICE, None, Cable, seed=3, party={"as_stranger": True})
    said(bob, 0.0)
    bob.receive(said(guest, 0.0)[0], 0.0)
    guest.receive(said(bob, 0.0)[0], 0.0)
    open_still[0] = False
    for frame in said(guest, 0.1):
        bob.receive(frame, 0.1)
    assert bob.session is None
    assert not bob.ups


def test_who_was_unpaired_between_call_and_confirmation_has_no_session() -> None:
    names = dict(NAMES)
    bob, alice = end(BOB, None, Cable), end(ALICE, BOB.public_key, Cable, seed=3)
    bob._party = Party(BOB, names.get)
    said(bob, 0.0)
    bob.receive(said(alice, 0.0)[0], 0.0)
    alice.receive(said(bob, 0.0)[0], 0.0)
    del names[ALICE.public_key]
    for frame in said(alice, 0.1):
        bob.receive(frame, 0.1)
    assert bob.session is None
    assert not bob.ups


def test_strangers_cannot_push_a_peer_s_call_aside_while_pairing_is_open() -> None:
    bob = end(BOB, None, Cable, party={"strangers_welcome": lambda: True})
    alice, chance = end(ALICE, BOB.public_key, Cable, seed=3), random.Random(2)
    said(bob, 0.0)
    first = said(alice, 0.0)[0]
    bob.receive(first, 0.0)
    answer = said(bob, 0.0)[0]
    for _ in range(500):
        bob.receive(Initiation(MALLORY, None, Terms(1 << 20, 240), chance.randbytes(32)).message, 0.1)
        said(bob, 0.1)
    assert len(bob._pending) <= 3
    alice.receive(answer, 1.0)
    for frame in said(alice, 1.0):
        bob.receive(frame, 1.0)
    assert bob.session.handshake_hash == alice.session.handshake_hash


async def test_a_listener_on_the_internet_answers_none_of_a_stranger_s_datagrams() -> None:
    """Nothing comes back before the answer to a call of somebody who is paired, which was sent after all of them."""
    listener = UdpListener("127.0.0.1", 0, BOB, NAMES.get)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        await listener.ready.wait()
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as socket, trio.socket.socket(type=trio.socket.SOCK_DGRAM) as paired:
            for each in (socket, paired):
                await each.connect(listener.address)
            for frame in stranger_s_frames(Datagrams):
                await socket.send(frame)
                await trio.lowlevel.checkpoint()
            await paired.send(Initiation(ALICE, BOB.public_key, Terms(1 << 20, 1232), bytes(32)).message)
            with trio.fail_after(8):
                assert (await paired.recv(2000))[0] == IK2
            with pytest.raises(BlockingIOError):
                socket._sock.recv(2000)
        assert len(listener._strangers) <= 1
        nursery.cancel_scope.cancel()


# ---- what was said before


@pytest.mark.parametrize("wire", [Cable, Channel, Datagrams])
def test_a_call_has_its_effect_once_also_after_the_port_was_opened_anew(wire) -> None:
    spent, calls = Spent(), []
    for seed in range(20):
        bob = end(BOB, None, wire, party={"spent": spent})
        alice = end(ALICE, BOB.public_key, wire, seed=seed)
        calls += [frame for who, frame in talk(alice, bob, 0.0) if who is alice and frame[0] == IK1]
        assert bob.session is not None
    assert len(calls) == 20
    bob, twin = end(BOB, None, wire, party={"spent": spent}), end(BOB, None, wire)
    for number, frame in enumerate(calls * 2):
        bob.receive(frame, float(number))
        assert said(bob, float(number)) == said(twin, float(number))
    assert not bob._pending


def test_spent_calls_are_remembered_within_bounds() -> None:
    spent = Spent()
    for number in range(3000):
        spent.add(number.to_bytes(103, "big"))
    assert (2999).to_bytes(103, "big") in spent
    assert bytes(103) not in spent
    assert len(spent._seen) == 1024


@pytest.mark.parametrize("bit_rate", [2400, 115_200])
async def test_replayed_and_reflected_frames_of_two_sessions_and_their_handshakes_change_nothing(autojump_clock, nursery, bit_rate) -> None:
    rig = MemoryRig(Medium(bit_rate))
    recorded: list[tuple[str, bytes]] = []
    rig.cable.watch = lambda name, data, _: recorded.append((name, data))
    alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
    received: list[bytes] = []

    async def listen(connection) -> None:
        try:
            while True:
                received.append(await connection.receive())
        except LinkDown:
            return

    for session in range(2):
        a, b = await both_up(alice, bob)
        nursery.start_soon(listen, a)
        nursery.start_soon(listen, b)
        for number in range(12):
            await a.send(b"%d, %d of alice " % (session, number) * 30)
            await b.send(b"%d, %d of bob" % (session, number))
        if session == 0:
            rig.unplug()
            await trio.sleep(1)
            rig.plug()
    await trio.sleep(5)
    count, said_before, before = len(received), list(recorded), [vars(end.link.stats).copy() for end in (alice, bob)]
    assert count == 48
    rig.cable.watch = lambda name, data, _: answers.append((name, data))
    answers: list[tuple[str, bytes]] = []
    for _ in range(2):
        for _, frame in said_before:
            for end_ in (rig.cable.a, rig.cable.b):  # to both: to one it is a replay, to the other a reflection
                end_.inject(b"\x7e" + frame)
            await trio.sleep(0.05)
    await trio.sleep(60)
    # A replayed WAKE makes an end ask its session for a sign of life, and the other end gives it.
    assert all(frame[1] >= SEALED and len(frame) < 40 for _, frame in answers)
    assert len(answers) < 60
    assert len(received) == count
    assert (a.is_up, b.is_up) == (True, True)
    for one, earlier in zip((alice, bob), before, strict=True):
        for counter in ("handshakes", "messages_in", "messages_out"):
            assert getattr(one.link.stats, counter) == earlier[counter], counter
        refused = one.link.stats.refused_frames + one.link.stats.crc_errors - earlier["refused_frames"] - earlier["crc_errors"]
        assert refused >= len(said_before)
    await a.send(b"and on")
    assert received[-1] == b"and on"
    nursery.cancel_scope.cancel()


# ---- noise and changed frames


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 6), wire=st.sampled_from([Cable, Channel, Datagrams]))
def test_changed_frames_are_refused_and_the_true_ones_still_good(seed: int, changes: int, wire) -> None:
    chance = random.Random(seed)
    alice, bob = end(ALICE, BOB.public_key, wire, seed=1), end(BOB, None, wire, seed=2)
    texts = []
    now = 0.0
    for round_ in range(12):
        for here, there in ((alice, bob), (bob, alice)):
            for frame in said(here, now):
                for _ in range(3):
                    spoilt = bytearray(frame)
                    for _ in range(changes):
                        kind = chance.randrange(4)
                        if kind == 0 and spoilt:
                            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
                        elif kind == 1:
                            del spoilt[chance.randrange(len(spoilt) + 1) :]
                        elif kind == 2:
                            spoilt += chance.randbytes(4)
                        elif spoilt:
                            spoilt[0] = chance.randrange(256)
                    if spoilt != frame:
                        there.receive(bytes(spoilt), now)
                there.receive(frame, now)
            if there.session is not None:
                texts += [event.message for event in there.session.events if hasattr(event, "message")]
                there.session.events.clear()
        if alice.session is not None and 2 <= round_ <= 4:
            alice.session.submit(b"%d" % round_ + bytes(300), Priority.MESSAGE)
        now += 1.0
    assert alice.session.handshake_hash == bob.session.handshake_hash
    assert texts == [b"%d" % round_ + bytes(300) for round_ in (2, 3, 4)]
    assert len(alice.ups) == len(bob.ups) == 1


# ---- a peer that is paired and keeps to nothing

chunk = st.one_of(
    st.binary(max_size=30),
    st.builds(
        lambda i, o, d, f: fragments.encode_segment(Segment(i, o, d, f), last=False),
        st.one_of(st.integers(0, 40), st.integers(0, fragments.ID_SPAN - 1)),
        st.one_of(st.integers(0, 400), st.integers(0, 2**40)),
        st.binary(max_size=20),
        st.booleans(),
    ),
    st.builds(fragments.encode_reset, st.integers(0, fragments.ID_SPAN - 1), st.integers(0, 2**40)),
    st.builds(fragments.encode_credit, st.integers(0, 2**50)),
    st.builds(
        lambda newest, run, more: bytes([fragments.ACK]) + newest.to_bytes(2, "big") + more,
        st.integers(0, 65535),
        st.integers(0, 300),
        st.binary(max_size=20),
    ),
    st.integers(0x20, 0x7F).map(lambda kind: bytes([kind, 3])),
)


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(st.lists(chunk, max_size=6).map(b"".join), max_size=12), wire=st.sampled_from([Cable, Channel, Datagrams]))
def test_whatever_a_paired_peer_seals_the_session_goes_on_or_ends_with_a_reason(frames: list[bytes], wire) -> None:
    alice, bob = end(ALICE, BOB.public_key, wire, seed=1), end(BOB, None, wire, seed=2)
    talk(alice, bob, 0.0)
    session = bob.session
    session.submit(bytes(2000), Priority.MEDIA)
    said(bob, 1.0)
    channel = alice.session._channel
    for number, plaintext in enumerate(frames):
        bob.receive(channel.seal(plaintext), 1.0 + number)
        said(bob, 1.0 + number)
        bob.deadline(1.0 + number)
    if session.ended is not None:
        assert session.ended.startswith(("protocol violation: ", "the other end closed"))


def test_a_message_in_alternate_single_bytes_is_a_violation_before_its_holes_cost_memory() -> None:
    reassembler, offset = Reassembler(1 << 20), 0
    tracemalloc.start()
    reason = ""
    while not reason:
        try:
            reassembler.feed(Segment(offset >> 20, offset & (1 << 20) - 1, b"x", False))
        except Violation as error:
            reason = str(error)
        offset += 2
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert reason == "messages came in too many pieces"
    assert offset < 40_000
    assert grown < 2_000_000


def test_a_message_of_a_megabyte_over_the_smallest_frames_with_every_second_lost_is_no_violation() -> None:
    reassembler, size, window = Reassembler(1 << 20), 40, 512
    message = random.Random(1).randbytes(1 << 20)
    cuts = [Segment(0, at, message[at : at + size], at + size >= len(message)) for at in range(0, len(message), size)]
    done = None
    for first in range(0, len(cuts), window):
        for parity in (0, 1):  # what was lost is sent again before anything new
            for cut in cuts[first : first + window][parity::2]:
                done = reassembler.feed(cut) or done
    assert done == message
    assert reassembler._pieces == 0


def test_a_peer_that_skips_every_second_frame_for_ever_holds_bounded_memory() -> None:
    alice, bob = end(ALICE, BOB.public_key, Cable, seed=1), end(BOB, None, Cable, seed=2)
    talk(alice, bob, 0.0)
    channel, session = alice.session._channel, bob.session
    sizes = []
    for number in range(12_000):
        frame = channel.seal(bytes([fragments.PING]))
        if number % 2:
            bob.receive(frame, 1.0 + number / 10)
        said(bob, 1.0 + number / 10)
        if number in (2000, 11_999):
            sizes.append((len(session._receipts.received), session._channel._seen.bit_length()))
    assert session.ended is None
    assert sizes[0][0] <= 64
    assert sizes[1][0] <= 64
    assert sizes[1][1] <= 4096


def test_garbage_in_the_framing_of_a_line_costs_no_memory() -> None:
    decoder, chance = hdlc.Decoder(240), random.Random(3)
    tracemalloc.start()
    for _ in range(300):
        decoder.feed(chance.randbytes(4096).replace(b"\x7e", b"\x7f"))
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 20_000
