"""Canonical JSON: the one byte form of a JSON value that is hashed and signed.

Spec: appendices, "Canonical JSON". Keys sorted by code point, shortest form, UTF-8, integers within ±(2^53 - 1) only.

orjson writes exactly this form once it is given the right values, so the work here is to refuse the wrong ones:
floats, integers out of range, lone surrogates, NaN, and nesting that would exhaust a stack. A key that occurs twice in
an object is not refused on input: the last one counts, everywhere, since only the decoded value is ever hashed, judged
or passed on.

Room versions 1 to 5 do not enforce that form (rooms/v1, "Canonical JSON"), and what other servers sign there is what
Python's json module writes: floats in its notation, integers of any length. orjson has neither, so such values, and
they alone, take the standard library's way (`decode_exact`, `encode_lenient`).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

import orjson

MAX_DEPTH: Final = 100
"""Levels of objects and arrays that are accepted, one inside the other."""

MAX_INTEGER: Final = 2**53 - 1
MIN_INTEGER: Final = -MAX_INTEGER

_STRICT = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_LOOSE = orjson.OPT_SORT_KEYS
_BEYOND_64_BITS: Final = float(2**63)
"""From here on a float that orjson read may have been an integer. Those from 2^63 on that fit 64 bits it keeps."""
_BEYOND_DOUBLE = re.compile(rb"[0-9]{300}")
"""Integers that are too long for a float even orjson takes for an error."""


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


def decode_exact(data: bytes | str) -> Any:
    """As `decode`, and integers of more than 64 bits, which `decode` makes floats, stay what they are.

    For whatever may hold a PDU of room versions 1 to 5: its hash would be another one. NaN and infinity are refused,
    and integers of more than 4300 digits.
    """
    try:
        value = decode(data)
    except CanonicalJSONError:
        if _BEYOND_DOUBLE.search(data.encode(errors="replace") if isinstance(data, str) else data) is None:
            raise
        value = _decode_slowly(data)
        _python_form(value)  # refuses what only this reader lets through: lone surrogates, too many levels
        return value
    return _decode_slowly(data) if _may_be_rounded(value) else value


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


def encode_lenient(value: Any) -> bytes:
    """The bytes of a value that are hashed and signed in room versions 1 to 5; the canonical ones where it has those.

    Floats and integers out of range are written as Python's json module does, as everybody else's servers do.
    Raises CanonicalJSONError for what JSON cannot say: NaN, infinity, and whatever else `encode` refuses.
    """
    try:
        check(value)
    except NumberError:
        return _python_form(value)
    return encode_checked(value)


def encode_loose(value: Any) -> bytes:
    """Any JSON value in few bytes, keys sorted, floats and integers of any size included: to be stored, not signed.

    Read it with `decode_exact` if it may hold integers of more than 64 bits.
    """
    try:
        return orjson.dumps(value, option=_LOOSE)
    except TypeError:  # an integer of more than 64 bits, or no JSON value
        return _python_form(value)


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


def _may_be_rounded(value: Any) -> bool:
    """Whether there is a float that may have been an integer of more than 64 bits."""
    kind = type(value)
    if kind is float:
        return not -_BEYOND_64_BITS < value < _BEYOND_64_BITS
    pending = [value] if kind is dict or kind is list else []
    for container in pending:  # grows while it is walked
        for member in container.values() if type(container) is dict else container:
            kind = type(member)
            if kind is str or kind is int:
                continue
            if kind is dict or kind is list:
                pending.append(member)
            elif kind is float and not -_BEYOND_64_BITS < member < _BEYOND_64_BITS:
                return True
    return False


def _decode_slowly(data: bytes | str) -> Any:
    try:
        return json.loads(data if isinstance(data, str) else str(data, "utf-8"), parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CanonicalJSONError("not valid JSON") from error


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not a JSON number")


def _python_form(value: Any) -> bytes:
    """As Python's json module writes it, keys sorted, without blanks, in UTF-8."""
    _check_keys(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode()
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError: a lone surrogate
        raise CanonicalJSONError(str(error)) from error


def _check_keys(value: Any) -> None:
    """Refuses keys that are no strings, which the json module would make strings, and too many levels."""
    level: list[Any] = [(value,)]
    for _ in range(MAX_DEPTH + 1):
        members = [member for container in level for member in (container.values() if isinstance(container, dict) else container)]
        level = [member for member in members if isinstance(member, (dict, list, tuple))]
        if any(type(key) is not str for container in level if isinstance(container, dict) for key in container):
            raise CanonicalJSONError("a key is not a string")
        if not level:
            return
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
