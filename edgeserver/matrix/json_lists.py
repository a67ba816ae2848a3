"""Large JSON answers, decoded element by element.

The answer to a join holds every state event of a room. Decoded at once, an answer of 8 MB is 100 MB of objects; here it stays bytes, the
elements of its long lists are found once, and each is decoded when it is wanted and forgotten afterwards.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Sequence
from typing import Any, Final, overload

from edgeserver.matrix.canonical_json import CanonicalJSONError, decode_exact

_BLANK: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


class JsonList(Sequence[Any]):
    """The elements of one list inside `body`; each look at one decodes it anew.

    An element that is nested too deep raises CanonicalJSONError when it is looked at.
    """

    __slots__ = ("_body", "_ends", "_starts")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._starts = array("Q")
        self._ends = array("Q")

    def _append(self, start: int, end: int) -> None:
        self._starts.append(start)
        self._ends.append(end)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return decode_exact(self._body[self._starts[index] : self._ends[index]])


def decode_with_lists(body: bytes, names: frozenset[str]) -> dict[str, Any]:
    """The JSON object in `body`; its members with these names, where they are lists, as `JsonList`.

    Raises CanonicalJSONError if it is no JSON object.
    """
    # Every byte as one character: positions in the text are positions in the bytes, and JSON's own signs are all ASCII.
    text = body.decode("latin-1")
    try:
        found = _members(text, body, names)
    except (ValueError, RecursionError, IndexError) as error:
        raise CanonicalJSONError("not valid JSON") from error
    return found


def _members(text: str, body: bytes, names: frozenset[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    at = _expect(text, _skip(text, 0), "{")
    if text[at] == "}":
        at += 1
    else:
        while True:
            _expect(text, at, '"')
            _, end = _DECODER.raw_decode(text, at)
            name = decode_exact(body[at:end])
            at = _expect(text, _skip(text, end), ":")
            if name in names and text[at] == "[":
                found[name], at = _elements(text, at, body)
            else:
                _, end = _DECODER.raw_decode(text, at)
                found[name], at = decode_exact(body[at:end]), end
            at = _skip(text, at)
            if text[at] == "}":
                at += 1
                break
            at = _expect(text, at, ",")
    if _skip(text, at) != len(text):
        raise ValueError("something follows the object")
    return found


def _elements(text: str, at: int, body: bytes) -> tuple[JsonList, int]:
    found = JsonList(body)
    at = _expect(text, at, "[")
    if text[at] == "]":
        return found, at + 1
    while True:
        _, end = _DECODER.raw_decode(text, at)
        found._append(at, end)
        at = _skip(text, end)
        if text[at] == "]":
            return found, at + 1
        at = _expect(text, at, ",")


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    assert match is not None
    return match.end()


def _expect(text: str, at: int, sign: str) -> int:
    """The place after this sign and the blanks behind it; of a string's opening quote the caller wants the place itself."""
    if text[at] != sign:
        raise ValueError(f"{sign} expected")
    return _skip(text, at + 1)
