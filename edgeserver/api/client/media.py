"""/_matrix/client/v1/media/…, /_matrix/media/… Spec: client-server API, "Content repository".

Uploads live under /_matrix/media still. The downloads there are deprecated and take requests without a token; those are
frozen: they give what was here when a release with the freeze was installed, and never make this server ask others. An
upload with the header Upload-Complete is one in parts: see `resumable_upload`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.client import resumable_upload
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.file_response import Conditions, Served, file_response
from edgeserver.api.query import number, number_if_any
from edgeserver.matrix import errors
from edgeserver.media import disposition
from edgeserver.media.repository import DEFAULT_TIMEOUT_MS
from edgeserver.media.uploading import Upload
from edgeserver.store.media import ThumbnailKey

if TYPE_CHECKING:
    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.media.found import Found
    from edgeserver.media.repository import MediaRepository

POLICY: Final = (
    "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline';"
    " object-src 'self';"
)
MSC4034: Final = "org.matrix.msc4034"


class MediaSection:
    """The handlers."""

    def __init__(self, media: MediaRepository) -> None:
        self._media = media

    async def create(self, call: Call) -> dict[str, Any]:
        """POST /_matrix/media/v1/create"""
        uri, expires_at = await self._media.create(call.user_id)
        return {"content_uri": uri, "unused_expires_at": expires_at}

    async def upload(self, call: Call) -> dict[str, Any] | Response:
        """POST /_matrix/media/v3/upload"""
        if resumable_upload.is_incomplete(call):
            return await resumable_upload.begin(self._media, call, None)
        return {"content_uri": await self._media.upload(call.user_id, _upload(call))}

    async def upload_to(self, call: Call) -> dict[str, Any] | Response:
        """PUT /_matrix/media/v3/upload/{serverName}/{mediaId}"""
        if resumable_upload.is_incomplete(call):
            return await resumable_upload.begin(self._media, call, (call.path["serverName"], call.path["mediaId"]))
        await self._media.upload_to(call.user_id, call.path["serverName"], call.path["mediaId"], _upload(call))
        return {}

    async def config(self, call: Call) -> dict[str, Any]:
        """GET …/media/config, with the fields of MSC4034 under both of its names."""
        limits = self._media.limits
        told = {"size": limits.quota, "max_files": limits.files}
        return {
            "m.upload.size": limits.upload,
            **{f"m.storage.{name}": value for name, value in told.items()},
            **{f"{MSC4034}.storage.{name}": value for name, value in told.items()},
        }

    async def usage(self, call: Call) -> dict[str, Any]:
        """GET /_matrix/media/unstable/org.matrix.msc4034/usage (MSC4034)"""
        usage = await self._media.usage(call.user_id)
        told = {"used": usage.size, "files": usage.files}
        return {f"{prefix}.storage.{name}": value for prefix in ("m", MSC4034) for name, value in told.items()}

    async def download(self, call: Call) -> Response:
        """GET …/media/download/{serverName}/{mediaId}, …/{fileName}"""
        found = await self._media.open(call.path["serverName"], call.path["mediaId"], timeout_ms=_timeout(call), **_may(call))
        name = disposition.clean_name(call.path.get("fileName")) or found.filename
        return await self._serve(call, found, disposition.header(found.content_type, name))

    async def thumbnail(self, call: Call) -> Response:
        """GET …/media/thumbnail/{serverName}/{mediaId}"""
        key = ThumbnailKey(
            call.path["serverName"],
            call.path["mediaId"],
            _pixels(call, "width"),
            _pixels(call, "height"),
            call.query.get("method", "scale"),
            call.query.get("animated") == "true",
        )
        found = await self._media.thumbnail(key, timeout_ms=_timeout(call), **_may(call))
        return await self._serve(call, found, disposition.header(found.content_type, found.filename))

    async def _serve(self, call: Call, found: Found, content_disposition: str) -> Response:
        """The file, or the range of it that is asked for; 304 where the client has it. Raises M_NOT_FOUND for a lost file."""
        headers = {
            "Content-Disposition": content_disposition,
            "Content-Security-Policy": POLICY,
            "Cross-Origin-Resource-Policy": "cross-origin",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, max-age=86400, immutable",
        }
        served = Served(lambda: self._media.read(found), found.size, found.content_type, f'"{found.hash}"')
        return await file_response(served, headers, Conditions.of(call.headers))


def _may(call: Call) -> dict[str, bool]:
    """`fetch` and `frozen` of `MediaRepository.open`."""
    is_known = call.requester_if_any is not None
    return {"fetch": is_known and call.query.get("allow_remote") != "false", "frozen": not is_known}


def _upload(call: Call) -> Upload:
    length = call.headers.get("content-length", "")
    return Upload(
        call.chunks(),
        call.headers.get("content-type"),
        call.query.get("filename"),
        int(length[:18]) if length.isascii() and length.isdecimal() else None,
    )


def _timeout(call: Call) -> int:
    return number(call, "timeout_ms", DEFAULT_TIMEOUT_MS)


def _pixels(call: Call, name: str) -> int:
    found = number_if_any(call, name)
    if found is None:
        raise errors.MissingParam(f"{name} is missing.")
    return found


def routes(media: MediaRepository) -> list[Route]:
    handlers = MediaSection(media)
    old, new, limit = "/_matrix/media/v3", "/_matrix/client/v1/media", media.limits.upload
    place = "{serverName}/{mediaId}"
    found = [
        *endpoint("POST", "/_matrix/media/v1/create", handlers.create, rate="media"),
        *endpoint("POST", f"{old}/upload", handlers.upload, rate="media", max_body=limit),
        *endpoint("PUT", f"{old}/upload/{place}", handlers.upload_to, rate="media", max_body=limit),
        *endpoint("GET", f"/_matrix/media/unstable/{MSC4034}/usage", handlers.usage),
        *resumable_upload.routes(media),
    ]
    for base, auth in ((new, Auth.USER), (old, Auth.OPTIONAL)):
        found += endpoint("GET", f"{base}/config", handlers.config)
        found += endpoint("GET", f"{base}/download/{place}", handlers.download, auth=auth)
        found += endpoint("GET", f"{base}/download/{place}/{{fileName}}", handlers.download, auth=auth)
        found += endpoint("GET", f"{base}/thumbnail/{place}", handlers.thumbnail, auth=auth)
    return found
