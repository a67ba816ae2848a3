"""Files of other servers, as the repository takes them in: followed to where they lie, within a bound, and on the disk.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors
from edgeserver.media import disposition
from edgeserver.media.open_files import NoRoom
from edgeserver.media.remote import MediaUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edgeserver.media.holdings import Holdings
    from edgeserver.media.open_files import Received
    from edgeserver.media.remote import RemoteFile, RemoteMedia
    from edgeserver.store.media import ThumbnailKey

log = logging.getLogger(__name__)

MAX_THUMBNAIL: Final = 4 * 1024 * 1024
MAX_FETCHES: Final = 32
MAX_OF_ONE: Final = 3
"""Media that are fetched at a time, of all other servers and of one: one that is slow or dead keeps nobody from the others'."""


class Fetcher:
    """Asks other servers, never many at a time."""

    def __init__(self, remote: RemoteMedia, holdings: Holdings) -> None:
        self._remote = remote
        self._files = holdings.files
        self._limits = holdings.limits
        self._fetching = trio.CapacityLimiter(MAX_FETCHES)
        self._of_one: dict[str, trio.CapacityLimiter] = {}

    async def media(self, server_name: str, media_id: str, timeout_ms: int) -> tuple[Received, RemoteFile]:
        """The file, and what the other server says of it. Raises what `MediaUnavailable` tells clients."""
        limit = self._limits.remote
        try:
            async with self._turn(server_name), self._files.incoming(limit) as incoming:
                file: RemoteFile = await self._remote.download(
                    server_name, media_id, max_bytes=limit, timeout_ms=timeout_ms, into=incoming
                )
                if file.location is not None:
                    file = await self._remote.at_location(_https(file.location), max_bytes=limit, into=incoming)
                return await incoming.finish(), file
        except MediaUnavailable as error:
            log.info("media %s of %s: %s", media_id, server_name, error)
            raise error.as_matrix_error() from error
        except errors.TooLarge as error:
            raise MediaUnavailable(error.error, error.errcode).as_matrix_error() from error
        except NoRoom as error:
            raise self._limits.full() from error

    @asynccontextmanager
    async def _turn(self, server_name: str) -> AsyncIterator[None]:
        limiter = self._of_one.setdefault(server_name, trio.CapacityLimiter(MAX_OF_ONE))
        try:
            async with limiter, self._fetching:
                yield
        finally:
            if not limiter.borrowed_tokens and not limiter.statistics().tasks_waiting:
                self._of_one.pop(server_name, None)

    async def thumbnail(self, key: ThumbnailKey) -> RemoteFile | None:
        """None if the other server has none to give."""
        try:
            async with self._turn(key.server_name):
                file: RemoteFile = await self._remote.thumbnail(
                    key.server_name,
                    key.media_id,
                    width=key.width,
                    height=key.height,
                    method=key.method,
                    animated=key.animated,
                    max_bytes=MAX_THUMBNAIL,
                )
        except MediaUnavailable as error:
            log.info("no thumbnail of %s from %s: %s", key.media_id, key.server_name, error)
            return None
        is_image = file.location is None and disposition.essence(file.content_type) in disposition.IMAGES
        return file if is_image else None


def _https(location: str) -> str:
    if not location.startswith("https://"):
        raise MediaUnavailable("the media is said to be at an address that is not https")
    return location
