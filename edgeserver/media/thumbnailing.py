"""Thumbnails of media: kept, fetched, or made, once for all who ask.

Spec: client-server API, "Thumbnails". What is made of an image, and how: `thumbnails`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from edgeserver.matrix import errors
from edgeserver.media import disposition, thumbnails
from edgeserver.media.found import Found
from edgeserver.media.sharing import Shared
from edgeserver.store import media as table
from edgeserver.store.media import Thumbnail, ThumbnailKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.media.fetching import Fetcher
    from edgeserver.media.holdings import Holdings
    from edgeserver.store.database import Transaction


class Originals(Protocol):
    """Where the media are: `MediaRepository`, and see there."""

    @property
    def server_name(self) -> str: ...

    async def open(self, server_name: str, media_id: str, *, timeout_ms: int = ..., fetch: bool = ..., frozen: bool = ...) -> Found: ...

    async def held(self, server_name: str, media_id: str) -> Found | None: ...


class Thumbnailer:
    """One image is unpacked at a time. `fetcher` None: nothing of other servers."""

    def __init__(
        self, repository: Originals, holdings: Holdings, fetcher: Fetcher | None, now_ms: Callable[[], int]
    ) -> None:
        self._repository = repository
        self._holdings = holdings
        self._db = holdings.db
        self._fetcher = fetcher
        self._now_ms = now_ms
        self._one_image = trio.CapacityLimiter(1)
        self._shared: Shared[Found] = Shared()

    async def thumbnail(self, key: ThumbnailKey, *, timeout_ms: int, fetch: bool, frozen: bool) -> Found:
        """A thumbnail that is not smaller than what `key` asks for, or the original if that is small.

        Media of another server that is not here yet is not fetched for it, if that server gives a thumbnail.
        Raises as `open`; M_INVALID_PARAM for impossible sizes, M_UNKNOWN (400) for what is no image.
        """
        size = thumbnails.choose(key.width, key.height, key.method)
        key = ThumbnailKey(key.server_name, key.media_id, *size, key.method, key.animated)
        is_ours = key.server_name == self._repository.server_name
        made = None if is_ours or frozen else await self._made(key)
        if made is not None:
            return made
        held: Found | None = None
        if is_ours or frozen or not fetch:
            held = await self._repository.open(key.server_name, key.media_id, timeout_ms=timeout_ms, fetch=False, frozen=frozen)

        async def work() -> Found:
            made = await self._made(key)
            if made is None and held is None and size != thumbnails.ORIGINAL:
                made = await self._fetch_thumbnail(key)
            if made is not None:
                return made
            original = held or await self._repository.open(key.server_name, key.media_id, timeout_ms=timeout_ms)
            return await self._make(key, original)

        return await self._shared.run(key, work)

    async def _made(self, key: ThumbnailKey) -> Found | None:
        def work(tx: Transaction) -> Thumbnail | None:
            if table.is_quarantined(tx, key.server_name, key.media_id):
                raise errors.NotFound("This media is in quarantine.")
            return table.thumbnail(tx, key)

        made = await self._db.read(work)
        if made is None:
            return None
        if self._now_ms() - made.used_at > table.TOUCH_AFTER:
            await self._db.write(lambda tx: table.touch_thumbnail(tx, key, self._now_ms()))
        return self._found(made)

    async def _make(self, key: ThumbnailKey, original: Found) -> Found:
        size = (key.width, key.height)
        try:
            made = await trio.to_thread.run_sync(
                lambda: thumbnails.make(original.path, size, key.method, animated=key.animated), limiter=self._one_image
            )
        except FileNotFoundError as error:
            raise errors.NotFound("The file of this media is missing.") from error
        except errors.TooLarge as error:
            if key.server_name == self._repository.server_name:
                raise
            raise errors.MatrixError(502, error.errcode, error.error) from error
        if made.data is None:
            name = original.filename or f"thumbnail.{made.content_type.partition('/')[2]}"
            return Found(original.path, original.hash, original.size, made.content_type, name)
        return await self._keep(key, made.data, made.content_type, of_original=True)

    async def _fetch_thumbnail(self, key: ThumbnailKey) -> Found | None:
        """Asks the media's server, unless the media itself is here already; None if it has none to give."""
        if self._fetcher is None or await self._repository.held(key.server_name, key.media_id) is not None:
            return None
        file = await self._fetcher.thumbnail(key)
        return None if file is None else await self._keep(key, file.body, disposition.essence(file.content_type), of_original=False)

    async def _keep(self, key: ThumbnailKey, data: bytes, content_type: str, *, of_original: bool) -> Found:
        received = await self._holdings.receive(data)
        made = Thumbnail(received.hash, received.size, content_type, self._now_ms())

        def work(tx: Transaction) -> None:
            if of_original and table.get(tx, key.server_name, key.media_id) is None:
                raise errors.NotFound("The media has been deleted.")
            table.put_thumbnail(tx, key, made)

        await self._holdings.keep(received, work, cached=True)
        return self._found(made)

    def _found(self, made: Thumbnail) -> Found:
        name = f"thumbnail.{made.content_type.partition('/')[2]}"
        return Found(self._holdings.files.path(made.hash), made.hash, made.size, made.content_type, name)
