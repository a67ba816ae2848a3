"""Files over the line in parts: after a cut they go on from where they were, and none is larger than a message may be.

Clients stay ordinary: one POST or PUT, one GET. Up, the box's uploads in parts are used (draft-ietf-httpbis-resumable-upload,
`api.client.resumable_upload`); an upload that a client gave up waiting for is found again when it tries once more. Down, ranges
are asked for (RFC 9110, section 14). A box of an older release takes and gives files whole.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors
from edgeserver.paired.line import OutOfPatience
from edgeserver.proxy.replies import error_response, json_object, json_response
from transports.exchange import Interrupted, Priority, Request, Response

if TYPE_CHECKING:
    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call

PART_SECONDS: Final = 20.0
"""So long a part keeps the line: what is lost when it is cut, at most."""
LEAST_PART: Final = 4096
LARGEST_PART: Final = 256 * 1024
MAX_DOWNLOAD: Final = 16 * 1024 * 1024
"""Bytes of a file that is put together here; it lies in memory."""
MAX_UNFINISHED: Final = 16
_MAX_MISTAKES: Final = 5
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")
_OF_A_PART: Final = frozenset({"content-range", "content-length", "accept-ranges"})


class _Answered(Exception):
    """The box has said what the client is to be told."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class Transfers:
    """Uploads and downloads. `patience` in seconds covers a whole file."""

    def __init__(self, line: Line, patience: float) -> None:
        self._line = line
        self._patience = patience
        self._unfinished: dict[bytes, str] = {}

    def comes_in_parts(self, call: Call) -> bool:
        """Whether an upload is so large that parts pay for themselves."""
        return len(call.request.body) > 2 * self._part_size

    @property
    def _part_size(self) -> int:
        profile = self._line.profile
        rate = profile.bit_rate if profile is not None else None
        size = LARGEST_PART if rate is None else int(rate / 10 * PART_SECONDS)
        most = min(LARGEST_PART, self._line.max_message // 2) if self._line.max_message else LARGEST_PART
        return max(LEAST_PART, min(size, most))

    # ---- up

    async def upload(self, call: Call) -> Response:
        """The box's answer to the whole upload. Raises ExchangeError."""
        *named, body = call.identity()
        key = hashlib.sha256("\n".join(named).encode() + b"\n" + hashlib.sha256(body).digest()).digest()
        with trio.move_on_after(self._patience):
            try:
                location, offset = await self._begin_or_resume(call, key)
                while True:
                    offset = await self._send_part(call, location, offset)
            except _Answered as answered:
                self._unfinished.pop(key, None)
                return answered.response
        raise OutOfPatience("The line to the box did not carry the file in time.")

    async def _begin_or_resume(self, call: Call, key: bytes) -> tuple[str, int]:
        location = self._unfinished.get(key)
        if location is not None:
            offset = await self._offset(call, location)
            if offset is not None:
                return location, offset
        more = (("upload-complete", "?0"), ("upload-length", str(len(call.request.body))))
        begun = await self._carry(replace(call.request, headers=(*call.request.headers, *more), body=b""), repeatable=True)
        location = begun.header("location")
        if begun.status == 201 and location is not None:
            self._unfinished[key] = location
            if len(self._unfinished) > MAX_UNFINISHED:
                del self._unfinished[next(iter(self._unfinished))]
            return location, 0
        if begun.status in (200, 429):  # a release that knows of no parts, or too many uploads begun
            raise _Answered(await self._carry(call.request, repeatable=False))
        raise _Answered(begun)

    async def _send_part(self, call: Call, location: str, offset: int) -> int:
        """Where the next part begins. Raises `_Answered` after the last."""
        body = call.request.body
        part = body[offset : offset + self._part_size]
        is_last = offset + len(part) >= len(body)
        headers = (
            ("content-type", "application/partial-upload"),
            ("upload-offset", str(offset)),
            ("upload-complete", "?1" if is_last else "?0"),
        )
        request = self._request(call, "PATCH", location, headers, part)
        try:
            response = await self._carry(request, repeatable=False)
        except OutOfPatience:
            raise
        except Interrupted:
            response = None
        if response is not None and response.status == 204:
            return offset + len(part)
        if response is not None and response.status != 409 and (response.status < 500 or is_last):
            raise _Answered(_plain(response))
        found = await self._offset(call, location)
        if found is None:
            raise _Answered(error_response(errors.Unknown("The box has lost the upload; send it again.", status=502)))
        return found

    async def _offset(self, call: Call, location: str) -> int | None:
        """How far the box is; None if it does not know the upload. Raises `_Answered` if it is whole."""
        response = await self._carry(self._request(call, "GET", location), repeatable=True)
        told = json_object(response.body) or {}
        received = told.get("received")
        if response.status != 200 or not isinstance(received, int) or not 0 <= received <= len(call.request.body):
            return None
        if told.get("complete") is True:
            uri = told.get("content_uri")
            raise _Answered(json_response({"content_uri": uri} if call.request.method == "POST" else {}))
        return received

    def _request(
        self, call: Call, method: str, target: str, headers: tuple[tuple[str, str], ...] = (), body: bytes = b""
    ) -> Request:
        who = (("authorization", call.authorization),) if call.authorization else ()
        return replace(call.request, method=method, target=target, headers=(*who, *headers), body=body, priority=Priority.MEDIA)

    async def _carry(self, request: Request, *, repeatable: bool) -> Response:
        return await self._line.carry(request, repeatable=repeatable, patience=self._patience)

    # ---- down

    async def download(self, call: Call) -> Response:
        """The whole file, or what the box says instead. Raises ExchangeError."""
        with trio.move_on_after(self._patience):
            return await self._download(call)
        raise OutOfPatience("The line to the box did not bring the file in time.")

    async def _download(self, call: Call) -> Response:
        parts: list[bytes] = []
        size, mistakes = 0, 0
        while True:
            asked = ("range", f"bytes={size}-{size + self._part_size - 1}")
            request = replace(call.request, headers=(*call.request.headers, asked))
            response = await self._carry(request, repeatable=True)
            if response.status == 416 and not parts:  # the file is empty
                return await self._carry(call.request, repeatable=True)
            if response.status != 206:
                return response
            match = _CONTENT_RANGE.fullmatch(response.header("content-range") or "")
            if match is None or int(match[1]) != size or not response.body:
                mistakes += 1
                if mistakes > _MAX_MISTAKES:
                    return error_response(errors.Unknown("The box gives other parts than it was asked for.", status=502))
                continue
            if int(match[3]) > MAX_DOWNLOAD:
                return error_response(errors.TooLarge(f"The file has {int(match[3]):,} bytes; the line brings {MAX_DOWNLOAD:,}."))
            parts.append(response.body)
            size += len(response.body)
            if size >= int(match[3]):
                headers = tuple((name, value) for name, value in response.headers if name.lower() not in _OF_A_PART)
                return Response(200, headers, b"".join(parts))


def _plain(response: Response) -> Response:
    """As an upload in one go would have been answered."""
    return replace(response, headers=tuple(each for each in response.headers if not each[0].lower().startswith("upload-")))
