"""What an administrator does to media: deleting, purging, listing, counting, quarantine.

What deletes rows returns how many media went, and the hashes of files that nothing needs any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edgeserver.store import admin_users
from edgeserver.store import media as table

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class ListedMedia:
    """One upload as a list shows it. Times in ms, `size` in bytes; `used_at` is to the day."""

    media_id: str
    size: int
    content_type: str
    filename: str | None
    created_at: int
    used_at: int
    is_quarantined: bool


@dataclass(frozen=True, slots=True)
class UserMedia:
    """What one user has uploaded: files and bytes."""

    user_id: str
    displayname: str | None
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class WantedUsage:
    """Which uploads are counted: those of a time in ms, both ends included, of people in whose local part or display name `name` is."""

    since: int = 0
    until: int = 2**62
    name: str = ""


ORDERS: Final = {
    "media_id": "m.media_id",
    "upload_name": "m.filename",
    "created_ts": "m.created_at",
    "last_access_ts": "m.used_at",
    "media_length": "m.size",
    "media_type": "m.content_type",
    "quarantined_by": "q.since IS NOT NULL",
    "safe_from_quarantine": "m.media_id",
}
"""What uploads can be ordered by, as administrators name it. Nothing is safe from quarantine."""
USAGE_ORDERS: Final = {"user_id": "m.user_id", "displayname": "n.value", "media_length": "sum(m.size)", "media_count": "count(*)"}
"""The same of who has uploaded them."""


class Dropped(NamedTuple):
    """How many media a deletion took out of the index, and the hashes of files that may go."""

    media: int
    hashes: list[str]


def delete(tx: Transaction, server_name: str, media_id: str) -> Dropped:
    """One media with its thumbnails. What another server has may be fetched again."""
    media = table.get(tx, server_name, media_id)
    return _delete(tx, [(server_name, media_id, None if media is None else media.hash)] if media is not None else [])


def delete_of_user(tx: Transaction, user_id: str, before_ms: int | None) -> Dropped:
    """All that the user has uploaded (or created an id for), or what was created before a moment."""
    return _delete(
        tx,
        tx.all(
            "SELECT server_name, media_id, hash FROM media WHERE user_id = ? AND created_at < ?",
            (user_id, 2**62 if before_ms is None else before_ms),
        ),
    )


def purge_fetched(tx: Transaction, before_ms: int) -> Dropped:
    """What can be had again and has not been used since: media of other servers, images of previews, thumbnails of them
    that came without the media.
    """
    dropped = _delete(
        tx, tx.all("SELECT server_name, media_id, hash FROM media WHERE user_id IS NULL AND used_at < ?", (before_ms,))
    )
    alone = tx.all(
        "SELECT t.server_name, t.media_id, t.hash FROM thumbnails t LEFT JOIN media m USING (server_name, media_id)"
        " WHERE m.media_id IS NULL AND t.used_at < ?",
        (before_ms,),
    )
    _delete(tx, alone)
    return Dropped(dropped.media, table.unneeded(tx, [*dropped.hashes, *(row[2] for row in alone)]))


def _delete(tx: Transaction, rows: list[tuple[str, str, str | None]]) -> Dropped:
    hashes: list[str] = []
    for server_name, media_id, digest in rows:
        key = (server_name, media_id)
        hashes += [row[0] for row in tx.all("SELECT hash FROM thumbnails WHERE server_name = ? AND media_id = ?", key)]
        tx.execute("DELETE FROM thumbnails WHERE server_name = ? AND media_id = ?", key)
        tx.execute("DELETE FROM media WHERE server_name = ? AND media_id = ?", key)
        if digest is not None:
            hashes.append(digest)
    return Dropped(len(rows), table.unneeded(tx, hashes))


def list_of_user(
    tx: Transaction, user_id: str, start: int, limit: int, order_by: str = "created_ts", *, backwards: bool = True
) -> tuple[list[ListedMedia], int]:
    """(`limit` of the user's uploads from the `start`-th on, in one of `ORDERS`, then by their ids; how many there are)."""
    rows = tx.all(
        "SELECT m.media_id, m.size, m.content_type, m.filename, m.created_at, m.used_at, q.since IS NOT NULL FROM media m"
        " LEFT JOIN quarantined_media q USING (server_name, media_id) WHERE m.user_id = ? AND m.hash IS NOT NULL"
        f" ORDER BY {ORDERS[order_by]} {'DESC' if backwards else 'ASC'}, m.media_id LIMIT ? OFFSET ?",
        (user_id, limit, start),
    )
    total = tx.one("SELECT count(*) FROM media WHERE user_id = ? AND hash IS NOT NULL", (user_id,))
    return [ListedMedia(*row) for row in rows], total[0] if total else 0


def old_uploads(tx: Transaction, before_ms: int, larger_than: int) -> list[str]:
    """The ids of uploads that were last used before a moment and have more bytes than that."""
    rows = tx.all(
        "SELECT media_id FROM media WHERE user_id IS NOT NULL AND hash IS NOT NULL AND used_at < ? AND size > ?",
        (before_ms, larger_than),
    )
    return [media_id for (media_id,) in rows]


def statistics(
    tx: Transaction, wanted: WantedUsage, order_by: str, start: int, limit: int, *, backwards: bool
) -> tuple[list[UserMedia], int]:
    """(`limit` of those who have uploaded anything from the `start`-th on, in one of `USAGE_ORDERS`, then by their ids; how many)."""
    chosen = (
        " FROM media m LEFT JOIN profiles n ON n.user_id = m.user_id AND n.field = 'displayname'"
        " WHERE m.user_id IS NOT NULL AND m.hash IS NOT NULL AND m.created_at BETWEEN ? AND ?"
        f" AND {admin_users.has_name('m.user_id')}"
    )
    values = (wanted.since, wanted.until, wanted.name, wanted.name)
    rows = tx.all(
        f"SELECT m.user_id, CAST(n.value AS TEXT), count(*), sum(m.size){chosen} GROUP BY m.user_id"
        f" ORDER BY {USAGE_ORDERS[order_by]} {'DESC' if backwards else 'ASC'}, m.user_id LIMIT ? OFFSET ?",
        (*values, limit, start),
    )
    total: Any = tx.one(f"SELECT count(DISTINCT m.user_id){chosen}", values)
    return [UserMedia(user_id, admin_users.text(name), count, size) for user_id, name, count, size in rows], total[0]


def quarantine_of_user(tx: Transaction, user_id: str, now: int) -> int:
    """All that the user has uploaded; returns how many were not in quarantine."""
    return tx.execute(
        "INSERT OR IGNORE INTO quarantined_media (server_name, media_id, since)"
        " SELECT server_name, media_id, ? FROM media WHERE user_id = ? AND hash IS NOT NULL",
        (now, user_id),
    ).rowcount


def quarantine(tx: Transaction, server_name: str, media_id: str, now: int) -> None:
    tx.execute("INSERT OR IGNORE INTO quarantined_media (server_name, media_id, since) VALUES (?,?,?)", (server_name, media_id, now))


def release(tx: Transaction, server_name: str, media_id: str) -> None:
    """Out of quarantine."""
    tx.execute("DELETE FROM quarantined_media WHERE server_name = ? AND media_id = ?", (server_name, media_id))
