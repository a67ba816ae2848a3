"""Rooms that replace others: who went from one to the other, and through whom the other is reached.

Client-server API, "Room Upgrades". A room is another's successor if both say so: its create event names the
predecessor, whose tombstone names it. Either word alone is anybody's claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver.matrix.auth_events import CREATE
from edgeserver.matrix.identifiers import domain_of, is_room_id
from edgeserver.matrix.visibility import membership_of
from edgeserver.store import rooms, state

if TYPE_CHECKING:
    from edgeserver.matrix.event import Event
    from edgeserver.rooms.persist import PersistedEvent
    from edgeserver.store.database import Transaction
    from edgeserver.store.rooms import Room

TOMBSTONE = ("m.room.tombstone", "")


@dataclass(frozen=True, slots=True)
class Succession:
    """Users of ours have come from `old` into `new`."""

    old: Room
    new: Room
    users: tuple[str, ...]


def replacement_of(tombstone: Event | None) -> str | None:
    """The room to which an m.room.tombstone points."""
    room_id = None if tombstone is None else tombstone.content.get("replacement_room")
    return room_id if is_room_id(room_id) else None


def predecessor_of(create: Event | None) -> str | None:
    """The room that the one of this m.room.create replaces."""
    named = None if create is None else create.content.get("predecessor")
    room_id = named.get("room_id") if isinstance(named, dict) else None
    return room_id if is_room_id(room_id) else None


def succession(tx: Transaction, written: PersistedEvent) -> Succession | None:
    """What an event that has just been written brings about: a user of ours joins a successor, or the tombstone of a room
    comes whose successor has users of ours already.
    """
    event = written.event
    if not written.is_news or event.state_key is None:
        return None
    if event.type == "m.room.member" and event.state_key in written.local_members and membership_of(event) == "join":
        if _was_joined(tx, written.room, event.state_key):
            return None
        old = _known(tx, predecessor_of(_event(tx, written.snapshot, CREATE)))
        if old is not None and replacement_of(_event(tx, old.snapshot, TOMBSTONE)) == written.room.room_id:
            return Succession(old, rooms.by_number(tx, written.room.number), (event.state_key,))
    elif (event.type, event.state_key) == TOMBSTONE and _event(tx, written.snapshot, TOMBSTONE) == event:
        new = _known(tx, replacement_of(event))
        users = () if new is None else tuple(rooms.local_members(tx, new.number))
        if new is not None and users and predecessor_of(_event(tx, new.snapshot, CREATE)) == event.room_id:
            return Succession(rooms.by_number(tx, written.room.number), new, users)
    return None


def _was_joined(tx: Transaction, before: Room, user_id: str) -> bool:
    return membership_of(_event(tx, before.snapshot, ("m.room.member", user_id))) == "join"


def _known(tx: Transaction, room_id: str | None) -> Room | None:
    """The room, if its state is known here."""
    room = None if room_id is None else rooms.get(tx, room_id)
    return room if room is not None and room.snapshot is not None else None


def _event(tx: Transaction, snapshot: int | None, key: tuple[str, str]) -> Event | None:
    stored = None if snapshot is None else state.lookup_event(tx, snapshot, *key)
    return None if stored is None else stored.event


def move_names(tx: Transaction, old: Room, new: Room) -> None:
    """Aliases of this server, and the entry in its directory, are the new room's from now on (step 4)."""
    rooms.move_aliases(tx, old.room_id, new.room_id)
    if old.published:
        rooms.set_published(tx, old.number, False)
        rooms.set_published(tx, new.number, True)


def servers_towards(tx: Transaction, user_id: str, room_id: str) -> list[str]:
    """Servers through which a room may be reached that replaces, or is replaced by, one that the user is in.

    Who made the tombstone was in the successor first, whoever else of the old room has followed. A client that follows
    a tombstone need not tell of any server, and the ids of newer rooms name none.
    """
    names: list[str] = []
    for member in rooms.memberships_of(tx, user_id):
        room = rooms.by_number(tx, member.room)
        if member.membership != "join" or room.snapshot is None:
            continue
        found = {key: one.event for key, one in state.lookup_events(tx, room.snapshot, [CREATE, TOMBSTONE]).items()}
        create, tombstone = found.get(CREATE), found.get(TOMBSTONE)
        for event, other in ((tombstone, replacement_of(tombstone)), (create, predecessor_of(create))):
            if event is not None and other == room_id:
                names += [domain_of(event.sender), *rooms.servers(tx, room.number)]
    return list(dict.fromkeys(names))
