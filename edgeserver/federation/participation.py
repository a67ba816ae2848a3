"""Who may ask about a room, and what of its history another server may see.

Spec: server-server API, "Backfilling and retrieving missing events", "Retrieving events"; client-server API, "Room
History Visibility", with the memberships of all of a server's users. All functions run inside a read transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.federation import acl
from edgeserver.matrix.errors import Forbidden, NotFound, UnableDueToPartialState
from edgeserver.matrix.visibility import HISTORY_VISIBILITY, membership_of, visibility_of, visible_to_server
from edgeserver.rooms.erasure import as_given_to
from edgeserver.store import events, rooms, state
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Room


def our_room(tx: Transaction, room_id: str, origin: str, *, whole: bool = True) -> Room:
    """A room that has joined users of ours and admits the asking server.

    `whole`: what is asked takes all of its members to answer. Raises M_NOT_FOUND (as MSC3895 has it also for a room whose members are
    still being fetched: others can answer) or, if the room's server ACL refuses the server, M_FORBIDDEN.
    """
    room = rooms.get(tx, room_id)
    if room is None or room.snapshot is None or not rooms.local_members(tx, room.number):
        raise NotFound("This server is not in that room.")
    acl.check(tx, room, origin)
    if whole and room.is_partial:
        raise UnableDueToPartialState
    return room


def shared_room(tx: Transaction, room_id: str, origin: str, *, whole: bool = True) -> Room:
    """A room of ours that the asking server is in, too. `whole` as for `our_room`. Raises M_NOT_FOUND or M_FORBIDDEN."""
    room = our_room(tx, room_id, origin, whole=whole)
    if not rooms.server_is_in(tx, room.number, origin):
        raise Forbidden("Your server is not in that room.")
    return room


def once_shared_room(tx: Transaction, room_id: str, origin: str, event_ids: Iterable[str], *, whole: bool = True) -> Room:
    """A room of ours that the asking server is in, or was in when each of these events was sent.

    A server whose last user was removed is told of that, but may lack what was before: without it, it could not judge the
    removal, and would think itself in the room for good. `whole` as for `our_room`. Raises M_NOT_FOUND or M_FORBIDDEN.
    """
    room = our_room(tx, room_id, origin, whole=whole)
    if not rooms.server_is_in(tx, room.number, origin):
        known = events.many(tx, event_ids)
        if not known or not all(one.room == room.number and was_in(tx, one, origin) for one in known.values()):
            raise Forbidden("Your server is not in that room.")
    return room


def was_in(tx: Transaction, stored: StoredEvent, server_name: str) -> bool:
    """Whether the server had a joined user just before the event."""
    return stored.before is not None and "join" in Filter(tx, server_name).memberships_at(stored.room, stored.before)


def placed_event(tx: Transaction, room: Room, event_id: str) -> StoredEvent:
    """An event of the room with the state before it. Raises M_NOT_FOUND."""
    stored = events.get(tx, event_id)
    if stored is None or stored.room != room.number or stored.is_outlier or stored.standing is Standing.REJECTED:
        raise NotFound("That event is not known here.")
    return stored


def pdus_for(tx: Transaction, found: Iterable[StoredEvent], server_name: str) -> list[dict[str, Any]]:
    """The events as that server may have them: redacted, those that it may not see, or that were erased before it came."""
    filter_ = Filter(tx, server_name)
    given = as_given_to(tx, server_name, list(found))
    return [stored.event.pdu if filter_.shows(stored) else stored.event.redacted().pdu for stored in given]


class Filter:
    """Judges many events; what a state says of a server is worked out once."""

    def __init__(self, tx: Transaction, server_name: str) -> None:
        self._tx = tx
        self._server_name = server_name
        self._visibility: dict[int, str] = {}
        self._memberships: dict[int, list[str]] = {}

    def shows(self, stored: StoredEvent) -> bool:
        if stored.before is None:
            return True  # held as an auth event or state alone: those every server of the room must have
        visibility = self._visibility_at(stored.before)
        if visibility in ("shared", "world_readable"):
            return True
        if self._is_partial(stored.room):
            raise UnableDueToPartialState  # whether that server had members then is not known: neither yes nor no is right
        memberships = self.memberships_at(stored.room, stored.before)
        return visible_to_server(stored.event, self._server_name, visibility=visibility, memberships=memberships)

    def _is_partial(self, room: int) -> bool:
        return rooms.by_number(self._tx, room).is_partial

    def _visibility_at(self, snapshot: int) -> str:
        if snapshot not in self._visibility:
            found = state.lookup_event(self._tx, snapshot, *HISTORY_VISIBILITY)
            self._visibility[snapshot] = visibility_of(found.event if found else None)
        return self._visibility[snapshot]

    def memberships_at(self, room: int, snapshot: int) -> list[str]:
        if snapshot not in self._memberships:
            members = state.members_of(self._tx, room, snapshot, self._server_name)
            self._memberships[snapshot] = [membership_of(member.event) for member in members]
        return self._memberships[snapshot]
