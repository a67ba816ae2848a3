"""Several links on one half-duplex channel: nobody takes another's session, and whoever comes back is met again soon."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.transports.rigs import ALICE, BOB, NAMES, MemoryRig, both_up
from transports.client import Multiplexer
from transports.exchange import ExchangeError, Request, Response
from transports.identity import Identity
from transports.link.airtime import DutyCycle
from transports.link.connection import Link
from transports.link.rendezvous import Party, Rendezvous
from transports.link.secure import SEALED, WAKE
from transports.link.switchboard import Seat, Switchboard
from transports.link.wire import LinkStats
from transports.memory import Air, Medium, Station

CAROL, DORA = Identity(b"c" * 32), Identity(b"d" * 32)
PEOPLE = {"alice": ALICE, "bob": BOB, "carol": CAROL, "dora": DORA}
KNOWN = NAMES | {CAROL.public_key: "carol.example", DORA.public_key: "dora.example"}


class Channel:
    """`size` stations, each with a link for every other; of two the first calls, or both do."""

    def __init__(self, nursery: trio.Nursery, *, size: int, loss: float, seed: int, both_call: bool, bit_rate: int = 9600) -> None:
        self.names = list(PEOPLE)[:size]
        self.air = Air(Medium(bit_rate, loss=loss, mtu=200), seed=seed)
        self.chance = random.Random(seed)
        self.stations = {name: self.air.station(name) for name in self.names}
        self.boards = {name: Switchboard() for name in self.names}
        self.links: dict[tuple[str, str], Link] = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self.both_call = both_call
        self.nursery = nursery
        for name in self.names:
            self.start(name)

    def start(self, name: str) -> None:
        scope = self.scopes[name] = trio.CancelScope()
        board = self.boards[name] = Switchboard()
        for other in self.names:
            if other != name:
                calls = self.both_call or self.names.index(name) < self.names.index(other)
                key = PEOPLE[other].public_key if calls else None
                link = Link(self.stations[name], PEOPLE[name], KNOWN.get, peer_key=key, switchboard=board, random=self.chance.randbytes)
                self.links[name, other] = link
                self.nursery.start_soon(self._run, link, scope)

    async def _run(self, link: Link, scope: trio.CancelScope) -> None:
        with trio.CancelScope() as own:
            self.nursery.start_soon(self._cancel_with, scope, own)
            await link.run()

    async def _cancel_with(self, scope: trio.CancelScope, own: trio.CancelScope) -> None:
        while not scope.cancel_called:
            await trio.sleep(0.25)
        own.cancel()

    async def kill(self, name: str) -> None:
        """As kill -9: the wires are gone before a farewell can be said."""
        station: Station = self.stations[name]
        for wire in list(station._wires):
            station.closed(wire)
        self.scopes[name].cancel()
        await trio.sleep(0.6)

    def connection(self, name: str, other: str):
        mine = [link.connection for (owner, _), link in self.links.items() if owner == name and link.connection is not None]
        found = [connection for connection in mine if connection.is_up and connection.peer_key == PEOPLE[other].public_key]
        return found[0] if len(found) == 1 else None

    async def all_meet(self) -> None:
        while not all(self.connection(one, other) and self.connection(other, one) for one, other in combinations(self.names, 2)):
            await trio.sleep(0.1)


@pytest.mark.parametrize("both_call", [False, True])
@pytest.mark.parametrize(("size", "loss"), [(3, 0.0), (3, 0.05), (3, 0.1), (4, 0.05)])
def test_a_session_that_came_up_on_a_busy_channel_stays(size: int, loss: float, both_call: bool) -> None:
    async def story(seed: int) -> None:
        async with trio.open_nursery() as nursery:
            channel = Channel(nursery, size=size, loss=loss, seed=seed, both_call=both_call)
            with trio.fail_after(120):
                await channel.all_meet()
                async with trio.open_nursery() as talking:
                    for one in channel.names:
                        for other in channel.names:
                            if one != other:
                                talking.start_soon(channel.connection(one, other).send, bytes(700))
            await trio.sleep(60)
            assert [link.stats.handshakes for link in channel.links.values()] == [1] * len(channel.links)
            nursery.cancel_scope.cancel()

    for seed in range(6):
        trio.run(story, seed, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("killed", ["alice", "bob", "carol"])
async def test_a_station_that_was_killed_is_met_again_soon_and_the_others_go_on(autojump_clock, nursery, killed: str) -> None:
    channel = Channel(nursery, size=3, loss=0.02, seed=5, both_call=False)
    await channel.all_meet()
    one, other = (name for name in channel.names if name != killed)
    steady = channel.connection(one, other)
    olds = [channel.connection(name, killed) for name in (one, other)]
    await channel.kill(killed)
    channel.start(killed)
    with trio.fail_after(30):  # 8 as a rule, 18 where the killed one's first two WAKEs were lost
        for old in olds:
            await old.wait_down()
        await channel.all_meet()
    assert steady.is_up
    nursery.cancel_scope.cancel()


def test_a_caller_has_one_seat_and_keeps_it() -> None:
    board = Switchboard()
    up: set[str] = set()
    seats = {name: Seat(calls, lambda name=name: name in up) for name, calls in (("1", b"bob"), ("2", None), ("3", None))}
    for seat in seats.values():
        board.add(seat)

    def put_through(key: bytes | None) -> list[str]:
        return [name for name, seat in seats.items() if board.admits(seat, key)]

    assert put_through(b"bob") == ["1"]
    assert put_through(b"carol") == ["2"]
    up.add("2")
    assert put_through(b"dora") == ["3"]
    up.clear()
    assert (put_through(b"carol"), put_through(b"dora")) == (["2"], ["3"])
    assert put_through(b"erin") == ["2"]  # a seat whose holder is away
    up |= {"2", "3"}
    assert put_through(b"frank") == []
    assert put_through(None) == []


def test_one_wake_is_enough_for_all_links_of_a_station_and_keeps_none_from_its_own_next() -> None:
    board = Switchboard()
    one, other = Seat(None, lambda: False), Seat(None, lambda: False)
    assert board.wakes(one, 0.0, 4.0)
    assert not board.wakes(other, 1.9, 4.0)
    assert board.wakes(one, 3.2, 8.0)  # its pauses grow
    assert not board.wakes(other, 5.0, 4.0)
    assert board.wakes(other, 5.3, 4.0)
    assert not board.wakes(one, 9.0, 16.0)


# ---- what one end does with frames that come late, double or for others


class Channelled:
    mtu, bit_rate, ordered, shared, connection_id, keepalive = 200, 9600, True, True, b"", 0.0

    def time_on_air(self, size: int) -> float:
        return size / 960

    def receiving(self) -> bool:
        return False


class Cabled(Channelled):
    shared = False


def end(identity: Identity, peer_key: bytes | None, seed: int, wire=Channelled) -> Rendezvous:
    chance = random.Random(seed)
    party = Party(identity, KNOWN.get, peer_key)
    made = Rendezvous(party, wire(), duty=DutyCycle(), stats=LinkStats(), random=chance.randbytes)
    made.start(0.0)
    return made


def meet(alice: Rendezvous, bob: Rendezvous) -> None:
    bob.receive(alice.next_frame(0.0), 0.2)
    frame = bob.next_frame(0.2)
    while frame[0] == WAKE:
        frame = bob.next_frame(0.2)
    alice.receive(frame, 0.4)
    bob.receive(alice.next_frame(0.4), 0.6)
    assert bob.session.handshake_hash == alice.session.handshake_hash


def test_another_peer_s_call_cannot_take_a_session_on_a_shared_channel() -> None:
    alice, bob, carol = end(ALICE, BOB.public_key, 1), end(BOB, None, 2), end(CAROL, BOB.public_key, 3)
    meet(alice, bob)
    bob.receive(carol.next_frame(0.0), 5.0)
    frames = []
    while (frame := bob.next_frame(5.0)) is not None:
        frames.append(frame)
    assert all(frame[0] >= SEALED for frame in frames)  # no answer: it is for another link of the station
    assert bob.session.ended is None


@pytest.mark.parametrize("wire", [Channelled, Cabled])
def test_a_call_that_crossed_our_confirmation_does_not_replace_the_session(wire) -> None:
    for seed in range(12):
        alice, bob = end(ALICE, BOB.public_key, 100 + seed, wire), end(BOB, ALICE.public_key, 200 + seed, wire)
        first, second = alice.next_frame(0.0), bob.next_frame(0.0)
        if first > second:
            (alice, bob), (first, second) = (bob, alice), (second, first)
        bob.receive(first, 0.2)  # the smaller one stands
        answer = bob.next_frame(0.2)
        alice.receive(answer, 0.4)
        session = alice.session
        assert session is not None
        alice.next_frame(0.4)  # its confirmation is lost
        alice.receive(second, 0.6)  # and then comes the call that it crossed
        replies = []
        while (frame := alice.next_frame(0.6)) is not None:
            replies.append(frame)
        assert [frame[0] >= SEALED for frame in replies] == [True]  # the confirmation again, no answer
        bob.receive(replies[0], 0.8)
        assert bob.session.handshake_hash == alice.session.handshake_hash
        assert alice.session is session
        alice.receive(second, 9.0)
        assert alice.session is session
        assert session.ended is None


def test_a_peer_that_restarted_in_the_middle_of_a_handshake_is_answered_after_a_while() -> None:
    alice, bob = end(ALICE, BOB.public_key, 1), end(BOB, None, 2)
    bob.receive(alice.next_frame(0.0), 0.2)
    while (frame := bob.next_frame(0.2))[0] == WAKE:
        pass
    alice.receive(frame, 0.4)
    again = end(BOB, ALICE.public_key, 9)
    first = again.next_frame(10.0)
    alice.receive(first, 10.1)
    frames = []
    while (frame := alice.next_frame(10.1)) is not None:
        frames.append(frame)
    again.receive(next(frame for frame in frames if frame[0] < SEALED), 10.3)
    alice.receive(again.next_frame(10.3), 10.5)
    assert alice.session.handshake_hash == again.session.handshake_hash


@pytest.mark.parametrize("wire", [Channelled, Cabled])
def test_a_wake_costs_a_living_session_nothing_but_a_ping(wire) -> None:
    """On a shared channel it may come from another's peer, on a cable noise may look like it."""
    alice, bob = end(ALICE, BOB.public_key, 1, wire), end(BOB, None, 2, wire)
    meet(alice, bob)
    session, now = alice.session, 5.0
    alice.receive(bytes([WAKE]), now)
    for _ in range(200):
        for here, there in ((alice, bob), (bob, alice)):
            while (frame := here.next_frame(now)) is not None:
                assert frame[0] >= SEALED
                there.receive(frame, now)
        now += 0.1
    assert alice.session is session
    assert bob.session.ended is None


def test_who_waits_on_a_shared_channel_wakes_the_others_about_once_an_hour() -> None:
    bob = end(BOB, None, 2)
    at = []
    while (now := bob.deadline(at[-1] if at else 0.0)) < 86_400:
        assert bob.next_frame(now) == bytes([WAKE])
        at.append(now)
    assert 20 <= sum(one > 3 * 3600 for one in at) <= 27


def test_who_cannot_read_our_ping_has_lost_the_session_and_is_called_at_once() -> None:
    alice, bob = end(ALICE, BOB.public_key, 1, Cabled), end(BOB, None, 2, Cabled)
    meet(alice, bob)
    anew = end(BOB, None, 3, Cabled)
    alice.receive(anew.next_frame(5.0), 5.1)
    ping = alice.next_frame(5.1)
    assert ping[0] >= SEALED
    anew.receive(ping, 5.2)
    alice.receive(anew.next_frame(5.2), 5.3)
    call = alice.next_frame(5.3)
    assert call[0] < SEALED
    anew.receive(call, 5.4)
    alice.receive(anew.next_frame(5.4), 5.5)
    anew.receive(alice.next_frame(5.5), 5.6)
    assert alice.session.handshake_hash == anew.session.handshake_hash


@pytest.mark.parametrize("wire", [Channelled, Cabled])
def test_a_wake_of_a_peer_that_has_lost_the_session_brings_a_call(wire) -> None:
    alice, bob = end(ALICE, BOB.public_key, 1, wire), end(BOB, None, 2, wire)
    meet(alice, bob)
    alice.receive(bytes([WAKE]), 5.0)
    now, kinds = 5.0, []
    while now < 40:
        frame = alice.next_frame(now)
        kinds += [] if frame is None else [frame[0]]
        now += 0.1
    assert any(kind < SEALED for kind in kinds)


# ---- requests under way


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.floats(0.0, 6.0), min_size=1, max_size=4), stop=st.booleans())
def test_no_request_outlives_its_connection(seed: int, cuts: list[float], stop: bool) -> None:
    """However the line is cut, and also when the pump itself is stopped, whoever waits hears of it at once."""

    async def answer(request: Request, gone: trio.Event) -> Response:
        await trio.sleep(chance.random())
        return Response(200, (), bytes(chance.randrange(400)))

    chance = random.Random(seed)

    async def story() -> None:
        rig = MemoryRig(Medium(9600, loss=0.05), seed)
        waiting: dict[object, float] = {}

        async def ask(multiplexer: Multiplexer) -> None:
            token = object()
            waiting[token] = trio.current_time()
            try:
                await trio.sleep(chance.random() * 3)
                await multiplexer.exchange(Request("PUT", "/x", body=bytes(chance.randrange(600)), timeout=5000))
            except ExchangeError:
                pass
            finally:
                del waiting[token]

        async with trio.open_nursery() as nursery:
            alice, bob = rig.start_alice(nursery), rig.start_bob(nursery)
            for cut in cuts:
                a, b = await both_up(alice, bob)
                pumps = trio.CancelScope()

                async def pump(connection, scope: trio.CancelScope, asked: trio.Nursery) -> None:
                    multiplexer = Multiplexer(connection, linger=2.0)
                    for _ in range(8):
                        asked.start_soon(ask, multiplexer)
                    with scope:
                        await multiplexer.run(answer)

                async with trio.open_nursery() as asked:
                    for connection, scope in ((a, pumps), (b, trio.CancelScope())):
                        asked.start_soon(pump, connection, scope, asked)
                    await trio.sleep(cut)
                    if stop:
                        pumps.cancel()
                    rig.unplug()
                    await trio.sleep(3.5)  # the last of them ask 3 s after their start
                    assert not waiting
                rig.plug()
                await a.wait_down()
            nursery.cancel_scope.cancel()

    trio.run(story, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("wire", [Channelled, Cabled])
def test_a_wake_right_after_the_call_that_a_wake_brought_is_heeded_too(wire) -> None:
    """The peer was killed as soon as its session was up."""
    alice, bob = end(ALICE, BOB.public_key, 1, wire), end(BOB, None, 2, wire)
    alice.receive(bytes([WAKE]), 0.0)
    meet(alice, bob)
    while alice.next_frame(0.6) is not None:
        pass
    alice.receive(bytes([WAKE]), 0.7)
    ping = alice.next_frame(0.7)
    assert ping is not None
    assert ping[0] >= SEALED
