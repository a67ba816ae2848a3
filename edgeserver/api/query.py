"""Parameters of the query that several sections of the client-server API take, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeserver.matrix import canonical_json, errors
from edgeserver.rooms.event_filter import EventFilter
from edgeserver.users import filters

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call

MAX_FILTER: Final = 16 * 1024
MAX_DIGITS: Final = 15


def number(call: Call, name: str, default: int) -> int:
    """A whole number. Raises M_INVALID_PARAM."""
    found = number_if_any(call, name)
    return default if found is None else found


def number_if_any(call: Call, name: str, *, at_least: int = 0) -> int | None:
    """None if it is not there. Raises M_INVALID_PARAM."""
    given = call.query.get(name)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= MAX_DIGITS and int(given) >= at_least):
        raise errors.InvalidParam(f"{name} is not a whole number of at least {at_least}.")
    return int(given)


def room_filter(call: Call) -> EventFilter:
    """`filter`, a RoomEventFilter as JSON. Raises M_INVALID_PARAM, M_BAD_JSON."""
    given = call.query.get("filter")
    if not given:
        return EventFilter()
    try:
        definition = canonical_json.decode(given[: MAX_FILTER + 1].encode())
    except (canonical_json.CanonicalJSONError, UnicodeEncodeError) as error:
        raise errors.InvalidParam("filter is not JSON.") from error
    if type(definition) is not dict:
        raise errors.BadJson("filter is not an object.")
    filters.check({"room": {"timeline": definition}})
    return EventFilter.parse(definition)
