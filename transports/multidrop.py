"""One port, many stations: a pair of wires that several share (RS-485), where all hear all and one may speak at a time.

Every link of this station opens the same `Bus`, one for each peer; each of their wires hears every frame, as on a radio channel.

A station speaks one frame and then takes its turn among the others, as in IEEE 802.11 (section 10.3, the distributed coordination
function): it draws a number of slots, counts down only while the wires are silent, and speaks at zero; whoever has waited longest has the
fewest left. A slot is the time after which all hear that somebody has begun. Where what is heard is damaged others began at once: the
range that the number is drawn from doubles, and shrinks by one with each good frame (MACAW, SIGCOMM 1994: all hear the same, so all draw
from about the same range; those who spoke know it by the acknowledgement that they miss, and say it again).

Whoever a frame was for may answer at once, before others begin to count: acknowledgements neither collide nor wait. An answer to an answer
has to take its turn again, or two stations would keep the wires to themselves.

Of this station's own frames the one whose turn it is by `airtime.Schedule` goes when the floor is won: what a person waits for overtakes
the pictures of all peers, and peers take turns within a priority.

An adapter switches its transmitter by itself, or the kernel does (TIOCSRS485). One that hears itself is no trouble.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

import trio

from transports.exchange import Priority
from transports.framing import hdlc
from transports.link.airtime import Schedule
from transports.link.wire import BITS_PER_BYTE, LinkStats, WireGone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.abc import Stream

_SLOT_SECONDS, _SLOT_BYTES = 0.02, 4  # a USB adapter hands on what it has heard after up to 16 ms
_LEAST_RANGE, _FIRST_RANGE, _MOST_RANGE = 6, 16, 48
_INBOX = 64
_ECHOES = 4
_STUCK_SECONDS = 20.0
_ANSWER_SLOTS = 1.5  # an answer is heard sooner, anything else later
_TRIES = 4  # the other end takes a frame once, however often it comes


def default_mtu(bit_rate: int) -> int:
    """A frame takes about a quarter of a second: whoever has something urgent waits for those of several others."""
    return max(128, min(512, bit_rate // BITS_PER_BYTE // 4))


class _Turn:
    """A frame of one of this station's links that waits for the floor."""

    message_id = None

    def __init__(self, wire: BusWire, data: bytes, priority: Priority, asks: bool) -> None:
        self.wire = wire
        self.data = data
        self.priority = priority
        self.asks = asks
        self.tries = 0
        self.wants_to_send = True


class BusWire:
    """One link's view of the port."""

    ordered = True
    shared = True
    connection_id = b""
    keepalive = 0.0

    def __init__(self, bus: Bus, stats: LinkStats, bit_rate: int, mtu: int) -> None:
        self.bit_rate: int | None = bit_rate
        self.mtu = mtu
        self.stats = stats
        self.frames: deque[bytes] = deque()
        self.gone: str | None = None
        self._bus = bus
        self._rate = bit_rate

    async def send(self, frame: bytes) -> None:
        await self._bus.transmit(self, frame, Priority.INTERACTIVE, asks=False)

    async def send_in_turn(self, frame: bytes, priority: Priority, *, asks: bool) -> None:
        await self._bus.transmit(self, frame, priority, asks=asks)

    async def receive(self) -> bytes:
        return await self._bus.hear(self)

    def deliver(self, frame: bytes) -> None:
        if len(self.frames) < _INBOX:
            self.frames.append(frame)

    def confirm(self) -> None:
        self._bus.addressed(self)

    def time_on_air(self, size: int) -> float:
        return (size + hdlc.OVERHEAD) * BITS_PER_BYTE / self._rate

    def receiving(self) -> bool:
        return False  # whose frame it is nobody can tell

    async def aclose(self) -> None:
        await self._bus.leave(self)


class Bus:
    """A driver: this station's port on the shared wires. `open_stream` opens the port and raises `WireGone` if it is not there."""

    def __init__(
        self,
        name: str,
        open_stream: Callable[[], Awaitable[Stream]],
        bit_rate: int,
        *,
        mtu: int | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.name = name
        self._open_stream = open_stream
        self._bit_rate = bit_rate
        self._mtu = mtu or default_mtu(bit_rate)
        self._slot = max(_SLOT_SECONDS, _SLOT_BYTES * BITS_PER_BYTE / bit_rate)
        self._chance = chance or random.Random()
        self._stream: Stream | None = None
        self._opening = trio.Lock()
        self._wires: list[BusWire] = []
        self._decoder = hdlc.Decoder(self._mtu)
        self._reading = False
        self._news = trio.Event()
        self._heard_at = float("-inf")
        self._turns: Schedule[_Turn] = Schedule()
        self._contending = self._speaking = False
        self._stirred = trio.Event()
        self._spoke_at = self._burst_at = float("-inf")  # when we fell silent, and when what is heard now began
        self._answered = self._after_flag = False  # has a frame begun since we fell silent? The rest of one that we collided with ends
        self._unasked = False  # the last frame that was heard was no answer to ours
        self._may_answer: BusWire | None = None
        self._range = _FIRST_RANGE
        self._widen_at = float("-inf")
        self._echoes: deque[bytes] = deque(maxlen=_ECHOES)

    async def open(self, stats: LinkStats) -> BusWire:
        """Raises `WireGone`."""
        async with self._opening:
            if self._stream is None:
                self._stream = await self._open_stream()
                self._decoder = hdlc.Decoder(self._mtu)
        wire = BusWire(self, stats, self._bit_rate, self._mtu)
        self._wires.append(wire)
        return wire

    async def leave(self, wire: BusWire) -> None:
        """One link is done; the port is closed behind the last."""
        wire.gone = wire.gone or "closed"
        if wire in self._wires:
            self._wires.remove(wire)
        if not self._wires:
            await self._close("closed")
        await trio.lowlevel.checkpoint()

    async def _close(self, reason: str) -> None:
        for wire in self._wires:
            wire.gone = reason
        self._wires = []
        stream, self._stream = self._stream, None
        self._ring()
        self._stir()
        if stream is not None:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    def _ring(self) -> None:
        """Something was heard, or whoever listened for all has left off."""
        news, self._news = self._news, trio.Event()
        news.set()

    # ---- what is heard

    async def hear(self, wire: BusWire) -> bytes:
        """The next frame for that wire. One of those who wait reads the port for all."""
        while not wire.frames:
            if wire.gone is not None:
                raise WireGone(wire.gone)
            if self._reading:
                await self._news.wait()
            else:
                await self._read()
        wire.stats.frames_in += 1
        return wire.frames.popleft()

    async def _read(self) -> None:
        assert self._stream is not None
        self._reading = True
        try:
            data = bytes(await self._stream.receive_some(4096))
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            await self._close(str(error))
            return
        finally:
            self._reading = False
            self._ring()
        if not data:
            await self._close("the stream ended")
            return
        now = trio.current_time()
        if now - self._heard_at > self._slot:
            self._burst_at = now
        self._heard_at = now
        begun = (hdlc.FLAG if self._after_flag else b"") + data
        self._answered = self._answered or any(begun.split(hdlc.FLAG)[1:])
        self._after_flag = data.endswith(hdlc.FLAG)
        self._take(data)

    def _collided(self) -> None:
        now = trio.current_time()
        if now >= self._widen_at:
            self._range = min(_MOST_RANGE, 2 * self._range)
            self._widen_at = now + self._mtu * BITS_PER_BYTE / self._bit_rate  # one collision may sound like several

    def _take(self, data: bytes) -> None:
        frames = self._decoder.feed(data)
        damaged, self._decoder.crc_errors = self._decoder.crc_errors, 0
        if damaged:
            self._collided()
        self._range = max(_LEAST_RANGE, self._range - len(frames))
        for wire in self._wires:
            wire.stats.bytes_in += len(data)
            wire.stats.crc_errors += damaged
        self._may_answer = None
        for frame in frames:
            if frame in self._echoes:
                self._echoes.remove(frame)
                continue
            self._unasked = self._burst_at - self._spoke_at > _ANSWER_SLOTS * self._slot
            for wire in self._wires:
                wire.deliver(frame)

    def addressed(self, wire: BusWire) -> None:
        """The frame that this wire was given last was for it."""
        if self._unasked and not wire.frames:
            self._may_answer = wire
            self._stir()

    # ---- what is said

    async def transmit(self, wire: BusWire, frame: bytes, priority: Priority, *, asks: bool) -> None:
        """Returns when the frame has left, and if it `asks` for an answer, was answered or said a few times. Raises `WireGone`."""
        turn = _Turn(wire, frame, priority, asks)
        self._turns.add(turn)
        try:
            while turn.wants_to_send:
                if wire.gone is not None:
                    raise WireGone(wire.gone)
                if self._answers_at_once(wire):
                    await self._answer(turn)
                elif self._contending:
                    await self._stirred.wait()
                else:
                    await self._take_the_floor(turn)
        finally:
            self._turns.remove(turn)

    async def _answer(self, turn: _Turn) -> None:
        self._may_answer, turn.wants_to_send = None, False
        await self._say(turn)

    async def _take_the_floor(self, mine: _Turn) -> None:
        """Waits for it, and says what is then the most urgent of this station."""
        self._contending = True
        try:
            if not await self._contend(mine):
                return
            turn = self._turns.pick()
            if turn is not None:
                turn.wants_to_send = False
                self._turns.charge(turn.priority, len(turn.data))
                await self._say(turn)
                await self._expect_an_answer(turn)
        finally:
            self._contending = False
            self._stir()

    def _stir(self) -> None:
        """Whoever waits to speak should look again."""
        stirred, self._stirred = self._stirred, trio.Event()
        stirred.set()

    async def _expect_an_answer(self, turn: _Turn) -> None:
        """What is acknowledged at once, unless it collided, is said again if it was not."""
        if not turn.asks:
            return
        spoke_at = self._spoke_at
        await trio.sleep_until(spoke_at + _ANSWER_SLOTS * self._slot)
        if self._answered or self._spoke_at > spoke_at:
            return
        self._collided()
        turn.tries += 1
        if turn.tries < _TRIES:
            turn.wants_to_send = True
            self._turns.again(turn)

    def _answers_at_once(self, wire: BusWire) -> bool:
        if self._may_answer is not wire or self._speaking or self._stream is None:
            return False
        return trio.current_time() <= self._heard_at + self._slot / 4

    async def _contend(self, mine: _Turn) -> bool:
        """True when the floor is won, False when this very link has come to answer, or is no more, meanwhile."""
        left = self._chance.randint(1, self._range)
        while left or not self._is_quiet():
            now, counting = trio.current_time(), self._is_quiet()
            until = now + self._slot if counting or self._speaking else self._heard_at + self._slot
            while trio.current_time() < until:
                with trio.move_on_at(until):
                    await self._stirred.wait()
                if self._answers_at_once(mine.wire) or mine.wire.gone is not None or not mine.wants_to_send:
                    return False
            left -= counting and self._is_quiet()
        return True

    def _is_quiet(self) -> bool:
        return not self._speaking and trio.current_time() >= self._heard_at + self._slot

    async def _say(self, turn: _Turn) -> None:
        stream = self._stream
        if stream is None:
            return
        data = hdlc.encode(turn.data)
        self._echoes.append(turn.data)
        began = trio.current_time()
        self._speaking = True
        try:
            with trio.move_on_after(_STUCK_SECONDS) as patience:
                await stream.send_all(data)
            if patience.cancelled_caught:
                await self._close("the port takes no bytes")
                return
            turn.wire.stats.frames_out += 1
            turn.wire.stats.bytes_out += len(data)
            await trio.sleep_until(began + len(data) * BITS_PER_BYTE / self._bit_rate)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            await self._close(str(error))
        finally:
            self._speaking = self._answered = self._after_flag = False
            self._heard_at = self._spoke_at = self._burst_at = trio.current_time()
