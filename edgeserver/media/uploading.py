"""Uploads of our users, whole ones: created and filled at once, or an id first and its content later.

Spec: client-server API, "Content repository", POST /media/v3/upload, POST /media/v1/create and
PUT /media/v3/upload/{serverName}/{mediaId}. Uploads in parts: `resumable`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors
from edgeserver.media import disposition
from edgeserver.media.open_files import NoRoom
from edgeserver.store import media as table
from edgeserver.store.media import Media

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    from edgeserver.media.holdings import Holdings
    from edgeserver.media.open_files import Received
    from edgeserver.store.database import Transaction

DAY_MS: Final = 86_400_000
MAX_PENDING: Final = 20
"""Ids that one user may have created without uploading to them yet."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sends: the bytes as they arrive, and what it says of them; `length` None: it does not say."""

    chunks: AsyncIterable[bytes]
    content_type: str | None = None
    filename: str | None = None
    length: int | None = None


class Uploads:
    """Takes uploads in. `news` is for who waits for media that is announced and not there yet."""

    def __init__(
        self, holdings: Holdings, server_name: str, now_ms: Callable[[], int], *, new_id: Callable[[], str]
    ) -> None:
        self._holdings = holdings
        self._db = holdings.db
        self._limits = holdings.limits
        self._server_name = server_name
        self._now_ms = now_ms
        self._new_id = new_id
        self._uploaded = trio.Event()

    async def create(self, user_id: str) -> tuple[str, int]:
        """(media id, when it expires in ms). Raises M_LIMIT_EXCEEDED for too many unused ones, M_FORBIDDEN for too many files."""
        media_id, now = self._new_id(), self._now_ms()

        def work(tx: Transaction) -> None:
            pending = table.pending_of(tx, user_id, now)
            if len(pending) >= MAX_PENDING:
                raise errors.LimitExceeded(max(1000, pending[0] - now), "Upload to the ids that you have created.")
            self._limits.check_quota(tx, user_id, 0)
            table.add_pending(tx, self._server_name, media_id, user_id, now, now + DAY_MS)

        await self._db.write(work)
        return media_id, now + DAY_MS

    async def upload(self, user_id: str, upload: Upload) -> str:
        """The media id. Raises M_TOO_LARGE; beyond a quota M_FORBIDDEN or M_RESOURCE_LIMIT_EXCEEDED."""
        media_id = self._new_id()
        await self._take(user_id, media_id, upload, created=False)
        return media_id

    async def upload_to(self, user_id: str, server_name: str, media_id: str, upload: Upload) -> None:
        """Raises M_NOT_FOUND for an id that was not created or has expired, M_FORBIDDEN for one of somebody else,
        M_CANNOT_OVERWRITE_MEDIA for one that has content, and as `upload`.
        """
        if server_name != self._server_name:
            raise errors.NotFound("That media id was not created.")
        await self._db.read(lambda tx: self.check_pending(tx, user_id, media_id))
        await self._take(user_id, media_id, upload, created=True)

    def check_pending(self, tx: Transaction, user_id: str, media_id: str) -> None:
        """See `upload_to`."""
        media = table.get(tx, self._server_name, media_id)
        if media is None:
            raise errors.NotFound("That media id was not created.")
        if media.user_id != user_id:
            raise errors.Forbidden("Somebody else has created that media id.")
        if media.hash is not None:
            raise errors.CannotOverwriteMedia
        if media.expires_at is not None and media.expires_at <= self._now_ms():
            raise errors.NotFound("That media id has expired.")

    async def _take(self, user_id: str, media_id: str, upload: Upload, *, created: bool) -> None:
        self._limits.check_size(upload.length or 0)
        await self._db.read(lambda tx: self._limits.check_quota(tx, user_id, upload.length or 1, counted=created))
        try:
            await self._holdings.files.check_room(upload.length or 0)
            received = await self._holdings.files.receive(upload.chunks, self._limits.upload)
        except NoRoom as error:
            raise self._limits.full() from error
        media = self.media_of(user_id, media_id, received, upload.content_type, upload.filename)

        def work(tx: Transaction) -> None:
            if created:
                self.check_pending(tx, user_id, media_id)
            self._limits.check_quota(tx, user_id, received.size, counted=created)
            table.put(tx, media, self._now_ms())

        await self._holdings.keep(received, work)
        self.tell_waiting()

    def media_of(self, user_id: str, media_id: str, received: Received, content_type: str | None, filename: str | None) -> Media:
        """The row of a whole upload."""
        return Media(
            self._server_name,
            media_id,
            received.hash,
            received.size,
            disposition.clean_type(content_type),
            disposition.clean_name(filename),
            user_id,
            None,
            self._now_ms(),
        )

    def tell_waiting(self) -> None:
        """Something has been uploaded."""
        self._uploaded.set()
        self._uploaded = trio.Event()

    @property
    def news(self) -> trio.Event:
        """Set at the next upload of anybody. Take it before looking whether something is there."""
        return self._uploaded
