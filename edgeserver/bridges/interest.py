"""Which events and rooms concern an application service.

Spec: application service API, "Registration": those in a room whose id or one of whose aliases is in its namespaces; those that a user of
its namespaces, or its sender, is the target of, or was in the room for. A service that has been away is told what concerned it at the
time: whoever has left since was there, and whoever has come since was not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.matrix.visibility import membership_of
from edgeserver.store import bridges, rooms, state

if TYPE_CHECKING:
    from edgeserver.bridges.services import Service
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent

MEMBER = "m.room.member"


class Interest:
    """What concerns one service, as one transaction sees it; it remembers what it has looked up."""

    def __init__(self, tx: Transaction, service: Service) -> None:
        self._tx = tx
        self._service = service
        self._named: dict[int, bool] = {}
        self._members: dict[int, list[tuple[str, str, int]]] = {}
        self._joined: dict[tuple[int, str], bool] = {}

    def may_concern(self, room: int) -> bool:
        """False if no event of this room can be for the service."""
        return self.is_named(room) or bool(self._of_room(room))

    def is_named(self, room: int) -> bool:
        """Whether the room is the service's by its id or an alias."""
        if room not in self._named:
            room_id = rooms.by_number(self._tx, room).room_id
            self._named[room] = self._service.has_room(room_id) or (
                bool(self._service.registration.aliases) and any(map(self._service.has_alias, rooms.aliases_of(self._tx, room_id)))
            )
        return self._named[room]

    def takes_room(self, room: int) -> bool:
        """Whether what happens in the room now is for the service."""
        return self.is_named(room) or any(membership == "join" for _, membership, _ in self._of_room(room))

    def takes(self, stored: StoredEvent) -> bool:
        """Whether the event is for the service."""
        event = stored.event
        if self.is_named(stored.room):
            return True
        if event.type == MEMBER and event.state_key is not None and self._service.has_user(event.state_key):
            return True
        if self._service.has_user(event.sender):
            return True
        stream = stored.stream or 0
        moved: list[str] = []
        for user_id, membership, since in self._of_room(stored.room):
            if since > stream:
                moved.insert(0 if membership == "join" else len(moved), user_id)  # those likelier to have been there go first
            elif membership == "join":
                return True
        return any(self._was_joined(snapshot, user_id) for user_id in moved for snapshot in {stored.before, stored.after} - {None})

    def _was_joined(self, snapshot: int | None, user_id: str) -> bool:
        assert snapshot is not None
        key = (snapshot, user_id)
        if key not in self._joined:
            member = state.lookup_event(self._tx, snapshot, MEMBER, user_id)
            self._joined[key] = member is not None and membership_of(member.event) == "join"
        return self._joined[key]

    def _of_room(self, room: int) -> list[tuple[str, str, int]]:
        """The service's users of whom the room knows: user id, membership, since when."""
        if room not in self._members:
            local = bridges.local_memberships(self._tx, room)
            self._members[room] = [one for one in local if self._service.has_user(one[0])]
        return self._members[room]
