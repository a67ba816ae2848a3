"""Events and what hangs on them: timeline order, gaps, redactions, client transaction ids."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from edgeserver.matrix import canonical_json
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.store import search_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.store.database import Transaction


class Standing(IntEnum):
    """What receipt made of an event (server-server API, "Checks performed on receipt of a PDU")."""

    ACCEPTED = 0
    SOFT_FAILED = 1
    REJECTED = 2


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place here.

    `number` is its numeric id; `stream` its place in the timeline (None: it has none); `before` and `after` are state snapshots
    (None for an outlier: an event held only as somebody's auth event or state). `depth` orders the timeline: see `effective_depth`.
    """

    number: int
    room: int
    event: Event
    stream: int | None
    before: int | None
    after: int | None
    standing: Standing
    redacted_by: str | None
    depth: int

    @property
    def is_outlier(self) -> bool:
        return self.before is None


_COLUMNS = (
    "e.event, e.event_id, e.room, r.version, e.stream, e.before, e.after, e.verdict, e.redacted_by, e.depth, e.pdu"
    " FROM events e JOIN rooms r ON r.room = e.room"
)
_CHUNK = 500


def _load(row: tuple[Any, ...]) -> StoredEvent:
    number, event_id, room, version, stream, before, after, standing, redacted_by, depth, pdu = row
    rules = ROOM_VERSIONS[version]
    event = Event.from_pdu(decode(pdu, rules), rules, event_id=event_id)
    return StoredEvent(number, room, event, stream, before, after, Standing(standing), redacted_by, depth)


def insert(
    tx: Transaction,
    room: int,
    event: Event,
    *,
    stream: int | None,
    key: int | None,
    before: int | None,
    after: int | None,
    standing: Standing = Standing.ACCEPTED,
    depth: int | None = None,
) -> int:
    """Stores an event that is not held yet; returns its numeric id. `depth` (None: as the event states it) orders the timeline."""
    return tx.insert(
        "INSERT INTO events (event_id, room, stream, depth, tie, key, before, after, verdict, pdu) VALUES (?,?,?,?,?,?,?,?,?,?)",
        (
            *(event.event_id, room, stream, event.depth if depth is None else depth, tie_of(event)),
            *(key, before, after, int(standing), encode(event.pdu)),
        ),
    )


def encode(pdu: dict[str, Any]) -> bytes:
    """A PDU as it is stored: canonical JSON (for an old room what is hashed there), without `unsigned`, which is its sender's."""
    kept = {name: value for name, value in pdu.items() if name != "unsigned"} if "unsigned" in pdu else pdu
    return canonical_json.encode_lenient(kept)


def decode(pdu: bytes, rules: RoomVersion) -> dict[str, Any]:
    """A stored PDU, every number what it was."""
    found: dict[str, Any] = orjson.loads(pdu) if rules.strict_canonical_json else canonical_json.decode_exact(pdu)
    return found


def place(
    tx: Transaction,
    number: int,
    *,
    stream: int | None,
    before: int | None,
    after: int | None,
    standing: Standing,
    depth: int,
) -> None:
    """Gives an outlier its place, now that the state before it is known."""
    tx.execute(
        "UPDATE events SET stream = ?, before = ?, after = ?, verdict = ?, depth = ? WHERE event = ?",
        (stream, before, after, int(standing), depth, number),
    )


def set_after(tx: Transaction, number: int, after: int) -> None:
    tx.execute("UPDATE events SET after = ? WHERE event = ?", (after, number))


def get(tx: Transaction, event_id: str) -> StoredEvent | None:
    row = tx.one(f"SELECT {_COLUMNS} WHERE e.event_id = ?", (event_id,))
    return None if row is None else _load(row)


def by_number(tx: Transaction, number: int) -> StoredEvent | None:
    row = tx.one(f"SELECT {_COLUMNS} WHERE e.event = ?", (number,))
    return None if row is None else _load(row)


def many(tx: Transaction, event_ids: Iterable[str]) -> dict[str, StoredEvent]:
    """Those of the ids that are held."""
    loaded = map(_load, tx.all_in(f"SELECT {_COLUMNS} WHERE e.event_id IN", event_ids))
    return {stored.event.event_id: stored for stored in loaded}


def many_by_number(tx: Transaction, numbers: Iterable[int]) -> dict[int, StoredEvent]:
    loaded = map(_load, tx.all_in(f"SELECT {_COLUMNS} WHERE e.event IN", numbers))
    return {stored.number: stored for stored in loaded}


@dataclass(frozen=True, slots=True)
class Described:
    """A held event without its PDU. `key` is None if it is not a state event."""

    event_id: str
    number: int
    room: int
    key: tuple[str, str] | None
    standing: Standing


def described(tx: Transaction, event_ids: Iterable[str]) -> list[Described]:
    """Those of the ids that are held, in any order."""
    rows = tx.all_in(
        "SELECT e.event_id, e.event, e.room, k.type, k.state_key, e.verdict FROM events e LEFT JOIN state_keys k ON k.key = e.key"
        " WHERE e.event_id IN",
        event_ids,
    )
    return [
        Described(event_id, number, room, None if kind is None else (kind, state_key), Standing(verdict))
        for event_id, number, room, kind, state_key, verdict in rows
    ]


def held(tx: Transaction, event_ids: Iterable[str]) -> dict[str, bool]:
    """Of the ids that are held at all: whether the state before them is known (True) or they are outliers (False)."""
    rows = tx.all_in("SELECT event_id, before FROM events WHERE event_id IN", event_ids)
    return {event_id: before is not None for event_id, before in rows}


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What is known of a held event without reading it; `placed`: the state before it is known."""

    room: int
    placed: bool
    standing: Standing


def whereabouts(tx: Transaction, event_ids: Iterable[str]) -> dict[str, Whereabouts]:
    """Those of the ids that are held, in whatever room."""
    rows = tx.all_in("SELECT event_id, room, before, verdict FROM events WHERE event_id IN", event_ids)
    return {event_id: Whereabouts(room, before is not None, Standing(verdict)) for event_id, room, before, verdict in rows}


def stated_depths(tx: Transaction, event_ids: Sequence[str]) -> dict[str, int]:
    """The depths that those of the events state which are held: what a new event after them states one more than."""
    marks = ",".join("?" * len(event_ids))
    rows = tx.all(f"SELECT event_id, pdu FROM events WHERE event_id IN ({marks})", event_ids)
    return {event_id: int(_glance(pdu)["depth"]) for event_id, pdu in rows}


def auth_edges(tx: Transaction, event_id: str) -> tuple[str, ...]:
    """The ids that the event cites as its auth events; none if it is not held."""
    row = tx.one("SELECT pdu FROM events WHERE event_id = ?", (event_id,))
    return () if row is None else cited_ids(row[0])


def cited_ids(pdu: bytes) -> tuple[str, ...]:
    """The ids in a PDU's `auth_events`, which in room versions 1 and 2 are pairs of an id and hashes.

    Walks ask for thousands, so the room's version is not looked up: its form shows in the references themselves.
    """
    cited = _glance(pdu)["auth_events"]
    return tuple([reference[0] for reference in cited] if cited and type(cited[0]) is list else cited)


def _glance(pdu: bytes) -> dict[str, Any]:
    """A stored PDU of a room of any version, of which nothing matters but what has no great numbers."""
    try:
        found: dict[str, Any] = orjson.loads(pdu)
    except orjson.JSONDecodeError:  # an old room's integer, too long even for a float
        found = canonical_json.decode_exact(pdu)
    return found


def auth_chain_among(tx: Transaction, numbers: Iterable[int], wanted: Iterable[str]) -> set[str]:
    """Those of the wanted ids that are in the auth chain of any of these events; a generation costs a few reads.

    Nothing is stored before what it cites, so of the chain only what is newer than the oldest wanted event is walked.
    """
    sought = numbers_by_id(tx, wanted)
    oldest = min(sought.values(), default=0)
    found: set[str] = set()
    seen: set[str] = set()
    level: list[Any] = [number for number in numbers if number > oldest]
    column = "event"
    while level and len(found) < len(sought):
        rows = tx.all_in(f"SELECT pdu FROM events WHERE event > ? AND {column} IN", level, (oldest,))
        cited = {one for (pdu,) in rows for one in cited_ids(pdu)}
        level, column = list(cited - seen), "event_id"
        seen |= cited
        found |= cited & sought.keys()
    return found


def ids_by_number(tx: Transaction, numbers: Iterable[int]) -> dict[int, str]:
    return dict(tx.all_in("SELECT event, event_id FROM events WHERE event IN", numbers))


def numbers_by_id(tx: Transaction, event_ids: Iterable[str]) -> dict[str, int]:
    return dict(tx.all_in("SELECT event_id, event FROM events WHERE event_id IN", event_ids))


def streams_by_id(tx: Transaction, event_ids: Iterable[str]) -> dict[str, int]:
    """Where those of the events stand that have a place in a timeline."""
    found = tx.all_in("SELECT event_id, stream FROM events WHERE event_id IN", event_ids)
    return {event_id: stream for event_id, stream in found if stream is not None}


@dataclass(frozen=True, slots=True)
class Behind:
    """What lies before an event: `accepted` are the nearest accepted events, `missing` the nearest that have no place here."""

    accepted: frozenset[str]
    missing: frozenset[str]


MOST_BEHIND = 2000


def behind(tx: Transaction, prev_events: Iterable[str]) -> Behind:
    """Walks back from an event's prev events to the nearest accepted ones, through those that soft-failed or were rejected.

    What such events cite is before whatever is accepted after them, so it is no forward extremity any more. Somebody might
    build long chains of failed events: the walk ends after `MOST_BEHIND`.
    """
    accepted, missing = set[str](), set[str]()
    seen = set(prev_events)
    wanted = list(seen)
    while wanted and len(seen) < MOST_BEHIND:
        failed: list[str] = []
        marks = ",".join("?" * len(wanted[:_CHUNK]))
        placed: dict[str, int] = dict(
            tx.all(f"SELECT event_id, verdict FROM events WHERE event_id IN ({marks}) AND before IS NOT NULL", wanted[:_CHUNK])
        )
        for event_id in wanted[:_CHUNK]:
            if event_id not in placed:
                missing.add(event_id)
            elif placed[event_id] == Standing.ACCEPTED:
                accepted.add(event_id)
            else:
                failed.append(event_id)
        further = {prev for stored in many(tx, failed).values() for prev in stored.event.prev_events} - seen
        seen |= further
        wanted = [*wanted[_CHUNK:], *further]
    return Behind(frozenset(accepted), frozenset(missing))


def afters(tx: Transaction, room: int, event_ids: Iterable[str]) -> dict[str, int]:
    """The states after those of the events that have a place in the room."""
    return dict(tx.all_in("SELECT event_id, after FROM events WHERE room = ? AND before IS NOT NULL AND event_id IN", event_ids, (room,)))


# The timeline, by arrival (stream) and by topology (depth, tie)


def timeline_since(tx: Transaction, room: int, since: int, upto: int, limit: int) -> list[StoredEvent]:
    """The newest `limit` timeline events of the room in (since, upto], oldest first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} WHERE e.room = ? AND e.stream > ? AND e.stream <= ? ORDER BY e.stream DESC LIMIT ?",
        (room, since, upto, limit),
    )
    return [_load(row) for row in reversed(rows)]


def said_by(tx: Transaction, room: int, sender: str, since: int, looked_at: int, limit: int) -> list[StoredEvent]:
    """What the user has sent to the room after this position that is no state, newest first: the newest `limit` of them, among the room's
    newest `looked_at` events.
    """
    rows = tx.all(
        f"SELECT {_COLUMNS} WHERE e.event IN (SELECT event FROM (SELECT event, key, pdu FROM events WHERE room = ? AND stream > ?"
        "  ORDER BY stream DESC LIMIT ?) WHERE key IS NULL AND json_extract(CAST(pdu AS TEXT), '$.sender') = ? LIMIT ?)"
        " ORDER BY e.stream DESC",
        (room, since, looked_at, sender, limit),
    )
    return [_load(row) for row in rows]


def rooms_with_news(tx: Transaction, since: int, upto: int) -> set[int]:
    """Rooms with timeline events in (since, upto]."""
    return {
        room
        for (room,) in tx.all("SELECT DISTINCT room FROM events WHERE stream > ? AND stream <= ?", (since, upto))
    }


def newest_stream(tx: Transaction, room: int, upto: int) -> int | None:
    row = tx.one("SELECT max(stream) FROM events WHERE room = ? AND stream <= ?", (room, upto))
    return row[0] if row else None


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place between two events in a room's topological order, as pagination tokens name it: just after (depth, tie)."""

    depth: int
    tie: int


def tie_of(event: Event) -> int:
    """Orders events of the same depth alike on every box: by the time that their senders state, then by their ids."""
    stated = min(max(event.origin_server_ts, 0), 2**42 - 1)
    return stated << 20 | int.from_bytes(sha256(event.event_id.encode()).digest()[:3], "big") >> 4


def effective_depth(tx: Transaction, room: int, event: Event, lowest: int | None = None) -> int:
    """The depth by which an event that gets its place now is ordered: one more than that of any event before it.

    What an event states of its depth is its sender's word and may be anything, so it counts only where none of the events before it
    is held: and then it is less than that of the events after it, if any are. Whatever one event states, the rest of the timeline
    keeps its order, and boxes that hold the same events page alike. `lowest` (None: as stated) takes the place of the stated depth
    where more is known of what comes before.
    """
    marks = ",".join("?" * len(event.prev_events))
    row = tx.one(
        f"SELECT max(depth) FROM events WHERE event_id IN ({marks}) AND room = ? AND before IS NOT NULL", (*event.prev_events, room)
    )
    if row is not None and row[0] is not None:
        return int(row[0]) + 1
    stated = event.depth if lowest is None else lowest
    row = tx.one(
        "SELECT min(e.depth) FROM gaps g JOIN events e ON e.event = g.event WHERE g.room = ? AND g.missing = ?", (room, event.event_id)
    )
    return stated if row is None or row[0] is None else min(stated, int(row[0]) - 1)


def page_backwards(tx: Transaction, room: int, before: Place, limit: int, upto: int) -> list[StoredEvent]:
    """Timeline events at or before the place, newest first. Events that arrived after `upto` are left out."""
    rows = tx.all(
        f"SELECT {_COLUMNS} WHERE e.room = ? AND (e.depth, e.tie) <= (?, ?) AND e.stream <= ?"
        " ORDER BY e.depth DESC, e.tie DESC LIMIT ?",
        (room, before.depth, before.tie, upto, limit),
    )
    return [_load(row) for row in rows]


def stream_before(tx: Transaction, room: int, before: Place, upto: int) -> int | None:
    """The stream position of the first that `page_backwards` gives."""
    row = tx.one(
        "SELECT stream FROM events WHERE room = ? AND (depth, tie) <= (?, ?) AND stream <= ? ORDER BY depth DESC, tie DESC LIMIT 1",
        (room, before.depth, before.tie, upto),
    )
    return row[0] if row else None


def page_forwards(tx: Transaction, room: int, after: Place, limit: int, upto: int) -> list[StoredEvent]:
    """Timeline events after the place, oldest first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} WHERE e.room = ? AND (e.depth, e.tie) > (?, ?) AND e.stream <= ?"
        " ORDER BY e.depth, e.tie LIMIT ?",
        (room, after.depth, after.tie, upto, limit),
    )
    return [_load(row) for row in rows]


def at_stream(tx: Transaction, room: int, stream: int) -> StoredEvent | None:
    row = tx.one(f"SELECT {_COLUMNS} WHERE e.room = ? AND e.stream = ?", (room, stream))
    return None if row is None else _load(row)


def rooms_at(tx: Transaction, streams: Iterable[int]) -> dict[int, int]:
    """The rooms of the events with these stream positions."""
    return dict(tx.all_in("SELECT stream, room FROM events WHERE stream IN", streams))


def at_streams(tx: Transaction, streams: Iterable[int]) -> dict[int, StoredEvent]:
    """The events with these stream positions, of whatever rooms."""
    loaded = map(_load, tx.all_in(f"SELECT {_COLUMNS} WHERE e.stream IN", streams))
    return {stored.stream: stored for stored in loaded if stored.stream is not None}


def is_any_at_or_before(tx: Transaction, stream: int) -> bool:
    """Whether there is an event at or before this stream position."""
    return tx.one("SELECT 1 FROM events WHERE stream <= ? LIMIT 1", (stream,)) is not None


def oldest_stream(tx: Transaction) -> int:
    """The lowest stream position in use (0 if nothing was backfilled yet): backfilled events go below it."""
    row = tx.one("SELECT min(stream) FROM events WHERE stream IS NOT NULL")
    return min(0, row[0]) if row and row[0] is not None else 0


# Gaps: prev events that are not held


def note_gaps(tx: Transaction, room: int, number: int, missing: Iterable[str]) -> None:
    tx.executemany(
        "INSERT OR IGNORE INTO gaps (room, missing, event) VALUES (?,?,?)",
        [(room, event_id, number) for event_id in missing],
    )


def is_named(tx: Transaction, room: int, event_id: str) -> bool:
    """Whether some held event names this one, which is not in the timeline yet."""
    return tx.one("SELECT 1 FROM gaps WHERE room = ? AND missing = ?", (room, event_id)) is not None


def naming(tx: Transaction, room: int, event_id: str) -> list[int]:
    """The numbers of the held events that name this one, which has no place yet, as an event before them."""
    return [number for (number,) in tx.all("SELECT event FROM gaps WHERE room = ? AND missing = ?", (room, event_id))]


def close_gaps(tx: Transaction, room: int, event_id: str) -> None:
    """The event has its place now."""
    tx.execute("DELETE FROM gaps WHERE room = ? AND missing = ?", (room, event_id))


def gaps_from(tx: Transaction, room: int, low: int, high: int, limit: int) -> list[tuple[str, str]]:
    """Gaps just before held events with depths in [low, high], the newest first, as (held event's id, missing id)."""
    return [
        (held_id, missing)
        for held_id, missing in tx.all(
            "SELECT e.event_id, g.missing FROM gaps g JOIN events e ON e.event = g.event"
            " WHERE g.room = ? AND e.depth BETWEEN ? AND ? ORDER BY e.depth DESC LIMIT ?",
            (room, low, high, limit),
        )
    ]


# Redactions


_JUDGED_BY = {
    "m.room.power_levels": ("invite", "notifications"),
    "m.room.member": ("join_authorised_via_users_server", "third_party_invite"),
    "m.room.third_party_invite": ("public_key", "public_keys"),
}
"""Of state events' content, what authorization rules read and what a redaction removes in some room version."""


def redact(tx: Transaction, target: StoredEvent, by: str) -> None:
    """Removes from disk what the redaction removes, but for what other events are judged by (`for_auth`)."""
    redacted = target.event.redacted()
    changed = tx.execute(
        "UPDATE events SET redacted_by = ?, pdu = ? WHERE event = ? AND redacted_by IS NULL",
        (by, encode(redacted.pdu), target.number),
    )
    if not changed.rowcount:
        return  # redacted before
    if target.stream is not None:
        search_index.remove(tx, target.stream, target.event.pdu)
    content = target.event.content
    kept = {name: content[name] for name in _JUDGED_BY.get(target.event.type, ()) if name in content}
    if isinstance(invite := kept.get("third_party_invite"), dict):
        kept["third_party_invite"] = {name: invite[name] for name in ("signed",) if name in invite}  # not the name shown for it
    if target.event.state_key is not None and any(redacted.content.get(name) != value for name, value in kept.items()):
        tx.execute("INSERT INTO redacted_state (event, content) VALUES (?, ?)", (target.number, canonical_json.encode_loose(kept)))


def for_auth(tx: Transaction, stored: StoredEvent) -> Event:
    """The event as others are judged by it and as state is resolved with it: as it was before any redaction, as far as rules read it."""
    if stored.redacted_by is None or stored.event.type not in _JUDGED_BY:
        return stored.event
    row = tx.one("SELECT content FROM redacted_state WHERE event = ?", (stored.number,))
    if row is None:
        return stored.event
    pdu = {**stored.event.pdu, "content": {**stored.event.content, **canonical_json.decode_exact(row[0])}}
    return Event.from_pdu(pdu, stored.event.rules, event_id=stored.event.event_id)


def remember_redaction(tx: Transaction, redacts: str, number: int) -> None:
    tx.execute("INSERT OR IGNORE INTO pending_redactions (redacts, event) VALUES (?, ?)", (redacts, number))


def pending_redactions(tx: Transaction, event_id: str) -> list[StoredEvent]:
    """Redactions of this event that came before it."""
    numbers = [number for (number,) in tx.all("SELECT event FROM pending_redactions WHERE redacts = ?", (event_id,))]
    return list(many_by_number(tx, numbers).values())


def forget_pending_redactions(tx: Transaction, event_id: str) -> None:
    tx.execute("DELETE FROM pending_redactions WHERE redacts = ?", (event_id,))


# Client transaction ids


def transaction_key(operation: str, room_id: str, what: str, txn_id: str) -> str:
    """How a transaction id is filed: with its endpoint before it, since it is unique for a device and an endpoint only.

    `what` is the event type of a send, the redacted event's id of a redaction. The id itself comes last, as the client chose it.
    """
    return "/".join([operation, quote(room_id, safe=""), quote(what, safe=""), txn_id])


def transaction_event(tx: Transaction, user_id: str, device_id: str, txn_id: str) -> str | None:
    """The id of the event that this transaction id (`transaction_key`) made."""
    row = tx.one(
        "SELECT e.event_id FROM client_transactions t JOIN events e ON e.event = t.event"
        " WHERE t.user_id = ? AND t.device_id = ? AND t.txn_id = ?",
        (user_id, device_id, txn_id),
    )
    return row[0] if row else None


def record_transaction(tx: Transaction, user_id: str, device_id: str, txn_id: str, number: int) -> None:
    tx.execute(
        "INSERT INTO client_transactions (user_id, device_id, txn_id, event) VALUES (?,?,?,?)",
        (user_id, device_id, txn_id, number),
    )


def transaction_ids(tx: Transaction, user_id: str, device_id: str, numbers: Sequence[int]) -> dict[int, str]:
    """The transaction ids with which this device made these events (for `unsigned.transaction_id`)."""
    if not numbers:
        return {}
    marks = ",".join("?" * len(numbers))
    rows = tx.all(
        f"SELECT event, txn_id FROM client_transactions WHERE user_id = ? AND device_id = ? AND event IN ({marks})",
        (user_id, device_id, *numbers),
    )
    return {number: txn_id.split("/", 3)[-1] for number, txn_id in rows}
