"""Parameters of server-server requests, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix.errors import BadJson, InvalidParam, MissingParam

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.api.endpoint import Call

MAX_LIST = 100


def integer(call: Call, name: str, default: int) -> int:
    """An integer of the query. Raises M_INVALID_PARAM."""
    text = call.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.removeprefix("-").isdecimal()) or len(text) > 16:
        raise InvalidParam(f"{name} is not an integer.")
    return int(text)


def boolean(call: Call, name: str) -> bool:
    """A boolean of the query, false if it is not there. Raises M_INVALID_PARAM."""
    text = call.query.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidParam(f"{name} is neither true nor false.")
    return text == "true"


def direction(call: Call) -> bool:
    """Whether `dir` is `b`, backwards. Raises M_MISSING_PARAM, M_INVALID_PARAM."""
    text = required(call, "dir")
    if text not in ("f", "b"):
        raise InvalidParam("dir is neither f nor b.")
    return text == "b"


def required(call: Call, name: str) -> str:
    """A string of the query. Raises M_MISSING_PARAM."""
    text = call.query.get(name)
    if text is None:
        raise MissingParam(f"{name} is missing.")
    return text


def body_integer(body: Mapping[str, Any], name: str, default: int) -> int:
    """An integer of the body. Raises M_BAD_JSON."""
    value = body.get(name, default)
    if type(value) is not int:
        raise BadJson(f"{name} is not an integer.")
    return value


def body_strings(body: Mapping[str, Any], name: str, limit: int = MAX_LIST) -> list[str]:
    """A list of at most `limit` strings of the body. Raises M_BAD_JSON."""
    value = body.get(name, [])
    if not isinstance(value, list) or len(value) > limit or not all(isinstance(one, str) for one in value):
        raise BadJson(f"{name} is not a list of at most {limit} strings.")
    return value


def body_object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object of the body. Raises M_BAD_JSON."""
    value = body.get(name)
    if not isinstance(value, dict):
        raise BadJson(f"{name} is not an object.")
    return value
