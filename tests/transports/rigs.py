"""Pairs of links over every kind of wire, for tests that must hold on all of them."""

from __future__ import annotations

import errno
import os
import random
import time
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from transports.identity import Identity
from transports.link.connection import Connection, Link
from transports.link.wire import Driver, LinkStats, Wire, WireGone
from transports.memory import Medium, MemoryCable, PartyLine
from transports.multidrop import Bus
from transports.serial import SerialDriver
from transports.udp import UdpDriver, UdpListener

ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
NAMES = {ALICE.public_key: "alice.example", BOB.public_key: "bob.example"}


class RealClock(trio.abc.Clock):
    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


class MortalDriver:
    """A driver whose wires can be made dead to the world, as a process that was killed is."""

    def __init__(self, driver: Driver) -> None:
        self.name = driver.name
        self._driver = driver
        self.dead = False

    async def open(self, stats: LinkStats) -> Wire:
        return MortalWire(await self._driver.open(stats), self)


class MortalWire:
    def __init__(self, wire: Wire, driver: MortalDriver) -> None:
        self._wire = wire
        self._driver = driver

    def __getattr__(self, name: str):
        return getattr(self._wire, name)

    async def send(self, frame: bytes) -> None:
        if self._driver.dead:
            raise WireGone("killed")
        await self._wire.send(frame)


@dataclass
class Running:
    link: Link
    driver: MortalDriver
    scope: trio.CancelScope

    def kill(self) -> None:
        """As kill -9: not a byte more."""
        self.driver.dead = True
        self.scope.cancel()


class Rig:
    """Two ends; `alice` is a `Link` that calls, `bob` answers."""

    virtual = True
    patience = 600.0

    @asynccontextmanager
    async def wired(self) -> AsyncIterator[None]:
        yield

    def alice_driver(self) -> Driver:
        raise NotImplementedError

    def bob_driver(self) -> Driver:
        raise NotImplementedError

    def garbage(self, data: bytes) -> None:
        """Bytes that reach Bob from nowhere."""
        raise NotImplementedError

    def unplug(self) -> None:
        raise NotImplementedError

    def plug(self) -> None:
        raise NotImplementedError

    def start_alice(self, nursery: trio.Nursery, **options) -> Running:
        return self._start(nursery, self.alice_driver(), ALICE, BOB.public_key, options)

    def start_bob(self, nursery: trio.Nursery, **options):
        return self._start(nursery, self.bob_driver(), BOB, None, options)

    def _start(self, nursery, driver, identity, peer_key, options) -> Running:
        mortal = MortalDriver(driver)
        link = Link(mortal, identity, NAMES.get, **{"peer_key": peer_key, **options})
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await link.run()

        nursery.start_soon(run)
        return Running(link, mortal, scope)


@dataclass
class MemoryRig(Rig):
    medium: Medium
    seed: int = 7
    cable: MemoryCable = field(init=False)

    def __post_init__(self) -> None:
        self.cable = MemoryCable(self.medium, seed=self.seed)

    def alice_driver(self) -> Driver:
        return self.cable.a

    def bob_driver(self) -> Driver:
        return self.cable.b

    def garbage(self, data: bytes) -> None:
        self.cable.a.inject(data)

    def unplug(self) -> None:
        self.cable.unplug()

    def plug(self) -> None:
        self.cable.plug()


class PartyLineRig(Rig):
    """Two stations on wires that a third, which has nothing to do with them, talks on, too."""

    medium = Medium(9600, loss=0.01)  # in collisions

    def __init__(self) -> None:
        self.line = PartyLine(9600, seed=3)
        self.buses = [Bus(name, self.line.open, 9600, chance=random.Random(name)) for name in ("alice", "bob", "others")]

    @asynccontextmanager
    async def wired(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._talk)
            yield
            nursery.cancel_scope.cancel()

    async def _talk(self) -> None:
        chance = random.Random(4)
        while True:
            await trio.sleep(chance.random() * 4)
            try:
                wire = await self.buses[2].open(LinkStats())
                await wire.send(b"\x55" + chance.randbytes(100))
                await wire.aclose()
            except WireGone:
                continue

    def alice_driver(self) -> Driver:
        return self.buses[0]

    def bob_driver(self) -> Driver:
        return self.buses[1]

    def garbage(self, data: bytes) -> None:
        for at in range(0, len(data), 480):
            self.line.noise(data[at : at + 480])

    def unplug(self) -> None:
        self.line.unplug()

    def plug(self) -> None:
        self.line.plug()


class PtyRig(Rig):
    """Two ptys whose other sides a relay joins, as a cable joins two ports."""

    virtual = False
    patience = 8.0

    def __init__(self) -> None:
        self.directory = f"/tmp/edgeserver-pty-{os.getpid()}-{random.randrange(1 << 30):x}"
        self.paths = [f"{self.directory}/a", f"{self.directory}/b"]
        self.masters: list[int] = []
        self.relays: list[trio.CancelScope] = []
        self.nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def wired(self) -> AsyncIterator[None]:
        os.mkdir(self.directory)
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self.plug()
            try:
                yield
            finally:
                self.unplug()
                os.rmdir(self.directory)
                nursery.cancel_scope.cancel()

    def plug(self) -> None:
        for path in self.paths:
            master, slave = os.openpty()
            tty.setraw(slave)
            os.symlink(os.ttyname(slave), path)
            os.close(slave)
            os.set_blocking(master, False)
            self.masters.append(master)
        a, b = self.masters
        for source, sink in ((a, b), (b, a)):
            scope = trio.CancelScope()
            self.relays.append(scope)
            self.nursery.start_soon(self._relay, source, sink, scope)

    async def _relay(self, source: int, sink: int, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    await trio.lowlevel.wait_readable(source)
                    data = os.read(source, 4096)
                    os.write(sink, data)
                except BlockingIOError:
                    continue
                except trio.ClosedResourceError:
                    return
                except OSError as error:
                    if error.errno == errno.EBADF:  # unplugged in this very moment
                        return
                    if error.errno != errno.EIO:  # nobody has opened the port
                        raise
                    await trio.sleep(0.005)

    def unplug(self) -> None:
        if self.relays:
            for scope in self.relays:
                scope.cancel()
            self.relays = []
            for path, master in zip(self.paths, self.masters, strict=True):
                os.unlink(path)
                trio.lowlevel.notify_closing(master)
                os.close(master)
            self.masters = []

    def alice_driver(self) -> Driver:
        return SerialDriver(self.paths[0], 460_800)

    def bob_driver(self) -> Driver:
        return SerialDriver(self.paths[1], 460_800)

    def garbage(self, data: bytes) -> None:
        for at in range(0, len(data), 1024):
            try:
                os.write(self.masters[1], data[at : at + 1024])
            except BlockingIOError:
                return


@dataclass
class RunningListener:
    link: UdpListener
    rig: UdpRig
    scope: trio.CancelScope

    def kill(self) -> None:
        self.rig.deaf = True  # the relay passes nothing that the dying listener says
        self.scope.cancel()


class UdpRig(Rig):
    """A caller, a relay that may go deaf or change its address as a NAT does, and a listener."""

    virtual = False
    patience = 10.0

    def __init__(self) -> None:
        self.deaf = False
        self.port = 0
        self.listener_port = 0
        self.upstream: trio.socket.SocketType | None = None
        self.caller = None
        self.nursery: trio.Nursery | None = None
        self.keepalive = 0.3

    @asynccontextmanager
    async def wired(self) -> AsyncIterator[None]:
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as front, trio.socket.socket(type=trio.socket.SOCK_DGRAM) as probe:
            await front.bind(("127.0.0.1", 0))
            await probe.bind(("127.0.0.1", 0))
            self.port = front.getsockname()[1]
            self.listener_port = probe.getsockname()[1]
            probe.close()
            self.front = front
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                await self.rebind()
                nursery.start_soon(self._outward)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()
                    self.upstream.close()

    async def rebind(self) -> None:
        """A new address towards the listener."""
        older = self.upstream
        self.upstream = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        await self.upstream.bind(("127.0.0.1", 0))
        self.nursery.start_soon(self._inward, self.upstream)
        if older is not None:
            older.close()

    async def _outward(self) -> None:
        while True:
            data, self.caller = await self.front.recvfrom(2048)
            if not self.deaf:
                await self.upstream.sendto(data, ("127.0.0.1", self.listener_port))

    async def _inward(self, socket) -> None:
        while True:
            try:
                data, _ = await socket.recvfrom(2048)
            except trio.ClosedResourceError:
                return
            if not self.deaf and self.caller is not None:
                try:
                    await self.front.sendto(data, self.caller)
                except OSError:
                    continue

    def alice_driver(self) -> Driver:
        return UdpDriver("127.0.0.1", self.port, keepalive=self.keepalive)

    def start_bob(self, nursery: trio.Nursery, **options) -> RunningListener:
        self.deaf = False
        listener = UdpListener("127.0.0.1", self.listener_port, BOB, NAMES.get, **options)
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await listener.run()

        nursery.start_soon(run)
        return RunningListener(listener, self, scope)

    def garbage(self, data: bytes) -> None:
        for at in range(0, len(data), 500):
            self.nursery.start_soon(self._throw, data[at : at + 500])

    async def _throw(self, data: bytes) -> None:
        await self.upstream.sendto(data, ("127.0.0.1", self.listener_port))

    def unplug(self) -> None:
        self.deaf = True

    def plug(self) -> None:
        self.deaf = False


RIGS = {
    "cable at 2400 baud": lambda: MemoryRig(Medium(2400)),
    "cable without limit": lambda: MemoryRig(Medium(None, delay=0.02)),
    "10 % loss and bit errors": lambda: MemoryRig(Medium(9600, delay=0.1, loss=0.1, bit_errors=1e-5)),
    "30 % loss and bit errors": lambda: MemoryRig(Medium(9600, delay=0.05, loss=0.3, bit_errors=1e-5)),
    "wires with many stations": PartyLineRig,
    "pty": PtyRig,
    "udp": UdpRig,
}


def clock_for(rig: Rig) -> trio.abc.Clock:
    return MockClock(autojump_threshold=0) if rig.virtual else RealClock()


async def both_up(alice, bob) -> tuple[Connection, Connection]:
    return await alice.link.connections().receive(), await bob.link.connections().receive()
