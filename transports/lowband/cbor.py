"""JSON values as CBOR (RFC 8949), deterministic on the way out and bounded on the way in.

Written out is the core deterministic encoding (RFC 8949 §4.2.1): shortest heads and floats, definite lengths, map
keys in the bytewise order of their encoding. Read in is any definite-length CBOR that is a JSON value; unsorted maps
and long heads of other encoders are accepted, because MSC3079 clients send them. Tags, duplicate keys, trailing
bytes, undefined, NaN and infinities are refused, and depth and number of items are bounded before anything is built.

A `Vocabulary` makes it smaller:

- `keys` are written as integers (MSC3079). If a received map has the integer and the string form of one key, the string
  form wins; a string that looks like a number stays a string.
- with `strings`, a byte string stands for a text, for JSON has no byte strings: one byte is an index into the table; a
  longer one is a form byte and the raw bytes of an unpadded base64 text (event ids, hashes, signatures, ciphertext).

Integers are those of 64 bits (-2^63 … 2^64-1). `1` and `1.0` stay different.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DEPTH = 64
MAX_ITEMS = 200_000
"""An item costs up to 64 bytes of memory while it may cost one byte of input."""

_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FALSE, _TRUE, _NULL, _HALF, _SINGLE, _DOUBLE = 20, 21, 22, 25, 26, 27

_STANDARD, _URLSAFE = b"+/", b"-_"
_STANDARD_ONLY, _URLSAFE_ONLY = re.compile(r"[+/]"), re.compile(r"[-_]")
_PACKED = re.compile(r"([$!]?)([A-Za-z0-9]*(?:[+/][A-Za-z0-9+/]*|[-_][A-Za-z0-9_-]*)?)")
_FORMS = (("", _STANDARD), ("$", _URLSAFE), ("!", _URLSAFE), ("", _URLSAFE), ("$", _STANDARD))
"""Sigil and alphabet by form byte."""
_PACK_FROM = 40
"""Characters from which a base64 text is packed; shorter ones are too often words."""


class CborError(ValueError):
    """The value cannot be written, or the bytes are not an acceptable JSON value."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What both ends know by heart. `keys`: map key → integer; `strings`: text → index (0 … 255), or None where byte
    strings are not spoken."""

    keys: Mapping[str, int] = field(default_factory=dict)
    strings: Mapping[str, int] | None = None
    names: Mapping[int, str] = field(init=False)
    texts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {code: name for name, code in self.keys.items()})
        object.__setattr__(self, "texts", tuple(self.strings or ()))


PLAIN = Vocabulary()


def encode(value: Any, vocabulary: Vocabulary = PLAIN, *, floats: bool = True, max_depth: int = MAX_DEPTH) -> bytes:
    """The deterministic encoding of a JSON value. Raises CborError on what JSON or 64 bits do not have."""
    out: list[bytes] = []
    _Writer(out, vocabulary, floats).put(value, max_depth)
    return b"".join(out)


def decode(
    data: bytes,
    vocabulary: Vocabulary = PLAIN,
    *,
    floats: bool = True,
    max_depth: int = MAX_DEPTH,
    max_items: int = MAX_ITEMS,
) -> Any:
    """The one JSON value that `data` holds from end to end. Raises CborError."""
    reader = _Reader(data, vocabulary, floats, max_items)
    value = reader.take(max_depth)
    if reader.position != len(data):
        raise CborError("bytes after the value")
    return value


def _head(major: int, number: int) -> bytes:
    """The shortest head of that major type (RFC 8949 §3)."""
    top = major << 5
    if number < 24:
        return bytes((top | number,))
    if number < 1 << 8:
        return bytes((top | 24, number))
    if number < 1 << 16:
        return struct.pack(">BH", top | 25, number)
    if number < 1 << 32:
        return struct.pack(">BI", top | 26, number)
    return struct.pack(">BQ", top | 27, number)


def _text(text: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise CborError("a lone surrogate is not text") from error
    return _head(_TEXT, len(raw)) + raw


def _integer(value: int) -> bytes:
    if not -(1 << 63) <= value < 1 << 64:
        raise CborError("an integer beyond 64 bits")
    return _head(_UINT, value) if value >= 0 else _head(_NEGATIVE, -1 - value)


def _float(value: float) -> bytes:
    """The shortest of the three widths that keeps the value (RFC 8949 §4.2.1)."""
    if not math.isfinite(value):
        raise CborError("JSON has no NaN and no infinity")
    for head, form in ((_HALF, ">e"), (_SINGLE, ">f")):
        try:
            raw = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.unpack(form, raw)[0] == value:
            return bytes((_SIMPLE << 5 | head,)) + raw
    return struct.pack(">Bd", _SIMPLE << 5 | _DOUBLE, value)


def pack_base64(text: str) -> bytes | None:
    """The form byte and raw bytes of an unpadded base64 text with an optional sigil, or None where that is not
    exact."""
    if len(text) < _PACK_FROM or (match := _PACKED.fullmatch(text)) is None:
        return None
    sigil, digits = match.groups()
    alphabet = _STANDARD if _STANDARD_ONLY.search(digits) else _URLSAFE if _URLSAFE_ONLY.search(digits) else None
    form = next((n for n, (s, a) in enumerate(_FORMS) if s == sigil and alphabet in (a, None)), None)
    if form is None:
        return None
    try:
        raw = base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=_FORMS[form][1], validate=True)
    except binascii.Error:
        return None
    packed = bytes((form,)) + raw
    return packed if unpack_base64(packed) == text else None


def unpack_base64(packed: bytes) -> str:
    """The text that `pack_base64` made these bytes of. Raises CborError on an unknown form."""
    if not packed or packed[0] >= len(_FORMS):
        raise CborError("unknown form of packed text")
    sigil, alphabet = _FORMS[packed[0]]
    return sigil + base64.b64encode(packed[1:], altchars=alphabet).rstrip(b"=").decode("ascii")


class _Writer:
    __slots__ = ("floats", "keys", "out", "strings")

    def __init__(self, out: list[bytes], vocabulary: Vocabulary, floats: bool) -> None:
        self.out = out
        self.keys = vocabulary.keys
        self.strings = vocabulary.strings
        self.floats = floats

    def put(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind is str:
            self.out.append(self._string(value))
        elif kind is dict:
            self._map(value, depth - 1)
        elif kind is list or kind is tuple:
            if depth < 1:
                raise CborError("nested too deeply")
            self.out.append(_head(_ARRAY, len(value)))
            for item in value:
                self.put(item, depth - 1)
        elif kind is bool:
            self.out.append(b"\xf5" if value else b"\xf4")
        elif kind is int:
            self.out.append(_integer(value))
        elif value is None:
            self.out.append(b"\xf6")
        elif kind is float and self.floats:
            self.out.append(_float(value))
        else:
            raise CborError(f"{kind.__name__} is not accepted here")

    def _string(self, text: str) -> bytes:
        if self.strings is not None:
            index = self.strings.get(text)
            if index is not None:
                return bytes((0x41, index))
            packed = pack_base64(text)
            if packed is not None:
                return _head(_BYTES, len(packed)) + packed
        return _text(text)

    def _map(self, value: dict[Any, Any], depth: int) -> None:
        if depth < 0:
            raise CborError("nested too deeply")
        entries = []
        for key, item in value.items():
            if type(key) is not str:
                raise CborError("a map key that is not a string")
            code = self.keys.get(key)
            entries.append((_text(key) if code is None else _head(_UINT, code), item))
        entries.sort(key=lambda entry: entry[0])
        self.out.append(_head(_MAP, len(entries)))
        for encoded, item in entries:
            self.out.append(encoded)
            self.put(item, depth)


class _Reader:
    __slots__ = ("data", "end", "floats", "items", "position", "vocabulary")

    def __init__(self, data: bytes, vocabulary: Vocabulary, floats: bool, max_items: int) -> None:
        self.data = data
        self.end = len(data)
        self.position = 0
        self.vocabulary = vocabulary
        self.floats = floats
        self.items = max_items

    def take(self, depth: int) -> Any:
        major, detail, number = self._head()
        if major == _TEXT:
            return self._text(number)
        if major == _UINT:
            return number
        if major == _MAP:
            return self._map(number, depth - 1)
        if major == _ARRAY:
            self._enter(number, depth - 1)
            return [self.take(depth - 1) for _ in range(number)]
        if major == _NEGATIVE:
            if number >= 1 << 63:
                raise CborError("an integer beyond 64 bits")
            return -1 - number
        if major == _SIMPLE:
            return self._simple(detail)
        if major == _BYTES and self.vocabulary.strings is not None:
            return self._packed(number)
        raise CborError("a tag" if major == _TAG else "a byte string")

    def _raw(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > self.end:
            raise CborError("ends too early")
        return self.data[start : self.position]

    def _head(self) -> tuple[int, int, int]:
        """Major type, the head's five low bits and the number they lead to (for floats: their raw bits)."""
        first = self._raw(1)[0]
        detail = first & 31
        if detail < 24:
            return first >> 5, detail, detail
        if detail > 27:
            raise CborError("an indefinite length")
        return first >> 5, detail, int.from_bytes(self._raw(1 << (detail - 24)), "big")

    def _text(self, length: int) -> str:
        try:
            return self._raw(length).decode()
        except UnicodeDecodeError as error:
            raise CborError("text that is not UTF-8") from error

    def _enter(self, items: int, depth: int) -> None:
        """Before a container is built: it must be able to fit into what is left of the input and of the budget."""
        self.items -= items
        if depth < 0:
            raise CborError("nested too deeply")
        if items > self.end - self.position or self.items < 0:
            raise CborError("more items than are accepted")

    def _map(self, size: int, depth: int) -> dict[str, Any]:
        self._enter(2 * size, depth)
        by_code: dict[str, Any] = {}
        by_text: dict[str, Any] = {}
        for _ in range(size):
            major, _, number = self._head()
            if major == _TEXT:
                target, key = by_text, self._text(number)
            elif major == _UINT and number in self.vocabulary.names:
                target, key = by_code, self.vocabulary.names[number]
            else:
                raise CborError("an unknown map key")
            if key in target:
                raise CborError("a duplicate map key")
            target[key] = self.take(depth)
        return by_code | by_text if by_code else by_text

    def _packed(self, length: int) -> str:
        raw = self._raw(length)
        if length != 1:
            return unpack_base64(raw)
        if raw[0] >= len(self.vocabulary.texts):
            raise CborError("an unknown string")
        return self.vocabulary.texts[raw[0]]

    def _simple(self, detail: int) -> Any:
        if detail in (_FALSE, _TRUE):
            return detail == _TRUE
        if detail == _NULL:
            return None
        if detail not in (_HALF, _SINGLE, _DOUBLE) or not self.floats:
            raise CborError("a simple value that is not accepted here")
        width = 1 << (detail - 24)
        value = struct.unpack({2: ">e", 4: ">f", 8: ">d"}[width], self.data[self.position - width : self.position])[0]
        if not math.isfinite(value):
            raise CborError("JSON has no NaN and no infinity")
        return value
