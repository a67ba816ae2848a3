"""What the authorization rules ask of a room's state.

Spec: server-server API, "Authorisation rules" (definitions); client-server API, "m.room.join_rules".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.matrix.auth_events import JOIN_RULES, POWER_LEVELS
from edgeserver.matrix.power_levels import PowerLevels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.matrix.auth_events import StateKey
    from edgeserver.matrix.event import Event


class AuthState:
    """The state an event is judged by: the room's create event, and the others by type and state key."""

    __slots__ = ("_events", "create", "power")

    def __init__(self, create: Event, events: Mapping[StateKey, Event]) -> None:
        self._events = events
        self.create = create
        self.power = PowerLevels(create.rules, create, events.get(POWER_LEVELS))

    def get(self, event_type: str, state_key: str = "") -> Event | None:
        """The event of this type and state key, if there is one."""
        return self._events.get((event_type, state_key))

    def membership(self, user_id: str) -> str:
        """A user's membership; `leave` for one who never had any, "" for a value that is no string."""
        event = self._events.get(("m.room.member", user_id))
        if event is None:
            return "leave"
        membership = event.content.get("membership")
        return membership if isinstance(membership, str) else ""

    @property
    def join_rule(self) -> str:
        """The room's join rule: `invite` if none is stated, "" for a value that is no string."""
        event = self._events.get(JOIN_RULES)
        if event is None:
            return "invite"
        join_rule = event.content.get("join_rule", "invite")
        return join_rule if isinstance(join_rule, str) else ""
