"""The facts that the box has told, in a file beside the program's other state (`proxy.facts`, `chat.facts`), readable by its owner only.

It only saves bytes on the line, so it is written without a sync, a while after something has come and at the end.
`transports.lowband.heard` says what becomes of a lost tail or a damaged file.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.app.blocking import Hop
from edgeserver.app.facts import apply
from transports.lowband import facts
from transports.lowband.facts import CondensedBody, FactsMissing
from transports.lowband.heard import Heard

if TYPE_CHECKING:
    from pathlib import Path

    from transports.lowband.factlist import Standing

log = logging.getLogger(__name__)

WRITE_SECONDS: Final = 60.0
WRITE_BYTES: Final = 128 * 1024
"""Whichever comes first after a fact has come."""


class HeardFile:
    """A `FactMemory`. `key`: this device's public key. `run` is one task for the life of the line. `inline`: see
    `app.blocking`.
    """

    def __init__(self, path: Path, key: bytes, *, inline: bool = False) -> None:
        self._hop = Hop(inline=inline)
        self._path = path
        self._key = key
        self._loaded: Heard | None = None
        self._lock = trio.Lock()
        self._connection = 0
        self._changed = trio.Event()
        self._pressing = trio.Event()

    async def run(self) -> None:
        """Writes now and then, until cancelled, and then for the last time."""
        try:
            while True:
                await self._changed.wait()
                with trio.move_on_after(WRITE_SECONDS):
                    await self._pressing.wait()
                self._changed, self._pressing = trio.Event(), trio.Event()
                await self._write()
        finally:
            with trio.CancelScope(shield=True):
                await self._write()

    # As a link uses it

    def open(self) -> int:
        """See `FactMemory`."""
        self._connection += 1
        return self._connection

    async def standing(self, connection: int, top: int) -> Standing | None:
        """See `FactMemory`."""
        async with self._lock:
            heard = await self._heard()
            if connection != self._connection:
                return None
            return heard.standing(top)

    async def restored(self, connection: int, body: CondensedBody) -> bytes:
        """See `FactMemory`."""
        async with self._lock:
            heard = await self._heard()
            wanted = facts.references(body.value)
            found = heard.in_memory(wanted)
            found |= await self._from_file(heard, wanted - found.keys())
            if connection != self._connection:
                raise FactsMissing("a newer connection hears")
            try:
                restored, told = facts.restore(body, found.get)
            except FactsMissing as error:
                missing = wanted - found.keys()
                if missing and all(map(heard.is_old, missing)):
                    raise  # this end has begun anew since it was said
                raise FactsMissing(str(error), heard.begin_anew()) from error
            if body.first:
                heard.hear(body.first, told)
            if heard.unwritten_bytes:
                self._changed.set()
            if heard.unwritten_bytes > WRITE_BYTES:
                self._pressing.set()
            return restored

    # The file. All of it under the lock

    async def _heard(self) -> Heard:
        if self._loaded is None:
            self._loaded = await self._hop(self._load) if self._path.exists() else Heard(self._key)
        return self._loaded

    def _load(self) -> Heard:
        try:
            with self._path.open("rb") as file:
                return Heard.from_file(file, self._key)
        except OSError as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return Heard(self._key)

    async def _from_file(self, heard: Heard, numbers: set[int]) -> dict[int, bytes]:
        places = heard.in_file(numbers)
        if not places:
            return {}

        def read() -> dict[int, bytes]:
            right, room = {}, facts.MAX_RESTORED
            with self._path.open("rb", buffering=0) as file:
                for number, offset, size in places:
                    fact = os.pread(file.fileno(), size, offset)
                    if heard.is_right(number, fact) and (room := room - size) >= 0:
                        right[number] = fact
            return right

        try:
            return await self._hop(read)
        except OSError as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return {}

    async def _write(self) -> None:
        async with self._lock:
            heard = self._loaded
            if heard is None:
                return
            try:
                if (patch := heard.patch()) is not None:
                    await self._hop(apply, self._path, patch)
                    heard.written()
                if (kept := heard.outgrown()) is not None:
                    await self._hop(self._shorten, *kept)
                    heard.shortened(kept[0])
            except OSError as error:
                log.warning("what the box has told cannot be written down: %s", error)

    def _shorten(self, start: int, header: bytes) -> None:
        with self._path.open("rb") as file:
            file.seek(start)
            new = self._path.with_suffix(".shorter")
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as shorter:
                shorter.write(header)
                while piece := file.read(1 << 16):
                    shorter.write(piece)
        new.replace(self._path)
