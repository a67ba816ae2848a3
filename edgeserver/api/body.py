"""Members of a body, of the type that they must have. A null is as good as nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Mapping


def text(body: Mapping[str, Any], name: str) -> str | None:
    """None if it is not there. Raises M_BAD_JSON."""
    value = body.get(name)
    if value is not None and type(value) is not str:
        raise errors.BadJson(f"{name} must be a string.")
    return value


def needed_text(body: Mapping[str, Any], name: str) -> str:
    """Raises M_MISSING_PARAM, M_BAD_JSON."""
    found = text(body, name)
    if found is None:
        raise errors.MissingParam(f"{name} is missing.")
    return found


def switch(body: Mapping[str, Any], name: str) -> bool | None:
    """None if it is not there. Raises M_BAD_JSON."""
    value = body.get(name)
    if value is not None and type(value) is not bool:
        raise errors.BadJson(f"{name} must be true or false.")
    return value


def needed_switch(body: Mapping[str, Any], name: str) -> bool:
    """Raises M_MISSING_PARAM, M_BAD_JSON."""
    found = switch(body, name)
    if found is None:
        raise errors.MissingParam(f"{name} is missing.")
    return found
