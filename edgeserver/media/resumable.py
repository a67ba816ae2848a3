"""Uploads that survive a dropped line: they come in parts, and go on from where they were.

Wire form: draft-ietf-httpbis-resumable-upload ("Resumable Uploads for HTTP"); `api/client/resumable_upload.py` speaks it. It
was chosen over tus because an upload then is an ordinary upload of the Matrix API with one more header, and its last part is
answered as that upload would have been.

The bytes lie in a partial file, and the index knows how many of them are on the disk for certain: noted once for each part
(and each MiB of a large one), not for each write. Whole, they become media in one transaction with the note that they are;
until then a crash at any step leaves the upload where the index says. An upload that has become media is remembered for a
while, for who missed the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors
from edgeserver.media import disposition
from edgeserver.media.open_files import NoRoom, closing
from edgeserver.store import media as table
from edgeserver.store import partial_uploads
from edgeserver.store.partial_uploads import PartialUpload

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable

    from edgeserver.media.holdings import Holdings
    from edgeserver.media.uploading import Uploads
    from edgeserver.store.database import Transaction

LIFETIME_MS: Final = 3 * 86_400_000
"""From its beginning an upload has so long: a box may be without its line for days."""
COMPLETE_MS: Final = 86_400_000
MAX_UNDER_WAY: Final = 10
"""Uploads in parts that one user may have begun and not finished."""

GRACE: Final = 0.5
LONGEST_GRACE: Final = 10.0
"""Seconds that a part gets to come in when its client asks how far it is: while nothing comes, and at most."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a client says of an upload at its beginning. `media_id`: made by POST /media/v1/create; `length` in bytes."""

    content_type: str | None = None
    filename: str | None = None
    length: int | None = None
    media_id: str | None = None


class OffsetMismatch(errors.MatrixError):
    """A part that does not begin where the last one ended; `offset` is where the next must begin."""

    def __init__(self, offset: int) -> None:
        super().__init__(409, "M_UNKNOWN", f"The next part begins at byte {offset}.")
        self.offset = offset


@dataclass(eq=False)
class _Appending:
    """A part that is coming in; `came` counts its bytes."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    came: int = 0

    async def counted(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async with closing(chunks):
            async for chunk in chunks:
                self.came += len(chunk)
                yield chunk

    async def end(self) -> None:
        """Of a line that broke the last bytes may still be coming in: they are waited for, as long as some do."""
        seen = -1
        with trio.move_on_after(LONGEST_GRACE):
            while seen != self.came and not self.done.is_set():
                seen = self.came
                with trio.move_on_after(GRACE):
                    await self.done.wait()
        self.scope.cancel()
        await self.done.wait()


class ResumableUploads:
    """Uploads in parts, each named by an id that nobody can guess and that serves its user only."""

    def __init__(
        self, holdings: Holdings, uploads: Uploads, now_ms: Callable[[], int], *, new_id: Callable[[], str]
    ) -> None:
        self._holdings = holdings
        self._db = holdings.db
        self._files = holdings.files
        self._limits = holdings.limits
        self._uploads = uploads
        self._now_ms = now_ms
        self._new_id = new_id
        self._appending: dict[str, _Appending] = {}

    async def begin(self, user_id: str, begun: Begun) -> PartialUpload:
        """An upload of which nothing has arrived yet.

        Raises as `Uploads.upload` and, with a media id, `Uploads.upload_to`; M_LIMIT_EXCEEDED for too many under way.
        """
        self._limits.check_size(begun.length or 0)
        try:
            await self._files.check_room(begun.length or 0)
        except NoRoom as error:
            raise self._limits.full() from error
        now = self._now_ms()
        upload = PartialUpload(
            self._new_id(),
            user_id,
            begun.media_id or self._new_id(),
            begun.media_id is not None,
            0,
            begun.length,
            False,
            disposition.clean_type(begun.content_type),
            disposition.clean_name(begun.filename),
            now + LIFETIME_MS,
        )

        def work(tx: Transaction) -> list[str]:
            expired = partial_uploads.forget_expired(tx, now)
            under_way = partial_uploads.under_way(tx, user_id)
            if len(under_way) >= MAX_UNDER_WAY:
                raise errors.LimitExceeded(max(1000, under_way[0].expires_at - now), "Finish the uploads that you have begun.")
            if upload.is_created:
                self._uploads.check_pending(tx, user_id, upload.media_id)
            self._limits.check_parts(tx, user_id, begun.length or 0, counted=upload.is_created)
            partial_uploads.add(tx, upload)
            return expired

        await self._files.remove_partial(await self._db.write(work))
        return upload

    async def look(self, user_id: str, upload_id: str) -> PartialUpload:
        """How far an upload is. A part that is still coming in is ended: who asks has lost its line. Raises M_NOT_FOUND."""
        await self._end_appending(upload_id)
        return await self._get(user_id, upload_id)

    async def append(
        self,
        user_id: str,
        upload_id: str,
        offset: int,
        chunks: AsyncIterable[bytes],
        *,
        length: int | None = None,
        complete: bool,
    ) -> PartialUpload:
        """Adds a part that begins at `offset`; with `complete`, the last one: then the upload is media. `length` of the whole,
        if it is known now.

        Raises M_NOT_FOUND, `OffsetMismatch`; M_INVALID_PARAM for lengths that contradict each other; M_CANNOT_OVERWRITE_MEDIA for
        an upload that is complete; M_TOO_LARGE and what a quota says, after which the upload is gone.
        """
        await self._end_appending(upload_id)
        appending = self._appending[upload_id] = _Appending()
        try:
            with appending.scope:
                upload = await self._get(user_id, upload_id)
                return await self._append(upload, offset, appending.counted(chunks), length=length, complete=complete)
        finally:
            del self._appending[upload_id]
            appending.done.set()
        raise errors.MatrixError(409, "M_UNKNOWN", "Another request has taken this upload over.")

    async def cancel(self, user_id: str, upload_id: str) -> None:
        """Forgets an upload; one that is complete stays the media that it is. Raises M_NOT_FOUND."""
        await self._end_appending(upload_id)
        await self._get(user_id, upload_id)
        await self.discard(upload_id)

    def seconds_left(self, upload: PartialUpload) -> int:
        """Until it expires."""
        return max(0, (upload.expires_at - self._now_ms()) // 1000)

    async def discard(self, upload_id: str) -> None:
        """Forgets an upload, if it is still there, and its bytes."""
        with trio.CancelScope(shield=True):
            await self._db.write(lambda tx: partial_uploads.delete(tx, upload_id))
            await self._files.remove_partial([upload_id])

    async def _end_appending(self, upload_id: str) -> None:
        while (appending := self._appending.get(upload_id)) is not None:
            await appending.end()

    async def _get(self, user_id: str, upload_id: str) -> PartialUpload:
        upload = await self._db.read(lambda tx: partial_uploads.get(tx, upload_id))
        if upload is None or upload.user_id != user_id or upload.expires_at <= self._now_ms():
            raise errors.NotFound("There is no such upload; it may have expired.")
        return upload

    async def _append(
        self, upload: PartialUpload, offset: int, chunks: AsyncIterable[bytes], *, length: int | None, complete: bool
    ) -> PartialUpload:
        if upload.is_complete:
            raise errors.CannotOverwriteMedia
        if offset != upload.received:
            raise OffsetMismatch(upload.received)
        upload = await self._with_length(upload, length)
        most = self._limits.upload if upload.length is None else upload.length
        try:
            received = await self._files.append(upload.upload_id, offset, chunks, most, lambda size: self._note(upload, size))
            upload = replace(upload, received=received)
            if complete:
                self._check_complete(upload)
                upload = await self._finish(upload)
        except NoRoom as error:
            raise self._limits.full() from error
        except (errors.TooLarge, errors.Forbidden, errors.ResourceLimitExceeded, errors.CannotOverwriteMedia):
            await self.discard(upload.upload_id)
            raise
        except FileNotFoundError as error:
            await self.discard(upload.upload_id)
            raise errors.NotFound("The bytes of this upload are lost; begin it again.") from error
        return upload

    async def _with_length(self, upload: PartialUpload, length: int | None) -> PartialUpload:
        if length is None or length == upload.length:
            return upload
        if upload.length is not None or length < upload.received:
            raise errors.InvalidParam("The length of the upload contradicts what was said or sent before.")
        self._limits.check_size(length)
        await self._db.write(lambda tx: partial_uploads.note_length(tx, upload.upload_id, length))
        return replace(upload, length=length)

    async def _note(self, upload: PartialUpload, received: int) -> None:
        def work(tx: Transaction) -> None:
            partial_uploads.note_received(tx, upload.upload_id, received)
            if upload.length is None:  # else it was counted at the beginning
                self._limits.check_parts(tx, upload.user_id, 0, counted=True)

        if received != upload.received:
            await self._db.write(work)

    def _check_complete(self, upload: PartialUpload) -> None:
        if upload.length is not None and upload.received != upload.length:
            raise errors.InvalidParam(f"The upload has {upload.received} of its {upload.length} bytes.")

    async def _finish(self, upload: PartialUpload) -> PartialUpload:
        received = await self._files.whole(upload.upload_id)
        media = self._uploads.media_of(upload.user_id, upload.media_id, received, upload.content_type, upload.filename)
        now = self._now_ms()

        def work(tx: Transaction) -> None:
            if upload.is_created:
                self._uploads.check_pending(tx, upload.user_id, upload.media_id)
            partial_uploads.note_complete(tx, upload.upload_id, now + COMPLETE_MS)
            self._limits.check_parts(tx, upload.user_id, received.size, counted=upload.is_created)
            table.put(tx, media, now)

        await self._holdings.keep(received, work, stays=True)
        await self._files.remove_partial([upload.upload_id])
        self._uploads.tell_waiting()
        return replace(upload, is_complete=True, length=received.size)
