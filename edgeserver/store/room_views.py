"""Reads that a user's view of rooms is made of: what changed for the user, the state at a stream position, heroes, gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.store.database import Transaction

HEROES: Final = 5
RECENT: Final = 20_000


def changed_rooms(tx: Transaction, user_id: str, since: int) -> list[int]:
    """Rooms in which the user's own membership row is newer than `since`."""
    rows = tx.all("SELECT room FROM memberships WHERE user_id = ? AND stream > ?", (user_id, since))
    return [room for (room,) in rows]


def snapshot_at(tx: Transaction, room: int, stream: int) -> int | None:
    """The state after the newest timeline event at or before the position; None if there is none."""
    row = tx.one(
        "SELECT after FROM events WHERE room = ? AND stream <= ? ORDER BY stream DESC LIMIT 1", (room, stream)
    )
    return row[0] if row else None


def snapshot_now(tx: Transaction, room: int) -> int | None:
    """The current state; None if we are not in the room."""
    row = tx.one("SELECT snapshot FROM rooms WHERE room = ?", (room,))
    return row[0] if row else None


def with_gaps(tx: Transaction, room: int, numbers: Sequence[int]) -> set[int]:
    """Those of the room's events that name a previous event which is not held."""
    marks = ",".join("?" * len(numbers))
    rows = tx.all(f"SELECT DISTINCT event FROM gaps WHERE room = ? AND event IN ({marks})", (room, *numbers))
    return {number for (number,) in rows}


def heroes(tx: Transaction, room: int, user_id: str) -> list[str]:
    """The members who give a room without a name its name: the first five joined or invited, else of those who were."""
    for memberships in (("join", "invite"), ("leave", "ban")):
        rows = tx.all(
            "SELECT user_id FROM memberships WHERE room = ? AND membership IN (?, ?) AND user_id <> ?"
            " ORDER BY event LIMIT ?",
            (room, *memberships, user_id, HEROES),
        )
        if rows:
            return sorted(user_id for (user_id,) in rows)
    return []


def recent_events(tx: Transaction, user_id: str, before: int, limit: int, *, after: int = 0) -> list[tuple[int, int]]:
    """The newest events between two stream positions (neither included) in rooms that the user is in: (stream, number), newest first.

    Only the server's newest `RECENT` events before the position are looked at.
    """
    rows = tx.all(
        "SELECT e.stream, e.event FROM (SELECT stream, event, room FROM events WHERE stream > ? AND stream < ?"
        "  ORDER BY stream DESC LIMIT ?) e CROSS JOIN memberships m ON m.user_id = ? AND m.room = e.room"
        " WHERE m.membership = 'join' ORDER BY e.stream DESC LIMIT ?",
        (max(after, 0), before, RECENT, user_id, limit),
    )
    return [(stream, number) for stream, number in rows]


def looked_at_from(tx: Transaction, before: int) -> int | None:
    """The position before which `recent_events` has not looked; None if nothing is there."""
    row = tx.one(
        "SELECT stream FROM events WHERE stream > 0 AND stream < ? ORDER BY stream DESC LIMIT 1 OFFSET ?", (before, RECENT)
    )
    return row[0] + 1 if row else None


def invites(tx: Transaction, user_id: str, after: int) -> list[tuple[int, int, bytes | None]]:
    """Rooms that the user has been invited to since the position and has not answered for: (stream, event, stripped state)."""
    rows = tx.all(
        "SELECT stream, event, stripped FROM memberships WHERE user_id = ? AND membership = 'invite' AND stream > ? ORDER BY stream",
        (user_id, after),
    )
    return [(stream, event, stripped) for stream, event, stripped in rows]
