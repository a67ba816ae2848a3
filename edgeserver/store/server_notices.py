"""Who is told of server notices in which room: the table `server_notice_rooms`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction


def room_of(tx: Transaction, user_id: str) -> str | None:
    """The id of the user's room of server notices."""
    row = tx.one("SELECT room_id FROM server_notice_rooms WHERE user_id = ?", (user_id,))
    return row[0] if row else None


def set_room(tx: Transaction, user_id: str, room_id: str) -> None:
    tx.execute("INSERT OR REPLACE INTO server_notice_rooms (user_id, room_id) VALUES (?, ?)", (user_id, room_id))
