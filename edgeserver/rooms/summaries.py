"""Rooms in short, for who is not in them: what is told of a room, and to whom.

Spec: client-server API, "Spaces" and GET /room_summary (RoomSummary); server-server API, "Spaces". To users a room is shown that they
are in, may join or knock at, or may read; to servers one that any of their users might be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.rooms import directory
from edgeserver.rooms.history import is_world_readable
from edgeserver.rooms.read_summary import MAX_ALLOWED
from edgeserver.store import rooms, state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.store.database import Transaction
    from edgeserver.store.rooms import Room

SPACE = "m.space"
_JOIN_RULES = ("m.room.join_rules", "")
_ENCRYPTION = ("m.room.encryption", "")


def summary(tx: Transaction, room: Room) -> dict[str, Any]:
    """A RoomSummary of a room that has a state: what the directory shows, and its version, encryption, `allowed_room_ids`."""
    assert room.snapshot is not None
    shown = directory.summary(tx, room)
    known = {key: one.event for key, one in state.lookup_events(tx, room.snapshot, [_JOIN_RULES, _ENCRYPTION]).items()}
    algorithm = known[_ENCRYPTION].content.get("algorithm") if _ENCRYPTION in known else None
    allowed = allowed_rooms(known.get(_JOIN_RULES), room.rules)
    return {
        **shown,
        "room_version": room.rules.version,
        **({"encryption": algorithm} if isinstance(algorithm, str) and algorithm else {}),
        **({"allowed_room_ids": allowed} if allowed else {}),
    }


def allowed_rooms(join_rules: Event | None, rules: RoomVersion) -> list[str]:
    """The rooms whose members may join a restricted room."""
    if join_rules is None or not _is_restricted(join_rules.content, rules):
        return []
    allow = join_rules.content.get("allow")
    conditions = [one for one in allow if isinstance(one, dict)] if isinstance(allow, list) else []
    named = [one.get("room_id") for one in conditions if one.get("type") == "m.room_membership"]
    return [room_id for room_id in dict.fromkeys(named) if isinstance(room_id, str)][:MAX_ALLOWED]


def participates(tx: Transaction, room: Room | None) -> bool:
    """Whether the room's state is current here: users of ours are in it."""
    return room is not None and room.snapshot is not None and bool(rooms.local_members(tx, room.number))


def shown_to_user(tx: Transaction, room: Room, user_id: str | None) -> bool:
    """Whether this user (None: anybody) is told of a room that we participate in."""
    if user_id is not None:
        membership = rooms.membership(tx, user_id, room.number)
        if membership is not None and membership.membership in ("join", "invite"):
            return True
        if membership is not None and membership.membership == "ban":
            return False
    if _open_to_all(tx, room):
        return True
    return user_id is not None and any(is_joined(tx, user_id, room_id) for room_id in _allowed_in(tx, room))


def shown_to_server(tx: Transaction, room: Room, server_name: str) -> bool:
    """Whether any user of that server might be told of a room that we participate in. Server ACLs are the caller's."""
    if _open_to_all(tx, room) or rooms.server_is_in(tx, room.number, server_name):
        return True
    if rooms.has_user_of(tx, room.number, server_name, ("invite",)):
        return True
    allowed = (rooms.get(tx, room_id) for room_id in _allowed_in(tx, room))
    return any(one is not None and rooms.server_is_in(tx, one.number, server_name) for one in allowed)


def shown_by_its_word(tx: Transaction, told: Mapping[str, Any], user_id: str) -> bool:
    """Whether this user is told of a room that we are not in and that another server summarises so."""
    if told.get("world_readable") is True or told.get("join_rule", "public") in ("public", "knock", "knock_restricted"):
        return True
    membership = rooms.membership_in(tx, user_id, str(told["room_id"]))
    if membership is not None and membership.membership == "invite":
        return True
    allowed: Iterable[Any] = told.get("allowed_room_ids", ())
    return any(is_joined(tx, user_id, room_id) for room_id in allowed)


def is_joined(tx: Transaction, user_id: str, room_id: str) -> bool:
    membership = rooms.membership_in(tx, user_id, room_id)
    return membership is not None and membership.membership == "join"


def _open_to_all(tx: Transaction, room: Room) -> bool:
    """Whether anybody may join, knock or read."""
    assert room.snapshot is not None
    stored = state.lookup_event(tx, room.snapshot, *_JOIN_RULES)
    rule = None if stored is None else stored.event.content.get("join_rule")
    if rule == "public" or (rule == "knock" and room.rules.knocking) or (rule == "knock_restricted" and room.rules.knock_restricted):
        return True
    return is_world_readable(tx, room.snapshot)


def _allowed_in(tx: Transaction, room: Room) -> list[str]:
    assert room.snapshot is not None
    stored = state.lookup_event(tx, room.snapshot, *_JOIN_RULES)
    return allowed_rooms(None if stored is None else stored.event, room.rules)


def _is_restricted(content: Mapping[str, Any], rules: RoomVersion) -> bool:
    rule = content.get("join_rule")
    return (rule == "restricted" and rules.restricted) or (rule == "knock_restricted" and rules.knock_restricted)
