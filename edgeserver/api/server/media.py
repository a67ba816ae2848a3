"""/media/download and /media/thumbnail. Spec: server-server API, "Content Repository" (v1.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.responses import StreamingResponse

from edgeserver.api.endpoint import endpoint
from edgeserver.api.server.parameters import integer, required
from edgeserver.media import disposition
from edgeserver.media.multipart import frame
from edgeserver.media.repository import DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS
from edgeserver.store.media import ThumbnailKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Guard, Route
    from edgeserver.media.found import Found
    from edgeserver.media.repository import MediaRepository

V1: Final = "/_matrix/federation/v1/media"
CHUNK: Final = 64 * 1024


def routes(guard: Guard, server_name: str, media: MediaRepository) -> list[Route]:
    """Only media of this server is given, never what another server would have to be asked for."""

    async def download(call: Call) -> Response:
        found = await media.open(server_name, call.path["mediaId"], timeout_ms=_timeout(call), fetch=False)
        return await _multipart(media, found)

    async def thumbnail(call: Call) -> Response:
        for name in ("width", "height"):
            required(call, name)
        key = ThumbnailKey(
            server_name,
            call.path["mediaId"],
            integer(call, "width", 0),
            integer(call, "height", 0),
            call.query.get("method", "scale"),
            call.query.get("animated") == "true",
        )
        return await _multipart(media, await media.thumbnail(key, timeout_ms=_timeout(call), fetch=False))

    return [
        *endpoint("GET", V1 + "/download/{mediaId}", download, auth=guard),
        *endpoint("GET", V1 + "/thumbnail/{mediaId}", thumbnail, auth=guard),
    ]


def _timeout(call: Call) -> int:
    return min(max(integer(call, "timeout_ms", DEFAULT_TIMEOUT_MS), 0), MAX_TIMEOUT_MS)


async def _multipart(media: MediaRepository, found: Found) -> Response:
    around = frame(found.content_type, disposition.header(found.content_type, found.filename), found.hash)

    await (await media.read(found)).aclose()  # a lost file is told of before anything is sent

    async def body() -> AsyncIterator[bytes]:
        file = await media.read(found)
        try:
            yield around.head
            position = 0
            while chunk := await file.read(position, CHUNK):
                position += len(chunk)
                yield chunk
            yield around.tail
        finally:
            await file.aclose()

    length = len(around.head) + found.size + len(around.tail)
    return StreamingResponse(body(), headers={"content-type": around.content_type, "content-length": str(length)})
