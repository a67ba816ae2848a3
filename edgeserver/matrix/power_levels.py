"""Power levels: who may do what in a room.

Spec: client-server API, "m.room.power_levels"; server-server API, "Authorisation rules" (definitions); rooms/v1
("m.room.power_levels events accept values as strings", "… as floats"), rooms/v10 (integers only), rooms/v12 (creators).
"""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion

POWER_LEVELS: Final = "m.room.power_levels"

CREATOR_LEVEL: Final = math.inf
"""The level of a creator in rooms with privileged creators: above every integer (v12)."""

DEFAULTS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}
"""What each single level is if the event does not state it, or if there is no event."""

NOTIFICATION_DEFAULT: Final = 50
"""The level that a notification (`room`) asks for if the event does not state it."""

_IMPLICIT_CREATOR_LEVEL = 100
_LARGEST = 2**53 - 1
_LARGEST_BEFORE_V10 = int(sys.float_info.max)
_INTEGER_STRING = re.compile(r"\s*([+-]?)0*([0-9]{1,309})\s*", re.ASCII)


def parse_level(value: object, rules: RoomVersion) -> int | None:
    """A level as the room version reads it; None if the value is none.

    Since v10 only an integer within ±(2^53 - 1) is a level. Before, a string that holds an integer is too, and a float
    is cut at its decimal point; there a level may be as great as a float may.
    """
    if isinstance(value, bool):
        return None
    level: int
    if isinstance(value, int):
        level = value
    elif rules.integer_power_levels:
        return None
    elif isinstance(value, str):
        if (match := _INTEGER_STRING.fullmatch(value)) is None:
            return None
        level = int(match[1] + match[2])
    elif isinstance(value, float) and math.isfinite(value):
        level = int(value)
    else:
        return None
    largest = _LARGEST if rules.integer_power_levels else _LARGEST_BEFORE_V10
    return level if -largest <= level <= largest else None


def creators(create: Event) -> frozenset[str]:
    """The users who created the room. Spec: rooms/v12, "Event format"; one user in every version before.

    `additional_creators` that is not a list counts as absent; auth rule 1.4 rejects such a create event.
    """
    if not create.rules.implicit_room_creator:
        creator = create.content.get("creator")
        return frozenset((creator,)) if isinstance(creator, str) else frozenset()
    if not create.rules.privileged_creators:
        return frozenset((create.sender,))
    additional = create.content.get("additional_creators")
    if not isinstance(additional, list):
        return frozenset((create.sender,))
    return frozenset((create.sender, *(user for user in additional if isinstance(user, str))))


class PowerLevels:
    """The power levels of a room, read on demand from the event that states them.

    `create` and `event` are the room's m.room.create and m.room.power_levels; None stands for one that is missing.
    A value that is no level counts as absent. Levels are integers, or `CREATOR_LEVEL`.
    """

    __slots__ = ("_content", "_creators", "_has_event", "_rules", "_users")

    def __init__(self, rules: RoomVersion, create: Event | None, event: Event | None) -> None:
        self._rules = rules
        self._creators = creators(create) if create is not None else frozenset()
        self._has_event = event is not None
        self._content: Mapping[str, Any] = event.content if event is not None else {}
        self._users = self._table("users")

    def user(self, user_id: str) -> float:
        """The level of a user.

        A creator stands above all in v12. Before, the creator has 100 while there is no power levels event.
        """
        if user_id in self._creators:
            if self._rules.privileged_creators:
                return CREATOR_LEVEL
            if not self._has_event:
                return _IMPLICIT_CREATOR_LEVEL
        level = parse_level(self._users.get(user_id), self._rules)
        return self._single("users_default") if level is None else level

    def to_send(self, event_type: str, *, is_state: bool) -> int:
        """The level required to send an event of the type. Membership has rules of its own."""
        level = parse_level(self._table("events").get(event_type), self._rules)
        if level is None:
            return self._single("state_default" if is_state else "events_default")
        return level

    @property
    def invite(self) -> int:
        """The level required to invite."""
        return self._single("invite")

    @property
    def kick(self) -> int:
        """The level required to remove somebody of a lower level."""
        return self._single("kick")

    @property
    def ban(self) -> int:
        """The level required to ban somebody of a lower level, or to lift a ban."""
        return self._single("ban")

    @property
    def redact(self) -> int:
        """The level required to redact another server's events."""
        return self._single("redact")

    def notification(self, key: str) -> int:
        """The level required to trigger a notification of the kind `key`, `room` for one."""
        level = parse_level(self._table("notifications").get(key), self._rules)
        return NOTIFICATION_DEFAULT if level is None else level

    def _single(self, name: str) -> int:
        level = parse_level(self._content.get(name), self._rules)
        return DEFAULTS[name] if level is None else level

    def _table(self, name: str) -> Mapping[str, Any]:
        table = self._content.get(name)
        return table if isinstance(table, dict) else {}
