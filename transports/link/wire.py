"""What a driver gives to a link: a `Wire` that carries frames, and counters.

A wire may lose frames, double them, damage them, let them overtake each other and bring in strangers' frames: the link
copes. What it may not do is to deliver frames that are longer than `mtu`, or to buffer without bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import trio

from transports.exchange import Priority
from transports.framing import hdlc

if TYPE_CHECKING:
    from trio.abc import Stream


class WireGone(Exception):
    """The port vanished, the socket broke, the stream ended: open the driver again."""


@dataclass
class LinkStats:
    """Counters since the link was made; bytes are those on the wire, framing included; times in seconds.

    `crc_errors` were damaged; a frame without CRC is when its tag is wrong on a wire that nobody shares.
    `refused_frames` were whole but not authentic (noise, replays, strangers). `airtime` counts every frame with the
    longest framing. `since` is the caller's clock when the present session came up.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    frames_in: int = 0
    frames_out: int = 0
    messages_in: int = 0
    messages_out: int = 0
    retransmissions: int = 0
    crc_errors: int = 0
    refused_frames: int = 0
    handshakes: int = 0
    airtime: float = 0.0
    rtt: float | None = None
    since: float | None = None
    bytes_by_priority: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))


class Wire(Protocol):
    """An opened medium.

    `bit_rate` None: unknown, the link then watches for congestion. `ordered`: frames never overtake each other.
    `shared`: others' frames are heard too. `connection_id`: bytes by which this end wants to recognise its frames.
    `keepalive`: seconds of silence after which a frame must be sent (NAT), 0 for never.
    """

    mtu: int
    bit_rate: int | None
    ordered: bool
    shared: bool
    connection_id: bytes
    keepalive: float

    async def send(self, frame: bytes) -> None:
        """Returns when the next frame may be chosen: a wire queues no more than about 0.2 s. Raises `WireGone`."""
        ...

    async def receive(self) -> bytes:
        """The next frame. Raises `WireGone`."""
        ...

    def confirm(self) -> None:
        """The frame that `receive` gave last was authentic and the newest so far (an address may be learnt from it)."""
        ...

    def time_on_air(self, size: int) -> float:
        """Seconds that a frame of that size occupies the medium."""
        ...

    def receiving(self) -> bool:
        """Whether bytes of a frame seem to be arriving now. False where nobody can tell."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class SharedPort(Protocol):
    """A wire whose port other links of this station use as well: it asks how urgent each frame is."""

    async def send_in_turn(self, frame: bytes, priority: Priority, *, asks: bool) -> None:
        """`Wire.send`, after what is more urgent. `asks`: the other end acknowledges this frame at once."""
        ...


class Driver(Protocol):
    """Opens the wire, again and again if need be."""

    name: str

    async def open(self, stats: LinkStats) -> Wire:
        """Raises `WireGone` when the port is not there (yet).

        The wire counts its bytes, frames and CRC errors in `stats`.
        """
        ...


BITS_PER_BYTE = 10  # 8N1
_QUEUE_SECONDS = 0.1
_BREAK_SECONDS = 0.15  # without a byte: what had begun to arrive has broken off
_STUCK_SECONDS = 20.0  # flow control that never lets go


class StreamWire:
    """A wire over a byte stream: HDLC framing, and pacing to the line's bit rate so that little sits in buffers
    beyond our reach.

    `bit_rate` None: the stream's own backpressure paces.
    """

    ordered = True
    shared = False
    connection_id = b""
    keepalive = 0.0

    def __init__(self, stream: Stream, stats: LinkStats, *, bit_rate: int | None, mtu: int | None = None) -> None:
        self._stream = stream
        self._stats = stats
        self.bit_rate = bit_rate
        self.mtu = mtu or default_mtu(bit_rate)
        self._decoder = hdlc.Decoder(self.mtu)
        self._frames: list[bytes] = []
        self._free_at = 0.0
        self._byte_at = float("-inf")
        self._flag_stands_until = 0.0

    async def send(self, frame: bytes) -> None:
        data = hdlc.encode(frame, flag_stands=trio.current_time() < self._flag_stands_until)
        self._flag_stands_until = 0.0  # a frame that was broken off has no closing flag
        piece = len(data) if self.bit_rate is None else max(1, int(self.bit_rate / BITS_PER_BYTE * _QUEUE_SECONDS))
        self._stats.frames_out += 1
        for at in range(0, len(data), piece):
            part = data[at : at + piece]
            try:
                with trio.move_on_after(_STUCK_SECONDS) as patience:
                    await self._stream.send_all(part)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                raise WireGone(str(error)) from error
            if patience.cancelled_caught:
                raise WireGone("the port takes no bytes")
            self._stats.bytes_out += len(part)
            await self._pace(len(part))
        self._flag_stands_until = max(self._free_at, trio.current_time()) + hdlc.FLAG_STANDS

    async def _pace(self, size: int) -> None:
        if self.bit_rate is not None:
            now = trio.current_time()
            self._free_at = max(now, self._free_at) + size * BITS_PER_BYTE / self.bit_rate
            await trio.sleep(max(0.0, self._free_at - now - _QUEUE_SECONDS))

    async def receive(self) -> bytes:
        while not self._frames:
            try:
                data = await self._stream.receive_some(4096)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                raise WireGone(str(error)) from error
            if not data:
                raise WireGone("the stream ended")
            self._stats.bytes_in += len(data)
            self._byte_at = trio.current_time()
            self._frames += self._decoder.feed(bytes(data))
            self._stats.crc_errors += self._decoder.crc_errors
            self._decoder.crc_errors = 0
        self._stats.frames_in += 1
        return self._frames.pop(0)

    def confirm(self) -> None:
        pass

    def time_on_air(self, size: int) -> float:
        return 0.0 if self.bit_rate is None else (size + hdlc.OVERHEAD) * BITS_PER_BYTE / self.bit_rate

    def receiving(self) -> bool:
        return self._decoder.within and trio.current_time() - self._byte_at < _BREAK_SECONDS

    async def aclose(self) -> None:
        await self._stream.aclose()


def default_mtu(bit_rate: int | None) -> int:
    """A frame takes about a second at most: who has something urgent waits no longer than that."""
    return 1024 if bit_rate is None else max(128, min(1024, bit_rate // BITS_PER_BYTE))
