"""A file as a response: the whole of it or one range, never more of it in memory than a chunk.

RFC 9110: "Range Requests" (section 14) and "Conditional Requests" (section 13). The content of a file never changes, so its
ETag is a strong validator and says all; several ranges at once are answered with the whole file, as the RFC allows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio
from starlette.responses import Response

from edgeserver.api.responses import error_response
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from edgeserver.api.endpoint import Receive, Scope, Send

CHUNK: Final = 64 * 1024

_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)
_ETAGS: Final = re.compile(r'(?:W/)?("[^"]*")')


class Unsatisfiable(Exception):
    """A range that lies beyond the end of the file."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the request says of the part that it wants; each is a header's value, None if it has none."""

    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Conditions:
        return cls(headers.get("range"), headers.get("if-range"), headers.get("if-none-match"))

    def is_held(self, etag: str) -> bool:
        """Whether the client has what the ETag names: 304 is all that it needs."""
        told = self.if_none_match
        return told is not None and (told.strip() == "*" or etag in _ETAGS.findall(told))

    def part(self, size: int, etag: str) -> tuple[int, int] | None:
        """(start, stop) of the one range that is asked for; None for the whole. Raises Unsatisfiable."""
        match = _RANGE.fullmatch(self.range or "")
        if match is None or (self.if_range is not None and self.if_range.strip() != etag):
            return None
        first, last = match[1], match[2]
        if first == last == "" or (first and last and int(first) > int(last)):
            return None
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= size:
            raise Unsatisfiable
        return start, stop


class ReadableFile(Protocol):
    """An open file; see `media.files.OpenFile`."""

    async def read(self, start: int, size: int) -> bytes: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Served:
    """A file to serve: how it is opened, its size in bytes, its type, and its ETag with quotes."""

    open: Callable[[], Awaitable[ReadableFile]]
    size: int
    content_type: str
    etag: str


async def file_response(served: Served, headers: Mapping[str, str], conditions: Conditions) -> Response:
    """200, 206, 304 or 416. Raises what opening the file does."""
    etag, size = served.etag, served.size
    headers = {**headers, "ETag": etag, "Accept-Ranges": "bytes"}
    if conditions.is_held(etag):
        return Response(status_code=304, headers=headers)
    try:
        part = conditions.part(size, etag)
    except Unsatisfiable:
        refused = errors.MatrixError(416, "M_INVALID_PARAM", f"The range lies beyond the end of the {size} bytes.")
        return error_response(refused, {"Content-Range": f"bytes */{size}"})
    file = await served.open()
    if part is None:
        return _FileResponse(file, (0, size), 200, headers, served.content_type)
    headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{size}"
    return _FileResponse(file, part, 206, headers, served.content_type)


class _FileResponse(Response):
    """Reads an open file, and closes it whatever happens."""

    def __init__(self, file: ReadableFile, part: tuple[int, int], status: int, headers: Mapping[str, str], content_type: str) -> None:
        self.status_code = status
        self.media_type = content_type
        self.background = None
        self.body = b""
        self._file = file
        self._start, self._stop = part
        self.init_headers({**headers, "Content-Length": str(self._stop - self._start)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_disconnect, receive, nursery.cancel_scope)
                await self._stream(send)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._file.aclose()

    async def _stream(self, send: Send) -> None:
        position = self._start
        while position < self._stop:
            chunk = await self._file.read(position, min(CHUNK, self._stop - position))
            if not chunk:
                raise OSError("the file is shorter than the index says")
            position += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": position < self._stop})
        if self._start == self._stop:
            await send({"type": "http.response.body", "body": b""})


async def _until_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
