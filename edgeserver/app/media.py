"""Binds the content repository to federation: media of other servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.federation.errors import FederationError, PeerError
from edgeserver.media.files import FileStore
from edgeserver.media.remote import MediaUnavailable
from edgeserver.media.repository import Limits, MediaRepository

if TYPE_CHECKING:
    from edgeserver.app.services import Ground, Out
    from edgeserver.config import Config
    from edgeserver.federation.calls import Calls
    from edgeserver.federation.multipart import Media


async def open_repository(config: Config, ground: Ground, out: Out) -> MediaRepository:
    """The repository in the data folder, with the index and the files made to agree."""
    files = FileStore(config.data / "media")
    await files.open()
    limits = Limits(
        upload=config.limits.upload_bytes,
        quota=config.limits.media_quota_bytes,
        remote=config.limits.upload_bytes,
        cache=config.limits.remote_media_bytes,
    )
    repository = MediaRepository(ground.db, ground.server_name, files, ground.now_ms, limits=limits, remote=OtherServersMedia(out.calls))
    await repository.check()
    return repository


class OtherServersMedia:
    """`media.remote.RemoteMedia` over federation."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def download(self, server: str, media_id: str, *, max_bytes: int, timeout_ms: int) -> Media:
        try:
            return await self._calls.download(server, media_id, max_bytes=max_bytes, timeout_ms=timeout_ms)
        except FederationError as error:
            raise _unavailable(error) from error

    async def thumbnail(self, server: str, media_id: str, *, width: int, height: int, method: str, max_bytes: int) -> Media:
        try:
            return await self._calls.thumbnail(server, media_id, width=width, height=height, method=method, max_bytes=max_bytes)
        except FederationError as error:
            raise _unavailable(error) from error

    async def at_location(self, url: str, *, max_bytes: int) -> Media:
        raise MediaUnavailable("that server keeps its media elsewhere, and this one does not follow such addresses")


def _unavailable(error: FederationError) -> MediaUnavailable:
    return MediaUnavailable(str(error), error.errcode if isinstance(error, PeerError) else "M_UNKNOWN")
