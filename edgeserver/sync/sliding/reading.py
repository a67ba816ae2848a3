"""What both dialects of sliding sync have in common in a request's body: shapes and bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import fits
from edgeserver.sync.sliding.connections import MAX_CONN_ID
from edgeserver.sync.sliding.wanted import MAX_TIMELINE, Extensions, ListFilter, Scope, ThreadsWish, ToDeviceWish

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LISTS: Final = 100
MAX_SUBSCRIPTIONS: Final = 100
MAX_NAME: Final = 64
"""Bytes of a list's name."""
MAX_TO_DEVICE: Final = 100
MAX_INDEX: Final = 2**31
MAX_ELEMENTS: Final = 200
"""Elements of a required state, or of a filter."""


def table(body: Mapping[str, Any], key: str, limit: int | None = None) -> dict[str, Any]:
    """An object of objects. Raises M_BAD_JSON, and M_INVALID_PARAM for more than `limit`."""
    value = body.get(key)
    if value is None:
        return {}
    if type(value) is not dict or not all(type(each) is dict for each in value.values()):
        raise errors.BadJson(f"{key} must map names to objects.")
    if limit is not None and len(value) > limit:
        raise errors.InvalidParam(f"{key} has at most {limit} entries.")
    return value


def lists(body: Mapping[str, Any]) -> dict[str, Any]:
    """The lists as given. Raises M_BAD_JSON, M_INVALID_PARAM."""
    found = table(body, "lists", MAX_LISTS)
    if any(not fits(name, MAX_NAME) for name in found):
        raise errors.InvalidParam(f"A list's name has at most {MAX_NAME} bytes.")
    return found


def conn_id(body: Mapping[str, Any]) -> str:
    """Raises M_BAD_JSON, M_INVALID_PARAM."""
    value = body.get("conn_id")
    if value is None:
        return ""
    if type(value) is not str:
        raise errors.BadJson("conn_id is not a string.")
    if not fits(value, MAX_CONN_ID):
        raise errors.InvalidParam("conn_id is too long.")
    return value


def whole_number(value: object, name: str, most: int = 2**53) -> int:
    """Raises M_BAD_JSON for what is no number of at least 0; larger ones are cut."""
    if type(value) is not int or value < 0:
        raise errors.BadJson(f"{name} is not a whole number of 0 or more.")
    return min(value, most)


def timeline_limit(given: Mapping[str, Any]) -> int:
    """Raises M_MISSING_PARAM, M_BAD_JSON."""
    value = given.get("timeline_limit")
    if value is None:
        raise errors.MissingParam("timeline_limit is missing.")
    return whole_number(value, "timeline_limit", MAX_TIMELINE)


def span(value: object) -> tuple[int, int]:
    """A range of a list. Raises M_BAD_JSON, M_INVALID_PARAM."""
    if type(value) is not list or len(value) != 2:
        raise errors.BadJson("A range is a list of two numbers.")
    start, end = (whole_number(each, "A range", MAX_INDEX) for each in value)
    if start > end:
        raise errors.InvalidParam("A range begins before it ends.")
    return start, end


def filters(given: object, *, invited: str) -> ListFilter:
    """`invited` is what the dialect calls `is_invited`. Raises M_BAD_JSON."""
    if given is None:
        return ListFilter()
    if type(given) is not dict:
        raise errors.BadJson("filters is not an object.")
    return ListFilter(
        is_dm=_flag(given, "is_dm"),
        is_encrypted=_flag(given, "is_encrypted"),
        is_invited=_flag(given, invited),
        room_types=_texts(given, "room_types", nulls=True),
        not_room_types=_texts(given, "not_room_types", nulls=True) or frozenset(),
        tags=_texts(given, "tags"),
        not_tags=_texts(given, "not_tags") or frozenset(),
        spaces=_texts(given, "spaces"),
    )


def _flag(given: Mapping[str, Any], key: str) -> bool | None:
    value = given.get(key)
    if value is not None and type(value) is not bool:
        raise errors.BadJson(f"{key} is true or false.")
    return value


def _texts(given: Mapping[str, Any], key: str, *, nulls: bool = False) -> Any:
    value = given.get(key)
    if value is None:
        return None
    if type(value) is not list or len(value) > MAX_ELEMENTS or not all(type(one) is str or (nulls and one is None) for one in value):
        raise errors.BadJson(f"{key} is not a list of at most {MAX_ELEMENTS} texts.")
    return frozenset(value)


def extensions(body: Mapping[str, Any], *, star: bool, threads: str) -> Extensions:
    """The extensions that are enabled; unknown ones are passed over. `star`: the dialect knows `*` for all.

    `threads` is the name of that of thread subscriptions. Raises M_BAD_JSON, M_INVALID_PARAM.
    """
    given = body.get("extensions")
    if given is None:
        return Extensions()
    if type(given) is not dict:
        raise errors.BadJson("extensions is not an object.")
    enabled = {name: one for name, one in given.items() if type(one) is dict and one.get("enabled") is True}
    scopes = {name: _scope(enabled[name], star=star) for name in ("account_data", "receipts", "typing") if name in enabled}
    return Extensions(
        to_device=_to_device(enabled.get("to_device")),
        e2ee="e2ee" in enabled,
        account_data=scopes.get("account_data"),
        receipts=scopes.get("receipts"),
        typing=scopes.get("typing"),
        threads=ThreadsWish(_limit(enabled[threads])) if threads in enabled else None,
    )


def _to_device(given: dict[str, Any] | None) -> ToDeviceWish | None:
    if given is None:
        return None
    since = given.get("since")
    if since is not None and not (type(since) is str and since.isascii() and since.isdecimal() and len(since) < 18):
        raise errors.InvalidParam("since is no token of the to_device extension.")
    return ToDeviceWish(_limit(given), None if since is None else int(since))


def _limit(given: Mapping[str, Any]) -> int:
    return max(1, whole_number(given.get("limit", MAX_TO_DEVICE), "limit", MAX_TO_DEVICE))


def _scope(given: Mapping[str, Any], *, star: bool) -> Scope:
    found: dict[str, frozenset[str] | None] = {}
    for key in ("lists", "rooms"):
        names = _texts(given, key)
        found[key] = None if names is None or (star and "*" in names) else names
    return Scope(found["lists"], found["rooms"])
