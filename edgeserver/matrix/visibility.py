"""History visibility: who may see which event of a room.

Spec: client-server API, "Room History Visibility"; for servers, the same rules with the memberships of all their users.
The rules look at the room's state where the event was sent: the state before it, and for two kinds of event the state
after it too, which follows from the event itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeserver.matrix.identifiers import domain_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.matrix.auth_events import StateKey
    from edgeserver.matrix.event import Event

HISTORY_VISIBILITY: Final[StateKey] = ("m.room.history_visibility", "")

DEFAULT: Final = "shared"
"""The visibility of a room that states none, or one that is not understood."""

_KNOWN = frozenset({"world_readable", "shared", "invited", "joined"})


def visibility_of(event: Event | None) -> str:
    """The visibility that an m.room.history_visibility event states; `event` is None if the room has none."""
    value = None if event is None else event.content.get("history_visibility")
    return value if isinstance(value, str) and value in _KNOWN else DEFAULT


def membership_of(event: Event | None) -> str:
    """The membership that an m.room.member event states; `leave` if `event` is None."""
    value = "leave" if event is None else event.content.get("membership")
    return value if isinstance(value, str) else "leave"


def state_needed(user_id: str) -> tuple[StateKey, StateKey]:
    """The keys of the state before an event that `visible_to_user` asks for."""
    return HISTORY_VISIBILITY, ("m.room.member", user_id)


def visible_to_user(event: Event, user_id: str, *, visibility: str, membership: str, joined_later: bool) -> bool:
    """Whether a user may see an event.

    `visibility` (`visibility_of`) and `membership` (`membership_of`) are those before the event. `joined_later` says
    whether the user joined at any point after the event, be it that they left again.
    """
    memberships = [membership]
    # The user's own m.room.member: by the membership before or after it
    if event.type == "m.room.member" and event.state_key == user_id:
        memberships.append(membership_of(event))
    return any(_may_see(setting, memberships) or (setting == "shared" and joined_later) for setting in _settings(event, visibility))


def visible_to_server(event: Event, server_name: str, *, visibility: str, memberships: Iterable[str]) -> bool:
    """Whether a server that takes part in the room may see an event; if not, it is given the event redacted.

    `visibility` and `memberships`, those of the server's users, are as they were before the event.
    """
    around = list(memberships)
    if event.type == "m.room.member" and event.state_key is not None and domain_of(event.state_key) == server_name:
        around.append(membership_of(event))
    return any(setting == "shared" or _may_see(setting, around) for setting in _settings(event, visibility))


def _settings(event: Event, visibility: str) -> tuple[str, ...]:
    # m.room.history_visibility itself: by the setting before or after it
    if (event.type, event.state_key) == HISTORY_VISIBILITY:
        return visibility, visibility_of(event)
    return (visibility,)


def _may_see(visibility: str, memberships: list[str]) -> bool:
    # Rule 1: world_readable
    if visibility == "world_readable":
        return True
    # Rule 2: the user was joined
    if "join" in memberships:
        return True
    # Rule 3, shared and joined since, is the caller's
    # Rule 4: the user was invited, and the visibility is invited
    return visibility == "invited" and "invite" in memberships
