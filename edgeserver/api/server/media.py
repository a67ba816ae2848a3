"""/media/download and /media/thumbnail. Spec: server-server API, "Content Repository" (v1.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
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
    from edgeserver.media.repository import Found, MediaRepository

V1: Final = "/_matrix/federation/v1/media"
CHUNK: Final = 64 * 1024


def routes(guard: Guard, server_name: str, media: MediaRepository) -> list[Route]:
    """Only media of this server is given, never what another server would have to be asked for."""

    async def download(call: Call) -> Response:
        found = await media.open(server_name, call.path["mediaId"], timeout_ms=_timeout(call), fetch=False)
        return _multipart(found)

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
        return _multipart(await media.thumbnail(key, timeout_ms=_timeout(call), fetch=False))

    return [
        *endpoint("GET", V1 + "/download/{mediaId}", download, auth=guard),
        *endpoint("GET", V1 + "/thumbnail/{mediaId}", thumbnail, auth=guard),
    ]


def _timeout(call: Call) -> int:
    return min(max(integer(call, "timeout_ms", DEFAULT_TIMEOUT_MS), 0), MAX_TIMEOUT_MS)


def _multipart(found: Found) -> Response:
    around = frame(found.content_type, disposition.header(found.content_type, found.filename), found.hash)

    async def body() -> AsyncIterator[bytes]:
        yield around.head
        async with await trio.open_file(found.path, "rb") as file:
            while chunk := await file.read(CHUNK):
                yield chunk
        yield around.tail

    length = len(around.head) + found.size + len(around.tail)
    return StreamingResponse(body(), headers={"content-type": around.content_type, "content-length": str(length)})
