"""What an administrator does to media: deleting, purging, listing, counting, quarantine.

What deletes rows returns how many media went, and the hashes of files that nothing needs any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

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
    count: int
    size: int


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


def list_of_user(tx: Transaction, user_id: str, start: int, limit: int) -> tuple[list[ListedMedia], int]:
    """(`limit` of the user's uploads from the `start`-th on, the newest first; how many there are)."""
    rows = tx.all(
        "SELECT m.media_id, m.size, m.content_type, m.filename, m.created_at, m.used_at, q.since IS NOT NULL FROM media m"
        " LEFT JOIN quarantined_media q USING (server_name, media_id) WHERE m.user_id = ? AND m.hash IS NOT NULL"
        " ORDER BY m.created_at DESC, m.media_id LIMIT ? OFFSET ?",
        (user_id, limit, start),
    )
    total = tx.one("SELECT count(*) FROM media WHERE user_id = ? AND hash IS NOT NULL", (user_id,))
    return [ListedMedia(*row) for row in rows], total[0] if total else 0


def statistics(tx: Transaction) -> list[UserMedia]:
    """Of every user who has uploaded anything; who has most first."""
    rows = tx.all(
        "SELECT user_id, count(hash), sum(size) FROM media WHERE user_id IS NOT NULL AND hash IS NOT NULL"
        " GROUP BY user_id ORDER BY sum(size) DESC, user_id"
    )
    return [UserMedia(*row) for row in rows]


def quarantine(tx: Transaction, server_name: str, media_id: str, now: int) -> None:
    tx.execute("INSERT OR IGNORE INTO quarantined_media (server_name, media_id, since) VALUES (?,?,?)", (server_name, media_id, now))


def release(tx: Transaction, server_name: str, media_id: str) -> None:
    """Out of quarantine."""
    tx.execute("DELETE FROM quarantined_media WHERE server_name = ? AND media_id = ?", (server_name, media_id))
