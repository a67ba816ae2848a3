"""Files that are open: being read, or coming in. `files` makes them, and does their work on the disk in threads."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from io import FileIO
    from pathlib import Path

BUFFER: Final = 64 * 1024


class NoRoom(Exception):
    """Less would be free on the disk than must stay free."""


@dataclass(frozen=True, slots=True)
class Received:
    """A whole file that has no name yet: pass it to `publish` or `discard`. `hash` is SHA-256 in hex, `size` in bytes."""

    path: Path
    hash: str
    size: int


class OpenFile:
    """A file that is being read; `aclose` it. `run` is how work on the disk is done."""

    def __init__(self, file: FileIO, run: Callable[..., Awaitable[Any]]) -> None:
        self._file = file
        self._run = run

    async def read(self, start: int, size: int) -> bytes:
        """At most `size` bytes from `start` on."""
        return cast("bytes", await self._run(os.pread, self._file.fileno(), size, start))

    async def aclose(self) -> None:
        self._file.close()
        await trio.lowlevel.checkpoint_if_cancelled()


class IncomingFile:
    """A file that comes in. Made by `FileStore.incoming`."""

    def __init__(
        self, path: Path, file: FileIO, limit: int, check_room: Callable[[int], None], run: Callable[..., Awaitable[Any]]
    ) -> None:
        self._path = path
        self._file = file
        self._limit = limit
        self._check_room = check_room
        self._run = run
        self._digest, self._size, self._buffer = hashlib.sha256(), 0, bytearray()
        self.is_finished = False

    async def write(self, chunk: bytes) -> None:
        """Raises M_TOO_LARGE beyond the limit, NoRoom."""
        self._size += len(chunk)
        if self._size > self._limit:
            raise errors.TooLarge(f"The media is larger than {self._limit} bytes.")
        self._buffer += chunk
        if len(self._buffer) >= BUFFER:
            await self._run(self._flush)

    async def restart(self) -> None:
        """What was written is void."""
        self._digest, self._size = hashlib.sha256(), 0
        self._buffer.clear()
        await self._run(_rewind, self._file)

    async def finish(self) -> Received:
        """The whole file, on the disk for certain."""
        await self._run(self._flush)
        await self._run(os.fsync, self._file.fileno())
        self.is_finished = True
        self._file.close()
        return Received(self._path, self._digest.hexdigest(), self._size)

    async def abandon(self) -> None:
        await self._run(_abandon, self._file, self._path)

    def _flush(self) -> None:
        self._check_room(len(self._buffer))
        self._digest.update(self._buffer)
        write_all(self._file, self._buffer)
        self._buffer.clear()


def write_all(file: FileIO, data: bytearray) -> None:
    view = memoryview(data)
    with view:
        written = 0
        while written < len(data):
            written += file.write(view[written:]) or 0


def _rewind(file: FileIO) -> None:
    file.seek(0)
    file.truncate()


def _abandon(file: FileIO, path: Path) -> None:
    file.close()
    path.unlink(missing_ok=True)
