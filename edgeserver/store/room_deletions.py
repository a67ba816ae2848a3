"""Rooms that an administrator has asked to be removed, and how far that is: the table `room_deletions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

SCHEDULED, ACTIVE, COMPLETE, FAILED = "scheduled", "active", "complete", "failed"
REMEMBERED_MS: Final = 24 * 60 * 60 * 1000
_COLUMNS: Final = "delete_id, room_id, wish, status, error, outcome, evicted_at, finished_at"


@dataclass(frozen=True, slots=True)
class Deletion:
    """`wish` and `outcome` are JSON objects of whoever files it; `evicted_at` and `finished_at` in ms, None: not yet."""

    delete_id: str
    room_id: str
    wish: dict[str, Any]
    status: str
    error: str | None
    outcome: dict[str, Any]
    evicted_at: int | None
    finished_at: int | None


def _load(row: tuple[Any, ...]) -> Deletion:
    delete_id, room_id, wish, status, error, outcome, evicted_at, finished_at = row
    return Deletion(delete_id, room_id, orjson.loads(wish), status, error, orjson.loads(outcome), evicted_at, finished_at)


def put(tx: Transaction, deletion: Deletion) -> None:
    """Files it, or how far it is now."""
    tx.execute(
        f"INSERT OR REPLACE INTO room_deletions ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)",
        (
            *(deletion.delete_id, deletion.room_id, orjson.dumps(deletion.wish), deletion.status, deletion.error),
            *(orjson.dumps(deletion.outcome), deletion.evicted_at, deletion.finished_at),
        ),
    )


def get(tx: Transaction, delete_id: str) -> Deletion | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM room_deletions WHERE delete_id = ?", (delete_id,))
    return None if row is None else _load(row)


def of_room(tx: Transaction, room_id: str) -> list[Deletion]:
    rows = tx.all(f"SELECT {_COLUMNS} FROM room_deletions WHERE room_id = ? ORDER BY finished_at, delete_id", (room_id,))
    return [_load(row) for row in rows]


def unfinished(tx: Transaction) -> list[Deletion]:
    return [_load(row) for row in tx.all(f"SELECT {_COLUMNS} FROM room_deletions WHERE finished_at IS NULL ORDER BY delete_id")]


def forget_old(tx: Transaction, now: int) -> None:
    """Those that came to their end more than a day ago."""
    tx.execute("DELETE FROM room_deletions WHERE finished_at < ?", (now - REMEMBERED_MS,))
