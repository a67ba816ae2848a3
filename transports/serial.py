"""Serial ports (UART, modem, RS-485, a pty): 8N1, opened exclusively and configured by pyserial, then read and written by trio.

A port that vanishes (USB pulled) ends the wire with `WireGone`; the link opens it again when it is back.
"""

from __future__ import annotations

import errno
import os
import termios
from typing import TYPE_CHECKING

import trio
from trio.abc import Stream

from transports.link.wire import LinkStats, StreamWire, WireGone

if TYPE_CHECKING:
    import serial as pyserial


class SerialStream(Stream):
    """The bytes of an open port. One task may send while another receives."""

    def __init__(self, port: pyserial.Serial) -> None:
        self._port = port
        self._descriptor: int | None = port.fileno()
        os.set_blocking(self._descriptor, False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises `trio.BrokenResourceError` when the port has vanished."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._open(), rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._open())
            except OSError as error:
                raise trio.BrokenResourceError(f"{self._port.name}: {error.strerror}") from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._open())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, b"" when the port has vanished."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return os.read(self._open(), max_bytes or 4096)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._open())
            except OSError as error:  # a pulled USB adapter and a pty without its other side say EIO
                raise trio.BrokenResourceError(f"{self._port.name}: {error.strerror}") from error

    async def aclose(self) -> None:
        if self._descriptor is not None:
            trio.lowlevel.notify_closing(self._descriptor)
            self._descriptor = None
            self._port.close()
        await trio.lowlevel.checkpoint()

    def _open(self) -> int:
        if self._descriptor is None:
            raise trio.ClosedResourceError("the port is closed")
        return self._descriptor


class SerialDriver:
    """A port by its path, at a baud rate. `mtu` None: a frame takes about a second at most."""

    def __init__(self, path: str, baud: int, *, mtu: int | None = None, rtscts: bool = False) -> None:
        self.name = f"serial:{os.path.basename(path)}"
        self._path = path
        self._baud = baud
        self._mtu = mtu
        self._rtscts = rtscts

    async def open(self, stats: LinkStats) -> StreamWire:
        """Raises `WireGone` when the port is missing, in use or cannot be set up."""
        return StreamWire(await self.open_stream(), stats, bit_rate=self._baud, mtu=self._mtu)

    async def open_stream(self) -> SerialStream:
        """The bytes alone. Raises `WireGone`."""
        await trio.lowlevel.checkpoint()
        import serial as pyserial  # needed only where there is a port

        try:
            port = pyserial.Serial(self._path, self._baud, timeout=0, exclusive=True, rtscts=self._rtscts)
            _read_blocks(port.fileno())
        except (pyserial.SerialException, termios.error, OSError, ValueError) as error:
            raise WireGone(f"{self._path}: {_reason(error)}") from error
        return SerialStream(port)


def _reason(error: Exception) -> str:
    """Why a port could not be opened, in the system's words: pyserial wraps those in its own, twice."""
    number = error.errno if isinstance(error, OSError) else error.args[0] if isinstance(error, termios.error) else None
    if number in (errno.EAGAIN, errno.EBUSY):  # the lock of `exclusive`
        return "another program uses it"
    return str(error) if number is None else os.strerror(number)


def _read_blocks(descriptor: int) -> None:
    """Sets VMIN to 1: pyserial leaves it 0, with which an empty read means "nothing yet" as well as "hung up"."""
    attributes = termios.tcgetattr(descriptor)
    attributes[6][termios.VMIN] = 1
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
