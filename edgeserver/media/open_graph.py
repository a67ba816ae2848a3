"""What a page says of itself: OpenGraph, Twitter cards, its title and description. Pure.

https://ogp.me/; HTML living standard, "Determining the character encoding". The parser is the standard library's: a page's head
is little work, and lxml would cost a small box ten megabytes for it. It is fed once, and not closed: what a hostile page
leaves open at its end, on which the parser would dwell, is not looked at.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_READ: Final = 1024 * 1024
"""Bytes of a page that are looked at."""
MAX_PROPERTIES: Final = 40
MAX_NAME: Final = 64
MAX_VALUE: Final = 1000
MAX_TEXT: Final = 500

_CHARSET: Final = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_TEXT: Final = re.compile(r"(utf-(8|16|32)|iso8859|iso2022|cp\d|koi8|gb|big5|hz|euc|shift_jis|ascii|mac|tis)")
"""Names, as `codecs` has them, of encodings that pages are in. Punycode, of which Python knows too, takes minutes for a megabyte."""
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_OEMBED: Final = "application/json+oembed"
_ENOUGH_PARAGRAPHS: Final = 3


@dataclass(slots=True)
class Page:
    """`properties` by their OpenGraph names; `image` and `oembed` are addresses as the page writes them."""

    properties: dict[str, str] = field(default_factory=dict)
    image: str | None = None
    oembed: str | None = None


def read(body: bytes, content_type: str) -> Page:
    """What the page's head says, and for a description, if there is no other, its first paragraphs."""
    reader = _Reader()
    reader.feed(decode(body[:MAX_READ], content_type))
    return reader.page()


def decode(body: bytes, content_type: str) -> str:
    """The text: by byte order mark, the Content-Type, what the page says of itself; else UTF-8."""
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    for said in (content_type, body[:1024].decode("latin-1")):
        match = _CHARSET.search(said)
        if match is not None:
            try:
                name = codecs.lookup(match[1]).name
                if _TEXT.match(name):
                    return body.decode(name, "replace")
            except (LookupError, UnicodeError):
                continue
    return body.decode("utf-8", "replace")


def tidy(text: str, limit: int = MAX_VALUE) -> str:
    """In one line, without control characters, of at most so many characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:limit]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._meta: dict[str, str] = {}
        self._title: list[str] | None = None
        self._paragraphs: list[str] = []
        self._text: list[str] | None = None
        self._oembed: str | None = None
        self._image: str | None = None
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs[:20]}
        if tag == "meta":
            self._take_meta(told)
        elif tag == "title" and self._title is None:
            self._title, self._in_title = [], True
        elif tag == "link":
            self._take_link(told)
        elif tag == "p" and len(self._paragraphs) < _ENOUGH_PARAGRAPHS:
            self._end_paragraph()
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag == "p":
            self._end_paragraph()

    def handle_data(self, data: str) -> None:
        if self._in_title and self._title is not None and len(self._title) < 10:
            self._title.append(data[:MAX_VALUE])
        elif self._text is not None and len(self._text) < 50:
            self._text.append(data[:MAX_VALUE])

    def _end_paragraph(self) -> None:
        text = tidy("".join(self._text or ()), MAX_TEXT)
        self._text = None
        if len(text) > 30:
            self._paragraphs.append(text)

    def _take_meta(self, told: Mapping[str, str]) -> None:
        name, value = (told.get("property") or told.get("name") or "").strip().lower(), tidy(told.get("content", ""))
        wanted = name.startswith(("og:", "twitter:")) or name == "description"
        if wanted and value and len(name) <= MAX_NAME and len(self._meta) < 2 * MAX_PROPERTIES:
            self._meta.setdefault(name, value)

    def _take_link(self, told: Mapping[str, str]) -> None:
        kinds, href = told.get("rel", "").lower().split(), told.get("href", "")
        if "alternate" in kinds and told.get("type", "").lower() == _OEMBED:
            self._oembed = self._oembed or href or None
        elif "image_src" in kinds:
            self._image = self._image or href or None

    def page(self) -> Page:
        meta = self._meta
        found = {name: value for name, value in meta.items() if name.startswith("og:")}
        image = found.get("og:image") or found.get("og:image:secure_url") or found.get("og:image:url")
        image = image or meta.get("twitter:image") or meta.get("twitter:image:src") or self._image
        found = {name: value for name, value in found.items() if not name.startswith("og:image")}
        title = meta.get("twitter:title") or tidy("".join(self._title or ()))
        description = meta.get("twitter:description") or meta.get("description") or tidy(" ".join(self._paragraphs), MAX_TEXT)
        for name, value in (("og:title", title), ("og:description", description), ("og:site_name", meta.get("twitter:site"))):
            if value:
                found.setdefault(name, value)
        return Page(dict(list(found.items())[:MAX_PROPERTIES]), image, self._oembed)
