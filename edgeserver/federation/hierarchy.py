"""What other servers are told of our spaces and rooms. GET /hierarchy. Spec: server-server API, "Spaces"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.federation import acl
from edgeserver.matrix.errors import NotFound
from edgeserver.rooms import summaries
from edgeserver.rooms.space_children import children
from edgeserver.store import rooms

if TYPE_CHECKING:
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

MAX_CHILDREN: Final = 100
"""So many children are summarised. Of those after them nothing is said, so that the other server asks about each by itself."""


class SpaceHierarchy:
    """Tells servers of rooms that their users might join, knock at or read."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of(self, origin: str, room_id: str, *, suggested_only: bool) -> dict[str, Any]:
        """`{room, children, inaccessible_children}`. Raises M_NOT_FOUND."""

        def read(tx: Transaction) -> dict[str, Any]:
            room = rooms.get(tx, room_id)
            if room is None or not _is_shown(tx, room, origin):
                raise NotFound("That room is not known here, or your server may not know of it.")
            return _answer(tx, room, origin, suggested_only=suggested_only)

        return await self._db.read(read)


def _answer(tx: Transaction, room: Room, origin: str, *, suggested_only: bool) -> dict[str, Any]:
    assert room.snapshot is not None
    shown = summaries.summary(tx, room)
    is_space = shown.get("room_type") == summaries.SPACE
    named = children(tx, room.snapshot, suggested_only=suggested_only) if is_space else []
    told: list[dict[str, Any]] = []
    hidden: list[str] = []
    for child in named[:MAX_CHILDREN]:
        below = rooms.get(tx, child.room_id)
        if below is None or not summaries.participates(tx, below):
            continue  # we cannot tell
        if _is_shown(tx, below, origin):
            told.append(summaries.summary(tx, below))
        else:
            hidden.append(child.room_id)
    return {
        "room": {"allowed_room_ids": [], **shown, "children_state": [child.shown for child in named]},
        "children": told,
        "inaccessible_children": hidden,
    }


def _is_shown(tx: Transaction, room: Room, origin: str) -> bool:
    return summaries.participates(tx, room) and acl.admitted(tx, room, origin) and summaries.shown_to_server(tx, room, origin)
