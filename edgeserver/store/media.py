"""The index of the content repository: what media there is, thumbnails, and which files are still needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.store.database import Transaction

TOUCH_AFTER: Final = 86_400_000
"""A use is noted when the last one that was noted is at least so long ago (ms): reading must not write all the time."""


@dataclass(frozen=True, slots=True)
class Media:
    """One row: `hash` None means created and not uploaded; `user_id` None means that it can be had again (media of another
    server, an image of a preview). `before_freeze`: requests without a token may have it.
    """

    server_name: str
    media_id: str
    hash: str | None
    size: int
    content_type: str
    filename: str | None
    user_id: str | None
    expires_at: int | None
    used_at: int
    before_freeze: bool = False


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A thumbnail that has been made (or fetched): `hash` names its file."""

    hash: str
    size: int
    content_type: str
    used_at: int


@dataclass(frozen=True, slots=True)
class ThumbnailKey:
    """Which thumbnail: sizes in pixels, of the fixed list; `method` is crop or scale; `animated`: moving, if the image is."""

    server_name: str
    media_id: str
    width: int
    height: int
    method: str
    animated: bool = False

    def row(self) -> tuple[str, str, int, int, str, bool]:
        return (self.server_name, self.media_id, self.width, self.height, self.method, self.animated)


# Media


def get(tx: Transaction, server_name: str, media_id: str) -> Media | None:
    """The row, whether quarantined or not: for who writes it. Who serves it asks `is_quarantined` too."""
    row = tx.one(
        "SELECT server_name, media_id, hash, size, content_type, filename, user_id, expires_at, used_at, before_freeze FROM media"
        " WHERE server_name = ? AND media_id = ?",
        (server_name, media_id),
    )
    return None if row is None else Media(*row)


def is_quarantined(tx: Transaction, server_name: str, media_id: str) -> bool:
    found = tx.one("SELECT 1 FROM quarantined_media WHERE server_name = ? AND media_id = ?", (server_name, media_id))
    return found is not None


def add_pending(tx: Transaction, server_name: str, media_id: str, user_id: str, now: int, expires_at: int) -> None:
    """An id without content yet; those that have expired are forgotten."""
    tx.execute("DELETE FROM media WHERE hash IS NULL AND expires_at <= ?", (now,))
    tx.execute(
        "INSERT INTO media (server_name, media_id, user_id, created_at, used_at, expires_at) VALUES (?,?,?,?,?,?)",
        (server_name, media_id, user_id, now, now, expires_at),
    )


def pending_of(tx: Transaction, user_id: str, now: int) -> list[int]:
    """When the user's pending uploads expire, the next first."""
    rows = tx.all(
        "SELECT expires_at FROM media WHERE user_id = ? AND hash IS NULL AND expires_at > ? ORDER BY expires_at",
        (user_id, now),
    )
    return [row[0] for row in rows]


def put(tx: Transaction, media: Media, now: int) -> None:
    """Adds media, or gives content to a pending id."""
    tx.execute(
        "INSERT INTO media (server_name, media_id, hash, size, content_type, filename, user_id, created_at, used_at)"
        " VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (server_name, media_id) DO UPDATE SET hash = excluded.hash,"
        " size = excluded.size, content_type = excluded.content_type, filename = excluded.filename, expires_at = NULL,"
        " used_at = excluded.used_at",
        (
            media.server_name,
            media.media_id,
            media.hash,
            media.size,
            media.content_type,
            media.filename,
            media.user_id,
            now,
            now,
        ),
    )


def used_by(tx: Transaction, user_id: str) -> tuple[int, int]:
    """(bytes, files) that the user has uploaded; an id that waits for its content counts as a file."""
    row = tx.one("SELECT coalesce(sum(size), 0), count(*) FROM media WHERE user_id = ?", (user_id,))
    return (row[0], row[1]) if row else (0, 0)


def used_by_all(tx: Transaction) -> int:
    """Bytes that all users have uploaded."""
    row = tx.one("SELECT coalesce(sum(size), 0) FROM media WHERE user_id IS NOT NULL")
    return row[0] if row else 0


def touch(tx: Transaction, server_name: str, media_id: str, now: int) -> None:
    tx.execute("UPDATE media SET used_at = ? WHERE server_name = ? AND media_id = ?", (now, server_name, media_id))


# Thumbnails


def thumbnail(tx: Transaction, key: ThumbnailKey) -> Thumbnail | None:
    row = tx.one(
        "SELECT hash, size, content_type, used_at FROM thumbnails"
        " WHERE server_name = ? AND media_id = ? AND width = ? AND height = ? AND method = ? AND animated = ?",
        key.row(),
    )
    return None if row is None else Thumbnail(*row)


def put_thumbnail(tx: Transaction, key: ThumbnailKey, made: Thumbnail) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO thumbnails (server_name, media_id, width, height, method, animated, hash, size, content_type, used_at)"
        " VALUES (?,?,?,?,?,?,?,?,?,?)",
        (*key.row(), made.hash, made.size, made.content_type, made.used_at),
    )


def touch_thumbnail(tx: Transaction, key: ThumbnailKey, now: int) -> None:
    tx.execute(
        "UPDATE thumbnails SET used_at = ?"
        " WHERE server_name = ? AND media_id = ? AND width = ? AND height = ? AND method = ? AND animated = ?",
        (now, *key.row()),
    )


# What may be dropped, and which files are needed


def evict(tx: Transaction, limit: int, keep: str) -> list[str]:
    """Drops fetched media and thumbnails, the longest unused first, until they have at most `limit` bytes together.

    What has the hash `keep` stays. Returns the hashes of files that nothing needs any more.
    """
    row = tx.one(
        "SELECT (SELECT coalesce(sum(size), 0) FROM media WHERE user_id IS NULL)"
        " + (SELECT coalesce(sum(size), 0) FROM thumbnails)"
    )
    excess = (row[0] if row else 0) - limit
    if excess <= 0:
        return []
    chosen: list[tuple[Any, ...]] = []
    rows = tx.execute(
        "SELECT used_at, size, hash, 1, server_name, media_id, 0, 0, '', 0 FROM media WHERE user_id IS NULL"
        " UNION ALL SELECT used_at, size, hash, 0, server_name, media_id, width, height, method, animated FROM thumbnails"
        " ORDER BY used_at"
    )
    for row in rows:
        if excess <= 0:
            break
        if row[2] != keep:
            chosen.append(row)
            excess -= row[1]
    rows.close()
    for _, _, _, is_media, *key in chosen:
        if is_media:
            tx.execute("DELETE FROM media WHERE server_name = ? AND media_id = ?", key[:2])
        else:
            _drop_thumbnail(tx, key)
    return unneeded(tx, [row[2] for row in chosen])


def _drop_thumbnail(tx: Transaction, key: Iterable[Any]) -> None:
    tx.execute(
        "DELETE FROM thumbnails WHERE server_name = ? AND media_id = ? AND width = ? AND height = ? AND method = ? AND animated = ?",
        tuple(key),
    )


def unneeded(tx: Transaction, hashes: Iterable[str]) -> list[str]:
    """Those of the hashes that no row names."""
    return [digest for digest in dict.fromkeys(hashes) if not _is_needed(tx, digest)]


def _is_needed(tx: Transaction, digest: str) -> bool:
    row = tx.one(
        "SELECT EXISTS (SELECT 1 FROM media WHERE hash = ?) OR EXISTS (SELECT 1 FROM thumbnails WHERE hash = ?)",
        (digest, digest),
    )
    return bool(row and row[0])


def hashes(tx: Transaction) -> set[str]:
    """The names of all files that there should be."""
    rows = tx.execute("SELECT hash FROM media WHERE hash IS NOT NULL UNION SELECT hash FROM thumbnails")
    return {row[0] for row in rows}


def files(tx: Transaction) -> dict[str, int]:
    """The same with their sizes in bytes."""
    return dict(tx.all("SELECT hash, size FROM media WHERE hash IS NOT NULL UNION SELECT hash, size FROM thumbnails"))


def forget_missing(tx: Transaction, missing: Iterable[str]) -> int:
    """Forgets fetched media and thumbnails whose files are gone; returns how many uploads of our users lack theirs."""
    lost = 0
    for digest in missing:
        tx.execute("DELETE FROM thumbnails WHERE hash = ?", (digest,))
        tx.execute("DELETE FROM media WHERE hash = ? AND user_id IS NULL", (digest,))
        row = tx.one("SELECT count(*) FROM media WHERE hash = ?", (digest,))
        lost += row[0] if row else 0
    return lost
