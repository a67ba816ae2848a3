"""Events that peers have sent and that are to be asked for again. Times are ms since epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeserver.store.database import Transaction

MOST_OF_ORIGIN: Final = 100
MOST: Final = 2000


@dataclass(frozen=True, slots=True)
class LateEvent:
    """`origin` sent it, a user of `author` made it; `tries` times it has been asked for."""

    event_id: str
    room_id: str
    origin: str
    author: str
    tries: int


def put(tx: Transaction, room: int, origin: str, found: Iterable[tuple[str, str]], retry_at: int) -> int:
    """Notes events, (id, author) each; returns how many there was no place for."""
    total = _count(tx, "SELECT count(*) FROM late_events", ())
    theirs = _count(tx, "SELECT count(*) FROM late_events WHERE origin = ?", (origin,))
    refused = 0
    for event_id, author in found:
        if theirs >= MOST_OF_ORIGIN or total >= MOST:
            refused += 1
            continue
        added = tx.execute(
            "INSERT OR IGNORE INTO late_events (event_id, room, origin, author, retry_at) VALUES (?,?,?,?,?)",
            (event_id, room, origin, author, retry_at),
        ).rowcount
        theirs, total = theirs + added, total + added
    return refused


def _count(tx: Transaction, sql: str, parameters: Sequence[str]) -> int:
    row = tx.one(sql, parameters)
    return row[0] if row else 0


def due(tx: Transaction, now: int, limit: int) -> list[LateEvent]:
    """Those whose time has come, the longest overdue first."""
    rows = tx.all(
        "SELECT l.event_id, r.room_id, l.origin, l.author, l.tries FROM late_events l JOIN rooms r ON r.room = l.room"
        " WHERE l.retry_at <= ? ORDER BY l.retry_at LIMIT ?",
        (now, limit),
    )
    return [LateEvent(*row) for row in rows]


def next_time(tx: Transaction) -> int | None:
    """When the next is due; None if there are none."""
    row = tx.one("SELECT min(retry_at) FROM late_events")
    return row[0] if row else None


def awaited(tx: Transaction) -> set[str]:
    """The servers whose return may bring one of them."""
    return {name for row in tx.all("SELECT DISTINCT origin, author FROM late_events") for name in row}


def hasten(tx: Transaction, server_name: str | None, now: int) -> None:
    """Makes those due that this server sent or made (None: all)."""
    if server_name is None:
        tx.execute("UPDATE late_events SET retry_at = min(retry_at, ?)", (now,))
    else:
        tx.execute(
            "UPDATE late_events SET retry_at = min(retry_at, ?) WHERE origin = ? OR author = ?", (now, server_name, server_name)
        )


def postpone(tx: Transaction, event_id: str, retry_at: int) -> None:
    tx.execute("UPDATE late_events SET tries = tries + 1, retry_at = ? WHERE event_id = ?", (retry_at, event_id))


def remove(tx: Transaction, event_ids: Iterable[str]) -> None:
    tx.executemany("DELETE FROM late_events WHERE event_id = ?", [(event_id,) for event_id in event_ids])
