"""The content repository: uploads of our users, media of other servers, thumbnails, and what administrators do to them.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors, server_names
from edgeserver.media import disposition
from edgeserver.media.fetching import Fetcher
from edgeserver.media.found import Found
from edgeserver.media.holdings import Holdings
from edgeserver.media.limits import Limits
from edgeserver.media.resumable import ResumableUploads
from edgeserver.media.sharing import Shared
from edgeserver.media.thumbnailing import Thumbnailer
from edgeserver.media.uploading import Uploads
from edgeserver.store import admin_media, partial_uploads
from edgeserver.store import media as table
from edgeserver.store import media_upkeep as upkeep
from edgeserver.store.media import Media
from edgeserver.store.media_upkeep import Dropped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edgeserver.media.files import FileStore
    from edgeserver.media.holdings import Checked
    from edgeserver.media.open_files import OpenFile, Received
    from edgeserver.media.remote import RemoteMedia
    from edgeserver.media.uploading import Upload
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.media import ThumbnailKey
    from edgeserver.store.media_upkeep import ListedMedia, UserMedia, WantedUsage

DEFAULT_TIMEOUT_MS: Final = 20_000
MAX_TIMEOUT_MS: Final = 60_000

_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a user has uploaded: bytes and files (ids that wait for their content among them)."""

    size: int
    files: int


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
        self.server_name = server_name
        self._files = files
        self._now_ms = now_ms
        self._new_id = new_id
        self._holdings = Holdings(db, files, self.limits)
        self._uploads = Uploads(self._holdings, server_name, now_ms, new_id=new_id)
        self.resumable = ResumableUploads(self._holdings, self._uploads, now_ms, new_id=new_id)
        self._fetcher = None if remote is None else Fetcher(remote, self._holdings)
        self._thumbnailer = Thumbnailer(self, self._holdings, self._fetcher, now_ms)
        self._shared: Shared[Found] = Shared()

    async def check(self) -> Checked:
        """Makes the disk and the index agree; to be run before anything is served. See `Holdings.check`."""
        now = self._now_ms()
        await self._db.write(lambda tx: partial_uploads.forget_expired(tx, now))
        return await self._holdings.check()

    # Upload; see `uploading`

    async def create(self, user_id: str) -> tuple[str, int]:
        """POST /media/v1/create: (mxc URI, when it expires in ms)."""
        media_id, expires_at = await self._uploads.create(user_id)
        return self.uri(media_id), expires_at

    async def upload(self, user_id: str, upload: Upload) -> str:
        """POST /media/v3/upload: the mxc URI."""
        return self.uri(await self._uploads.upload(user_id, upload))

    async def upload_to(self, user_id: str, server_name: str, media_id: str, upload: Upload) -> None:
        """PUT /media/v3/upload/{serverName}/{mediaId}."""
        await self._uploads.upload_to(user_id, server_name, media_id, upload)

    async def usage(self, user_id: str) -> Usage:
        """How much of the quota is used (MSC4034)."""
        return Usage(*await self._db.read(lambda tx: table.used_by(tx, user_id)))

    def uri(self, media_id: str) -> str:
        """The mxc URI of media of this server."""
        return f"mxc://{self.server_name}/{media_id}"

    # Download

    async def open(
        self,
        server_name: str,
        media_id: str,
        *,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        fetch: bool = True,
        frozen: bool = False,
    ) -> Found:
        """The media's file. With `fetch`, media of another server that is not here is asked for; with `frozen`, only what was
        here before downloads without a token were frozen is given.

        Raises M_NOT_FOUND; M_NOT_YET_UPLOADED after `timeout_ms`; M_TOO_LARGE or M_UNKNOWN (502) for another server.
        """
        self._check_name(server_name, media_id)
        if server_name != self.server_name:
            held = await self.held(server_name, media_id, frozen=frozen)
            return held or await self._fetched(server_name, media_id, timeout_ms, fetch=fetch and not frozen)
        deadline = trio.current_time() + min(max(timeout_ms, 0), MAX_TIMEOUT_MS) / 1000
        while True:
            news = self._uploads.news
            held = await self.held(server_name, media_id, frozen=frozen)
            if held is not None:
                return held
            with trio.move_on_at(deadline) as waiting:
                await news.wait()
            if waiting.cancelled_caught:
                raise errors.NotYetUploaded

    async def read(self, found: Found) -> OpenFile:
        """To read what was found. Raises M_NOT_FOUND for a file that is lost."""
        try:
            return await self._files.open_file(found.hash)
        except FileNotFoundError as error:
            raise errors.NotFound("The file of this media is missing.") from error

    def _check_name(self, server_name: str, media_id: str) -> None:
        """Spec: "Security considerations": what a media id may be made of, before anything else looks at it."""
        if not server_names.is_valid(server_name) or not _MEDIA_ID.fullmatch(media_id):
            raise errors.NotFound("There is no such media.")

    async def held(self, server_name: str, media_id: str, *, frozen: bool = False) -> Found | None:
        """The media if it is here; None if it may come yet: by upload, or from its server. Raises M_NOT_FOUND."""

        def work(tx: Transaction) -> Media | None:
            if table.is_quarantined(tx, server_name, media_id):
                raise errors.NotFound("This media is in quarantine.")
            return table.get(tx, server_name, media_id)

        media, now = await self._db.read(work), self._now_ms()
        if media is not None and frozen and not media.before_freeze:
            raise errors.NotFound("Media is served to those who are logged in.")
        if media is None or media.hash is None:
            if server_name == self.server_name and (media is None or (media.expires_at or 0) <= now):
                raise errors.NotFound("There is no such media.")
            return None
        if now - media.used_at > table.TOUCH_AFTER:
            await self._db.write(lambda tx: table.touch(tx, server_name, media_id, now))
        return self._found(media, media.hash)

    def _found(self, media: Media, digest: str) -> Found:
        return Found(self._files.path(digest), digest, media.size, media.content_type, media.filename)

    async def _fetched(self, server_name: str, media_id: str, timeout_ms: int, *, fetch: bool) -> Found:
        fetcher = self._fetcher
        if not fetch or fetcher is None:
            raise errors.NotFound("This server does not have the media of the other server.")

        async def work() -> Found:
            held = await self.held(server_name, media_id)
            if held is not None:
                return held
            received, file = await fetcher.media(server_name, media_id, min(max(timeout_ms, 0), MAX_TIMEOUT_MS))
            filename = disposition.filename_in(file.content_disposition)
            return await self._keep_fetched(server_name, media_id, received, file.content_type, filename)

        return await self._shared.run((server_name, media_id), work)

    async def keep_image(self, body: bytes, content_type: str) -> str:
        """Keeps an image of a preview in the cache; returns its media id on this server."""
        media_id = self._new_id()
        await self._keep_fetched(self.server_name, media_id, await self._holdings.receive(body), content_type, None)
        return media_id

    async def _keep_fetched(
        self, server_name: str, media_id: str, received: Received, content_type: str, filename: str | None
    ) -> Found:
        """Notes what can be had again, and whose nobody here is."""
        now = self._now_ms()
        kind = disposition.clean_type(content_type)
        media = Media(server_name, media_id, received.hash, received.size, kind, filename, None, None, now)
        await self._holdings.keep(received, lambda tx: table.put(tx, media, now), cached=True)
        return self._found(media, received.hash)

    async def thumbnail(
        self, key: ThumbnailKey, *, timeout_ms: int = DEFAULT_TIMEOUT_MS, fetch: bool = True, frozen: bool = False
    ) -> Found:
        """See `Thumbnailer.thumbnail`. Raises as `open`, too."""
        self._check_name(key.server_name, key.media_id)
        return await self._thumbnailer.thumbnail(key, timeout_ms=timeout_ms, fetch=fetch, frozen=frozen)

    # What administrators do

    async def delete(self, server_name: str, media_id: str) -> bool:
        """Deletes media with its thumbnails; of another server, our copy. False if there was none."""
        return await self._holdings.drop(lambda tx: upkeep.delete(tx, server_name, media_id)) > 0

    async def delete_several(self, server_name: str, media_ids: Sequence[str]) -> list[str]:
        """As `delete`, in one transaction; returns those that were there."""
        return await self._delete(server_name, lambda tx: media_ids)

    async def delete_old(self, before_ms: int, larger_than: int, *, keep_pictures: bool) -> list[str]:
        """Deletes uploads that were last used before a moment (ms; noted to the day) and have more bytes than that, but, with
        `keep_pictures`, those that people and rooms have as their pictures; returns their ids.
        """

        def chosen(tx: Transaction) -> list[str]:
            kept = admin_media.pictures(tx) if keep_pictures else set()
            return [media_id for media_id in upkeep.old_uploads(tx, before_ms, larger_than) if self.uri(media_id) not in kept]

        return await self._delete(self.server_name, chosen)

    async def _delete(self, server_name: str, chosen: Callable[[Transaction], Sequence[str]]) -> list[str]:
        gone: list[str] = []

        def forget(tx: Transaction) -> Dropped:
            dropped = {media_id: upkeep.delete(tx, server_name, media_id) for media_id in chosen(tx)}
            gone[:] = [media_id for media_id, one in dropped.items() if one.media]
            return Dropped(len(gone), [digest for one in dropped.values() for digest in one.hashes])

        await self._holdings.drop(forget)
        return gone

    async def delete_of_user(self, user_id: str, before_ms: int | None = None) -> int:
        """Deletes what the user has uploaded (before a moment in ms, else all, with uploads under way); returns how many."""
        if before_ms is None:
            await self._files.remove_partial(await self._db.write(lambda tx: partial_uploads.forget_of_user(tx, user_id)))
        return await self._holdings.drop(lambda tx: upkeep.delete_of_user(tx, user_id, before_ms))

    async def purge_remote(self, before_ms: int) -> int:
        """Deletes our copies of what can be had again and was used last before a moment (ms; noted to the day)."""
        return await self._holdings.drop(lambda tx: upkeep.purge_fetched(tx, before_ms))

    async def list_of_user(
        self, user_id: str, start: int, limit: int, order_by: str = "created_ts", *, backwards: bool = True
    ) -> tuple[list[ListedMedia], int]:
        """(`limit` of the user's uploads from the `start`-th on, in one of `media_upkeep.ORDERS`; how many there are in all)."""
        return await self._db.read(lambda tx: upkeep.list_of_user(tx, user_id, start, limit, order_by, backwards=backwards))

    async def statistics(
        self, wanted: WantedUsage, order_by: str, start: int, limit: int, *, backwards: bool = False
    ) -> tuple[list[UserMedia], int]:
        """(`limit` of those who have uploaded anything from the `start`-th on, in one of `media_upkeep.USAGE_ORDERS`; how many)."""
        return await self._db.read(lambda tx: upkeep.statistics(tx, wanted, order_by, start, limit, backwards=backwards))

    async def quarantine(self, server_name: str, media_id: str, on: bool) -> None:
        """Quarantined media answers M_NOT_FOUND to everybody, other servers too, and is not fetched again. It need not be here."""

        def work(tx: Transaction) -> None:
            if on:
                upkeep.quarantine(tx, server_name, media_id, self._now_ms())
            else:
                upkeep.release(tx, server_name, media_id)

        await self._db.write(work)

    async def quarantine_of_user(self, user_id: str) -> int:
        """Puts all that the user has uploaded into quarantine; returns how many were not there yet."""
        return await self._db.write(lambda tx: upkeep.quarantine_of_user(tx, user_id, self._now_ms()))

    async def quarantine_several(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Puts these (server name, media id) into quarantine, in one transaction."""

        def work(tx: Transaction) -> None:
            for server_name, media_id in wanted:
                upkeep.quarantine(tx, server_name, media_id, self._now_ms())

        await self._db.write(work)
