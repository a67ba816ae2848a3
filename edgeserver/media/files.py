"""Files by content hash: `<root>/ab/cdef…`, so that the same bytes lie on the disk once, whatever their names.

A file is written under `<root>/incoming`, synced, and then moved to its name: it is whole or it is not there. Everything
that touches the disk runs in threads, unless the store is told to run it `inline`: for tests on a virtual clock, which
would run ahead while a thread works.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable
    from io import FileIO
    from pathlib import Path

Result = TypeVar("Result")

BUFFER: Final = 64 * 1024

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Received:
    """A whole file that has no name yet: pass it to `publish` or `discard`. `hash` is SHA-256 in hex, `size` in bytes."""

    path: Path
    hash: str
    size: int


class FileStore:
    """The folder. `open` first."""

    def __init__(self, root: Path, *, inline: bool = False) -> None:
        self._inline = inline
        self._root = root
        self._incoming = root / "incoming"
        self._count = 0

    async def open(self) -> None:
        """Makes the folder, and throws away what was half received when the program last ended."""

        def work() -> None:
            self._incoming.mkdir(parents=True, exist_ok=True)
            for left_over in self._incoming.iterdir():
                left_over.unlink()

        await self._run(work)

    def path(self, digest: str) -> Path:
        """Where the file of this hash lies."""
        return self._root / digest[:2] / digest[2:]

    async def receive(self, chunks: AsyncIterable[bytes], limit: int) -> Received:
        """Writes a stream to the disk. Raises M_TOO_LARGE beyond `limit` bytes; leaves nothing behind when it fails."""
        self._count += 1
        path = self._incoming / str(self._count)
        digest, size, buffer = hashlib.sha256(), 0, bytearray()
        file = await self._run(_create, path)

        def write() -> None:
            digest.update(buffer)
            _write_all(file, buffer)
            buffer.clear()

        try:
            async with _closing(chunks):
                async for chunk in chunks:
                    size += len(chunk)
                    if size > limit:
                        raise errors.TooLarge(f"The media is larger than {limit} bytes.")
                    buffer += chunk
                    if len(buffer) >= BUFFER:
                        await self._run(write)
            await self._run(write)
            await self._run(os.fsync, file.fileno())
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._run(_abandon, file, path)
            raise
        await self._run(file.close)
        return Received(path, digest.hexdigest(), size)

    async def receive_bytes(self, data: bytes) -> Received:
        """The same for bytes that are at hand."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        return await self.receive(once(), len(data))

    async def publish(self, received: Received) -> None:
        """Gives the file its name. If there is one of that name, the bytes are the same and that one stays."""

        def work() -> None:
            target = self.path(received.hash)
            if target.exists():
                received.path.unlink()
                return
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True)
                _sync_folder(self._root)
            received.path.rename(target)
            _sync_folder(target.parent)

        await self._shielded(work)

    async def discard(self, received: Received) -> None:
        """Throws a received file away; one that has its name stays."""
        await self._shielded(lambda: received.path.unlink(missing_ok=True))

    async def remove(self, digests: list[str]) -> None:
        """Deletes files; those that are not there are passed over."""

        def work() -> None:
            for digest in digests:
                self.path(digest).unlink(missing_ok=True)

        if digests:
            await self._shielded(work)

    async def hashes(self) -> set[str]:
        """The names of all files that there are."""

        def work() -> set[str]:
            return {
                name
                for folder in self._root.iterdir()
                if len(folder.name) == 2 and folder.is_dir()
                for file in folder.iterdir()
                if _HASH.fullmatch(name := folder.name + file.name)
            }

        return await self._run(work)

    async def _run(self, work: Callable[..., Result], *args: Any) -> Result:
        if self._inline:
            await trio.lowlevel.checkpoint()
            return work(*args)
        return await trio.to_thread.run_sync(work, *args)

    async def _shielded(self, work: Callable[[], None]) -> None:
        """Runs to its end: a thread cannot be stopped half way, and the caller must know what is on the disk."""
        with trio.CancelScope(shield=True):
            await self._run(work)


@asynccontextmanager
async def _closing(chunks: object) -> AsyncIterator[None]:
    """A generator that is left before its end is closed here and now, not whenever it is collected."""
    try:
        yield
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


def _create(path: Path) -> FileIO:
    return path.open("xb", buffering=0)


def _write_all(file: FileIO, data: bytearray) -> None:
    view = memoryview(data)
    with view:
        written = 0
        while written < len(data):
            written += file.write(view[written:]) or 0


def _abandon(file: FileIO, path: Path) -> None:
    file.close()
    path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
