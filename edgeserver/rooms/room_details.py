"""Rooms as administrators see them in lists and one by one. Synapse's admin API: "List Room API", "Room Details API"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.rooms.succession import replacement_of
from edgeserver.store import admin_rooms, rooms, state

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Room

Key = tuple[str, str]

CREATE: Final = ("m.room.create", "")
TOMBSTONE: Final = ("m.room.tombstone", "")
_TOLD: Final[dict[str, tuple[Key, str]]] = {
    "name": (("m.room.name", ""), "name"),
    "canonical_alias": (("m.room.canonical_alias", ""), "alias"),
    "encryption": (("m.room.encryption", ""), "algorithm"),
    "join_rules": (("m.room.join_rules", ""), "join_rule"),
    "guest_access": (("m.room.guest_access", ""), "guest_access"),
    "history_visibility": (("m.room.history_visibility", ""), "history_visibility"),
    "room_type": (CREATE, "type"),
    "topic": (("m.room.topic", ""), "topic"),
    "avatar": (("m.room.avatar", ""), "url"),
}
_MORE: Final = ("topic", "avatar")
ORDERS: Final = {
    "name": ("name", False),
    "alphabetical": ("name", False),
    "size": ("joined_members", True),
    "canonical_alias": ("canonical_alias", False),
    "joined_members": ("joined_members", True),
    "joined_local_members": ("joined_local_members", True),
    "version": ("version", True),
    "creator": ("creator", False),
    "encryption": ("encryption", False),
    "federatable": ("federatable", False),
    "public": ("public", False),
    "join_rules": ("join_rules", False),
    "guest_access": ("guest_access", False),
    "history_visibility": ("history_visibility", False),
    "state_events": ("state_events", True),
}
"""What rooms can be ordered by, and whether the largest come first."""


def details(tx: Transaction, room: Room) -> dict[str, Any]:
    """Everything of one room, whose state must be known."""
    assert room.snapshot is not None
    found = state.lookup_events(tx, room.snapshot, {key for key, _ in _TOLD.values()} | {TOMBSTONE})
    ours = rooms.local_members(tx, room.number)
    tombstone = found.get(TOMBSTONE)
    return {
        **_shown(room, found, (rooms.count(tx, room.number, "join"), len(ours))),
        **_texts(found, _MORE),
        "joined_local_devices": admin_rooms.local_devices(tx, room.number),
        "state_events": admin_rooms.state_size(tx, room.snapshot),
        "forgotten": admin_rooms.is_forgotten(tx, room.number),
        "tombstoned": tombstone is not None,
        "replacement_room": replacement_of(None if tombstone is None else tombstone.event),
    }


def listed(
    tx: Transaction, order_by: str, *, term: str | None, public: bool | None, empty: bool | None, backwards: bool
) -> list[dict[str, Any]]:
    """All rooms for which the filters hold, in order, without `state_events` unless they are ordered by it (see `with_size`)."""
    counts = admin_rooms.joined(tx)
    found = []
    for number in admin_rooms.numbers(tx):
        room = rooms.by_number(tx, number)
        assert room.snapshot is not None
        known = state.lookup_events(tx, room.snapshot, [key for name, (key, _) in _TOLD.items() if name not in _MORE])
        shown = _shown(room, known, counts.get(number, (0, 0)))
        if _is_wanted(shown, term, public, empty):
            found.append(shown if order_by != "state_events" else with_size(tx, shown))
    column, largest_first = ORDERS[order_by]
    found.sort(key=lambda one: one["room_id"])
    found.sort(key=lambda one: _place(one[column]), reverse=largest_first != backwards)
    return found


def with_size(tx: Transaction, shown: dict[str, Any]) -> dict[str, Any]:
    """The same with `state_events`."""
    if "state_events" in shown:
        return shown
    room = rooms.get(tx, shown["room_id"])
    assert room is not None
    assert room.snapshot is not None
    return {**shown, "state_events": admin_rooms.state_size(tx, room.snapshot)}


def _place(value: Any) -> tuple[bool, Any]:
    """What is missing comes first, and texts in order of the alphabet."""
    return (value is not None, value.casefold() if isinstance(value, str) else value)


def _is_wanted(shown: dict[str, Any], term: str | None, public: bool | None, empty: bool | None) -> bool:
    if public is not None and shown["public"] != public:
        return False
    if empty is not None and (shown["joined_members"] == 0) != empty:
        return False
    if term is None:
        return True
    alias = (shown["canonical_alias"] or "").partition(":")[0]
    return term in shown["room_id"] or any(term.casefold() in one.casefold() for one in (shown["name"] or "", alias))


def _shown(room: Room, found: dict[Key, StoredEvent], counts: tuple[int, int]) -> dict[str, Any]:
    create = found.get(CREATE)
    return {
        "room_id": room.room_id,
        **_texts(found, [name for name in _TOLD if name not in _MORE]),
        "joined_members": counts[0],
        "joined_local_members": counts[1],
        "version": room.rules.version,
        "creator": None if create is None else create.event.sender,
        "federatable": create is None or create.event.content.get("m.federate") is not False,
        "public": room.published,
    }


def _texts(found: dict[Key, StoredEvent], names: Any) -> dict[str, str | None]:
    told: dict[str, str | None] = {}
    for name in names:
        key, field = _TOLD[name]
        value = found[key].event.content.get(field) if key in found else None
        told[name] = value if isinstance(value, str) else None
    return told
