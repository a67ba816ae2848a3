"""What other servers are still to be given. Rows are written in the transaction of what they tell of, and deleted when the peer has
answered.

A row is a PDU (a reference to the event) or an EDU (its content). Rows of one destination are delivered in the order of `stream`.
Whoever queues wakes the sender after the commit (`wakeups.OUTBOX`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import canonical_json
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.store import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Destination:
    """A server that we send to. Times in ms; `retry_at` None: at once; `failing_since` None: reachable as far as we know."""

    number: int
    server_name: str
    failing_since: int | None
    retry_at: int | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Pending:
    """One row of the outbox: `pdu` with its room id, or `edu` as {edu_type, content}."""

    stream: int
    pdu: dict[str, Any] | None
    room_id: str | None
    edu: dict[str, Any] | None


def destination_number(tx: Transaction, server_name: str) -> int:
    row = tx.one("SELECT destination FROM destinations WHERE server_name = ?", (server_name,))
    return row[0] if row else tx.insert("INSERT INTO destinations (server_name) VALUES (?)", (server_name,))


def queue_pdu(tx: Transaction, server_names: Iterable[str], event: int, stream: int) -> None:
    """Queues an event, at its own stream position, for these servers (ours must not be among them)."""
    tx.executemany(
        "INSERT INTO outbox (destination, stream, event) VALUES (?,?,?) ON CONFLICT DO NOTHING",
        [(destination_number(tx, name), stream, event) for name in server_names],
    )


def queue_edu(
    tx: Transaction, server_names: Iterable[str], edu_type: str, content: Mapping[str, Any], key: str | None = None
) -> None:
    """Queues an EDU. One with the same type and `key` that still waits for the same server is replaced."""
    names = list(server_names)
    if not names:
        return
    stream, body = tx.stream(), canonical_json.encode_loose(content)
    for name in names:
        number = destination_number(tx, name)
        if key is not None:
            tx.execute(
                "DELETE FROM outbox WHERE destination = ? AND edu_type = ? AND edu_key = ?", (number, edu_type, key)
            )
        tx.execute(
            "INSERT INTO outbox (destination, stream, edu_type, edu_key, edu) VALUES (?,?,?,?,?)",
            (number, stream, edu_type, key, body),
        )


def pending(tx: Transaction, destination: int, *, pdus: int = 50, edus: int = 100) -> list[Pending]:
    """The next rows for a destination, oldest first, as many as fit one transaction."""
    rows = tx.all(
        "SELECT o.stream, e.pdu, r.room_id, r.version, o.edu_type, o.edu FROM outbox o LEFT JOIN events e ON e.event = o.event"
        " LEFT JOIN rooms r ON r.room = e.room WHERE o.destination = ? ORDER BY o.stream LIMIT ?",
        (destination, pdus + edus),
    )
    found: list[Pending] = []
    counts = [0, 0]
    for stream, pdu, room_id, version, edu_type, edu in rows:
        is_edu = pdu is None
        counts[is_edu] += 1
        if counts[0] > pdus or counts[1] > edus:
            break
        content = {"edu_type": edu_type, "content": canonical_json.decode_exact(edu)} if is_edu else None
        event = None if is_edu else events.decode(pdu, ROOM_VERSIONS[version])
        found.append(Pending(stream, event, room_id, content))
    return found


def delivered(tx: Transaction, destination: int, streams: Iterable[int]) -> None:
    """The peer has answered for these rows."""
    tx.executemany(
        "DELETE FROM outbox WHERE destination = ? AND stream = ?", [(destination, stream) for stream in streams]
    )


def waiting(tx: Transaction) -> list[Destination]:
    """Destinations with rows in the outbox."""
    rows = tx.all(
        "SELECT destination, server_name, failing_since, retry_at, attempts FROM destinations d"
        " WHERE EXISTS (SELECT 1 FROM outbox o WHERE o.destination = d.destination)"
    )
    return [Destination(*row) for row in rows]


def destination(tx: Transaction, server_name: str) -> Destination | None:
    row = tx.one(
        "SELECT destination, server_name, failing_since, retry_at, attempts FROM destinations WHERE server_name = ?",
        (server_name,),
    )
    return None if row is None else Destination(*row)


def failing(tx: Transaction) -> list[Destination]:
    """Destinations whose last attempt failed."""
    rows = tx.all(
        "SELECT destination, server_name, failing_since, retry_at, attempts FROM destinations"
        " WHERE failing_since IS NOT NULL"
    )
    return [Destination(*row) for row in rows]


def failed(tx: Transaction, destination: int, now: int, retry_at: int) -> None:
    """An attempt failed at `now`; not again before `retry_at` (ms)."""
    tx.execute(
        "UPDATE destinations SET failing_since = coalesce(failing_since, ?), retry_at = ?, attempts = attempts + 1"
        " WHERE destination = ?",
        (now, retry_at, destination),
    )


def recovered(tx: Transaction, destination: int) -> None:
    """The destination can be reached (again)."""
    tx.execute(
        "UPDATE destinations SET failing_since = NULL, retry_at = NULL, attempts = 0"
        " WHERE destination = ? AND (failing_since IS NOT NULL OR retry_at IS NOT NULL)",
        (destination,),
    )
