"""DTLS 1.2 (RFC 6347) on a serial line: each datagram is a frame of the wire, and there is one peer at the other end.

The port is opened again, after a pause, for as long as it takes; a session outlives that, for DTLS does not mind lost datagrams. A client
that begins anew takes the place of the one before. What is no DTLS record (noise, the boot messages of a modem) goes no further than the
framing.

Frames that come may be as large as over UDP, so that clients need not be told anything; those that go are smaller on a slow wire
(`sending_mtu`), so that nobody who has something urgent waits for long.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from transports.dtls import HANDSHAKE_SECONDS, MTU, Credentials, DtlsChannel, DtlsContext, DtlsServer
from transports.link.wire import BITS_PER_BYTE, LinkStats, WireGone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from transports.link.wire import Driver, Wire

log = logging.getLogger(__name__)

SMALLEST_MTU = 576
"""Bytes that a message must be able to have: one with a room, an event type, an access token and a block of its body."""
FRAME_SECONDS = 2.0
FLIGHT = 4096
"""Bytes that one end says in a handshake at most, with a chain of certificates: what its time is reckoned by."""
_REOPEN_FIRST, _REOPEN_CAP = 0.25, 5.0
_RECORDS = range(20, 64)
"""What the first byte of a DTLS record may be (RFC 7983 §7)."""


def sending_mtu(bit_rate: int | None) -> int:
    """Bytes of the largest datagram that is sent: two seconds of the wire, within bounds."""
    return MTU if bit_rate is None else max(SMALLEST_MTU, min(MTU, int(bit_rate / BITS_PER_BYTE * FRAME_SECONDS)))


class FrameSocket:
    """A driver's wire as trio's DTLS wants a socket. `run` must be running; `close` ends `recvfrom`.

    A datagram that cannot leave is as good as lost, and neither method fails: trio's task that receives is none of anybody's.
    """

    type = trio.socket.SOCK_DGRAM
    family = trio.socket.AF_INET

    def __init__(self, driver: Driver) -> None:
        self.stats = LinkStats()
        self.trouble: str | None = None
        """Why the port is not open."""
        self.bit_rate: int | None = None
        self.address = (driver.name, 0)
        """Of the only peer that there is."""
        self._driver = driver
        self._wire: Wire | None = None
        self._changed = trio.Event()
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether there is a port."""
        return self._wire is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the port open until cancelled or closed."""
        pause, told, self._closed = _REOPEN_FIRST, None, False
        task_status.started()
        while True:
            try:
                wire = await self._driver.open(self.stats)
            except WireGone as error:
                self.trouble = str(error)
                if self.trouble != told:
                    log.warning("%s cannot be used: %s; it is tried again", self._driver.name, self.trouble)
                    told = self.trouble
                await trio.sleep(pause)
                pause = min(2 * pause, _REOPEN_CAP)
                continue
            if told is not None:
                log.info("%s is back", self._driver.name)
            self.trouble, told, self.bit_rate = None, None, wire.bit_rate
            opened = trio.current_time()
            try:
                self._set(wire)
                while self._wire is wire:
                    await self._changed.wait()
            finally:
                self._set(None)
                with trio.CancelScope(shield=True):
                    await wire.aclose()
            if self._closed:
                return
            told = self.trouble
            log.warning("%s cannot be used any longer: %s; it is tried again", self._driver.name, told)
            pause = _REOPEN_FIRST if trio.current_time() - opened > _REOPEN_CAP else min(2 * pause, _REOPEN_CAP)
            await trio.sleep(pause)

    def _set(self, wire: Wire | None) -> None:
        self._wire = wire
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _lost(self, wire: Wire, error: WireGone) -> None:
        if self._wire is wire:
            self.trouble = str(error)
            self._set(None)

    def getsockname(self) -> tuple[str, int]:
        return self.address

    async def sendto(self, data: bytes, address: Any) -> int:
        wire = self._wire
        if wire is None or self._closed or not 0 < len(data) <= wire.mtu:
            await trio.lowlevel.checkpoint()
            return len(data)
        try:
            await wire.send(bytes(data))
        except WireGone as error:
            self._lost(wire, error)
        return len(data)

    async def recvfrom(self, size: int) -> tuple[bytes, Any]:
        """Raises trio's ClosedResourceError once the socket is closed."""
        while True:
            while self._wire is None and not self._closed:
                await self._changed.wait()
            if self._closed or self._wire is None:
                raise trio.ClosedResourceError("the socket is closed")
            wire = self._wire
            try:
                frame = await wire.receive()
            except WireGone as error:
                self._lost(wire, error)
                continue
            if frame and frame[0] in _RECORDS:
                return frame, self.address
            self.stats.refused_frames += 1

    def close(self) -> None:
        self._closed = True
        self._set(None)


class DtlsLine(DtlsServer):
    """One serial line. `run` until cancelled; `serve(channel)` as in `DtlsServer`. `socket` tells how the line stands.

    The driver's wire must take frames of `transports.dtls.MTU` bytes. `run` raises DtlsError where the credentials cannot be used.
    """

    def __init__(self, driver: Driver, credentials: Credentials, serve: Callable[[DtlsChannel], Awaitable[None]]) -> None:
        super().__init__(credentials, serve)
        self.name = driver.name
        self.socket = FrameSocket(driver)

    @property
    def mtu(self) -> int:
        return sending_mtu(self.socket.bit_rate)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        context = DtlsContext(self._credentials)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.socket.run)
            await nursery.start(self._serve_socket, context, self.socket)
            task_status.started()

    async def _attend(self, channel: trio.DTLSChannel) -> None:
        rate = self.socket.bit_rate
        if rate is not None:
            byte = BITS_PER_BYTE / rate
            self._mtu = self.mtu
            self._first_wait = 1.0 + 2 * self._mtu * byte
            self._handshake_seconds = HANDSHAKE_SECONDS + 2 * FLIGHT * byte
        await super()._attend(channel)
