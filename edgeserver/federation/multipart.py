"""multipart/mixed as federation media comes in it: a part of JSON, then the media itself or where it is.

Spec: server-server API, "Content Repository" (v1.11); RFC 2046, section 5.1. `media.multipart` writes the same form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_PART_HEADERS: Final = 4096

_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Media:
    """Media of another server: its bytes, or `location`, an address to fetch them from (then `body` is empty)."""

    body: bytes
    content_type: str = "application/octet-stream"
    content_disposition: str | None = None
    location: str | None = None


def decode_media(content_type: str, body: bytes) -> Media:
    """The second part of the answer. Raises ValueError if it is not what the spec says."""
    if not content_type.lower().startswith("multipart/mixed") or (match := _BOUNDARY.search(content_type)) is None:
        raise ValueError("not multipart/mixed with a boundary")
    mark = b"--" + (match[1] or match[2]).encode("latin-1", "replace")
    first = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    second = body.find(b"\r\n" + mark, first + len(mark))
    end = body.find(b"\r\n" + mark, second + len(mark) + 2)
    if (first == 1) or second < 0 or end < 0:
        raise ValueError("there are not two parts")
    start = body.find(b"\n", second + 2) + 1
    return _part(body[start:end])


def _part(part: bytes) -> Media:
    if part.startswith(b"\r\n"):
        return Media(part[2:])
    split = part.find(b"\r\n\r\n", 0, MAX_PART_HEADERS)
    if split < 0:
        raise ValueError("a part has no end to its headers")
    headers = {}
    for line in part[:split].decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    if "location" in headers:
        return Media(b"", location=headers["location"])
    kind = headers.get("content-type", "application/octet-stream")
    return Media(part[split + 4 :], kind, headers.get("content-disposition"))
