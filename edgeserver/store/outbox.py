"""What other servers are still to be given. Rows are written in the transaction of what they tell of, and deleted when the peer has
answered.

A row is a PDU (a reference to the event) or an EDU (its content). Rows of one destination are delivered in the order of `stream`.
Whoever queues wakes the sender after the commit (`wakeups.OUTBOX`).

What waits for a destination that cannot be reached is bounded, however long that lasts (`trim`, after each failure):

- PDUs: the newest 50,000, and the newest of each room. A row is some bytes; the event is in the room anyhow. A server that has missed
  older ones sees the gap before those that it gets, and asks for them, or pages back.
- Messages to devices: the newest 1,000.
- Device list updates: all as long as they are no more than 100, else the newest of each user: who gets one whose predecessor it does
  not know asks for the whole list. Cross-signing keys: the newest of each user, by their key.
- Receipts: the newest of each user, room and thread, by their key; of those 1,000.
- Typing and presence: nothing. They tell of a moment that has passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.store import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.store.database import Transaction


PASSING: Final = frozenset(("m.typing", "m.presence"))
"""Types of EDUs that are of no use once a destination could not be reached."""
KEPT_PDUS: Final = 50_000
KEPT_EDUS: Final = 1_000
KEPT_UPDATES: Final = 100


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


def trim(tx: Transaction, destination: int) -> None:
    """Gives up what does not have to wait for this destination any longer: see above."""
    tx.executemany("DELETE FROM outbox WHERE destination = ? AND edu_type = ?", [(destination, kind) for kind in PASSING])
    _keep_newest(tx, destination, "event IS NOT NULL", KEPT_PDUS, but_newest_of="e.room")
    _keep_newest(tx, destination, "edu_type = 'm.direct_to_device'", KEPT_EDUS)
    _keep_newest(tx, destination, "edu_type = 'm.receipt'", KEPT_EDUS)
    updates = "edu_type = 'm.device_list_update'"
    if _count(tx, destination, updates) > KEPT_UPDATES:
        _keep_newest(tx, destination, updates, 0, but_newest_of="json_extract(CAST(o.edu AS TEXT), '$.user_id')")


def _count(tx: Transaction, destination: int, which: str) -> int:
    row = tx.one(f"SELECT count(*) FROM outbox WHERE destination = ? AND {which}", (destination,))
    return row[0] if row else 0


def _keep_newest(tx: Transaction, destination: int, which: str, kept: int, *, but_newest_of: str | None = None) -> None:
    """Deletes the oldest of a destination's rows of a kind; the newest for each value of `but_newest_of` stays at any age."""
    found = _count(tx, destination, which)
    if found <= kept:
        return
    spared = "" if but_newest_of is None else (
        " AND stream NOT IN (SELECT max(o.stream) FROM outbox o LEFT JOIN events e ON e.event = o.event"
        f" WHERE o.destination = ? AND o.{which} GROUP BY {but_newest_of})"
    )
    tx.execute(
        f"DELETE FROM outbox WHERE destination = ? AND {which} AND stream IN"
        f" (SELECT stream FROM outbox WHERE destination = ? AND {which} ORDER BY stream LIMIT ?){spared}",
        (destination, destination, found - kept, *([destination] if spared else [])),
    )


def known(tx: Transaction, server_name: str) -> list[Destination]:
    """Every server but ours that we send to or share a room with, by name; number 0 for one that nothing was ever queued for."""
    rows = tx.all(
        "SELECT coalesce(d.destination, 0), s.server_name, d.failing_since, d.retry_at, coalesce(d.attempts, 0)"
        " FROM (SELECT server_name FROM destinations UNION SELECT server_name FROM room_servers) s"
        " LEFT JOIN destinations d ON d.server_name = s.server_name WHERE s.server_name <> ? ORDER BY s.server_name",
        (server_name,),
    )
    return [Destination(*row) for row in rows]


def known_one(tx: Transaction, server_name: str) -> Destination | None:
    """One of them; None for a server that we neither send to nor share a room with."""
    found = destination(tx, server_name)
    if found is None and tx.one("SELECT 1 FROM room_servers WHERE server_name = ? LIMIT 1", (server_name,)) is not None:
        return Destination(0, server_name, None, None, 0)
    return found


def rooms_with(tx: Transaction, server_name: str) -> list[tuple[str, int]]:
    """The rooms that the server is in: room id, and the stream position of the newest event there that does not wait for it."""
    rows = tx.all(
        "SELECT r.room_id, coalesce((SELECT max(e.stream) FROM events e WHERE e.room = r.room AND NOT EXISTS ("
        "  SELECT 1 FROM outbox o JOIN destinations d ON d.destination = o.destination"
        "  WHERE d.server_name = s.server_name AND o.stream <= e.stream AND o.event IS NOT NULL)), 0)"
        " FROM room_servers s JOIN rooms r ON r.room = s.room WHERE s.server_name = ? ORDER BY r.room_id",
        (server_name,),
    )
    return [(room_id, stream) for room_id, stream in rows]
