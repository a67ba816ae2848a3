"""The content repository: uploads of our users, media of other servers, thumbnails.

Spec: client-server API, "Content repository".

A file gets its name before the index names it, and the index forgets it before it is deleted, both under one lock: what
the index names is on the disk, and what a crash leaves over is found by `check` at the next start.
"""

from __future__ import annotations

import logging
import re
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors, server_names
from edgeserver.media import disposition, thumbnails
from edgeserver.media.remote import MediaUnavailable
from edgeserver.store import media as table
from edgeserver.store.media import Media, Thumbnail, ThumbnailKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable
    from pathlib import Path

    from edgeserver.media.files import FileStore, Received
    from edgeserver.media.remote import RemoteFile, RemoteMedia
    from edgeserver.store.database import Database, Transaction

log = logging.getLogger(__name__)

DAY_MS: Final = 86_400_000
MAX_PENDING: Final = 20
"""Ids that one user may have created without uploading to them yet."""
DEFAULT_TIMEOUT_MS: Final = 20_000
MAX_TIMEOUT_MS: Final = 60_000
MAX_THUMBNAIL: Final = 4 * 1024 * 1024

_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes: of one upload, of all uploads of one user, of one file of another server, and of all that can be
    had again (files of other servers and thumbnails).
    """

    upload: int = 50 * 1024 * 1024
    quota: int = 2 * 1024**3
    remote: int = 50 * 1024 * 1024
    cache: int = 1024**3


@dataclass(frozen=True, slots=True)
class Found:
    """A file to serve, with what goes into the headers. `hash` is SHA-256 in hex."""

    path: Path
    hash: str
    size: int
    content_type: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sends: the bytes as they arrive, and what it says of them; `length` None: it does not say."""

    chunks: AsyncIterable[bytes]
    content_type: str | None = None
    filename: str | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found: files that nothing named (removed), and uploads whose files are gone."""

    orphans: int
    lost: int


class MediaRepository:
    """The repository. `new_id` makes media ids, which nobody can guess; `remote` None: no media of other servers."""

    def __init__(
        self,
        db: Database,
        server_name: str,
        files: FileStore,
        now_ms: Callable[[], int],
        *,
        limits: Limits | None = None,
        remote: RemoteMedia | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(18),
    ) -> None:
        self.limits = limits or Limits()
        self._db = db
        self._server_name = server_name
        self._files = files
        self._now_ms = now_ms
        self._remote = remote
        self._new_id = new_id
        self._lock = trio.Lock()
        self._one_image = trio.CapacityLimiter(1)
        self._uploaded = trio.Event()
        self._busy: dict[tuple[object, ...], trio.Event] = {}

    # Upload

    async def create(self, user_id: str) -> tuple[str, int]:
        """POST /media/v1/create: (mxc URI, when it expires in ms). Raises M_LIMIT_EXCEEDED for too many unused ones."""
        media_id, now = self._new_id(), self._now_ms()

        def work(tx: Transaction) -> None:
            pending = table.pending_of(tx, user_id, now)
            if len(pending) >= MAX_PENDING:
                raise errors.LimitExceeded(max(1000, pending[0] - now), "Upload to the ids that you have created.")
            table.add_pending(tx, self._server_name, media_id, user_id, now, now + DAY_MS)

        await self._db.write(work)
        return f"mxc://{self._server_name}/{media_id}", now + DAY_MS

    async def upload(self, user_id: str, upload: Upload) -> str:
        """POST /media/v3/upload: the mxc URI. Raises M_TOO_LARGE, M_FORBIDDEN beyond the user's quota."""
        media_id = self._new_id()
        await self._take(user_id, media_id, upload)
        return f"mxc://{self._server_name}/{media_id}"

    async def upload_to(self, user_id: str, server_name: str, media_id: str, upload: Upload) -> None:
        """PUT /media/v3/upload/{serverName}/{mediaId}.

        Raises M_NOT_FOUND for an id that was not created or has expired, M_FORBIDDEN for one of somebody else,
        M_CANNOT_OVERWRITE_MEDIA for one that has content, and as `upload`.
        """
        await self._db.read(lambda tx: self._check_pending(tx, user_id, server_name, media_id))
        await self._take(user_id, media_id, upload, created=True)
        self._uploaded.set()
        self._uploaded = trio.Event()

    def _check_pending(self, tx: Transaction, user_id: str, server_name: str, media_id: str) -> None:
        media = table.get(tx, server_name, media_id)
        if media is None or server_name != self._server_name:
            raise errors.NotFound("That media id was not created.")
        if media.user_id != user_id:
            raise errors.Forbidden("Somebody else has created that media id.")
        if media.hash is not None:
            raise errors.CannotOverwriteMedia
        if media.expires_at is not None and media.expires_at <= self._now_ms():
            raise errors.NotFound("That media id has expired.")

    async def _take(self, user_id: str, media_id: str, upload: Upload, *, created: bool = False) -> None:
        if upload.length is not None and upload.length > self.limits.upload:
            raise errors.TooLarge(f"The media is larger than {self.limits.upload} bytes.")
        await self._db.read(lambda tx: self._check_quota(tx, user_id, upload.length or 1))
        received = await self._files.receive(upload.chunks, self.limits.upload)
        media = Media(
            self._server_name,
            media_id,
            received.hash,
            received.size,
            disposition.clean_type(upload.content_type),
            disposition.clean_name(upload.filename),
            user_id,
            None,
            self._now_ms(),
        )

        def work(tx: Transaction) -> None:
            if created:
                self._check_pending(tx, user_id, self._server_name, media_id)
            self._check_quota(tx, user_id, received.size)
            table.put(tx, media, self._now_ms())

        await self._keep(received, work)

    def _check_quota(self, tx: Transaction, user_id: str, size: int) -> None:
        if table.used_by(tx, user_id) + size > self.limits.quota:
            raise errors.Forbidden("Your uploads have reached the quota of this server.")

    async def _keep(self, received: Received, note: Callable[[Transaction], None]) -> None:
        """Gives the file its name and notes it in the index; if that fails, the file goes unless another row needs it."""

        async def drop() -> None:
            await self._files.discard(received)
            unneeded = await self._db.read(lambda tx: table.unneeded(tx, [received.hash]))
            await self._files.remove(unneeded)

        async with self._lock:
            try:
                await self._files.publish(received)
                await self._db.write(note)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await drop()
                raise
            dropped = await self._db.write(lambda tx: table.evict(tx, self.limits.cache, received.hash))
            await self._files.remove(dropped)

    # Download

    async def open(
        self, server_name: str, media_id: str, *, timeout_ms: int = DEFAULT_TIMEOUT_MS, fetch: bool = True
    ) -> Found:
        """The media's file. With `fetch`, media of another server that is not here is asked for.

        Raises M_NOT_FOUND; M_NOT_YET_UPLOADED after `timeout_ms`; M_TOO_LARGE or M_UNKNOWN (502) for another server.
        """
        self._check_name(server_name, media_id)
        if server_name != self._server_name:
            return await self._open_remote(server_name, media_id, timeout_ms, fetch=fetch)
        deadline = trio.current_time() + min(max(timeout_ms, 0), MAX_TIMEOUT_MS) / 1000
        while True:
            uploaded = self._uploaded
            media = await self._db.read(lambda tx: table.get(tx, server_name, media_id))
            if media is None or (media.hash is None and (media.expires_at or 0) <= self._now_ms()):
                raise errors.NotFound("There is no such media.")
            if media.hash is not None:
                return self._found(media, media.hash)
            with trio.move_on_at(deadline) as waiting:
                await uploaded.wait()
            if waiting.cancelled_caught:
                raise errors.NotYetUploaded

    def _check_name(self, server_name: str, media_id: str) -> None:
        """Spec: "Security considerations": what a media id may be made of, before anything else looks at it."""
        if not server_names.is_valid(server_name) or not _MEDIA_ID.fullmatch(media_id):
            raise errors.NotFound("There is no such media.")

    def _found(self, media: Media, digest: str) -> Found:
        return Found(self._files.path(digest), digest, media.size, media.content_type, media.filename)

    async def _open_remote(self, server_name: str, media_id: str, timeout_ms: int, *, fetch: bool) -> Found:
        async with self._alone(("media", server_name, media_id)):
            media = await self._db.read(lambda tx: table.get(tx, server_name, media_id))
            if media is not None and media.hash is not None:
                if self._now_ms() - media.used_at > table.TOUCH_AFTER:
                    await self._db.write(lambda tx: table.touch(tx, server_name, media_id, self._now_ms()))
                return self._found(media, media.hash)
            if not fetch or self._remote is None:
                raise errors.NotFound("This server does not have the media of the other server.")
            return await self._fetch(self._remote, server_name, media_id, timeout_ms)

    @asynccontextmanager
    async def _alone(self, key: tuple[object, ...]) -> AsyncIterator[None]:
        """Lets one caller of a key through at a time, so that nothing is fetched or made twice."""
        while (busy := self._busy.get(key)) is not None:
            await busy.wait()
        done = self._busy[key] = trio.Event()
        try:
            yield
        finally:
            del self._busy[key]
            done.set()

    async def _fetch(self, remote: RemoteMedia, server_name: str, media_id: str, timeout_ms: int) -> Found:
        limit = self.limits.remote
        try:
            file = await remote.download(
                server_name, media_id, max_bytes=limit, timeout_ms=min(max(timeout_ms, 0), MAX_TIMEOUT_MS)
            )
            file = await self._followed(remote, file, limit)
        except MediaUnavailable as error:
            log.info("media %s of %s: %s", media_id, server_name, error)
            raise error.as_matrix_error() from error
        received = await self._files.receive_bytes(file.body)
        now = self._now_ms()
        media = Media(
            server_name,
            media_id,
            received.hash,
            received.size,
            disposition.clean_type(file.content_type),
            disposition.filename_in(file.content_disposition),
            None,
            None,
            now,
        )
        await self._keep(received, lambda tx: table.put(tx, media, now))
        return self._found(media, received.hash)

    async def _followed(self, remote: RemoteMedia, file: RemoteFile, limit: int) -> RemoteFile:
        if file.location is None:
            return file
        if not file.location.startswith("https://"):
            raise MediaUnavailable("the media is said to be at an address that is not https")
        return await remote.at_location(file.location, max_bytes=limit)

    # Thumbnails

    async def thumbnail(
        self,
        key: ThumbnailKey,
        *,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        fetch: bool = True,
    ) -> Found:
        """A thumbnail that is not smaller than what `key` asks for, or the original if that is small.

        Media of another server that is not here yet is not fetched for it, if that server gives a thumbnail.
        Raises as `open`; M_INVALID_PARAM for impossible sizes, M_UNKNOWN (400) for what is no image.
        """
        self._check_name(key.server_name, key.media_id)
        size = thumbnails.choose(key.width, key.height, key.method)
        key = ThumbnailKey(key.server_name, key.media_id, *size, key.method)
        async with self._alone(("thumbnail", *key.row())):
            made = await self._db.read(lambda tx: table.thumbnail(tx, key))
            if made is not None:
                if self._now_ms() - made.used_at > table.TOUCH_AFTER:
                    await self._db.write(lambda tx: table.touch_thumbnail(tx, key, self._now_ms()))
                return self._thumbnail_found(made)
            if fetch and key.server_name != self._server_name and size != thumbnails.ORIGINAL:
                fetched = await self._fetch_thumbnail(key)
                if fetched is not None:
                    return fetched
            original = await self.open(key.server_name, key.media_id, timeout_ms=timeout_ms, fetch=fetch)
            return await self._make_thumbnail(key, original)

    async def _make_thumbnail(self, key: ThumbnailKey, original: Found) -> Found:
        size = (key.width, key.height)
        try:
            made = await trio.to_thread.run_sync(
                thumbnails.make, original.path, size, key.method, limiter=self._one_image
            )
        except errors.TooLarge as error:
            if key.server_name == self._server_name:
                raise
            raise errors.MatrixError(502, error.errcode, error.error) from error
        if made.data is None:
            return Found(original.path, original.hash, original.size, made.content_type, original.filename)
        return await self._keep_thumbnail(key, made.data, made.content_type)

    async def _fetch_thumbnail(self, key: ThumbnailKey) -> Found | None:
        """Asks the media's server, unless the media itself is here already; None if it has none to give."""
        held = await self._db.read(lambda tx: table.get(tx, key.server_name, key.media_id))
        if held is not None or self._remote is None:
            return None
        try:
            file = await self._remote.thumbnail(
                key.server_name,
                key.media_id,
                width=key.width,
                height=key.height,
                method=key.method,
                max_bytes=MAX_THUMBNAIL,
            )
            file = await self._followed(self._remote, file, MAX_THUMBNAIL)
        except MediaUnavailable as error:
            log.info("no thumbnail of %s from %s: %s", key.media_id, key.server_name, error)
            return None
        content_type = disposition.essence(file.content_type)
        if content_type not in disposition.IMAGES:
            return None
        return await self._keep_thumbnail(key, file.body, content_type)

    async def _keep_thumbnail(self, key: ThumbnailKey, data: bytes, content_type: str) -> Found:
        received = await self._files.receive_bytes(data)
        made = Thumbnail(received.hash, received.size, content_type, self._now_ms())
        await self._keep(received, lambda tx: table.put_thumbnail(tx, key, made))
        return self._thumbnail_found(made)

    def _thumbnail_found(self, made: Thumbnail) -> Found:
        name = f"thumbnail.{made.content_type.partition('/')[2]}"
        return Found(self._files.path(made.hash), made.hash, made.size, made.content_type, name)

    # At start

    async def check(self) -> Checked:
        """Makes the disk and the index agree; to be run before anything is served.

        Files that nothing names are removed, but not if the index is empty: then it is the wrong index, or the wrong
        folder. What can be had again is forgotten if its file is gone; uploads are kept in the index, since a disk
        that is not there today may be there tomorrow.
        """
        async with self._lock:
            there, named = await self._files.hashes(), await self._db.read(table.hashes)
            orphans = sorted(there - named) if named else []
            await self._files.remove(orphans)
            missing = sorted(named - there)
            lost = await self._db.write(lambda tx: table.forget_missing(tx, missing)) if missing else 0
        if lost:
            log.warning("%d uploaded files are missing from the media folder", lost)
        return Checked(len(orphans), lost)
