"""What paired devices have been told of facts, on disk: `facts/<public key in hex>` in the data folder, ten bytes a fact.

It only saves bytes on lines, so it is written without a sync, every few minutes and when a connection ends; `transports.lowband.told` says
what becomes of a lost tail.
"""

from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.app.blocking import Hop
from transports.lowband.told import MAX_FILE, Told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from transports.lowband.factlist import Patch

log = logging.getLogger(__name__)

WRITE_SECONDS: Final = 300.0


def apply(path: Path, patch: Patch) -> None:
    """Changes a file, which is readable by its owner only. Raises OSError."""
    if patch.offset:
        with path.open("r+b") as file:
            if file.seek(0, os.SEEK_END) < patch.offset:
                raise OSError(f"{path} is shorter than it was")
            file.truncate(patch.offset)
            file.seek(patch.offset)
            file.write(patch.data)
        return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(patch.data)
    new.replace(path)


class ToldFolder:
    """The files of all devices; `folder` is made when there is something to write. `inline`: see `app.blocking`."""

    def __init__(self, folder: Path, *, inline: bool = False) -> None:
        self._folder = folder
        self._hop = Hop(inline=inline)
        self._open: dict[bytes, tuple[Told, int]] = {}
        self._kept: set[bytes] = set()
        self._lock = trio.Lock()

    @asynccontextmanager
    async def of(self, public_key: bytes) -> AsyncIterator[Told]:
        """The list for a device, as a context for the time of its connection. Connections of one device share one list."""
        told = await self._take(public_key)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_writing, public_key, told)
                yield told
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._release(public_key, told)

    async def keep_only(self, public_keys: Iterable[bytes]) -> None:
        """These have files from now on; those of all others are removed."""
        self._kept = set(public_keys)
        names = {key.hex() for key in self._kept}

        def tidy() -> None:
            for path in self._folder.iterdir():
                if path.name not in names:
                    path.unlink()

        if not self._folder.is_dir():
            return
        async with self._lock:
            try:
                await self._hop(tidy)
            except OSError as error:
                log.warning("old files in %s cannot be removed: %s", self._folder, error)

    async def _take(self, public_key: bytes) -> Told:
        async with self._lock:
            told, users = self._open.get(public_key) or (await self._load(public_key), 0)
            self._open[public_key] = told, users + 1
            return told

    async def _load(self, public_key: bytes) -> Told:
        path = self._path(public_key)
        if not path.exists():
            return Told(public_key)

        def read() -> Told:
            with path.open("rb") as file:
                return Told.from_file(file.read(MAX_FILE), public_key)

        try:
            return await self._hop(read)
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error)
            return Told(public_key)

    async def _release(self, public_key: bytes, told: Told) -> None:
        await self._write(public_key, told)
        async with self._lock:
            users = self._open[public_key][1] - 1
            if users:
                self._open[public_key] = told, users
            else:
                del self._open[public_key]

    async def _keep_writing(self, public_key: bytes, told: Told) -> None:
        while True:
            await trio.sleep(WRITE_SECONDS)
            await self._write(public_key, told)

    async def _write(self, public_key: bytes, told: Told) -> None:
        async with self._lock:
            patch = told.patch() if public_key in self._kept else None
            if patch is None:
                return
            try:
                await self._hop(apply, self._path(public_key), patch)
            except OSError as error:
                told.spoiled()
                log.warning("what a device was told cannot be written down: %s", error)

    def _path(self, public_key: bytes) -> Path:
        return self._folder / public_key.hex()
