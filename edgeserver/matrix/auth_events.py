"""Which events of a room's state give the sender of an event permission to send it.

Spec: server-server API, "Auth events selection".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion

StateKey = tuple[str, str]
"""The key of a state map: the event's type and its state key."""

CREATE: StateKey = ("m.room.create", "")
POWER_LEVELS: StateKey = ("m.room.power_levels", "")
JOIN_RULES: StateKey = ("m.room.join_rules", "")


def auth_types_for(rules: RoomVersion, event_type: str, state_key: str | None, sender: str, content: Mapping[str, Any]) -> list[StateKey]:
    """The keys of the state that an event of this description is judged by, without duplicates.

    The event need not exist yet: this also names what a draft must cite.
    """
    if event_type == "m.room.create":
        return []
    keys = [POWER_LEVELS, ("m.room.member", sender)]
    if not rules.auth_events_exclude_create:
        keys.insert(0, CREATE)
    if event_type == "m.room.member" and state_key is not None:
        keys += _membership_types(rules, state_key, content)
    return list(dict.fromkeys(keys))


def auth_types_of(event: Event) -> list[StateKey]:
    """`auth_types_for` of an event that exists."""
    return auth_types_for(event.rules, event.type, event.state_key, event.sender, event.content)


def select_auth_events(
    rules: RoomVersion,
    event_type: str,
    state_key: str | None,
    sender: str,
    content: Mapping[str, Any],
    state: Callable[[StateKey], str | None],
) -> list[str]:
    """The `auth_events` of a new event: ids. `state` gives the id of the room's event at a key, None for no event."""
    keys = auth_types_for(rules, event_type, state_key, sender, content)
    return [event_id for key in keys if (event_id := state(key)) is not None]


def third_party_token(content: Mapping[str, Any]) -> str | None:
    """`third_party_invite.signed.token` of a membership event's content; None if that is not a string."""
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    token = signed.get("token") if isinstance(signed, dict) else None
    return token if isinstance(token, str) else None


def _membership_types(rules: RoomVersion, target: str, content: Mapping[str, Any]) -> list[StateKey]:
    membership = content.get("membership")
    keys = [("m.room.member", target)]
    if membership in ("join", "invite", "knock"):
        keys.append(JOIN_RULES)
    if membership == "invite" and (token := third_party_token(content)) is not None:
        keys.append(("m.room.third_party_invite", token))
    authoriser = content.get("join_authorised_via_users_server")
    if membership == "join" and rules.restricted and isinstance(authoriser, str):
        keys.append(("m.room.member", authoriser))
    return keys
