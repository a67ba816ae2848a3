"""What the deprecated event stream reads: events of some rooms in the order of their arrival, over `events` and `memberships`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

_READABLE = "m.user_id = ? AND (m.membership = 'join' OR m.stream > ?)"


def arrived(tx: Transaction, user_id: str, since: int, upto: int, limit: int) -> list[tuple[int, int]]:
    """The oldest events in (since, upto] of rooms that the user is in or has left since then, as (stream, room)."""
    return tx.all(
        "SELECT e.stream, e.room FROM events e JOIN memberships m ON m.room = e.room"
        f" WHERE {_READABLE} AND e.stream > ? AND e.stream <= ? ORDER BY e.stream LIMIT ?",
        (user_id, since, since, upto, limit),
    )


def arrived_in(tx: Transaction, room: int, since: int, upto: int, limit: int) -> list[tuple[int, int]]:
    """The same of one room."""
    return tx.all(
        "SELECT stream, room FROM events WHERE room = ? AND stream > ? AND stream <= ? ORDER BY stream LIMIT ?",
        (room, since, upto, limit),
    )


def asked(tx: Transaction, user_id: str, since: int, upto: int) -> list[int]:
    """The numbers of the events that invited the user, or by which they knocked, in (since, upto]."""
    rows = tx.all(
        "SELECT event FROM memberships WHERE user_id = ? AND membership IN ('invite', 'knock') AND stream > ? AND stream <= ?",
        (user_id, since, upto),
    )
    return [event for (event,) in rows]
