"""Server-side key backup: versions, and the encrypted session keys in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup version. `etag` grows with every change of its keys, `count` is how many there are."""

    version: int
    algorithm: str
    auth_data: dict[str, Any]
    etag: int
    count: int
    deleted: bool


_BACKUP = "SELECT version, algorithm, auth_data, etag, keys, deleted FROM backup_versions"


def _backup(row: tuple[Any, ...]) -> Backup:
    version, algorithm, auth_data, etag, count, deleted = row
    return Backup(version, algorithm, canonical_json.decode_exact(auth_data), etag, count, bool(deleted))


def version(tx: Transaction, user_id: str, number: int) -> Backup | None:
    """One version, a deleted one too; None if it was never made."""
    row = tx.one(f"{_BACKUP} WHERE user_id = ? AND version = ?", (user_id, number))
    return None if row is None else _backup(row)


def newest(tx: Transaction, user_id: str) -> Backup | None:
    """The newest version that is not deleted: the current one."""
    row = tx.one(f"{_BACKUP} WHERE user_id = ? AND deleted = 0 ORDER BY version DESC LIMIT 1", (user_id,))
    return None if row is None else _backup(row)


def create(tx: Transaction, user_id: str, algorithm: str, auth_data: Mapping[str, Any]) -> int:
    """A new version; its number was never given to this user before."""
    row = tx.one("SELECT coalesce(max(version), 0) + 1 FROM backup_versions WHERE user_id = ?", (user_id,))
    number: int = row[0] if row else 1
    tx.execute(
        "INSERT INTO backup_versions (user_id, version, algorithm, auth_data) VALUES (?,?,?,?)",
        (user_id, number, algorithm, canonical_json.encode_loose(auth_data)),
    )
    return number


def set_auth_data(tx: Transaction, user_id: str, number: int, auth_data: Mapping[str, Any]) -> None:
    tx.execute(
        "UPDATE backup_versions SET auth_data = ? WHERE user_id = ? AND version = ?",
        (canonical_json.encode_loose(auth_data), user_id, number),
    )


def delete_version(tx: Transaction, user_id: str, number: int) -> None:
    """Deletes a version's keys and what is known of it, but not its number."""
    tx.execute("DELETE FROM backup_keys WHERE user_id = ? AND version = ?", (user_id, number))
    tx.execute(
        "UPDATE backup_versions SET deleted = 1, auth_data = '{}', keys = 0 WHERE user_id = ? AND version = ?",
        (user_id, number),
    )


# Keys


def put_key(
    tx: Transaction, user_id: str, number: int, room_id: str, session_id: str, key: Mapping[str, Any]
) -> tuple[bool, bool]:
    """Keeps the better of this key and the one that is there; returns (changed, is new).

    Client-server API, "Server-side key backups": a verified key goes before one that is not, then the lower
    first_message_index, then the lower forwarded_count; else the key that is there stays.
    """
    place = (user_id, number, room_id, session_id)
    row = tx.one(
        "SELECT is_verified, first_message_index, forwarded_count FROM backup_keys"
        " WHERE user_id = ? AND version = ? AND room_id = ? AND session_id = ?",
        place,
    )
    rank = (not key["is_verified"], key["first_message_index"], key["forwarded_count"])
    if row is not None and (not row[0], row[1], row[2]) <= rank:
        return False, False
    tx.execute(
        "INSERT OR REPLACE INTO backup_keys (user_id, version, room_id, session_id, is_verified, first_message_index,"
        " forwarded_count, session_data) VALUES (?,?,?,?,?,?,?,?)",
        (
            *place,
            int(key["is_verified"]),
            key["first_message_index"],
            key["forwarded_count"],
            canonical_json.encode_loose(key["session_data"]),
        ),
    )
    return True, row is None


def touch(tx: Transaction, user_id: str, number: int, added: int) -> None:
    """The keys of the version have changed, and there are `added` more of them."""
    tx.execute(
        "UPDATE backup_versions SET etag = etag + 1, keys = keys + ? WHERE user_id = ? AND version = ?",
        (added, user_id, number),
    )


def _where(room_id: str | None, session_id: str | None) -> tuple[str, tuple[str, ...]]:
    if room_id is None:
        return "", ()
    return (" AND room_id = ?", (room_id,)) if session_id is None else (
        " AND room_id = ? AND session_id = ?",
        (room_id, session_id),
    )


def delete_keys(
    tx: Transaction, user_id: str, number: int, room_id: str | None = None, session_id: str | None = None
) -> int:
    """Deletes all keys of a version, of one room, or of one session; returns how many."""
    where, values = _where(room_id, session_id)
    return tx.execute(
        f"DELETE FROM backup_keys WHERE user_id = ? AND version = ?{where}", (user_id, number, *values)
    ).rowcount


def keys(
    tx: Transaction, user_id: str, number: int, room_id: str | None = None, session_id: str | None = None
) -> dict[str, dict[str, bytes]]:
    """Room id → session id → the key data as JSON bytes: a backup may hold very many, so they are not taken apart."""
    where, values = _where(room_id, session_id)
    rows = tx.execute(
        "SELECT room_id, session_id, is_verified, first_message_index, forwarded_count, session_data FROM backup_keys"
        f" WHERE user_id = ? AND version = ?{where}",
        (user_id, number, *values),
    )
    found: dict[str, dict[str, bytes]] = {}
    for room, session, is_verified, first_message_index, forwarded_count, session_data in rows:
        found.setdefault(room, {})[session] = (
            b'{"first_message_index":%d,"forwarded_count":%d,"is_verified":%b,"session_data":%b}'
            % (first_message_index, forwarded_count, b"true" if is_verified else b"false", session_data)
        )
    return found
