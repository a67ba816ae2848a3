"""Send-to-device messages: what waits for each device, and what keeps a repeated one from arriving twice.

What waits for one device is bounded, however long it does not sync: `MAX_WAITING` bytes, a message counting as `LEAST_SIZE` at least.
Where there is more, the servers that it comes from share the room: the oldest messages of whoever has sent most are dropped first, so a
server that floods a device drops its own messages, not the keys that others sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json
from edgeserver.matrix.identifiers import domain_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.store.database import Transaction

MAX_WAITING: Final = 20 * 1024 * 1024
LEAST_SIZE: Final = 2048
LARGEST: Final = 65_536
"""Bytes of one message."""
FEW: Final = 256
"""So many messages are not too much for a device, whatever their size; from there on each `LOOK_EVERY`th addition looks at it."""
LOOK_EVERY: Final = 64
KEPT_IDS: Final = 10_000
"""Message ids of one origin that are remembered, beside their age."""

_DAY = 86_400_000
SENT_KEPT: Final = 2 * _DAY
RECEIVED_KEPT: Final = 30 * _DAY


def add(tx: Transaction, user_id: str, device_id: str, message: Mapping[str, Any]) -> bool:
    """Appends a message (sender, type, content) for one device; False for one that is too large, which is dropped."""
    encoded = canonical_json.encode_loose(message)
    if len(encoded) > LARGEST:
        return False
    tx.execute(
        "INSERT INTO to_device (stream, user_id, device_id, message) VALUES (?,?,?,?)", (tx.stream(), user_id, device_id, encoded)
    )
    row = tx.one("SELECT count(*) FROM to_device WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    if row is not None and row[0] > FEW and row[0] % LOOK_EVERY == 0:
        _drop_oldest(tx, user_id, device_id)
    return True


def _drop_oldest(tx: Transaction, user_id: str, device_id: str) -> None:
    """Makes room, if there is too much for the device: nine tenths are left, each server with no more than its share of them."""
    row = tx.one(
        "SELECT sum(max(length(message), ?)) FROM to_device WHERE user_id = ? AND device_id = ?", (LEAST_SIZE, user_id, device_id)
    )
    if row is None or row[0] <= MAX_WAITING:
        return
    waiting: dict[str, list[tuple[int, int]]] = {}
    for stream, size, sender in tx.all(
        "SELECT stream, max(length(message), ?), coalesce(json_extract(CAST(message AS TEXT), '$.sender'), '') FROM to_device"
        " WHERE user_id = ? AND device_id = ? ORDER BY stream DESC",
        (LEAST_SIZE, user_id, device_id),
    ):
        waiting.setdefault(domain_of(sender), []).append((stream, size))
    share = _share([sum(size for _, size in of_server) for of_server in waiting.values()], MAX_WAITING * 9 // 10)
    dropped: list[int] = []
    for of_server in waiting.values():
        left = share
        for stream, size in of_server:
            left -= size
            if left < 0:
                dropped.append(stream)
    tx.executemany("DELETE FROM to_device WHERE stream = ?", [(stream,) for stream in dropped])


def _share(wanted: Sequence[int], whole: int) -> int:
    """The most that each may have, so that all together have no more than the whole: who wants less leaves it to the others."""
    left = whole
    for index, one in enumerate(sorted(wanted)):
        share = left // (len(wanted) - index)
        if one > share:
            return share
        left -= one
    return whole


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


def keep_newest_ids(tx: Transaction, origin: str) -> None:
    """Forgets the oldest message ids of that server, but for `KEPT_IDS`."""
    tx.execute(
        "DELETE FROM to_device_received WHERE origin = ? AND message_id IN (SELECT message_id FROM to_device_received"
        " WHERE origin = ? ORDER BY received_at DESC LIMIT -1 OFFSET ?)",
        (origin, origin, KEPT_IDS),
    )
