"""multipart/mixed as federation media goes out in it, around a file that is streamed. Pure.

Spec: server-server API, "Content Repository" (v1.11): a part of JSON, always `{}`, then the media; RFC 2046, section 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """What goes around the bytes of one file. `content_type` is that of the whole response."""

    content_type: str
    head: bytes
    tail: bytes


def frame(content_type: str, content_disposition: str, digest: str) -> Frame:
    """The frame around a file with this SHA-256 (hex).

    The boundary is made of the hash: a file that holds its own hash is not to be had. Raises ValueError for a header
    with a line break.
    """
    boundary = f"edge-{digest}"
    headers = (f"Content-Type: {content_type}", f"Content-Disposition: {content_disposition}")
    if any("\r" in header or "\n" in header for header in headers):
        raise ValueError("a header holds a line break")
    head = (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n"
        f"--{boundary}\r\n{headers[0]}\r\n{headers[1]}\r\n\r\n"
    )
    tail = f"\r\n--{boundary}--\r\n"
    # Without quotes, which it does not need: Synapse's reader would take them for a part of it.
    return Frame(f"multipart/mixed; boundary={boundary}", head.encode(), tail.encode())
