"""The full-text index: the tables `search_index` and `search_progress`.

It follows the stream in batches and is never written with a single event, so it costs a busy box little. Events that arrive are
indexed forwards from `high`, those that were there before (and what is backfilled, whose positions are negative) backwards from
`low`. A redaction takes the event's words out in its own transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from edgeserver.matrix import canonical_json, search_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.store.database import Row, Transaction

BATCH = 500
"""Events that are looked at in one transaction."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Positions in (low, high] are in the index."""

    low: int
    high: int


def progress(tx: Transaction) -> Progress | None:
    """None if nothing has been indexed yet, or the index is of a form that this release does not make."""
    row = tx.one("SELECT low, high FROM search_progress WHERE form = ?", (search_text.FORM,))
    return None if row is None else Progress(*row)


def begin(tx: Transaction, position: int) -> Progress:
    """An empty index, from here on in both directions."""
    tx.execute("INSERT INTO search_index (search_index) VALUES ('delete-all')")
    tx.execute("INSERT OR REPLACE INTO search_progress (id, low, high, form) VALUES (0, ?, ?, ?)", (position, position, search_text.FORM))
    return Progress(position, position)


def forwards(tx: Transaction, since: Progress) -> bool:
    """Indexes the next batch of what has arrived; whether there is more."""
    rows = tx.all("SELECT stream, pdu FROM events WHERE stream > ? ORDER BY stream LIMIT ?", (since.high, BATCH))
    if rows:
        _add(tx, rows)
        tx.execute("UPDATE search_progress SET high = ?", (rows[-1][0],))
    return len(rows) == BATCH


def backwards(tx: Transaction, since: Progress) -> bool:
    """Indexes the next batch of what was there before; whether there is more."""
    rows = tx.all("SELECT stream, pdu FROM events WHERE stream <= ? ORDER BY stream DESC LIMIT ?", (since.low, BATCH))
    if rows:
        _add(tx, rows)
        tx.execute("UPDATE search_progress SET low = ?", (rows[-1][0] - 1,))
    return len(rows) == BATCH


def _add(tx: Transaction, rows: list[Row]) -> None:
    made = [(stream, *values) for stream, pdu in rows if any(values := _values(_glance(pdu)))]
    tx.executemany("INSERT INTO search_index (rowid, body, name, topic) VALUES (?, ?, ?, ?)", made)


def remove(tx: Transaction, stream: int, pdu: Mapping[str, Any]) -> None:
    """Takes out what was indexed of the event with this PDU, before a redaction changes it."""
    values = _values(pdu)
    done = progress(tx) if any(values) else None
    if done is not None and done.low < stream <= done.high:
        _take_out(tx, stream, values)


def remove_room(tx: Transaction, room: int) -> None:
    """Takes out what was indexed of a whole room, before its events are gone. They are read one by one: there may be any number."""
    done = progress(tx)
    if done is None:
        return
    indexed = tx.execute("SELECT stream, pdu FROM events WHERE room = ? AND stream > ? AND stream <= ?", (room, done.low, done.high))
    for stream, pdu in indexed:
        values = _values(_glance(pdu))
        if any(values):
            _take_out(tx, stream, values)


def _take_out(tx: Transaction, stream: int, values: tuple[str | None, ...]) -> None:
    tx.execute("INSERT INTO search_index (search_index, rowid, body, name, topic) VALUES ('delete', ?, ?, ?, ?)", (stream, *values))


def _values(pdu: Mapping[str, Any]) -> tuple[str | None, ...]:
    event_type, content = pdu.get("type"), pdu.get("content")
    texts = search_text.texts_of(event_type, content) if isinstance(event_type, str) and isinstance(content, dict) else {}
    return tuple(search_text.spaced(texts[name]) if name in texts else None for name in ("body", "name", "topic"))


def _glance(pdu: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(pdu)
    except orjson.JSONDecodeError:
        found = canonical_json.decode_exact(pdu)
    return found


def hits(tx: Transaction, expression: str, below: int, limit: int) -> list[int]:
    """The stream positions of the newest events below this position that match."""
    return [
        stream
        for (stream,) in tx.all(
            "SELECT rowid FROM search_index WHERE search_index MATCH ? AND rowid < ? ORDER BY rowid DESC LIMIT ?",
            (expression, below, limit),
        )
    ]
