"""Reads of rooms as lists for administrators show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction


def numbers(tx: Transaction) -> list[int]:
    """Every room whose state is known."""
    return [room for (room,) in tx.all("SELECT room FROM rooms WHERE snapshot IS NOT NULL ORDER BY room_id")]


def joined(tx: Transaction) -> dict[int, tuple[int, int]]:
    """By room: how many are joined, and how many of them are of this server."""
    rows = tx.all("SELECT room, count(*), sum(local) FROM memberships WHERE membership = 'join' GROUP BY room")
    return {room: (everybody, ours) for room, everybody, ours in rows}


def state_size(tx: Transaction, snapshot: int) -> int:
    """How many events a state consists of."""
    row = tx.one(
        "WITH RECURSIVE chain (snapshot, base, height) AS (SELECT snapshot, base, height FROM snapshots WHERE snapshot = ?"
        " UNION ALL SELECT s.snapshot, s.base, s.height FROM chain c JOIN snapshots s ON s.snapshot = c.base),"
        " newest (key, height) AS (SELECT e.key, max(c.height) FROM chain c"
        "  JOIN snapshot_entries e ON e.snapshot = c.snapshot GROUP BY e.key)"
        " SELECT count(*) FROM newest n JOIN chain c ON c.height = n.height"
        " JOIN snapshot_entries e ON e.snapshot = c.snapshot AND e.key = n.key WHERE e.event IS NOT NULL",
        (snapshot,),
    )
    return row[0] if row else 0


def local_devices(tx: Transaction, room: int) -> int:
    """How many devices the joined users of this server have."""
    row = tx.one(
        "SELECT count(*) FROM memberships m JOIN devices d ON d.user_id = m.user_id"
        " WHERE m.room = ? AND m.local = 1 AND m.membership = 'join'",
        (room,),
    )
    return row[0] if row else 0


def is_forgotten(tx: Transaction, room: int) -> bool:
    """Whether every user of this server who was ever in the room has forgotten it."""
    row = tx.one("SELECT count(*), coalesce(sum(forgotten), 0) FROM memberships WHERE room = ? AND local = 1", (room,))
    return row is not None and row[0] > 0 and row[0] == row[1]
