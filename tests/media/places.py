"""A content repository on a fresh disk, with a clock that tests turn, and images to put into it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from edgeserver.media.files import FileStore
from edgeserver.media.limits import Limits
from edgeserver.media.remote import ByteSink, MediaUnavailable
from edgeserver.media.repository import MediaRepository
from edgeserver.media.uploading import Upload
from edgeserver.store.database import Database, Transaction, open_database

ALICE, BOB = "@alice:test", "@bob:test"
SMALL = Limits(upload=100_000, quota=150_000, remote=100_000, cache=60_000)


@dataclass
class Clock:
    now: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@dataclass
class File:
    body: bytes
    content_type: str = "image/png"
    content_disposition: str | None = 'inline; filename="far.png"'
    location: str | None = None


class FarMedia:
    """The servers of others: what they have, and what they were asked."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.thumbnails: dict[str, File] = {}
        self.locations: dict[str, File] = {}
        self.asked: list[str] = []
        self.errcode = "M_NOT_FOUND"
        self.before_answer: Any = None

    async def download(self, server: str, media_id: str, *, max_bytes: int, timeout_ms: int, into: ByteSink) -> File:
        self.asked.append(f"download {media_id}")
        if self.before_answer is not None:
            await self.before_answer()
        file = self._of(self.files, media_id)
        await into.restart()
        await into.write(file.body)
        return file

    async def thumbnail(
        self, server: str, media_id: str, *, width: int, height: int, method: str, animated: bool = False, max_bytes: int
    ) -> File:
        self.asked.append(f"thumbnail {media_id} {width}x{height} {method}")
        if self.before_answer is not None:
            await self.before_answer()
        return self._of(self.thumbnails, media_id)

    async def at_location(self, url: str, *, max_bytes: int, into: ByteSink) -> File:
        self.asked.append(url)
        file = self._of(self.locations, url)
        await into.restart()
        await into.write(file.body)
        return file

    def _of(self, files: dict[str, File], name: str) -> File:
        if name not in files:
            raise MediaUnavailable("not there", self.errcode)
        return files[name]


@dataclass
class Place:
    db: Database
    root: Path
    clock: Clock
    files: FileStore
    far: FarMedia
    media: MediaRepository

    async def upload(self, data: bytes, content_type: str = "image/png", user_id: str = ALICE) -> str:
        """Uploads and returns the media id."""
        uri = await self.media.upload(user_id, upload(data, content_type))
        return uri.rpartition("/")[2]

    async def freeze_after(self, *media_ids: str) -> None:
        """As if these media had been here before a release with the freeze."""

        def work(tx: Transaction) -> None:
            for media_id in media_ids:
                tx.execute("UPDATE media SET before_freeze = 1 WHERE media_id = ?", (media_id,))

        await self.db.write(work)

    def on_disk(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file())


@asynccontextmanager
async def open_place(folder: Path, limits: Limits = SMALL, *, free_disk: int = 0) -> AsyncIterator[Place]:
    async with open_database(folder / "store.db", inline=True) as db:
        root, clock, far = folder / "media", Clock(), FarMedia()
        files = FileStore(root, free_disk=free_disk)
        await files.open()
        yield Place(db, root, clock, files, far, MediaRepository(db, "test", files, clock, limits=limits, remote=far))


def upload(data: bytes, content_type: str = "image/png", filename: str | None = None) -> Upload:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    return Upload(chunks(), content_type, filename)


def image(width: int, height: int, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    written = io.BytesIO()
    Image.new(mode, (width, height), 1).save(written, kind, **options)
    return written.getvalue()


def moving_image(width: int, height: int, frames: int, kind: str = "GIF", mode: str = "RGB", **options: Any) -> bytes:
    """Each frame of another colour, shown for 50 ms."""
    images = [Image.new(mode, (width, height), ((number * 47) % 256, (number * 91) % 256, 90)) for number in range(frames)]
    written = io.BytesIO()
    images[0].save(written, kind, save_all=True, append_images=images[1:], **{"duration": 50, "loop": 0, **options})
    return written.getvalue()
