"""GET /_matrix/client/v1/media/preview_url, and the deprecated one under /_matrix/media. Spec: client-server API, "Content repository".

`ts` is read and makes no difference: there is one preview of a URL at a time, which the spec allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.media.previews import UrlPreviews


def routes(previews: UrlPreviews) -> list[Route]:
    async def preview_url(call: Call) -> dict[str, Any]:
        url, ts = call.query.get("url"), call.query.get("ts", "0")
        if not url:
            raise errors.MissingParam("url is missing.")
        if not (ts.isascii() and ts.isdecimal()):
            raise errors.InvalidParam("ts is a time in milliseconds.")
        return await previews.preview(url)

    return [
        *endpoint("GET", "/_matrix/client/v1/media/preview_url", preview_url, rate="preview"),
        *endpoint("GET", "/_matrix/media/v3/preview_url", preview_url, rate="preview"),
    ]
