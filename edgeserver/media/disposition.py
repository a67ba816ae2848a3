"""Content types and Content-Disposition of media: what a browser may show in place, and under what name. Pure.

Spec: client-server API, "Serving inline content"; RFC 6266 and RFC 8187 for the header.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

OCTETS: Final = "application/octet-stream"
MAX_NAME: Final = 255

INLINE: Final = frozenset(
    {
        "text/css", "text/plain", "text/csv", "application/json", "application/ld+json",
        "image/jpeg", "image/gif", "image/png", "image/apng", "image/webp", "image/avif",
        "video/mp4", "video/webm", "video/ogg", "video/quicktime",
        "audio/mp4", "audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave", "audio/wav", "audio/x-wav",
        "audio/x-pn-wav", "audio/flac", "audio/x-flac",
    }
)  # fmt: skip
"""Types that cannot run a script, shown as what they are said to be."""

IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/apng", "image/gif", "image/webp"})
"""Types that a thumbnail may have."""

_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(\s*;[\x20-\x7e]{0,200})?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9 !#$&'()+,\-.;=@\[\]^_`{}~]+")
_EXTENDED = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)
_QUOTED = re.compile(r';\s*filename\s*=\s*"((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_TOKEN = re.compile(r";\s*filename\s*=\s*([^\s;\"]+)", re.IGNORECASE)


def essence(content_type: str) -> str:
    """The type alone, in lower case: `text/plain` of `Text/Plain; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


def clean_type(content_type: str | None) -> str:
    """A content type that can go into a header; application/octet-stream for what is none."""
    return content_type if content_type is not None and _TYPE.fullmatch(content_type) else OCTETS


def clean_name(filename: str | None) -> str | None:
    """A file name without control characters, of at most 255 characters; None for nothing."""
    if filename is None:
        return None
    return "".join(c for c in filename if c.isprintable())[:MAX_NAME] or None


def header(content_type: str, filename: str | None) -> str:
    """The Content-Disposition of media of this type and name."""
    kind = "inline" if essence(content_type) in INLINE else "attachment"
    if filename is None:
        return kind
    if _PLAIN_NAME.fullmatch(filename):
        return f'{kind}; filename="{filename}"'
    return f"{kind}; filename*=utf-8''{quote(filename, safe='', errors='replace')}"


def filename_in(disposition: str | None) -> str | None:
    """The file name in a Content-Disposition header that came from elsewhere; the extended form goes first."""
    if disposition is None:
        return None
    if (extended := _EXTENDED.search(disposition)) is not None:
        return clean_name(unquote(extended[1], errors="replace"))
    if (quoted := _QUOTED.search(disposition)) is not None:
        return clean_name(re.sub(r"\\(.)", r"\1", quoted[1]))
    token = _TOKEN.search(disposition)
    return clean_name(token[1]) if token is not None else None
