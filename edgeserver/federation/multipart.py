"""multipart/mixed as federation media comes in it: a part of JSON, then the media itself or where it is. Sans-io, in pieces.

Spec: server-server API, "Content Repository" (v1.11); RFC 2046, section 5.1. `media.multipart` writes the same form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from transports.exchange import Headers

MAX_PART_HEADERS: Final = 4096
MAX_HEAD: Final = 64 * 1024
"""Bytes before the media: a preamble, and the part of JSON."""

_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Media:
    """Media of another server: its bytes, or `location`, an address to fetch them from (then `body` is empty)."""

    body: bytes
    content_type: str = "application/octet-stream"
    content_disposition: str | None = None
    location: str | None = None


def decode_media(content_type: str, body: bytes) -> Media:
    """The second part of an answer that is at hand whole. Raises ValueError if it is not what the spec says."""
    reader = MediaReader(content_type)
    data = reader.feed(body)
    media = reader.finish()
    return media if media.location is not None else replace(media, body=data)


class MediaReader:
    """Takes the frame off a body that comes in pieces: `feed` gives what of a piece is media, `finish` what it is."""

    def __init__(self, content_type: str) -> None:
        """Raises ValueError."""
        match = _BOUNDARY.search(content_type)
        if not content_type.lower().startswith("multipart/mixed") or match is None:
            raise ValueError("not multipart/mixed with a boundary")
        self._mark = b"--" + (match[1] or match[2]).encode("latin-1", "replace")
        self._waiting = bytearray()
        self._headers: dict[str, str] | None = None
        self._is_whole = False

    def feed(self, data: bytes) -> bytes:
        """Raises ValueError if it is not what the spec says."""
        if self._is_whole:
            return b""
        self._waiting += data
        if self._headers is None and not self._take_head():
            return b""
        end = self._waiting.find(b"\r\n" + self._mark)
        if end >= 0:
            self._is_whole = True
        else:  # the mark may have begun
            end = max(0, len(self._waiting) - len(self._mark) - 1)
        media = bytes(memoryview(self._waiting)[:end])
        del self._waiting[:end]
        return media

    def _take_head(self) -> bool:
        """Whether all that stands before the media has come."""
        waiting, mark = self._waiting, self._mark
        first = 0 if waiting.startswith(mark) else waiting.find(b"\r\n" + mark) + 2
        second = waiting.find(b"\r\n" + mark, first + len(mark)) if first != 1 else -1
        start = waiting.find(b"\n", second + 2) + 1 if second >= 0 else 0
        split = -1
        if start:
            split = start - 2 if waiting.startswith(b"\r\n", start) else waiting.find(b"\r\n\r\n", start, start + MAX_PART_HEADERS)
        if split < 0:
            if len(waiting) > MAX_HEAD or (start and len(waiting) > start + MAX_PART_HEADERS):
                raise ValueError("the media has no beginning")
            return False
        self._headers = {}
        for line in waiting[start : max(start, split)].decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                self._headers[name.strip().lower()] = value.strip()
        del waiting[: split + 4]
        return True

    def finish(self) -> Media:
        """What was read, without its bytes. Raises ValueError if it broke off."""
        if self._headers is None or not self._is_whole:
            raise ValueError("there are not two parts")
        if "location" in self._headers:
            return Media(b"", location=self._headers["location"])
        return Media(b"", self._headers.get("content-type", "application/octet-stream"), self._headers.get("content-disposition"))


class ByteSink(Protocol):
    """Where media go."""

    async def restart(self) -> None:
        """What was written is void."""
        ...

    async def write(self, chunk: bytes) -> None: ...


class PlainSink:
    """A body as it is, into a `ByteSink`."""

    def __init__(self, into: ByteSink) -> None:
        self._into = into

    async def begin(self, headers: Headers) -> None:
        """See `BodySink`."""
        await self._into.restart()

    async def write(self, chunk: bytes) -> None:
        """See `BodySink`."""
        await self._into.write(chunk)


class MediaSink:
    """The body of an answer, without its frame, into a `ByteSink`. What is wrong with it is told at the end."""

    def __init__(self, into: ByteSink) -> None:
        self._into = into
        self._reader: MediaReader | None = None
        self._fault: ValueError | None = None

    async def begin(self, headers: Headers) -> None:
        """See `BodySink`."""
        self._reader, self._fault = None, None
        try:
            self._reader = MediaReader(next((value for name, value in headers if name.lower() == "content-type"), ""))
        except ValueError as error:
            self._fault = error
        await self._into.restart()

    async def write(self, chunk: bytes) -> None:
        """See `BodySink`."""
        if self._reader is None or self._fault is not None:
            return
        try:
            media = self._reader.feed(chunk)
        except ValueError as error:
            self._fault = error
            return
        if media:
            await self._into.write(media)

    def media(self) -> Media:
        """What came. Raises ValueError."""
        if self._fault is not None:
            raise self._fault
        if self._reader is None:
            raise ValueError("there is no body")
        return self._reader.finish()
