"""Uploads that come in parts: what each is to become, and how much of it is on the disk for certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.store.database import Transaction

_COLUMNS = "upload_id, user_id, media_id, is_created, received, length, is_complete, content_type, filename, expires_at"


@dataclass(frozen=True, slots=True)
class PartialUpload:
    """One upload. `received` and `length` in bytes; `is_created`: the media id was made before, by POST /media/v1/create."""

    upload_id: str
    user_id: str
    media_id: str
    is_created: bool
    received: int
    length: int | None
    is_complete: bool
    content_type: str
    filename: str | None
    expires_at: int


def add(tx: Transaction, upload: PartialUpload) -> None:
    tx.execute(
        f"INSERT INTO partial_uploads ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)",
        (
            upload.upload_id,
            upload.user_id,
            upload.media_id,
            upload.is_created,
            upload.received,
            upload.length,
            upload.is_complete,
            upload.content_type,
            upload.filename,
            upload.expires_at,
        ),
    )


def get(tx: Transaction, upload_id: str) -> PartialUpload | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM partial_uploads WHERE upload_id = ?", (upload_id,))
    return None if row is None else _upload(row)


def under_way(tx: Transaction, user_id: str) -> list[PartialUpload]:
    """The user's uploads that are not whole yet, the one that expires first before the others."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM partial_uploads WHERE user_id = ? AND is_complete = 0 ORDER BY expires_at", (user_id,))
    return [_upload(row) for row in rows]


def note_received(tx: Transaction, upload_id: str, received: int) -> None:
    tx.execute("UPDATE partial_uploads SET received = ? WHERE upload_id = ?", (received, upload_id))


def note_length(tx: Transaction, upload_id: str, length: int) -> None:
    tx.execute("UPDATE partial_uploads SET length = ? WHERE upload_id = ?", (length, upload_id))


def note_complete(tx: Transaction, upload_id: str, expires_at: int) -> None:
    tx.execute("UPDATE partial_uploads SET is_complete = 1, expires_at = ? WHERE upload_id = ?", (expires_at, upload_id))


def delete(tx: Transaction, upload_id: str) -> None:
    tx.execute("DELETE FROM partial_uploads WHERE upload_id = ?", (upload_id,))


def forget_expired(tx: Transaction, now: int) -> list[str]:
    """The names of the uploads that went."""
    rows = tx.all("DELETE FROM partial_uploads WHERE expires_at <= ? RETURNING upload_id", (now,))
    return [row[0] for row in rows]


def forget_of_user(tx: Transaction, user_id: str) -> list[str]:
    """The same for all of one user's."""
    return [row[0] for row in tx.all("DELETE FROM partial_uploads WHERE user_id = ? RETURNING upload_id", (user_id,))]


def incomplete(tx: Transaction) -> dict[str, int]:
    """Of every upload that is not whole: its name and how many bytes its file must have at least."""
    return dict(tx.all("SELECT upload_id, received FROM partial_uploads WHERE is_complete = 0"))


def _upload(row: Sequence[Any]) -> PartialUpload:
    upload_id, user_id, media_id, is_created, received, length, is_complete, *rest = row
    return PartialUpload(upload_id, user_id, media_id, bool(is_created), received, length, bool(is_complete), *rest)
