"""Thread subscriptions (MSC4306): who follows which thread, and who has ceased to. Each change has a position of the stream (MSC4308).

Whether the box has them at all is noted in the table `meta`, so that whoever reads a user's push rules finds the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

KEPT: Final = 5000
"""Rows that a user may have: those that changed longest ago go."""
_SWITCH: Final = "thread_subscriptions"


class Subscription(NamedTuple):
    """A user's row for a thread. `automatic` None: ended, when the room's greatest depth was `depth`."""

    automatic: bool | None
    depth: int | None
    stream: int


class Change(NamedTuple):
    """A row for clients: `automatic` None where the subscription has ended."""

    room_id: str
    root: str
    automatic: bool | None
    stream: int


def are_on(tx: Transaction) -> bool:
    """Whether this box has thread subscriptions, and the push rules that go with them."""
    return tx.one("SELECT 1 FROM meta WHERE key = ?", (_SWITCH,)) is not None


def switch(tx: Transaction, *, on: bool) -> None:
    """Notes whether this box has them; writes nothing if it is noted so already."""
    if on and not are_on(tx):
        tx.execute("INSERT INTO meta (key, value) VALUES (?, 1)", (_SWITCH,))
    elif not on and are_on(tx):
        tx.execute("DELETE FROM meta WHERE key = ?", (_SWITCH,))


def get(tx: Transaction, room: int, root: str, user_id: str) -> Subscription | None:
    row = tx.one(
        "SELECT automatic, depth, stream FROM thread_subscriptions WHERE room = ? AND root = ? AND user_id = ?", (room, root, user_id)
    )
    return None if row is None else Subscription(None if row[0] is None else bool(row[0]), row[1], row[2])


def put(tx: Transaction, room: int, root: str, user_id: str, automatic: bool | None) -> None:
    """Subscribes the user, or (None) ends the subscription."""
    deepest = tx.one("SELECT max(depth) FROM events WHERE room = ? AND stream IS NOT NULL", (room,)) if automatic is None else None
    tx.execute(
        "INSERT OR REPLACE INTO thread_subscriptions (room, root, user_id, automatic, depth, stream) VALUES (?,?,?,?,?,?)",
        (room, root, user_id, automatic, None if deepest is None else deepest[0], tx.stream()),
    )
    oldest = tx.one(
        "SELECT stream FROM thread_subscriptions WHERE user_id = ? ORDER BY stream DESC LIMIT 1 OFFSET ?", (user_id, KEPT)
    )
    if oldest is not None:
        tx.execute("DELETE FROM thread_subscriptions WHERE user_id = ? AND stream <= ?", (user_id, oldest[0]))


def subscribers(tx: Transaction, room: int, root: str) -> frozenset[str]:
    """Who follows the thread."""
    rows = tx.all("SELECT user_id FROM thread_subscriptions WHERE room = ? AND root = ? AND automatic IS NOT NULL", (room, root))
    return frozenset(user_id for (user_id,) in rows)


def changes(tx: Transaction, user_id: str, after: int, upto: int, limit: int) -> list[Change]:
    """What of a user's subscriptions changed last in (after, upto], the newest change first."""
    rows = tx.all(
        "SELECT r.room_id, s.root, s.automatic, s.stream FROM thread_subscriptions s JOIN rooms r ON r.room = s.room"
        " WHERE s.user_id = ? AND s.stream > ? AND s.stream <= ? ORDER BY s.stream DESC LIMIT ?",
        (user_id, after, upto, limit),
    )
    return [Change(room_id, root, None if automatic is None else bool(automatic), stream) for room_id, root, automatic, stream in rows]
