"""The files and the index, kept in agreement.

A file gets its name before the index names it, and the index forgets it before it is deleted, both under one lock: what
the index names is on the disk, and what a crash leaves over is found by `check` at the next start.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from edgeserver.media.open_files import NoRoom
from edgeserver.store import media as table
from edgeserver.store import partial_uploads

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.media.files import FileStore
    from edgeserver.media.limits import Limits
    from edgeserver.media.open_files import Received
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.media_upkeep import Dropped

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found: files that nothing named (removed), and uploads whose files are gone."""

    orphans: int
    lost: int


class Holdings:
    """Where media are: the index, the files, and how much of both there may be. Whoever adds or removes media does it through this."""

    def __init__(self, db: Database, files: FileStore, limits: Limits) -> None:
        self.db = db
        self.files = files
        self.limits = limits
        self._lock = trio.Lock()

    async def receive(self, body: bytes) -> Received:
        """A file of bytes that are at hand, to be kept. Raises what `Limits.full` says if the disk has no room."""
        try:
            return await self.files.receive_bytes(body)
        except NoRoom as error:
            raise self.limits.full() from error

    async def keep(
        self, received: Received, note: Callable[[Transaction], None], *, cached: bool = False, stays: bool = False
    ) -> None:
        """Gives the file its name and notes it in the index; if that fails, the file goes unless another row needs it.

        `cached`: it can be had again, and what is over the bound of such media goes for it, the longest unused first. `stays`: what was
        received stays under its old name, whatever happens; the caller discards it.
        """

        def work(tx: Transaction) -> list[str]:
            note(tx)
            return table.evict(tx, self.limits.cache, received.hash) if cached else []

        async def drop() -> None:
            if not stays:
                await self.files.discard(received)
            unneeded = await self.db.read(lambda tx: table.unneeded(tx, [received.hash]))
            await self.files.remove(unneeded)

        async with self._lock:
            try:
                await self.files.publish(received, stays=stays)
                dropped = await self.db.write(work)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await drop()
                raise
            await self.files.remove(dropped)

    async def drop(self, forget: Callable[[Transaction], Dropped]) -> int:
        """Takes media out of the index, and the files that nothing needs any more off the disk; returns how many media went."""
        async with self._lock:
            with trio.CancelScope(shield=True):
                dropped = await self.db.write(forget)
                await self.files.remove(dropped.hashes)
        return dropped.media

    async def check(self) -> Checked:
        """Makes the disk and the index agree; to be run before anything is served.

        Files that nothing names are removed, but not if the index is empty: then it is the wrong index, or the wrong
        folder. What can be had again is forgotten if its file is gone; uploads are kept in the index, since a disk
        that is not there today may be there tomorrow.
        """
        async with self._lock:
            there, named = await self.files.hashes(), await self.db.read(table.hashes)
            orphans = sorted(there - named) if named else []
            await self.files.remove(orphans)
            missing = sorted(named - there)
            lost = await self.db.write(lambda tx: table.forget_missing(tx, missing)) if missing else 0
            await self._check_partial()
        if lost:
            log.warning("%d uploaded files are missing from the media folder", lost)
        return Checked(len(orphans), lost)

    async def _check_partial(self) -> None:
        """An upload in parts whose file has lost bytes cannot go on; a file without an upload is of no use."""
        there, named = await self.files.partial_sizes(), await self.db.read(partial_uploads.incomplete)
        broken = [name for name, received in named.items() if there.get(name, 0 if received == 0 else -1) < received]

        def forget(tx: Transaction) -> None:
            for name in broken:
                partial_uploads.delete(tx, name)

        if broken:
            log.warning("%d uploads in parts have lost their files", len(broken))
            await self.db.write(forget)
        await self.files.remove_partial([name for name in there if name not in named or name in broken])
