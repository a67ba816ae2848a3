"""Read receipts: for each user, room, type and thread the newest one; of threads, those in which the user has read last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

READ: Final = "m.read"
PRIVATE: Final = "m.read.private"
UNTHREADED: Final = ""
MAIN: Final = "main"
KEPT_THREADS: Final = 500
"""Receipts of one type that a user may have in a room: any server could fill the disk with threads that its users have read."""


class Receipt(NamedTuple):
    """One receipt. `thread` is '' if unthreaded; `place` the event's stream position, None if it is not held; `ts` in ms."""

    room: int
    user_id: str
    type: str
    thread: str
    event_id: str
    place: int | None
    ts: int


_COLUMNS = "r.room, r.user_id, r.type, r.thread, r.event_id, r.place, r.ts"


def put(tx: Transaction, receipt: Receipt) -> bool:
    """Stores it at a new stream position; False if the one that stands is of the same event or a later one."""
    room, user_id, kind, thread, event_id, place, _ = receipt
    row = tx.one(
        "SELECT event_id, place FROM receipts WHERE room = ? AND user_id = ? AND type = ? AND thread = ?",
        (room, user_id, kind, thread),
    )
    if row is not None:
        stands, stands_at = row
        if stands == event_id or (stands_at is not None and (place is None or place <= stands_at)):
            return False
    tx.execute(
        "INSERT OR REPLACE INTO receipts (room, user_id, type, thread, event_id, place, ts, stream)"
        " VALUES (?,?,?,?,?,?,?,?)",
        (*receipt, tx.stream()),
    )
    if row is None and thread not in (UNTHREADED, MAIN):
        tx.execute(
            "DELETE FROM receipts WHERE room = ? AND user_id = ? AND type = ? AND thread IN (SELECT thread FROM receipts"
            " WHERE room = ? AND user_id = ? AND type = ? AND thread NOT IN (?, ?) ORDER BY stream DESC LIMIT -1 OFFSET ?)",
            (*(room, user_id, kind), *(room, user_id, kind), UNTHREADED, MAIN, KEPT_THREADS),
        )
    return True


def floors(tx: Transaction, room: int, user_id: str) -> dict[str, int]:
    """Up to which stream position the user has read, by thread ('': everywhere)."""
    return dict(
        tx.all(
            "SELECT thread, max(place) FROM receipts WHERE room = ? AND user_id = ? AND place IS NOT NULL GROUP BY thread",
            (room, user_id),
        )
    )


def of_room(tx: Transaction, room: int, user_id: str, limit: int) -> list[Receipt]:
    """The user's own receipts in the room, and the newest `limit` public ones of others."""
    own = tx.all(f"SELECT {_COLUMNS} FROM receipts r WHERE r.room = ? AND r.user_id = ?", (room, user_id))
    others = tx.all(
        f"SELECT {_COLUMNS} FROM receipts r WHERE r.room = ? AND r.user_id <> ? AND r.type = ? ORDER BY stream DESC LIMIT ?",
        (room, user_id, READ, limit),
    )
    return [Receipt(*row) for row in (*own, *others)]


def changed(tx: Transaction, user_id: str, since: int, upto: int) -> list[Receipt]:
    """Receipts that changed in (since, upto] in rooms of the user, as far as they are for the user's eyes."""
    # CROSS JOIN: what changed comes first, and each row looks its membership up
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM receipts r CROSS JOIN memberships m ON m.user_id = ? AND m.room = r.room"
        " WHERE r.stream > ? AND r.stream <= ? AND m.membership = 'join' AND (r.type = ? OR r.user_id = ?)",
        (user_id, since, upto, READ, user_id),
    )
    return [Receipt(*row) for row in rows]


def changed_in(tx: Transaction, room: int, user_id: str, since: int) -> list[Receipt]:
    """Receipts of one room that changed after `since`, as far as they are for the user's eyes."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM receipts r WHERE r.room = ? AND r.stream > ? AND (r.type = ? OR r.user_id = ?)",
        (room, since, READ, user_id),
    )
    return [Receipt(*row) for row in rows]


def rooms_read(tx: Transaction, user_id: str, since: int) -> set[int]:
    """Rooms in which a receipt of the user's own changed after `since`."""
    return {room for (room,) in tx.all("SELECT room FROM receipts WHERE stream > ? AND user_id = ?", (since, user_id))}


def has_read(tx: Transaction, room: int, user_id: str, since: int) -> bool:
    """Whether a receipt of the user's own in the room changed after `since`."""
    return tx.one("SELECT 1 FROM receipts WHERE room = ? AND user_id = ? AND stream > ?", (room, user_id, since)) is not None
