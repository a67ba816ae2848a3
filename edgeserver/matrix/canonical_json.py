"""Canonical JSON: the one byte form of a JSON value that is hashed and signed.

Spec: appendices, "Canonical JSON". Keys sorted by code point, shortest form, UTF-8, integers within ±(2^53 - 1) only.

orjson writes exactly this form once it is given the right values, so the work here is to refuse the wrong ones:
floats, integers out of range, lone surrogates, NaN, and nesting that would exhaust a stack. A key that occurs twice in
an object is not refused on input: the last one counts, everywhere, since only the decoded value is ever hashed, judged
or passed on.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

MAX_DEPTH: Final = 100
"""Levels of objects and arrays that are accepted, one inside the other."""

MAX_INTEGER: Final = 2**53 - 1
MIN_INTEGER: Final = -MAX_INTEGER

_STRICT = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_LOOSE = orjson.OPT_SORT_KEYS


class CanonicalJSONError(ValueError):
    """The bytes are not JSON, or the value has no canonical form."""


class NumberError(CanonicalJSONError):
    """A float, or an integer outside ±(2^53 - 1)."""


def decode(data: bytes | bytearray | memoryview | str) -> Any:
    """Decode JSON from an untrusted source.

    Floats are let through, since JSON that is not a PDU may hold them; `check` refuses them.

    Raises CanonicalJSONError for anything that is not JSON in UTF-8, or is nested deeper than MAX_DEPTH.
    """
    try:
        value = orjson.loads(data)
    except (ValueError, RecursionError) as error:
        raise CanonicalJSONError("not valid JSON") from error
    if isinstance(data, memoryview):
        data = bytes(data)
    opened = data.count("{") + data.count("[") if isinstance(data, str) else data.count(b"{") + data.count(b"[")
    if opened > MAX_DEPTH:  # fewer brackets than levels allowed: cannot be too deep, and most input ends here
        _check_depth(value)
    return value


def encode(value: Any) -> bytes:
    """The canonical bytes of `value`.

    A float that is a whole number in range is written as that integer (the spec's own vectors write 1e10 so);
    whether a PDU may hold one at all is for `check` to say.

    Raises CanonicalJSONError for any other float, an integer out of range, a lone surrogate, a key that is not a
    string, a type that JSON does not have, or nesting deeper than MAX_DEPTH.
    """
    try:
        check(value)
    except NumberError:
        value = _whole_numbers(value)
        check(value)
    return encode_checked(value)


def encode_checked(value: Any) -> bytes:
    """The canonical bytes of a value that has passed `check`: the same as `encode` without walking it again."""
    try:
        return orjson.dumps(value, option=_STRICT)
    except TypeError as error:  # orjson.JSONEncodeError is a TypeError
        raise CanonicalJSONError(str(error)) from error


def encode_loose(value: Any) -> bytes:
    """As `encode`, but floats and 64-bit integers are written as they are: room versions 1 to 5 allowed them."""
    try:
        return orjson.dumps(value, option=_LOOSE)
    except TypeError as error:
        raise CanonicalJSONError(str(error)) from error


def check(value: Any) -> None:
    """Check that `value` holds what canonical JSON allows: the rule for a PDU from room version 6 on.

    Raises NumberError for a float or an integer out of range, else CanonicalJSONError. Strings are not examined here:
    `decode` and the encoders refuse those that are not Unicode.
    """
    level: list[Any] = [(value,)]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[Any] = []
        for container in level:
            for member in container.values() if type(container) is dict else container:
                kind = type(member)
                if kind is str or kind is bool or member is None:
                    continue
                if kind is int:
                    if not MIN_INTEGER <= member <= MAX_INTEGER:
                        raise NumberError("an integer is outside ±(2^53 - 1)")
                elif kind is dict or kind is list or kind is tuple:
                    deeper.append(member)
                elif kind is float:
                    raise NumberError("a float is not allowed")
                else:
                    raise CanonicalJSONError(f"{kind.__name__} is not a JSON type")
        if not deeper:
            return
        level = deeper
    raise CanonicalJSONError(f"nested deeper than {MAX_DEPTH} levels")


def _check_depth(value: Any) -> None:
    level = [value] if type(value) in (dict, list) else []
    for _ in range(MAX_DEPTH):
        level = [
            member
            for container in level
            for member in (container.values() if type(container) is dict else container)
            if type(member) is dict or type(member) is list
        ]
        if not level:
            return
    raise CanonicalJSONError(f"nested deeper than {MAX_DEPTH} levels")


def _whole_numbers(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise CanonicalJSONError(f"nested deeper than {MAX_DEPTH} levels")
    if type(value) is float and value.is_integer() and MIN_INTEGER <= value <= MAX_INTEGER:
        return int(value)
    if type(value) is dict:
        return {key: _whole_numbers(member, depth + 1) for key, member in value.items()}
    if type(value) in (list, tuple):
        return [_whole_numbers(member, depth + 1) for member in value]
    return value
