"""/_matrix/client/v1/media/…, /_matrix/media/… Spec: client-server API, "Content repository".

Uploads live under /_matrix/media still. The downloads there are deprecated and take requests without a token; those get
what is here, but do not make this server ask others: on a thin line that is not a stranger's to decide.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import trio
from starlette.responses import FileResponse, Response

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors
from edgeserver.media import disposition
from edgeserver.media.repository import DEFAULT_TIMEOUT_MS, Upload
from edgeserver.store.media import ThumbnailKey

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.media.repository import Found, MediaRepository

POLICY: Final = (
    "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline';"
    " object-src 'self';"
)


class MediaSection:
    """The handlers. `open_to_all`: the deprecated endpoints serve requests without a token."""

    def __init__(self, media: MediaRepository, *, open_to_all: bool) -> None:
        self._media = media
        self._open_to_all = open_to_all

    async def create(self, call: Call) -> dict[str, Any]:
        """POST /_matrix/media/v1/create"""
        uri, expires_at = await self._media.create(call.user_id)
        return {"content_uri": uri, "unused_expires_at": expires_at}

    async def upload(self, call: Call) -> dict[str, Any]:
        """POST /_matrix/media/v3/upload"""
        return {"content_uri": await self._media.upload(call.user_id, _upload(call))}

    async def upload_to(self, call: Call) -> dict[str, Any]:
        """PUT /_matrix/media/v3/upload/{serverName}/{mediaId}"""
        await self._media.upload_to(call.user_id, call.path["serverName"], call.path["mediaId"], _upload(call))
        return {}

    async def config(self, call: Call) -> dict[str, Any]:
        """GET …/media/config"""
        return {"m.upload.size": self._media.limits.upload}

    async def download(self, call: Call) -> Response:
        """GET …/media/download/{serverName}/{mediaId}, …/{fileName}"""
        found = await self._media.open(
            call.path["serverName"], call.path["mediaId"], timeout_ms=_timeout(call), fetch=self._may_fetch(call)
        )
        name = disposition.clean_name(call.path.get("fileName")) or found.filename
        return await _serve(call, found, disposition.header(found.content_type, name))

    async def thumbnail(self, call: Call) -> Response:
        """GET …/media/thumbnail/{serverName}/{mediaId}"""
        key = ThumbnailKey(
            call.path["serverName"],
            call.path["mediaId"],
            _pixels(call, "width"),
            _pixels(call, "height"),
            call.query.get("method", "scale"),
        )
        found = await self._media.thumbnail(key, timeout_ms=_timeout(call), fetch=self._may_fetch(call))
        return await _serve(call, found, disposition.header(found.content_type, found.filename))

    def _may_fetch(self, call: Call) -> bool:
        if call.requester_if_any is None and not self._open_to_all:
            raise errors.NotFound("Media is served to users of this server only.")
        return call.requester_if_any is not None and call.query.get("allow_remote") != "false"


def _upload(call: Call) -> Upload:
    length = call.headers.get("content-length", "")
    return Upload(
        call.chunks(),
        call.headers.get("content-type"),
        call.query.get("filename"),
        int(length[:18]) if length.isascii() and length.isdecimal() else None,
    )


def _timeout(call: Call) -> int:
    return _number(call.query.get("timeout_ms", str(DEFAULT_TIMEOUT_MS)), "timeout_ms")


def _pixels(call: Call, name: str) -> int:
    value = call.query.get(name)
    if value is None:
        raise errors.MissingParam(f"{name} is missing.")
    return _number(value, name)


def _number(value: str, name: str) -> int:
    if not value.isascii() or not value.isdecimal() or len(value) > 9:
        raise errors.InvalidParam(f"{name} is a whole number.")
    return int(value)


async def _serve(call: Call, found: Found, content_disposition: str) -> Response:
    """The file, or the range of it that is asked for; 304 where the client has it. Raises M_NOT_FOUND for a lost file."""
    headers = {
        "Content-Disposition": content_disposition,
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, max-age=86400, immutable",
        "ETag": f'"{found.hash}"',
    }
    if headers["ETag"] in call.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    try:
        stat = await trio.to_thread.run_sync(os.stat, found.path)
    except FileNotFoundError as error:
        raise errors.NotFound("The file of this media is missing.") from error
    return FileResponse(found.path, headers=headers, media_type=found.content_type, stat_result=stat)


def routes(media: MediaRepository, *, open_to_all: bool = True) -> list[Route]:
    """`open_to_all`: the deprecated download endpoints serve requests without a token what is on this server."""
    handlers = MediaSection(media, open_to_all=open_to_all)
    old, new, limit = "/_matrix/media/v3", "/_matrix/client/v1/media", media.limits.upload
    place = "{serverName}/{mediaId}"
    found = [
        *endpoint("POST", "/_matrix/media/v1/create", handlers.create, rate="media"),
        *endpoint("POST", f"{old}/upload", handlers.upload, rate="media", max_body=limit),
        *endpoint("PUT", f"{old}/upload/{place}", handlers.upload_to, rate="media", max_body=limit),
    ]
    for base, auth in ((new, Auth.USER), (old, Auth.OPTIONAL)):
        found += endpoint("GET", f"{base}/config", handlers.config)
        found += endpoint("GET", f"{base}/download/{place}", handlers.download, auth=auth)
        found += endpoint("GET", f"{base}/download/{place}/{{fileName}}", handlers.download, auth=auth)
        found += endpoint("GET", f"{base}/thumbnail/{place}", handlers.thumbnail, auth=auth)
    return found
