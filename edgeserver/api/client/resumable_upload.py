"""Uploads in parts: draft-ietf-httpbis-resumable-upload over POST and PUT /_matrix/media/v3/upload.

An upload with `Upload-Complete: ?0` is begun and answered with 201 and the `Location` of its upload resource; there GET or
HEAD tells how far it is, PATCH (application/partial-upload) adds a part, DELETE gives it up. The answer to the last part is the
answer to the upload. The interim response 104 is not sent, which the draft leaves to servers that cannot: a client that wants
to resume begins with a part, which may be empty. GET also tells the mxc URI, to who missed the answer to the last part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from edgeserver.api.endpoint import endpoint
from edgeserver.api.responses import JsonResponse, error_response
from edgeserver.matrix import errors
from edgeserver.media.resumable import Begun, OffsetMismatch

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.media.repository import MediaRepository
    from edgeserver.store.partial_uploads import PartialUpload

BASE: Final = "/_matrix/media/unstable/edgeserver.uploads"
PART: Final = "application/partial-upload"
_EXPOSED: Final = {
    "Access-Control-Expose-Headers": "Location, Upload-Complete, Upload-Length, Upload-Limit, Upload-Offset",
}
"""Without it a browser hides from a web app how far an upload is. No browser is at the other end of a thin line."""
_PROBLEM: Final = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"


def is_incomplete(call: Call) -> bool:
    """Whether a request for an upload says that more will come."""
    return _boolean(call, "upload-complete") is False


async def begin(media: MediaRepository, call: Call, created: tuple[str, str] | None) -> Response:
    """The first part, or none yet. `created`: server name and id that were made by POST /media/v1/create."""
    if created is not None and created[0] != media.server_name:
        raise errors.NotFound("That media id was not created.")
    begun = Begun(
        call.headers.get("content-type"),
        call.query.get("filename"),
        _integer(call, "upload-length"),
        None if created is None else created[1],
    )
    upload = await media.resumable.begin(call.user_id, begun)
    try:
        upload = await media.resumable.append(call.user_id, upload.upload_id, 0, call.chunks(), complete=False)
    except BaseException:
        await media.resumable.discard(upload.upload_id)  # nobody has been told its name
        raise
    return Response(status_code=201, headers={"Location": f"{BASE}/{upload.upload_id}", **_told(call, upload, media)})


def routes(media: MediaRepository) -> list[Route]:
    """The upload resources."""

    async def look(call: Call) -> Response:
        upload = await media.resumable.look(call.user_id, call.path["uploadId"])
        body: dict[str, Any] = {"received": upload.received, "complete": upload.is_complete}
        if upload.is_complete:
            body["content_uri"] = media.uri(upload.media_id)
        return JsonResponse(body, headers={**_told(call, upload, media), "Cache-Control": "no-store"})

    async def append(call: Call) -> Response:
        offset, complete = _integer(call, "upload-offset"), _boolean(call, "upload-complete")
        if call.headers.get("content-type", "").partition(";")[0].strip().lower() != PART:
            raise errors.MatrixError(415, "M_INVALID_PARAM", f"A part is of the type {PART}.")
        if offset is None or complete is None:
            raise errors.MissingParam("Upload-Offset and Upload-Complete are needed.")
        length = _integer(call, "upload-length")
        try:
            upload = await media.resumable.append(
                call.user_id, call.path["uploadId"], offset, call.chunks(), length=length, complete=complete
            )
        except OffsetMismatch as error:
            error.extra.update({"type": _PROBLEM, "expected-offset": error.offset, "provided-offset": offset})
            return error_response(error, {"Upload-Offset": str(error.offset)})
        if not upload.is_complete:
            return Response(status_code=204, headers=_told(call, upload, media))
        return JsonResponse({} if upload.is_created else {"content_uri": media.uri(upload.media_id)}, headers=_told(call, upload, media))

    async def cancel(call: Call) -> Response:
        await media.resumable.cancel(call.user_id, call.path["uploadId"])
        return Response(status_code=204)

    place = BASE + "/{uploadId}"
    return [
        *endpoint("GET", place, look),
        *endpoint("PATCH", place, append, rate="upload_part", max_body=media.limits.upload),
        *endpoint("DELETE", place, cancel, rate="upload_part"),
    ]


def _told(call: Call, upload: PartialUpload, media: MediaRepository) -> dict[str, str]:
    headers = {
        **({} if call.link is not None and call.link.is_thin else _EXPOSED),
        "Upload-Offset": str(upload.received),
        "Upload-Complete": "?1" if upload.is_complete else "?0",
        "Upload-Limit": f"max-size={media.limits.upload}, max-age={media.resumable.seconds_left(upload)}",
    }
    if upload.length is not None:
        headers["Upload-Length"] = str(upload.length)
    return headers


def _boolean(call: Call, name: str) -> bool | None:
    """A Boolean of RFC 9651; other values count as none, as the draft has it."""
    return {"?1": True, "?0": False}.get(call.headers.get(name, "").strip())


def _integer(call: Call, name: str) -> int | None:
    """An Integer of RFC 9651, not negative; other values count as none."""
    value = call.headers.get(name, "").strip()
    return int(value) if value.isascii() and value.isdecimal() and len(value) <= 15 else None
