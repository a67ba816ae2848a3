"""Files by content hash: `<root>/ab/cdef…`, so that the same bytes lie on the disk once, whatever their names.

A file is written under `<root>/incoming`, synced, and then moved to its name: it is whole or it is not there. One that comes in
parts grows under `<root>/partial`. Everything that touches the disk runs in threads, unless the store is told to run it
`inline`: for tests on a virtual clock, which would run ahead while a thread works.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from edgeserver.matrix import errors
from edgeserver.media.open_files import BUFFER, IncomingFile, NoRoom, OpenFile, Received, write_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
    from io import FileIO
    from pathlib import Path

Result = TypeVar("Result")

SYNC_EVERY: Final = 1024 * 1024
"""An upload in parts that a power cut ends loses at most so much."""

_HASH = re.compile(r"[0-9a-f]{64}")


class FileStore:
    """The folder. `open` first. `free_disk`: bytes that must stay free on its disk."""

    def __init__(self, root: Path, *, inline: bool = False, free_disk: int = 0) -> None:
        self._inline = inline
        self._root = root
        self._free_disk = free_disk
        self._incoming = root / "incoming"
        self._partial = root / "partial"
        self._count = 0

    async def open(self) -> None:
        """Makes the folder, and throws away what was half received when the program last ended."""

        def work() -> None:
            for folder in (self._incoming, self._partial):
                folder.mkdir(parents=True, exist_ok=True)
            for left_over in self._incoming.iterdir():
                left_over.unlink()

        await self._run(work)

    def path(self, digest: str) -> Path:
        """Where the file of this hash lies."""
        return self._root / digest[:2] / digest[2:]

    async def check_room(self, size: int) -> None:
        """Raises NoRoom if a file of this size would leave too little."""
        await self._run(self._check_room, size)

    def _check_room(self, size: int) -> None:
        if self._free_disk:
            disk = os.statvfs(self._root)
            if disk.f_bavail * disk.f_frsize - size < self._free_disk:
                raise NoRoom

    async def open_file(self, digest: str) -> OpenFile:
        """To read the file of this hash. Raises FileNotFoundError."""
        return OpenFile(await self._run(_open, self.path(digest)), self._run)

    @asynccontextmanager
    async def incoming(self, limit: int) -> AsyncIterator[IncomingFile]:
        """A file to write to; unless it was finished, nothing of it is left behind. `limit` in bytes."""
        self._count += 1
        path = self._incoming / str(self._count)
        file = IncomingFile(path, await self._run(_create, path), limit, self._check_room, self._run)
        try:
            yield file
        finally:
            if not file.is_finished:
                with trio.CancelScope(shield=True):
                    await file.abandon()

    async def receive(self, chunks: AsyncIterable[bytes], limit: int) -> Received:
        """Writes a stream to the disk. Raises M_TOO_LARGE beyond `limit` bytes, NoRoom; leaves nothing behind when it fails."""
        async with self.incoming(limit) as file, _closing(chunks):
            async for chunk in chunks:
                await file.write(chunk)
            return await file.finish()

    async def receive_bytes(self, data: bytes) -> Received:
        """The same for bytes that are at hand."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        return await self.receive(once(), len(data))

    async def publish(self, received: Received, *, stays: bool = False) -> None:
        """Gives the file its name. If there is one of that name, the bytes are the same and that one stays.

        `stays`: under its old name, too, until that is discarded (on a disk without links it moves all the same).
        """

        def work() -> None:
            target = self.path(received.hash)
            if target.exists():
                if not stays:
                    received.path.unlink()
                return
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True)
                _sync_folder(self._root)
            if not (stays and _link(received.path, target)):
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

    # Files that come in parts; see `resumable`

    def partial_path(self, name: str) -> Path:
        """Where an upload that is not whole lies. `name` is one that we made."""
        return self._partial / name

    async def append(
        self, name: str, start: int, chunks: AsyncIterable[bytes], limit: int, noted: Callable[[int], Awaitable[None]]
    ) -> int:
        """Writes a stream into a partial file from `start` on, in the place of what may lie there; returns its new size.

        Every `SYNC_EVERY` bytes and when the stream ends or breaks off, `noted(size)` is awaited: so much is on the disk for
        certain. Raises M_TOO_LARGE beyond `limit` bytes in all, NoRoom, and whatever breaks the stream off.
        """
        file = await self._run(_open_at, self.partial_path(name), start)
        size = written = start
        buffer = bytearray()

        def write() -> None:
            nonlocal written
            self._check_room(len(buffer))
            write_all(file, buffer)
            written += len(buffer)
            buffer.clear()

        async def sync() -> None:
            await self._run(write)
            await self._run(os.fsync, file.fileno())
            await noted(written)

        synced = start
        try:
            async with _closing(chunks):
                async for chunk in chunks:
                    size += len(chunk)
                    if size > limit:
                        raise errors.TooLarge(f"The media is larger than {limit} bytes.")
                    buffer += chunk
                    if len(buffer) >= BUFFER:
                        await self._run(write)
                    if written - synced >= SYNC_EVERY:
                        await sync()
                        synced = written
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await sync()
                finally:
                    await self._run(file.close)
        return written

    async def whole(self, name: str) -> Received:
        """A partial file that has all its bytes, read through for its hash."""
        path = self.partial_path(name)

        def work() -> Received:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
                return Received(path, digest.hexdigest(), file.tell())

        return await self._run(work)

    async def remove_partial(self, names: Iterable[str]) -> None:
        """Deletes partial files; those that are not there are passed over."""

        def work() -> None:
            for name in names:
                self.partial_path(name).unlink(missing_ok=True)

        await self._shielded(work)

    async def partial_sizes(self) -> dict[str, int]:
        """All partial files that there are, with their sizes."""
        return await self._run(lambda: {file.name: file.stat().st_size for file in self._partial.iterdir()})

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


def _open_at(path: Path, start: int) -> FileIO:
    """A file to write to from `start` on; what lies beyond is cut off. Raises FileNotFoundError if there should be something."""
    file = path.open("r+b" if start else "wb", buffering=0)
    file.truncate(start)
    file.seek(start)
    return file


def _open(path: Path) -> FileIO:
    return path.open("rb", buffering=0)


def _create(path: Path) -> FileIO:
    return path.open("xb", buffering=0)


def _link(path: Path, target: Path) -> bool:
    try:
        target.hardlink_to(path)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            return False
        raise
    return True


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
