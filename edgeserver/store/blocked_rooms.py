"""Rooms that nobody of this server may enter: the table `blocked_rooms`. A room may be blocked before anybody here knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction


def blocked_by(tx: Transaction, room_id: str) -> str | None:
    """The administrator who blocked it; None if it is not blocked."""
    row = tx.one("SELECT blocked_by FROM blocked_rooms WHERE room_id = ?", (room_id,))
    return row[0] if row else None


def block(tx: Transaction, room_id: str, user_id: str) -> None:
    tx.execute("INSERT OR IGNORE INTO blocked_rooms (room_id, blocked_by) VALUES (?, ?)", (room_id, user_id))


def unblock(tx: Transaction, room_id: str) -> None:
    tx.execute("DELETE FROM blocked_rooms WHERE room_id = ?", (room_id,))
