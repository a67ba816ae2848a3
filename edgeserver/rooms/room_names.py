"""What a room is called, for lists that people read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.store import rooms, state

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

_NAME = ("m.room.name", "")
_ALIAS = ("m.room.canonical_alias", "")


def named(tx: Transaction, room_id: str) -> dict[str, str | None]:
    """`name` and `canonical_alias` of a room, null where it has none or is not known."""
    room = rooms.get(tx, room_id)
    if room is None or room.snapshot is None:
        return {"name": None, "canonical_alias": None}
    found = state.lookup_events(tx, room.snapshot, [_NAME, _ALIAS])
    told = {"name": (_NAME, "name"), "canonical_alias": (_ALIAS, "alias")}
    values = {shown: found[key].event.content.get(field) if key in found else None for shown, (key, field) in told.items()}
    return {shown: value if isinstance(value, str) else None for shown, value in values.items()}
