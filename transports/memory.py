"""Links in memory: a cable with two ends, a half-duplex channel that several stations share, and wires with many ports (RS-485).

Both run on trio's clock, know bit rate, delay, loss and bit errors, and draw all chance from one seed: a run can be
repeated. What passes is framed as on a serial line (HDLC, 10 bits a byte), or is a packet of a LoRa radio, so the
counters and the clock show what a real one would.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from trio.abc import Stream

from transports.framing import hdlc
from transports.link.wire import BITS_PER_BYTE, LinkStats, WireGone, default_mtu

if TYPE_CHECKING:
    from collections.abc import Callable

    from transports.link.lora import LoRa

_QUEUE_SECONDS = 0.1
_MAX_WAITING = 4096  # frames that nobody receives
_ROUNDING = 1e-6  # seconds: a clock's sums of slots are not exact, and one slot is not less than one slot


@dataclass(frozen=True)
class Medium:
    """`bit_rate` in bits a second (None:

    infinite), `delay` in seconds one way, `loss` a fraction of frames, `bit_errors` of bits. With a `lora` frames are its
    packets: they take its time, and one that is damaged does not arrive.
    """

    bit_rate: int | None = None
    delay: float = 0.0
    loss: float = 0.0
    bit_errors: float = 0.0
    mtu: int | None = None
    lora: LoRa | None = None

    @classmethod
    def radio(cls, lora: LoRa, *, loss: float = 0.0) -> Medium:
        """A channel of that modulation, at its rate and with its longest packet."""
        return cls(lora.bit_rate, loss=loss, mtu=lora.mtu, lora=lora)

    def seconds(self, size: int) -> float:
        """On the line, of so many bytes with all that frames them."""
        if self.lora is not None:
            return self.lora.seconds(size)
        return 0.0 if self.bit_rate is None else size * BITS_PER_BYTE / self.bit_rate

    def damage(self, data: bytes, chance: random.Random) -> bytes | None:
        """What is left of a frame, None for nothing."""
        if chance.random() < self.loss:
            return None
        if self.bit_errors <= 0:
            return data
        spoilt = bytearray(data)
        at = 0
        while True:
            at += int(math.log(1 - chance.random()) / math.log(1 - self.bit_errors))
            if at >= 8 * len(spoilt):
                return bytes(spoilt)
            if self.lora is not None:
                return None
            spoilt[at // 8] ^= 1 << at % 8
            at += 1


class _Arrivals:
    """What is on its way to one receiver, in order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._news = trio.Event()
        self._broken: str | None = None

    def put(self, at: float, data: bytes) -> None:
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.append((at, data))
            self._news.set()

    def break_off(self, reason: str) -> None:
        self._broken = reason
        self._news.set()

    async def get(self) -> bytes:
        while True:
            if self._broken is not None:
                raise WireGone(self._broken)
            at = self._waiting[0][0] if self._waiting else math.inf
            if at <= trio.current_time():
                await trio.lowlevel.checkpoint()
                return self._waiting.popleft()[1]
            self._news = trio.Event()
            with trio.move_on_at(at):
                await self._news.wait()


class _Packets:
    """The framing of a radio, which keeps packets apart by itself: some bytes more that nobody reads."""

    crc_errors = 0

    def __init__(self, overhead: int) -> None:
        self._overhead = overhead

    def encode(self, frame: bytes) -> bytes:
        return bytes(self._overhead) + frame

    def feed(self, data: bytes) -> list[bytes]:
        return [data[self._overhead :]]


class MemoryWire:
    """One open end; `end.transmit` says where bytes go."""

    ordered = True
    keepalive = 0.0
    connection_id = b""

    def __init__(self, end: MemoryEnd | Station, medium: Medium, stats: LinkStats, *, shared: bool) -> None:
        self.bit_rate = medium.bit_rate
        self.mtu = medium.mtu or default_mtu(medium.bit_rate)
        self.shared = shared
        self.arrivals = _Arrivals()
        self._medium = medium
        self._end = end
        self._stats = stats
        self._packets = None if medium.lora is None else _Packets(medium.lora.overhead)
        self._decoder = self._packets or hdlc.Decoder(self.mtu)
        self._frames: deque[bytes] = deque()
        self._flag_stands_until = 0.0

    async def send(self, frame: bytes) -> None:
        data = self._framed(frame)
        self._flag_stands_until = 0.0  # a frame that was broken off has no closing flag
        await self._end.transmit(self, data)
        self._flag_stands_until = trio.current_time() + hdlc.FLAG_STANDS
        self._stats.frames_out += 1
        self._stats.bytes_out += len(data)

    def _framed(self, frame: bytes) -> bytes:
        if self._packets is not None:
            return self._packets.encode(frame)
        # On a shared channel others have spoken since.
        return hdlc.encode(frame, flag_stands=not self.shared and trio.current_time() < self._flag_stands_until)

    async def receive(self) -> bytes:
        while not self._frames:
            data = await self.arrivals.get()
            self._stats.bytes_in += len(data)
            self._frames += self._decoder.feed(data)
            self._stats.crc_errors += self._decoder.crc_errors
            self._decoder.crc_errors = 0
        self._stats.frames_in += 1
        return self._frames.popleft()

    def confirm(self) -> None:
        pass

    def time_on_air(self, size: int) -> float:
        lora = self._medium.lora
        return self._medium.seconds(size + (hdlc.OVERHEAD if lora is None else lora.overhead))

    def receiving(self) -> bool:
        return self._end.hears(self._medium.delay)

    async def aclose(self) -> None:
        self.arrivals.break_off("closed")
        self._end.closed(self)
        await trio.lowlevel.checkpoint()


class MemoryEnd:
    """A driver: one end of a cable. Opening it again replaces the wire that was open."""

    def __init__(self, name: str, cable: MemoryCable) -> None:
        self.name = name
        self.wire: MemoryWire | None = None
        self.other: MemoryEnd = self
        self._cable = cable
        self._busy_from = self._free_at = 0.0

    async def open(self, stats: LinkStats) -> MemoryWire:
        await trio.lowlevel.checkpoint()
        if not self._cable.plugged:
            raise WireGone("no such port")
        if self.wire is not None:
            self.wire.arrivals.break_off("opened by somebody else")
        self.wire = MemoryWire(self, self._cable.medium, stats, shared=False)
        return self.wire

    async def transmit(self, wire: MemoryWire, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.wire is not wire:
            raise WireGone("the port vanished")
        medium = self._cable.medium
        now = trio.current_time()
        if now > self._free_at:
            self._busy_from = self._free_at = now
        self._free_at += medium.seconds(len(data))
        arriving = medium.damage(data, self._cable.chance)
        self._cable.watch(self.name, data, arriving)
        if arriving is not None:
            self.inject_at(self._free_at + medium.delay, arriving)
        await trio.sleep(max(0.0, self._free_at - now - _QUEUE_SECONDS))

    def inject_at(self, when: float, data: bytes) -> None:
        """Raw bytes that reach the other end at that time."""
        if self.other.wire is not None:
            self.other.wire.arrivals.put(when, data)

    def inject(self, data: bytes) -> None:
        """Raw bytes, noise for instance, that reach the other end now."""
        self.inject_at(trio.current_time(), data)

    def hears(self, delay: float) -> bool:
        """Whether what the other end sends is arriving now."""
        return self.other._busy_from + delay <= trio.current_time() < self.other._free_at + delay

    def closed(self, wire: MemoryWire) -> None:
        if self.wire is wire:
            self.wire = None


class MemoryCable:
    """Two ends, `a` and `b`. `unplug` makes both ports vanish, `plug` brings them back;

    `medium` may be changed at any time. `watch` is told of every frame: the name of the end that sent it, its bytes, and
    what of them will arrive.
    """

    def __init__(self, medium: Medium | None = None, *, seed: int = 0, name: str = "memory") -> None:
        self.medium = medium or Medium()
        self.watch: Callable[[str, bytes, bytes | None], None] = lambda end, sent, arriving: None
        self.chance = random.Random(seed)
        self.plugged = True
        self.a = MemoryEnd(f"{name}-a", self)
        self.b = MemoryEnd(f"{name}-b", self)
        self.a.other, self.b.other = self.b, self.a

    def unplug(self) -> None:
        self.plugged = False
        for end in (self.a, self.b):
            if end.wire is not None:
                end.wire.arrivals.break_off("the port vanished")
                end.wire = None

    def plug(self) -> None:
        self.plugged = True


class Station:
    """A driver: one radio on a shared channel. Every link of the station opens it; all wires hear every frame."""

    def __init__(self, name: str, air: Air) -> None:
        self.name = name
        self._air = air
        self._wires: list[MemoryWire] = []
        self._transmitter = trio.Lock()

    async def open(self, stats: LinkStats) -> MemoryWire:
        await trio.lowlevel.checkpoint()
        wire = MemoryWire(self, self._air.medium, stats, shared=True)
        self._wires.append(wire)
        return wire

    async def transmit(self, wire: MemoryWire, data: bytes) -> None:
        if wire not in self._wires:
            raise WireGone("closed")
        async with self._transmitter:
            await self._air.transmit(self, data)

    def hear(self, data: bytes) -> None:
        for wire in self._wires:
            wire.arrivals.put(trio.current_time(), data)

    def hears(self, delay: float) -> bool:
        return False

    def closed(self, wire: MemoryWire) -> None:
        if wire in self._wires:
            self._wires.remove(wire)


@dataclass
class _Transmission:
    station: Station
    began: float
    spoilt: bool = False


class Air:
    """A half-duplex channel: stations listen before they talk, and whoever begins within `turnaround` of another
    spoils both.

    `collisions` counts spoilt frames, `busy_seconds` the time that the channel was in use, `bytes_sent` all that was sent.
    """

    def __init__(self, medium: Medium, *, seed: int = 0, turnaround: float = 0.01) -> None:
        self.medium = medium
        self.collisions = 0
        self.busy_seconds = 0.0
        self.bytes_sent = 0
        self._chance = random.Random(seed)
        self._turnaround = turnaround
        self._stations: list[Station] = []
        self._now: list[_Transmission] = []
        self._quiet = trio.Event()
        self._quiet.set()

    def station(self, name: str) -> Station:
        station = Station(name, self)
        self._stations.append(station)
        return station

    async def transmit(self, station: Station, data: bytes) -> None:
        await self._wait_for_quiet()
        mine = _Transmission(station, trio.current_time())
        if self._now:
            mine.spoilt = True
            for other in self._now:
                other.spoilt = True
        self._now.append(mine)
        if self._quiet.is_set():  # else a collision, and others wait for this very event
            self._quiet = trio.Event()
        seconds = self.medium.seconds(len(data))
        self.busy_seconds += seconds
        self.bytes_sent += len(data)
        try:
            await trio.sleep(seconds)
        finally:
            self._now.remove(mine)
            if not self._now:
                self._quiet.set()
        self.collisions += mine.spoilt
        if not mine.spoilt:
            self._deliver(station, data)

    async def _wait_for_quiet(self) -> None:
        while True:
            await self._quiet.wait()
            # Some slots of silence first, drawn anew each time, so that the last speaker does not keep the floor.
            await trio.sleep(self._turnaround * self._chance.randint(1, 16))
            began_before = trio.current_time() - self._turnaround + _ROUNDING
            heard = [other for other in self._now if other.began <= began_before]
            if not heard:
                return

    def _deliver(self, sender: Station, data: bytes) -> None:
        talking = [transmission.station for transmission in self._now]
        for station in self._stations:
            if station is not sender and station not in talking:
                arriving = self.medium.damage(data, self._chance)
                if arriving is not None:
                    station.hear(arriving)


@dataclass(eq=False)
class _Utterance:
    """Some bytes that one port puts on the wires between `began` and `ends`."""

    port: Port | None
    data: bytes
    began: float
    ends: float


class Port(Stream):
    """One station's serial port on a `PartyLine`; like a UART it takes bytes at once and says them at the line's rate."""

    def __init__(self, line: PartyLine) -> None:
        self._line = line
        self._free_at = 0.0
        self._coming: list[tuple[float, int, _Utterance]] = []
        self._news = trio.Event()
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        data = bytes(data)
        for at in range(0, len(data), self._line.piece):
            piece = data[at : at + self._line.piece]
            began = max(trio.current_time(), self._free_at)
            self._free_at = began + len(piece) * BITS_PER_BYTE / self._line.bit_rate
            self._line.put(_Utterance(self, piece, began, self._free_at))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            self._check()
            at = self._coming[0][0] if self._coming else math.inf
            if at <= trio.current_time():
                await trio.lowlevel.checkpoint()
                heard = self._line.heard_by(self, heapq.heappop(self._coming)[2])
                if heard:
                    return heard
                continue
            self._news = trio.Event()
            with trio.move_on_at(at):
                await self._news.wait()

    def arriving(self, utterance: _Utterance, number: int) -> None:
        heapq.heappush(self._coming, (utterance.ends, number, utterance))
        self._news.set()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError

    def vanish(self) -> None:
        if not self._closed:
            self._closed = True
            self._news.set()
            self._line.ports.remove(self)

    async def aclose(self) -> None:
        self.vanish()
        await trio.lowlevel.checkpoint()


class PartyLine:
    """A pair of wires that many ports share (RS-485): everybody hears every byte, and what is said at once is spoilt for all.

    `echo`: a port hears itself. `loss` is a fraction of pieces of some 10 ms. `collisions` counts what was spoilt, by listener.
    """

    def __init__(self, bit_rate: int, *, seed: int = 0, loss: float = 0.0, echo: bool = False) -> None:
        self.bit_rate = bit_rate
        self.piece = max(1, bit_rate // BITS_PER_BYTE // 100)
        self.ports: list[Port] = []
        self.plugged = True
        self.collisions = 0
        self._echo = echo
        self._loss = loss
        self._chance = random.Random(seed)
        self._lately: deque[_Utterance] = deque(maxlen=4096)
        self._count = 0

    async def open(self) -> Port:
        """Raises `WireGone` while it is unplugged."""
        await trio.lowlevel.checkpoint()
        if not self.plugged:
            raise WireGone("no such port")
        port = Port(self)
        self.ports.append(port)
        return port

    def unplug(self) -> None:
        """All ports vanish."""
        self.plugged = False
        for port in list(self.ports):
            port.vanish()

    def plug(self) -> None:
        self.plugged = True

    def noise(self, data: bytes) -> None:
        """Bytes that nobody's port has sent begin now."""
        now = trio.current_time()
        self.put(_Utterance(None, data, now, now + len(data) * BITS_PER_BYTE / self.bit_rate))

    def put(self, utterance: _Utterance) -> None:
        now = trio.current_time()
        while self._lately and self._lately[0].ends < now - 1:
            self._lately.popleft()
        self._lately.append(utterance)
        self._count += 1
        for port in self.ports:
            if self._echo or port is not utterance.port:
                port.arriving(utterance, self._count)

    def heard_by(self, listener: Port, utterance: _Utterance) -> bytes:
        """What reaches that port of it, once it has ended: nothing while it speaks itself and hears no echo."""
        others = [
            other
            for other in self._lately
            if other.port is not utterance.port and other.began < utterance.ends and other.ends > utterance.began
        ]
        if not self._echo and any(other.port is listener for other in others):
            return b""
        if self._chance.random() < self._loss:
            return b""
        if not others:
            return utterance.data
        self.collisions += 1
        return bytes(byte ^ self._chance.randrange(1, 256) for byte in utterance.data)
