"""Bodies: JSON travels as CBOR where that is exact, anything else as it stands.

What comes out of the CBOR form is canonical JSON of the same value. A body is given that form only if nothing is lost:
no duplicate keys, no integers beyond 64 bits, no nesting beyond the bound.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import orjson

from transports.lowband import cbor

if TYPE_CHECKING:
    from transports.lowband.cbor import Vocabulary

JSON = "application/json"
MAX_JSON = 512 * 1024
"""Bytes of JSON up to which it is rewritten; larger bodies are left to zstd, which needs no walk in Python."""


def to_cbor(body: bytes, vocabulary: Vocabulary, *, verbatim: bool = False) -> bytes | None:
    """The body as CBOR, or None where it must travel as it stands. With `verbatim`, the very bytes must come out again
    (stored files may be JSON, too); else the value must."""
    if not body or len(body) > MAX_JSON:
        return None
    try:
        return cbor.encode(to_value(body, verbatim=verbatim), vocabulary)
    except (ValueError, TypeError):
        return None


def to_value(body: bytes, *, verbatim: bool = False) -> Any:
    """The value from which `from_value` makes this body again, as in `to_cbor`. Raises ValueError or TypeError if there is none."""
    value = orjson.loads(body)
    canonical = from_value(value)
    if canonical != body and (verbatim or not _same_value(body, canonical)):
        raise ValueError("something of this body would be lost")
    return value


def from_value(value: Any) -> bytes:
    """Canonical JSON. Raises TypeError on what is not JSON of at most 64 bits an integer."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def to_json(packed: bytes, vocabulary: Vocabulary) -> bytes:
    """Canonical JSON of a received body. Raises CborError."""
    return from_value(cbor.decode(packed, vocabulary))


def to_base64(data: bytes) -> str:
    """Unpadded, as Matrix writes it."""
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def _same_value(body: bytes, canonical: bytes) -> bool:
    """Whether a second, stricter reading of the body agrees with the first: orjson keeps the last of two equal keys and
    turns integers beyond 64 bits into floats."""
    try:
        value = json.loads(body, object_pairs_hook=_no_duplicates)
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS) == canonical
    except (ValueError, TypeError, RecursionError):
        return False


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a duplicate key")
    return found
