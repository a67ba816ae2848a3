"""Send-to-device messages: what waits for each device, and what keeps a repeated one from arriving twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.store.database import Transaction

MAX_PENDING: Final = 10_000
"""Messages that wait for one device; beyond that the oldest are dropped, so that no idle device fills the disk."""

_DAY = 86_400_000
SENT_KEPT: Final = 2 * _DAY
RECEIVED_KEPT: Final = 30 * _DAY


def add(tx: Transaction, user_id: str, device_id: str, message: Mapping[str, Any]) -> int:
    """Appends a message (sender, type, content) for one device; returns its stream position."""
    stream = tx.stream()
    tx.execute(
        "INSERT INTO to_device (stream, user_id, device_id, message) VALUES (?,?,?,?)",
        (stream, user_id, device_id, canonical_json.encode_loose(message)),
    )
    tx.execute(
        "DELETE FROM to_device WHERE user_id = ? AND device_id = ? AND stream <= (SELECT stream FROM to_device"
        " WHERE user_id = ? AND device_id = ? ORDER BY stream DESC LIMIT 1 OFFSET ?)",
        (user_id, device_id, user_id, device_id, MAX_PENDING),
    )
    return stream


def pending(
    tx: Transaction, user_id: str, device_id: str, since: int, upto: int, limit: int
) -> list[tuple[int, dict[str, Any]]]:
    """The oldest `limit` messages in (since, upto], as (stream position, event)."""
    rows = tx.all(
        "SELECT stream, message FROM to_device WHERE user_id = ? AND device_id = ? AND stream > ? AND stream <= ?"
        " ORDER BY stream LIMIT ?",
        (user_id, device_id, since, upto, limit),
    )
    return [(stream, canonical_json.decode_exact(message)) for stream, message in rows]


def has_acknowledged(tx: Transaction, user_id: str, device_id: str, upto: int) -> bool:
    """Whether there is anything for `acknowledge` to delete (a read: most syncs need no write)."""
    row = tx.one(
        "SELECT 1 FROM to_device WHERE user_id = ? AND device_id = ? AND stream <= ? LIMIT 1",
        (user_id, device_id, upto),
    )
    return row is not None


def acknowledge(tx: Transaction, user_id: str, device_id: str, upto: int) -> int:
    """Deletes the messages at or before `upto`: the device has them. Returns how many."""
    return tx.execute(
        "DELETE FROM to_device WHERE user_id = ? AND device_id = ? AND stream <= ?", (user_id, device_id, upto)
    ).rowcount


def forget_device(tx: Transaction, user_id: str, device_id: str) -> None:
    """The device is gone, and its messages with it."""
    tx.execute("DELETE FROM to_device WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    tx.execute("DELETE FROM to_device_sent WHERE user_id = ? AND device_id = ?", (user_id, device_id))


def first_sending(tx: Transaction, user_id: str, device_id: str, txn_id: str, now: int) -> bool:
    """Notes a client's transaction id (with the event type before it); False if it was there. Forgets old ones."""
    tx.execute("DELETE FROM to_device_sent WHERE sent_at < ?", (now - SENT_KEPT,))
    return (
        tx.execute(
            "INSERT OR IGNORE INTO to_device_sent (user_id, device_id, txn_id, sent_at) VALUES (?,?,?,?)",
            (user_id, device_id, txn_id, now),
        ).rowcount
        > 0
    )


def first_receipt(tx: Transaction, origin: str, message_id: str, now: int) -> bool:
    """Notes a message of another server; False if it was there. Forgets old ones."""
    tx.execute("DELETE FROM to_device_received WHERE received_at < ?", (now - RECEIVED_KEPT,))
    return (
        tx.execute(
            "INSERT OR IGNORE INTO to_device_received (origin, message_id, received_at) VALUES (?,?,?)",
            (origin, message_id, now),
        ).rowcount
        > 0
    )
