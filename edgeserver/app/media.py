"""Opens the content repository in the data folder, bound to federation for the media of other servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.media.files import FileStore
from edgeserver.media.limits import Limits
from edgeserver.media.repository import MediaRepository

if TYPE_CHECKING:
    from edgeserver.app.services import Ground, Out
    from edgeserver.config import Config
    from edgeserver.media.previews import UrlPreviews


async def open_repository(config: Config, ground: Ground, out: Out, *, inline: bool) -> MediaRepository:
    """The repository, with the index and the files made to agree."""
    files = FileStore(config.data / "media", inline=inline, free_disk=config.media.free_disk_bytes)
    await files.open()
    limits = Limits(
        upload=config.limits.upload_bytes,
        quota=config.limits.media_quota_bytes,
        files=config.media.files_per_person,
        total=config.media.total_bytes,
        contact=config.media.contact,
        remote=config.limits.upload_bytes,
        cache=config.limits.remote_media_bytes,
    )
    repository = MediaRepository(ground.db, ground.server_name, files, ground.now_ms, limits=limits, remote=out.media)
    await repository.check()
    return repository


async def open_previews(config: Config, ground: Ground, media: MediaRepository) -> UrlPreviews | None:
    """None: they are off. What they need is imported and opened only if they are on."""
    if not config.media.url_previews:
        return None
    from edgeserver.media.previews import UrlPreviews

    private, web = config.federation.private_addresses, None
    if config.federation.internet:
        from edgeserver.app.web import PublicWeb
        from edgeserver.federation.dns_lookup import TrioDns
        from edgeserver.federation.resolver import is_public

        web = PublicWeb(
            TrioDns(config.federation.nameservers),
            may_connect=(lambda address: True) if private else is_public,
            ca_file=config.federation.extra_ca or None,
        )
        await ground.nursery.start(web.run)
    return UrlPreviews(ground.db, media, web, ground.now_ms, any_port=private)
