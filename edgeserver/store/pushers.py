"""Pushers, and up to where each has told its gateway: the table `pushers`. They go with their device (`devices.delete`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.store.database import Transaction


class PusherKey(NamedTuple):
    """What makes a pusher one and the same."""

    user_id: str
    app_id: str
    pushkey: str


class Pusher(NamedTuple):
    """One row. `content` is what the client has set; `set_at` in s; `position` of the stream is told (written late)."""

    key: PusherKey
    device_id: str | None
    content: dict[str, Any]
    set_at: int
    enabled: bool
    position: int


_COLUMNS = "user_id, app_id, pushkey, device_id, pusher, set_at, enabled, position"
_KEY = "user_id = ? AND app_id = ? AND pushkey = ?"


def _load(row: tuple[Any, ...]) -> Pusher:
    user_id, app_id, pushkey, device_id, content, set_at, enabled, position = row
    key = PusherKey(user_id, app_id, pushkey)
    return Pusher(key, device_id, canonical_json.decode_exact(content), set_at, bool(enabled), position)


def get(tx: Transaction, key: PusherKey) -> Pusher | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM pushers WHERE {_KEY}", key)
    return None if row is None else _load(row)


def of_user(tx: Transaction, user_id: str) -> list[Pusher]:
    rows = tx.all(f"SELECT {_COLUMNS} FROM pushers WHERE user_id = ? ORDER BY app_id, pushkey", (user_id,))
    return [_load(row) for row in rows]


def active(tx: Transaction) -> list[tuple[PusherKey, int]]:
    """Every pusher that is enabled, with its position."""
    rows = tx.all("SELECT user_id, app_id, pushkey, position FROM pushers WHERE enabled = 1")
    return [(PusherKey(user_id, app_id, pushkey), position) for user_id, app_id, pushkey, position in rows]


def put(tx: Transaction, pusher: Pusher) -> None:
    """Creates or replaces the pusher with this key."""
    content = canonical_json.encode_loose(pusher.content)
    tx.execute(
        f"INSERT OR REPLACE INTO pushers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*pusher.key, pusher.device_id, content, pusher.set_at, int(pusher.enabled), pusher.position),
    )


def note(tx: Transaction, positions: Iterable[tuple[PusherKey, int]]) -> None:
    """How far these have come."""
    tx.executemany(f"UPDATE pushers SET position = ? WHERE {_KEY}", [(position, *key) for key, position in positions])


def delete(tx: Transaction, key: PusherKey) -> bool:
    """Whether it was there."""
    return bool(tx.execute(f"DELETE FROM pushers WHERE {_KEY}", key).rowcount)


def delete_of_others(tx: Transaction, key: PusherKey) -> None:
    """Deletes other users' pushers with the same app_id and pushkey."""
    tx.execute(
        "DELETE FROM pushers WHERE app_id = ? AND pushkey = ? AND user_id != ?", (key.app_id, key.pushkey, key.user_id)
    )


def count(tx: Transaction, user_id: str) -> int:
    row = tx.one("SELECT count(*) FROM pushers WHERE user_id = ?", (user_id,))
    return int(row[0]) if row else 0
