"""Filters that clients define once and name by id afterwards. Spec: client-server API, "Filtering"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors, identifiers
from edgeserver.store import account_data as table

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.store.database import Database

KEPT: Final = 200
MAX_ITEMS: Final = 1000


class Filters:
    """Stores filters; equal ones of a user once."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def define(self, user_id: str, definition: dict[str, Any]) -> str:
        """The filter's id. Raises M_BAD_JSON if it is not shaped like a filter."""
        check(definition)
        return str(await self._db.write(lambda tx: table.put_filter(tx, user_id, definition, KEPT)))

    async def get(self, user_id: str, filter_id: str) -> dict[str, Any]:
        """Raises M_NOT_FOUND."""
        found = None
        if filter_id.isascii() and filter_id.isdecimal() and len(filter_id) < 16:
            number = int(filter_id)
            found = await self._db.read(lambda tx: table.get_filter(tx, user_id, number))
        if found is None:
            raise errors.NotFound("You have no such filter.")
        return found


def check(definition: dict[str, Any]) -> None:
    """Raises M_BAD_JSON unless this is a filter: keys that the spec defines have the spec's types, others are free."""
    _check(definition, "filter", _FILTER)
    room = definition.get("room", {})
    _check(room, "room", _ROOM)
    for name in ("presence", "account_data"):
        _check(definition.get(name, {}), name, _EVENTS)
    for name in _ROOM_PARTS:
        _check(room.get(name, {}), f"room.{name}", _ROOM_EVENTS)


def _is_list_of(is_item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: type(value) is list and len(value) <= MAX_ITEMS and all(is_item(item) for item in value)


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_text(value: Any) -> bool:
    return type(value) is str and len(value) <= 1024


def _is_object(value: Any) -> bool:
    return type(value) is dict


_ROOMS = {"rooms": _is_list_of(identifiers.is_room_id), "not_rooms": _is_list_of(identifiers.is_room_id)}
_FILTER = {
    "event_fields": _is_list_of(_is_text),
    "event_format": lambda value: value in ("client", "federation"),
    "presence": _is_object,
    "account_data": _is_object,
    "room": _is_object,
}
_ROOM_PARTS = ("ephemeral", "state", "timeline", "account_data")
_ROOM = {**_ROOMS, "include_leave": _is_bool} | dict.fromkeys(_ROOM_PARTS, _is_object)
_EVENTS = {
    "limit": lambda value: type(value) is int and value >= 0,
    "senders": _is_list_of(identifiers.is_user_id),
    "not_senders": _is_list_of(identifiers.is_user_id),
    "types": _is_list_of(_is_text),
    "not_types": _is_list_of(_is_text),
}
_ROOM_EVENTS = {**_EVENTS, **_ROOMS} | dict.fromkeys(
    ("unread_thread_notifications", "lazy_load_members", "include_redundant_members", "contains_url"), _is_bool
)


def _check(value: Any, where: str, shape: dict[str, Callable[[Any], bool]]) -> None:
    if type(value) is not dict:
        raise errors.BadJson(f"{where} is not an object.")
    for key, is_right in shape.items():
        if key in value and not is_right(value[key]):
            raise errors.BadJson(f"{where}.{key} is not what a filter may hold.")
