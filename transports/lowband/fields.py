"""The fields that our link messages are made of: variable-length numbers and short texts.

A number is LEB128: seven bits a byte, lowest first, the top bit says that more follow. A text is a number whose two
low bits tell its form: 0 the length of the UTF-8 that follows, 1 an index into the string table, 2 and 3 the 32 raw
bytes of an identifier that is `$` or `!` and a hash in unpadded URL-safe base64 (event ids since room version 4, room
ids since 12).
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transports.lowband.cbor import Vocabulary

_HASHED = re.compile(r"[$!][A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_FORM_OF_SIGIL = {"$": 2, "!": 3}


class FieldError(ValueError):
    """The bytes are not what the message format says."""


def number(value: int) -> bytes:
    """`value` ≥ 0 as LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str, vocabulary: Vocabulary) -> bytes:
    """A short text in the smallest form that this vocabulary has. Raises FieldError on a lone surrogate."""
    if vocabulary.strings is not None:
        index = vocabulary.strings.get(value)
        if index is not None:
            return number(index << 2 | 1)
        if _HASHED.fullmatch(value):
            return bytes((_FORM_OF_SIGIL[value[0]],)) + base64.urlsafe_b64decode(value[1:] + "=")
    try:
        raw = value.encode()
    except UnicodeEncodeError as error:
        raise FieldError("a lone surrogate is not text") from error
    return number(len(raw) << 2) + raw


class Reader:
    """Takes fields from the front of a message; every method raises FieldError where the message does not hold one."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, length: int) -> bytes:
        start, self._position = self._position, self._position + length
        if self._position > len(self._data):
            raise FieldError("ends too early")
        return self._data[start : self._position]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, limit: int = 0xFFFF_FFFF) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if value > limit:
                raise FieldError("a number beyond its limit")
            if byte < 0x80:
                return value
            shift += 7
            if shift > 35:
                raise FieldError("a number without end")

    def text(self, vocabulary: Vocabulary, limit: int = 8192) -> str:
        """A text of at most `limit` bytes (one of the vocabulary's own is known to be short)."""
        head = self.number(max(limit, len(vocabulary.texts)) << 2 | 3)
        value, form = head >> 2, head & 3
        if form == 0:
            if value > limit:
                raise FieldError("a text beyond its limit")
            try:
                return self.take(value).decode()
            except UnicodeDecodeError as error:
                raise FieldError("text that is not UTF-8") from error
        if vocabulary.strings is None:
            raise FieldError("a text form that was not agreed")
        if form == 1:
            if value >= len(vocabulary.texts):
                raise FieldError("an unknown string")
            return vocabulary.texts[value]
        hashed = base64.urlsafe_b64encode(self.take(32)).rstrip(b"=").decode("ascii")
        return ("$" if form == 2 else "!") + hashed

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)
