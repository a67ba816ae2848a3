"""Files of other servers, as the repository takes them in: followed to where they lie, within a bound, and on the disk.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.media import disposition
from edgeserver.media.remote import MediaUnavailable

if TYPE_CHECKING:
    from edgeserver.media.files import Received
    from edgeserver.media.holdings import Holdings
    from edgeserver.media.limits import Limits
    from edgeserver.media.remote import RemoteFile, RemoteMedia
    from edgeserver.store.media import ThumbnailKey

log = logging.getLogger(__name__)

MAX_THUMBNAIL: Final = 4 * 1024 * 1024
MAX_FETCHES: Final = 4
"""Media of other servers that are fetched at a time: each lies in memory until it is whole."""


class Fetcher:
    """Asks other servers, never many at a time."""

    def __init__(self, remote: RemoteMedia, holdings: Holdings, limits: Limits) -> None:
        self._remote = remote
        self._holdings = holdings
        self._limits = limits
        self._fetching = trio.CapacityLimiter(MAX_FETCHES)

    async def media(self, server_name: str, media_id: str, timeout_ms: int) -> tuple[Received, RemoteFile]:
        """The file, and what the other server says of it. Raises what `MediaUnavailable` tells clients."""
        limit = self._limits.remote
        async with self._fetching:
            try:
                file = await self._remote.download(server_name, media_id, max_bytes=limit, timeout_ms=timeout_ms)
                file = await self._followed(file, limit)
            except MediaUnavailable as error:
                log.info("media %s of %s: %s", media_id, server_name, error)
                raise error.as_matrix_error() from error
            return await self._holdings.receive(file.body), file

    async def thumbnail(self, key: ThumbnailKey) -> RemoteFile | None:
        """None if the other server has none to give."""
        try:
            file = await self._remote.thumbnail(
                key.server_name,
                key.media_id,
                width=key.width,
                height=key.height,
                method=key.method,
                animated=key.animated,
                max_bytes=MAX_THUMBNAIL,
            )
            file = await self._followed(file, MAX_THUMBNAIL)
        except MediaUnavailable as error:
            log.info("no thumbnail of %s from %s: %s", key.media_id, key.server_name, error)
            return None
        return file if disposition.essence(file.content_type) in disposition.IMAGES else None

    async def _followed(self, file: RemoteFile, limit: int) -> RemoteFile:
        if file.location is None:
            return file
        if not file.location.startswith("https://"):
            raise MediaUnavailable("the media is said to be at an address that is not https")
        return await self._remote.at_location(file.location, max_bytes=limit)
