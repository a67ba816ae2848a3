"""What users of this server have not read: counts by room and thread, and what of their account data decides on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeserver.store.database import Transaction


class Count(NamedTuple):
    """Events since the read receipt that notify, and those of them that are highlighted."""

    notifications: int
    highlights: int


NONE: Final = Count(0, 0)
MAIN: Final = "main"


def add(tx: Transaction, room: int, thread: str, notified: Iterable[tuple[str, bool]], stream: int) -> None:
    """One more event, at this position, for each of these (user id, highlighted)."""
    tx.executemany(
        "INSERT INTO unread (room, user_id, thread, notifications, highlights, newest) VALUES (?,?,?,1,?,?)"
        " ON CONFLICT (room, user_id, thread) DO UPDATE"
        " SET notifications = notifications + 1, highlights = highlights + excluded.highlights, newest = excluded.newest",
        [(room, user_id, thread, int(highlighted), stream) for user_id, highlighted in notified],
    )


def of_user(tx: Transaction, room: int, user_id: str) -> dict[str, Count]:
    """Counts by thread; those that are zero are not there."""
    rows = tx.all(
        "SELECT thread, notifications, highlights FROM unread WHERE room = ? AND user_id = ?", (room, user_id)
    )
    return {thread: Count(notifications, highlights) for thread, notifications, highlights in rows}


def is_more(tx: Transaction, room: int, user_id: str, since: int) -> bool:
    """Whether an event after this position counts."""
    return tx.one("SELECT 1 FROM unread WHERE room = ? AND user_id = ? AND newest > ? LIMIT 1", (room, user_id, since)) is not None


def total(tx: Transaction, user_id: str) -> int:
    """Events that notify in all rooms that the user is in."""
    row = tx.one(
        "SELECT coalesce(sum(u.notifications), 0) FROM memberships m CROSS JOIN unread u ON u.room = m.room AND u.user_id = m.user_id"
        " WHERE m.user_id = ? AND m.membership = 'join'",
        (user_id,),
    )
    return int(row[0]) if row else 0


def put(tx: Transaction, room: int, user_id: str, counts: Mapping[str, Count]) -> None:
    """Sets the counts of these threads, as a receipt leaves them, of which the user is told as well."""
    for thread, count in counts.items():
        tx.execute("DELETE FROM unread WHERE room = ? AND user_id = ? AND thread = ?", (room, user_id, thread))
        if count.notifications:
            row = (room, user_id, thread, *count)
            tx.execute("INSERT INTO unread (room, user_id, thread, notifications, highlights) VALUES (?,?,?,?,?)", row)


def clear(tx: Transaction, room: int, user_id: str, thread: str) -> bool:
    """All of the thread is read; False if it was before."""
    return tx.one("DELETE FROM unread WHERE room = ? AND user_id = ? AND thread = ? RETURNING 1", (room, user_id, thread)) is not None


def forget(tx: Transaction, room: int, user_id: str) -> None:
    """The user has left the room."""
    tx.execute("DELETE FROM unread WHERE room = ? AND user_id = ?", (room, user_id))


def preferences(tx: Transaction, user_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Of each user who has changed them: the stream positions of m.push_rules and m.ignored_user_list."""
    found: dict[str, dict[str, int]] = {}
    for start in range(0, len(user_ids), 500):
        part = user_ids[start : start + 500]
        marks = ",".join("?" * len(part))
        for user_id, kind, stream in tx.all(
            f"SELECT user_id, type, stream FROM account_data WHERE user_id IN ({marks}) AND room_id = ''"
            " AND type IN ('m.push_rules', 'm.ignored_user_list')",
            part,
        ):
            found.setdefault(user_id, {})[kind] = stream
    return found


def member_count(tx: Transaction, room: int) -> int:
    """Joined members, counted by server."""
    row = tx.one("SELECT coalesce(sum(joined), 0) FROM room_servers WHERE room = ?", (room,))
    return row[0] if row else 0
