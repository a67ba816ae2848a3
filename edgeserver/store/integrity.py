"""Whether a database holds together: SQLite's own checks, and what the other modules of the store promise each other.

Everything is read in one snapshot of a read-only connection, so a box may run meanwhile. Each finding is one plain sentence.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from edgeserver.matrix import canonical_json
from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.relations import RELATES_TO, relation_of
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.store import migrations, state
from edgeserver.store.database import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

DatabaseError = sqlite3.DatabaseError
"""What opening a file may raise that is no sound database."""

SQLITE_VERSION = sqlite3.sqlite_version

MOST = 20
"""Findings that one check tells one by one; the rest it counts."""

_REJECTED = 2
MEMBER = "m.room.member"


@dataclass(slots=True)
class Inspection:
    """`checked` names what was looked at, `findings` is what is wrong, `notes` is what is worth knowing and right."""

    checked: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, what: str, check: Callable[[], Iterable[str]]) -> None:
        """Runs one check and keeps what it finds; a file that cannot be read that far is a finding, too."""
        self.checked.append(what)
        found: list[str] = []
        try:
            found += check()
        except sqlite3.DatabaseError as error:
            found.append(f"the database cannot be read ({error}) while looking at {what}")
        self.findings += found[:MOST]
        if len(found) > MOST:
            self.findings.append(f"and {len(found) - MOST} more of the same kind")


def inspect(path: Path, server_name: str | None) -> Inspection:
    """Looks through the file. `server_name` is the box's; None if it is not known, then nothing is compared with it."""
    write_ahead = path.with_name(path.name + "-wal")
    if write_ahead.exists():
        return _look(path, server_name, "mode=ro")
    # Nobody has it open: it can be read without SQLite's files beside it being made, on a read-only disk too.
    found = _look(path, server_name, "immutable=1")
    return _look(path, server_name, "mode=ro") if write_ahead.exists() else found  # somebody has opened it meanwhile


def _look(path: Path, server_name: str | None, how: str) -> Inspection:
    inspection = Inspection()
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, isolation_level=None)
    except sqlite3.DatabaseError as error:
        inspection.findings.append(f"{path} cannot be opened ({error})")
        return inspection
    with closing(connection):
        _inspect(inspection, connection, server_name)
    return inspection


def _inspect(inspection: Inspection, connection: sqlite3.Connection, server_name: str | None) -> None:
    try:
        connection.execute("BEGIN")
        is_current = _schema(inspection, connection)
    except sqlite3.DatabaseError as error:
        inspection.findings.append(f"the file is no database, or damaged from its first page on ({error})")
        return
    tx = Transaction(connection, 0)
    inspection.run("pages and indexes", lambda: _pages(tx))
    if not is_current:
        return
    inspection.run("references", lambda: _references(tx))
    inspection.run("stream positions", lambda: _stream(tx))
    inspection.run("events", lambda: _events(tx))
    inspection.run("relations", lambda: _relations(tx))
    inspection.run("rooms and their heads", lambda: _heads(tx))
    before = len(inspection.findings)
    inspection.run("snapshots", lambda: _snapshots(tx))
    if len(inspection.findings) == before:  # a chain that runs in a circle could not be followed
        inspection.run("room state and memberships", lambda: _state(tx, server_name))
    inspection.run("servers in rooms", lambda: _servers(tx))
    inspection.run("rooms that lack members", lambda: _partial_rooms(tx))
    inspection.run("outbox", lambda: _outbox(tx, server_name))
    if server_name is not None:
        inspection.run("accounts", lambda: _accounts(tx, server_name))


def _schema(inspection: Inspection, connection: sqlite3.Connection) -> bool:
    """Whether the tables are those of this release."""
    inspection.checked.append("schema")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    known = migrations.steps()[-1][0]
    if application != migrations.APPLICATION_ID or found == 0:
        inspection.findings.append("the file is a database, but not one of edgeserver")
    elif found > known:
        inspection.findings.append(str(migrations.NewerFile(found, known)))
    elif found < known:
        inspection.notes.append(f"the database has schema {found}; the next start brings it to {known}, and then there is more to check")
    return bool(application == migrations.APPLICATION_ID and found == known)


# SQLite's own checks


def _pages(tx: Transaction) -> Iterator[str]:
    for (line,) in tx.all(f"PRAGMA integrity_check({MOST})"):
        if line != "ok":
            yield f"the file is damaged: {line}"


def _references(tx: Transaction) -> Iterator[str]:
    counts: dict[tuple[str, str], int] = {}
    for table, _, parent, _ in tx.all("PRAGMA foreign_key_check"):
        counts[table, parent] = counts.get((table, parent), 0) + 1
    for (table, parent), count in counts.items():
        yield f"{count} row(s) of {table} name a row of {parent} that is not there"


# What the modules of the store promise


def _stream(tx: Transaction) -> Iterator[str]:
    """No position was ever given out beyond the bound that a restart begins from."""
    row = tx.one("SELECT value FROM meta WHERE key = 'stream_reserved'")
    reserved = int(row[0]) if row else 0
    tables = tx.all(
        "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c ON c.name = 'stream' WHERE m.type = 'table' ORDER BY m.name"
    )
    for (table,) in tables:
        highest = tx.one(f"SELECT max(stream) FROM {table}")
        if highest is not None and highest[0] is not None and highest[0] > reserved:
            yield f"{table} holds the stream position {highest[0]}, but only those up to {reserved} have been given out"


def _events(tx: Transaction) -> Iterator[str]:
    for (event_id,) in tx.all("SELECT event_id FROM events WHERE (before IS NULL) <> (after IS NULL)"):
        yield f"the event {event_id} has a state on one side of it only"
    for (event_id,) in tx.all("SELECT event_id FROM events WHERE stream IS NOT NULL AND before IS NULL"):
        yield f"the event {event_id} is in the timeline without a state before it"
    misplaced = tx.all(
        "SELECT e.event_id FROM events e JOIN snapshots s ON s.snapshot IN (e.before, e.after) WHERE s.room <> e.room GROUP BY e.event"
    )
    for (event_id,) in misplaced:
        yield f"the event {event_id} has a state of another room"
    closed = tx.all(
        "SELECT DISTINCT g.missing FROM gaps g JOIN events e ON e.event_id = g.missing AND e.room = g.room WHERE e.before IS NOT NULL"
    )
    for (event_id,) in closed:
        yield f"the event {event_id} is noted as missing, but is there"


def _relations(tx: Transaction) -> Iterator[str]:
    """There is a row for what each event of the timeline says of its relation to another, where the event has its place; and no other."""
    told = tx.execute(
        "SELECT event, event_id, room, depth, tie, pdu FROM events"
        " WHERE stream IS NOT NULL AND redacted_by IS NULL AND instr(pdu, CAST(? AS BLOB))",
        (f'"{RELATES_TO}"',),
    )
    for event, event_id, room, depth, tie, pdu in told:
        stated = _stated_relation(pdu)
        place = "room = ? AND parent = ? AND depth = ? AND tie = ? AND event = ?"
        if stated and tx.one(f"SELECT 1 FROM relations WHERE {place}", (room, stated[0], depth, tie, event)) is None:
            yield f"the relation of the event {event_id} is not filed"
    filed = tx.execute(
        "SELECT e.event_id, r.parent, r.rel_type, r.sender, e.pdu, e.stream IS NOT NULL AND e.redacted_by IS NULL AND"
        " (e.room, e.depth, e.tie) = (r.room, r.depth, r.tie) FROM relations r JOIN events e ON e.event = r.event"
    )
    for event_id, parent, rel_type, sender, pdu, in_place in filed:
        if not in_place or _stated_relation(pdu) != (parent, rel_type, sender):
            yield f"a relation of the event {event_id} is filed that is not its own"


def _stated_relation(pdu: bytes) -> tuple[str, str, str] | None:
    """Parent, type and sender; None also for an event that is no JSON, which others find."""
    try:
        event = canonical_json.decode_exact(pdu)
        relation = relation_of(event["content"])
        return None if relation is None else (relation.event_id, relation.rel_type, event["sender"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _heads(tx: Transaction) -> Iterator[str]:
    for room_id, version, snapshot, heads, room in tx.all("SELECT room_id, version, snapshot, heads, room FROM rooms"):
        if version not in ROOM_VERSIONS:
            yield f"the room {room_id} has the version {version!r}, which this release does not know"
        try:
            named = orjson.loads(heads)
        except ValueError:
            yield f"the heads of the room {room_id} cannot be read"
            continue
        if snapshot is not None and not named:
            yield f"the room {room_id} has no head, so nothing can be said in it"
        if snapshot is None and named:
            yield f"the room {room_id} has heads but no state"
        for event_id in named:
            fault = _fault_of_head(tx, room, event_id)
            if fault:
                yield f"the head {event_id} of the room {room_id} {fault}"


def _fault_of_head(tx: Transaction, room: int, event_id: str) -> str | None:
    row = tx.one("SELECT room, before, stream, verdict FROM events WHERE event_id = ?", (event_id,))
    if row is None:
        return "is not held"
    if row[0] != room:
        return "is an event of another room"
    if row[1] is None or row[2] is None or row[3] != 0:
        return "has no place in the timeline"
    return None


def _snapshots(tx: Transaction) -> Iterator[str]:
    """Chains lead downwards within their room, so that every one of them ends."""
    wrong = tx.all(
        "SELECT s.snapshot, r.room_id FROM snapshots s JOIN snapshots b ON b.snapshot IN (s.base, s.parent)"
        " LEFT JOIN rooms r ON r.room = s.room WHERE b.height >= s.height OR b.room <> s.room GROUP BY s.snapshot"
    )
    for snapshot, room_id in wrong:
        yield f"the state {snapshot} of the room {room_id} builds on one that does not come before it"
    torn = tx.all(
        "SELECT s.snapshot, r.room_id FROM snapshots s LEFT JOIN rooms r ON r.room = s.room"
        " WHERE (s.base IS NULL) <> (s.height = 0) OR (s.parent IS NULL) <> (s.height = 0)"
        " OR (s.base IS NOT NULL AND NOT EXISTS (SELECT 1 FROM snapshots b WHERE b.snapshot = s.base))"
    )
    for snapshot, room_id in torn:
        yield f"the state {snapshot} of the room {room_id} has lost what it builds on"
    foreign = tx.all("SELECT r.room_id FROM rooms r JOIN snapshots s ON s.snapshot = r.snapshot WHERE s.room <> r.room")
    for (room_id,) in foreign:
        yield f"the current state of the room {room_id} is another room's"


def _state(tx: Transaction, server_name: str | None) -> Iterator[str]:
    rows = tx.all("SELECT room, room_id, snapshot, partial FROM rooms WHERE snapshot IS NOT NULL ORDER BY room")
    for room, room_id, snapshot, is_partial in rows:
        current = state.whole(tx, snapshot)
        if ("m.room.create", "") not in current:
            yield f"the current state of the room {room_id} lacks the event that made the room"
        found = _rows(tx, "SELECT e.event, e.room, k.type, k.state_key, e.verdict FROM events e LEFT JOIN state_keys k ON k.key = e.key"
                          " WHERE e.event IN", current.values())  # fmt: skip
        sound: dict[str, int] = {}
        for key, number in current.items():
            row = found.get(number)
            if row is None or (row[1], row[2], row[3]) != (room, *key) or row[4] == _REJECTED:
                yield f"the current state of the room {room_id} has a wrong event, or none, as {key[0]} {key[1]!r}"
            elif key[0] == MEMBER:
                sound[key[1]] = number
        yield from _memberships(tx, room, room_id, sound, is_partial=bool(is_partial))
    if server_name is not None:
        yield from _local_members(tx, server_name)


def _memberships(tx: Transaction, room: int, room_id: str, current: dict[str, int], *, is_partial: bool) -> Iterator[str]:
    """The rows say what the current state says. Rows of invites (and their ends) that came from outside stand beside it: their events
    are outliers. Of a partial room some may be known that its state still lacks.
    """
    rows = tx.all(
        "SELECT m.user_id, m.membership, m.event, m.local = 1 AND e.before IS NULL FROM memberships m"
        " LEFT JOIN events e ON e.event = m.event WHERE m.room = ?",
        (room,),
    )
    told = _told_memberships(tx, current.values())
    listed = {user_id: (membership, event, bool(outside)) for user_id, membership, event, outside in rows}
    for user_id, number in current.items():
        membership, event, outside = listed.pop(user_id, (None, None, False))
        if event != number and not outside:
            yield f"{user_id} in the room {room_id} is filed as {membership or 'nothing'} by another event than the current state's"
        elif event == number and membership != told[number]:
            yield f"{user_id} in the room {room_id} is filed as {membership}, but the room's current state says {told[number]}"
    for user_id, (membership, _, outside) in listed.items():
        if not outside and not is_partial:
            yield f"{user_id} in the room {room_id} is filed as {membership}, but the room's current state does not know them"


def _told_memberships(tx: Transaction, numbers: Iterable[int]) -> dict[int, str]:
    """What member events say; `unreadable` of one that is no JSON."""
    found: dict[int, str] = {}
    for number, row in _rows(tx, "SELECT event, pdu FROM events WHERE event IN", numbers).items():
        try:
            found[number] = str(canonical_json.decode_exact(row[1])["content"].get("membership", "leave"))
        except (ValueError, KeyError, TypeError, AttributeError):
            found[number] = "unreadable"
    return found


def _local_members(tx: Transaction, server_name: str) -> Iterator[str]:
    for user_id, local in tx.all("SELECT DISTINCT user_id, local FROM memberships"):
        if bool(local) != (domain_of(user_id) == server_name):
            yield f"{user_id} is filed as a user of {'this server' if local else 'another server'}, which is not so"


def _servers(tx: Transaction) -> Iterator[str]:
    names: dict[int, str] = dict(tx.all("SELECT room, room_id FROM rooms"))
    counted: dict[tuple[int, str], int] = {}
    for room, user_id in tx.execute("SELECT room, user_id FROM memberships WHERE membership = 'join'"):
        key = (room, domain_of(user_id))
        counted[key] = counted.get(key, 0) + 1
    for room, server in tx.all("SELECT p.room, s.value FROM partial_rooms p, json_each(p.servers) s"):
        counted[room, server] = counted.get((room, server), 0) + 1  # through members whom nobody knows yet
    filed = {(room, server): joined for room, server, joined in tx.all("SELECT room, server_name, joined FROM room_servers")}
    for room, server in sorted(counted.keys() | filed.keys()):
        expected, said = counted.get((room, server), 0), filed.get((room, server), 0)
        if expected != said:
            yield f"the room {names.get(room, room)} counts {said} member(s) of {server}, but {expected} have joined"


def _partial_rooms(tx: Transaction) -> Iterator[str]:
    """Rooms whose members are not all known are listed, with the join whose state is to be fetched, and no others."""
    rows = tx.all(
        "SELECT r.room_id, r.partial, p.join_event FROM rooms r LEFT JOIN partial_rooms p ON p.room = r.room"
        " WHERE (r.partial > 0) <> (p.room IS NOT NULL) OR (p.room IS NOT NULL AND p.join_event IS NULL)"
    )
    for room_id, is_partial, _ in rows:
        yield f"the room {room_id} {'lacks members, but not what they are to be fetched by' if is_partial else 'is said to lack members'}"
    marked = tx.all(
        "SELECT r.room_id, count(*) FROM events e JOIN rooms r ON r.room = e.room WHERE e.partial = 1 AND r.partial = 0 GROUP BY r.room"
    )
    for room_id, count in marked:
        yield f"the room {room_id} has all its members, but {count} of its events are still to be judged by them"


def _outbox(tx: Transaction, server_name: str | None) -> Iterator[str]:
    neither = tx.all(
        "SELECT d.server_name, count(*) FROM outbox o LEFT JOIN destinations d ON d.destination = o.destination"
        " WHERE (o.event IS NULL) = (o.edu_type IS NULL) OR (o.edu_type IS NULL) <> (o.edu IS NULL) GROUP BY d.server_name"
    )
    for name, count in neither:
        yield f"the outbox for {name} has {count} row(s) that are neither an event nor an EDU"
    lost = tx.all(
        "SELECT d.server_name, count(*) FROM outbox o LEFT JOIN destinations d ON d.destination = o.destination"
        " LEFT JOIN events e ON e.event = o.event WHERE o.event IS NOT NULL AND e.before IS NULL GROUP BY d.server_name"
    )
    for name, count in lost:
        yield f"the outbox for {name} has {count} event(s) that are not held"
    if server_name is not None:
        own = tx.one("SELECT 1 FROM destinations d JOIN outbox o ON o.destination = d.destination WHERE d.server_name = ?", (server_name,))
        if own is not None:
            yield "the outbox holds something for this box itself"


def _accounts(tx: Transaction, server_name: str) -> Iterator[str]:
    for (user_id,) in tx.all("SELECT user_id FROM accounts"):
        if domain_of(user_id) != server_name:
            yield f"the account {user_id} is not of this box, which is {server_name}"


def _rows(tx: Transaction, select: str, numbers: Iterable[int]) -> dict[int, tuple[Any, ...]]:
    """Rows by their first column, asked for in portions; `select` ends with IN."""
    return {row[0]: row for row in tx.all_in(select, numbers)}
