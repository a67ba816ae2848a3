"""Server ACLs: which servers may take part in a room.

Spec: client-server API, "Server Access Control Lists (ACLs) for rooms"; server-server API, the same title: they
hold for PDUs, EDUs about a room, and every request that is about one room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix import glob, server_names
from edgeserver.matrix.errors import Forbidden
from edgeserver.store import rooms, state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.store.database import Transaction


def allows(content: Mapping[str, Any] | None, server_name: str) -> bool:
    """Whether an m.room.server_acl with this content (None: the room has none) admits a server. Ports do not count."""
    if content is None:
        return True
    parsed = server_names.parse(server_name)
    if parsed is None:
        return False
    if parsed.is_ip_literal and content.get("allow_ip_literals") is False:
        return False
    if _any_matches(content.get("deny"), parsed.host):
        return False
    return _any_matches(content.get("allow"), parsed.host)


def admitted(tx: Transaction, room: rooms.Room, server_name: str) -> bool:
    """Whether the room's current state admits the server."""
    if room.snapshot is None:
        return True
    acl = state.lookup_event(tx, room.snapshot, "m.room.server_acl")
    return acl is None or allows(acl.event.content, server_name)


def refused_rooms(tx: Transaction, room_ids: Iterable[str], server_name: str) -> set[str]:
    """Those of the rooms that do not admit the server. Rooms that we do not know refuse nobody."""
    found = {room_id: rooms.get(tx, room_id) for room_id in room_ids}
    return {room_id for room_id, room in found.items() if room is not None and not admitted(tx, room, server_name)}


def check(tx: Transaction, room: rooms.Room, server_name: str) -> None:
    """Raises M_FORBIDDEN if the room does not admit the server."""
    if not admitted(tx, room, server_name):
        raise Forbidden("Your server is not admitted to this room.")


def _any_matches(patterns: Any, host: str) -> bool:
    return isinstance(patterns, list) and any(isinstance(one, str) and glob.matches(one, host) for one in patterns)
