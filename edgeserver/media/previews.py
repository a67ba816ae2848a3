"""Previews of URLs: fetched once for all who ask, read, kept for a day.

Spec: client-server API, GET /_matrix/client/v1/media/preview_url. The page and its image come through `WebSource`, each step
of a chain of redirects is an address of its own that is checked, and everything is bounded: bytes, time, redirects, previews
made at a time, previews kept. The image becomes media of this server in the cache of what can be had again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import trio

from edgeserver.matrix import errors
from edgeserver.media import disposition, open_graph, thumbnails
from edgeserver.media.sharing import Shared
from edgeserver.media.web import AddressRefused, PageTooLarge, WebFailed, address_of
from edgeserver.store import url_previews as table
from edgeserver.store.url_previews import KeptPreview

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.media.open_graph import Page
    from edgeserver.media.repository import MediaRepository
    from edgeserver.media.web import WebAddress, WebAnswer, WebSource
    from edgeserver.store.database import Database

log = logging.getLogger(__name__)

SECONDS: Final = 30.0
"""For one preview, the page and its image together."""
MAX_PAGE: Final = 4 * 1024 * 1024
MAX_IMAGE: Final = 5 * 1024 * 1024
MAX_OEMBED: Final = 64 * 1024
MAX_REDIRECTS: Final = 5
MAX_AT_ONCE: Final = 2
LIFETIME_MS: Final = 86_400_000
EMPTY_LIFETIME_MS: Final = 3_600_000

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
_ACCEPT: Final = "text/html, application/xhtml+xml, image/*;q=0.8"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class _Fetched:
    """An answer, and the address that it came from in the end."""

    address: WebAddress
    answer: WebAnswer


class UrlPreviews:
    """`web` None: this box has no way to the internet. `any_port`: a lab's servers are on ports of their own.
    `seconds`: for one preview, from when it is asked for.
    """

    def __init__(
        self,
        db: Database,
        media: MediaRepository,
        web: WebSource | None,
        now_ms: Callable[[], int],
        *,
        any_port: bool = False,
        seconds: float = SECONDS,
    ) -> None:
        self._db = db
        self._media = media
        self._web = web
        self._now_ms = now_ms
        self._any_port = any_port
        self._seconds = seconds
        self._shared: Shared[dict[str, Any]] = Shared()
        self._at_once = trio.CapacityLimiter(MAX_AT_ONCE)

    async def preview(self, url: str) -> dict[str, Any]:
        """What the page says of itself, by OpenGraph names; empty if it says nothing or is neither a page nor an image.

        Raises M_FORBIDDEN for addresses that are not asked, M_NOT_FOUND without a way to the internet, M_UNKNOWN or M_TOO_LARGE
        (502) for what the site did not give.
        """
        try:
            address = address_of(url, any_port=self._any_port)
        except AddressRefused as error:
            raise errors.Forbidden(str(error)) from error
        web = self._web
        if web is None:
            raise errors.NotFound("This server has no way to the internet.")
        now = self._now_ms()
        kept = await self._db.read(lambda tx: table.get(tx, address.url, self._media.server_name, now))
        if kept is not None:
            return _decoded(kept.body)

        return await self._shared.run(address.url, lambda: self._made(web, address))

    async def _made(self, web: WebSource, address: WebAddress) -> dict[str, Any]:
        try:
            with trio.fail_after(self._seconds):  # its turn included: a few slow sites hold up nobody for long
                async with self._at_once:
                    preview, image = await self._fetch(web, address)
        except AddressRefused as error:
            raise errors.Forbidden(str(error)) from error
        except PageTooLarge as error:
            raise errors.MatrixError(502, "M_TOO_LARGE", "The page is too large for a preview.") from error
        except (WebFailed, trio.TooSlowError) as error:
            log.info("no preview of %s: %s", address.host, error)
            raise errors.Unknown("The page could not be fetched.", status=502) from error
        now = self._now_ms()
        kept = KeptPreview(image, orjson.dumps(preview).decode())
        expires_at = now + (LIFETIME_MS if preview else EMPTY_LIFETIME_MS)
        await self._db.write(lambda tx: table.put(tx, address.url, kept, now, expires_at))
        return preview

    async def _fetch(self, web: WebSource, address: WebAddress) -> tuple[dict[str, Any], str | None]:
        """The preview, and the media id of the image in it."""
        page = await self._get(web, address, _ACCEPT, MAX_PAGE)
        kind = disposition.essence(page.answer.content_type)
        if kind in disposition.IMAGES:
            return await self._keep_image({}, page.answer.body)
        if kind not in _HTML:
            return {}, None
        read = await trio.to_thread.run_sync(open_graph.read, page.answer.body, page.answer.content_type)
        if read.oembed is not None and "og:title" not in read.properties:
            await self._ask_oembed(web, page.address, read)
        if read.image is None:
            return dict(read.properties), None
        try:
            image = await self._get(web, address_of(read.image, page.address, any_port=self._any_port), "image/*", MAX_IMAGE)
        except (AddressRefused, WebFailed) as error:
            log.info("no image for the preview of %s: %s", page.address.host, error)
            return dict(read.properties), None
        return await self._keep_image(dict(read.properties), image.answer.body)

    async def _get(self, web: WebSource, address: WebAddress, accept: str, max_bytes: int) -> _Fetched:
        """Follows redirects. Raises `AddressRefused`, `WebFailed`."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = await web.get(address, accept=accept, max_bytes=max_bytes)
            if answer.status == 200:
                return _Fetched(address, answer)
            if answer.status not in _REDIRECTS or answer.location is None:
                raise WebFailed(f"the site answers {answer.status}")
            address = address_of(answer.location, address, any_port=self._any_port)
        raise WebFailed("the site redirects again and again")

    async def _ask_oembed(self, web: WebSource, base: WebAddress, page: Page) -> None:
        """https://oembed.com/: title, author and thumbnail of pages whose head says nothing."""
        try:
            address = address_of(page.oembed or "", base, any_port=self._any_port)
            told = orjson.loads((await self._get(web, address, "application/json", MAX_OEMBED)).answer.body)
        except (AddressRefused, WebFailed, orjson.JSONDecodeError) as error:
            log.info("no oEmbed of %s: %s", base.host, error)
            return
        if not isinstance(told, dict):
            return
        for theirs, ours in (("title", "og:title"), ("author_name", "og:description"), ("provider_name", "og:site_name")):
            value = told.get(theirs)
            if isinstance(value, str) and value:
                page.properties.setdefault(ours, open_graph.tidy(value))
        thumbnail = told.get("thumbnail_url")
        if page.image is None and isinstance(thumbnail, str):
            page.image = thumbnail

    async def _keep_image(self, preview: dict[str, Any], body: bytes) -> tuple[dict[str, Any], str | None]:
        """Adds the image; what is no image, whatever the site says, is left out."""
        measured = await trio.to_thread.run_sync(thumbnails.measured, body)
        if measured is None:
            return preview, None
        width, height, content_type = measured
        media_id = await self._media.keep_image(body, content_type)
        preview |= {
            "og:image": self._media.uri(media_id),
            "og:image:type": content_type,
            "og:image:width": width,
            "og:image:height": height,
            "matrix:image:size": len(body),
        }
        return preview, media_id


def _decoded(body: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(body)
    return found
