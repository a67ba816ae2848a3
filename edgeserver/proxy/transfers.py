"""Files over the line in parts: after a cut they go on from where they were, and none is larger than a message may be.

Clients stay ordinary: one POST or PUT, one GET. Up, the box's uploads in parts are used (draft-ietf-httpbis-resumable-upload,
`api.client.resumable_upload`); an upload that a client gave up waiting for is found again when it tries once more. Down, ranges
are asked for (RFC 9110, section 14). A box of an older release takes and gives files whole.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

import trio

from edgeserver.matrix import errors
from edgeserver.paired.line import OutOfPatience
from edgeserver.proxy.replies import error_response, json_object, json_response
from transports.exchange import Interrupted, Priority, Request, Response

if TYPE_CHECKING:
    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from transports.exchange import Headers

PART_SECONDS: Final = 20.0
"""So long a part keeps the line: what is lost when it is cut, at most."""
LEAST_PART: Final = 4096
LARGEST_PART: Final = 256 * 1024
MAX_DOWNLOAD: Final = 16 * 1024 * 1024
"""Bytes of a file that is put together here; it lies in memory."""
MAX_UNFINISHED: Final = 16
_MAX_MISTAKES: Final = 5
_TASTE: Final = 512
"""Bytes of a file that may turn out to be too large."""
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")
_OF_A_PART: Final = frozenset({"content-range", "content-length", "accept-ranges"})


class _Answered(Exception):
    """The box has said what the client is to be told."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class OverLimit(Exception):
    """The file is larger than was wanted; `total` bytes."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total


class Landing(Protocol):
    """Where the parts of a file go. `size` bytes are there of `total` (None: not known yet)."""

    size: int
    total: int | None

    def is_other(self, total: int, etag: str) -> bool:
        """Whether what is there is not of the file that has this size and this ETag."""
        ...

    async def begin(self) -> None:
        """What is there is void."""
        ...

    async def add(self, part: bytes, total: int, etag: str, headers: Headers) -> None:
        """The next part; `headers` are those of the whole file."""
        ...


class Transfers:
    """Uploads and downloads. `patience` in seconds covers a whole file."""

    def __init__(self, line: Line, patience: float) -> None:
        self._line = line
        self._patience = patience
        self._unfinished: dict[bytes, str] = {}

    def comes_in_parts(self, call: Call) -> bool:
        """Whether an upload is so large that parts pay for themselves."""
        return len(call.request.body) > 2 * self.part_size

    @property
    def part_size(self) -> int:
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
        part = body[offset : offset + self.part_size]
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
        parts = _Parts()
        response = await self.fetch(call.request, parts)
        return response or Response(200, parts.headers, b"".join(parts.bodies))

    async def fetch(self, request: Request, landing: Landing, *, limit: int | None = None) -> Response | None:
        """Fetches what is missing of a file, part by part; None when it is whole, else what the box says instead.

        Of a file of more than `limit` bytes only the first few come: raises `OverLimit`. Raises ExchangeError, and what the landing does.
        """
        mistakes = 0
        while landing.total is None or landing.size < landing.total:
            most = _TASTE if limit is not None and landing.total is None else self.part_size
            asked = ("range", f"bytes={landing.size}-{landing.size + most - 1}")
            response = await self._carry(replace(request, headers=(*request.headers, asked)), repeatable=True)
            if response.status == 416 and not landing.size:  # the file is empty
                return await self._carry(request, repeatable=True)
            if response.status not in (206, 416):
                return response
            match = _CONTENT_RANGE.fullmatch(response.header("content-range") or "")
            is_next = match is not None and int(match[1]) == landing.size and response.status == 206 and bool(response.body)
            total, etag = int(match[3]) if match is not None else 0, response.header("etag") or ""
            if not is_next or landing.size + len(response.body) > total or (landing.size and landing.is_other(total, etag)):
                mistakes += 1
                if mistakes > _MAX_MISTAKES:
                    return error_response(errors.Unknown("The box gives other parts than it was asked for.", status=502))
                if landing.size and (response.status == 416 or is_next):
                    await landing.begin()  # it is not the file any more of which the beginning is there
                continue
            if total > MAX_DOWNLOAD:
                return error_response(errors.TooLarge(f"The file has {total:,} bytes; the line brings {MAX_DOWNLOAD:,}."))
            headers = tuple((name, value) for name, value in response.headers if name.lower() not in _OF_A_PART)
            await landing.add(response.body, total, etag, headers)
            if limit is not None and total > limit:
                raise OverLimit(total)
        return None


@dataclass
class _Parts:
    """A file that is put together in memory."""

    size: int = 0
    total: int | None = None
    etag: str = ""
    headers: Headers = ()
    bodies: list[bytes] = field(default_factory=list)

    def is_other(self, total: int, etag: str) -> bool:
        return (total, etag) != (self.total, self.etag)

    async def begin(self) -> None:
        self.size, self.total = 0, None
        self.bodies.clear()

    async def add(self, part: bytes, total: int, etag: str, headers: Headers) -> None:
        self.bodies.append(part)
        self.size, self.total, self.etag, self.headers = self.size + len(part), total, etag, headers


def _plain(response: Response) -> Response:
    """As an upload in one go would have been answered."""
    return replace(response, headers=tuple(each for each in response.headers if not each[0].lower().startswith("upload-")))
