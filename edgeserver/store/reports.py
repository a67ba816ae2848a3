"""What people have reported: the table `reports`. One person has one report of one thing: a later one takes its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

EVENT, ROOM, USER = "event", "room", "user"
_COLUMNS: Final = "report, kind, user_id, target, room_id, sender, reason, score, received_at"


@dataclass(frozen=True, slots=True)
class Report:
    """`user_id` reports `target`: the id of an event (of `sender`, in `room_id`), of a room or of a user. `received_at` in ms."""

    number: int
    kind: str
    user_id: str
    target: str
    room_id: str | None
    sender: str | None
    reason: str
    score: int | None
    received_at: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which reports to list. The texts are found anywhere in what they are compared with; None: all."""

    kind: str
    reporter: str | None = None
    room: str | None = None
    against: str | None = None


def put(tx: Transaction, report: Report) -> None:
    """Files it (`number` does not count), in place of an older one of the same person about the same thing."""
    tx.execute(
        "INSERT INTO reports (kind, user_id, target, room_id, sender, reason, score, received_at) VALUES (?,?,?,?,?,?,?,?)"
        " ON CONFLICT (user_id, kind, target) DO UPDATE SET reason = excluded.reason, score = excluded.score,"
        " received_at = excluded.received_at",
        (
            *(report.kind, report.user_id, report.target, report.room_id),
            *(report.sender, report.reason, report.score, report.received_at),
        ),
    )


def is_there(tx: Transaction, kind: str, user_id: str, target: str) -> bool:
    """Whether this person has reported this already."""
    return tx.one("SELECT 1 FROM reports WHERE user_id = ? AND kind = ? AND target = ?", (user_id, kind, target)) is not None


def count(tx: Transaction, user_id: str | None = None) -> int:
    """How many there are, of one person or in all."""
    where, values = ("", ()) if user_id is None else (" WHERE user_id = ?", (user_id,))
    row = tx.one(f"SELECT count(*) FROM reports{where}", values)
    return row[0] if row else 0


def get(tx: Transaction, kind: str, number: int) -> Report | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM reports WHERE report = ? AND kind = ?", (number, kind))
    return None if row is None else Report(*row)


def delete(tx: Transaction, kind: str, number: int) -> bool:
    """Whether it was there."""
    return tx.execute("DELETE FROM reports WHERE report = ? AND kind = ?", (number, kind)).rowcount > 0


def page(tx: Transaction, wanted: Wanted, start: int, limit: int, *, newest_first: bool) -> tuple[list[Report], int]:
    """Some of the reports in order of time, and how many there are in all."""
    where, values = "kind = ?", [wanted.kind]
    against = "sender" if wanted.kind == EVENT else "target"
    for column, text in (("user_id", wanted.reporter), ("room_id", wanted.room), (against, wanted.against)):
        if text:
            where += f" AND instr({column}, ?) > 0"
            values.append(text)
    order = "DESC" if newest_first else "ASC"
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM reports WHERE {where} ORDER BY received_at {order}, report {order} LIMIT ? OFFSET ?",
        (*values, limit, start),
    )
    total: Any = tx.one(f"SELECT count(*) FROM reports WHERE {where}", values)
    return [Report(*row) for row in rows], total[0]
