"""Relations: which events of the timeline point at which, kept beside the events by whoever places or redacts them.

A row is there if and only if its event is in the timeline, is not redacted and states a relation (`matrix.relations.relation_of`).
Its parent may be missing, or of another room, where nobody finds it. `upto` bounds what is read to what had arrived at that stream
position (None: no bound), `without` are senders to leave out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from edgeserver.matrix.relations import relation_of
from edgeserver.store.events import Place, tie_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from edgeserver.matrix.event import Event
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent

MOST_RELATED: Final = 10_000
"""So many direct and indirect relations of one event are looked at."""

_ARRIVED: Final = " AND (:upto IS NULL OR (SELECT stream FROM events WHERE event = r.event) <= :upto)"


def follow(tx: Transaction, room: int, number: int, event: Event, depth: int, *, shown: bool) -> None:
    """The event has got a place, or lost it: with `shown` it is in the timeline."""
    relation = relation_of(event.content)
    if relation is None:
        return
    place = (room, relation.event_id, depth, tie_of(event), number)
    if shown:
        tx.execute(
            "INSERT OR IGNORE INTO relations (room, parent, depth, tie, event, rel_type, sender) VALUES (?,?,?,?,?,?,?)",
            (*place, relation.rel_type, event.sender),
        )
    else:
        tx.execute("DELETE FROM relations WHERE room = ? AND parent = ? AND depth = ? AND tie = ? AND event = ?", place)


# What is bundled with parents


class Tally(NamedTuple):
    """How many relations of one type a sender has to an event."""

    parent: str
    rel_type: str
    sender: str
    number: int


def tallies(tx: Transaction, room: int, parents: Iterable[str], upto: int | None = None) -> list[Tally]:
    """The relations of the types that are aggregated, for those of the events that have any."""
    rows = tx.execute(
        "SELECT r.parent, r.rel_type, r.sender, count(*) FROM json_each(:parents) p CROSS JOIN relations r"
        " WHERE r.room = :room AND r.parent = p.value AND r.rel_type IN ('m.thread', 'm.replace', 'm.reference')"
        f"{_ARRIVED} GROUP BY r.parent, r.rel_type, r.sender",
        {"parents": _array(parents), "room": room, "upto": upto},
    )
    return [Tally(*row) for row in rows]


def latest_replies(
    tx: Transaction, room: int, roots: Iterable[str], limit: int, *, without: Collection[str] = (), upto: int | None = None
) -> dict[str, list[int]]:
    """Of each thread the numbers of its `limit` latest events, the latest first."""
    return _some(tx, room, roots, "m.thread", limit, without, upto, order="DESC")


def references(
    tx: Transaction, room: int, parents: Iterable[str], limit: int, *, without: Collection[str] = (), upto: int | None = None
) -> dict[str, list[int]]:
    """Of each event the numbers of the first `limit` events that refer to it (m.reference), the first first."""
    return _some(tx, room, parents, "m.reference", limit, without, upto, order="ASC")


def _some(
    tx: Transaction,
    room: int,
    parents: Iterable[str],
    rel_type: str,
    limit: int,
    without: Collection[str],
    upto: int | None,
    *,
    order: str,
) -> dict[str, list[int]]:
    """Of each event the numbers of `limit` events of one type of relation, from one end of the timeline (ASC, DESC) on.

    The type is written out: as a parameter SQLite would plan the statement anew each time, for an index that may fit it.
    """
    rows = tx.execute(
        "SELECT p.value, (SELECT json_group_array(event) FROM (SELECT r.event FROM relations r"
        f" WHERE r.room = :room AND r.parent = p.value AND r.rel_type = '{rel_type}'"
        f" AND r.sender NOT IN (SELECT value FROM json_each(:without)){_ARRIVED}"
        f" ORDER BY r.depth {order}, r.tie {order}, r.event {order} LIMIT :limit)) FROM json_each(:parents) p",
        {"room": room, "parents": _array(parents), "limit": limit, "without": _array(without), "upto": upto},
    )
    return {parent: orjson.loads(numbers) for parent, numbers in rows}


def edits(
    tx: Transaction, room: int, senders: Mapping[str, str], limit: int, *, upto: int | None = None
) -> dict[str, list[int]]:
    """Of each event the numbers of its sender's `limit` newest events of the type m.replace, the newest first. `senders`: event id →
    sender. What is newest is told by `origin_server_ts`, then by the event id ("Server-side aggregation of m.replace relationships").
    """
    rows = tx.execute(
        "SELECT p.key, (SELECT json_group_array(event) FROM (SELECT r.event FROM relations r JOIN events e ON e.event = r.event"
        " WHERE r.room = :room AND r.parent = p.key AND r.rel_type = 'm.replace' AND r.sender = p.value"
        f"{_ARRIVED} ORDER BY r.tie >> 20 DESC, e.event_id DESC LIMIT :limit)) FROM json_each(:senders) p",
        {"room": room, "senders": orjson.dumps(dict(senders)).decode(), "limit": limit, "upto": upto},
    )
    return {event_id: orjson.loads(numbers) for event_id, numbers in rows}


def by_sender(tx: Transaction, room: int, parent: str, rel_type: str, sender: str, limit: int) -> list[int]:
    """The numbers of a user's last `limit` events that relate to the event in this way."""
    rows = tx.all(
        "SELECT event FROM relations WHERE room = ? AND parent = ? AND rel_type = ? AND sender = ? ORDER BY depth DESC, tie DESC LIMIT ?",
        (room, parent, rel_type, sender, limit),
    )
    return [number for (number,) in rows]


def has_thread(tx: Transaction, room: int, root: str) -> bool:
    """Whether any event in the timeline says that it is in this thread; the root itself need not be held."""
    found = tx.one("SELECT 1 FROM relations WHERE room = ? AND parent = ? AND rel_type = 'm.thread' LIMIT 1", (room, root))
    return found is not None


# Pages


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which relations a page is of. None: of whatever type. `levels` 1: direct ones only."""

    rel_type: str | None = None
    event_type: str | None = None
    levels: int = 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the timeline, both ends as places between events, and in which direction it is gone through."""

    low: Place
    high: Place
    backwards: bool = True


class Placed(NamedTuple):
    """An event's number and its place."""

    number: int
    place: Place


def page(
    tx: Transaction,
    parent: StoredEvent,
    wanted: Wanted,
    stretch: Stretch,
    limit: int,
    *,
    without: Collection[str] = (),
    upto: int,
) -> list[Placed]:
    """The first `limit` events of the stretch that relate to the parent. The types are asked of whatever lies between, too."""
    kind = ("" if wanted.rel_type is None else " AND r.rel_type = :rel_type") + (
        "" if wanted.event_type is None else " AND json_extract(CAST(e.pdu AS TEXT), '$.type') = :event_type"
    )
    direct = f" FROM relations r JOIN events e ON e.event = r.event WHERE r.room = :room AND r.parent = :parent{kind}"
    order = "ORDER BY r.depth {0}, r.tie {0}, r.event {0} LIMIT :limit".format("DESC" if stretch.backwards else "ASC")
    seen = (
        " AND (r.depth, r.tie) > (:low, :low_tie) AND (r.depth, r.tie) <= (:high, :high_tie)"
        " AND r.sender NOT IN (SELECT value FROM json_each(:without)) AND e.stream <= :upto"
    )
    if wanted.levels == 1:
        sql = f"SELECT r.event, r.depth, r.tie{direct}{seen} {order}"
    else:
        sql = (
            f"WITH RECURSIVE found (event, event_id, level) AS (SELECT r.event, e.event_id, 1{direct}"
            " UNION ALL SELECT r.event, e.event_id, f.level + 1 FROM found f"
            f" CROSS JOIN relations r ON r.room = :room AND r.parent = f.event_id JOIN events e ON e.event = r.event"
            f" WHERE f.level < :levels{kind} LIMIT {MOST_RELATED}), places (event, depth, tie, sender) AS"
            " (SELECT DISTINCT f.event, e.depth, e.tie, json_extract(CAST(e.pdu AS TEXT), '$.sender')"
            " FROM found f JOIN events e ON e.event = f.event WHERE f.event <> :number)"
            f" SELECT r.event, r.depth, r.tie FROM places r JOIN events e ON e.event = r.event WHERE 1{seen} {order}"
        )
    values = {
        "room": parent.room,
        "parent": parent.event.event_id,
        "number": parent.number,
        "rel_type": wanted.rel_type,
        "event_type": wanted.event_type,
        "levels": wanted.levels,
        "low": stretch.low.depth,
        "low_tie": stretch.low.tie,
        "high": stretch.high.depth,
        "high_tie": stretch.high.tie,
        "without": _array(without),
        "upto": upto,
        "limit": limit,
    }
    return [Placed(event, Place(depth, tie)) for event, depth, tie in tx.execute(sql, values)]


class Thread(NamedTuple):
    """A thread's root (event number) and the place of its latest event."""

    root: int
    place: Place


def threads(
    tx: Transaction,
    room: int,
    before: Place,
    limit: int,
    *,
    participant: str | None = None,
    without: Collection[str] = (),
    upto: int,
) -> list[Thread]:
    """Threads whose latest event is at or before the place, that with the latest one first. Threads without their root are left out.

    `participant`: only those in which this user has spoken, or whose root is theirs.
    """
    spoken = (
        " AND (json_extract(CAST(t.pdu AS TEXT), '$.sender') = :user OR EXISTS (SELECT 1 FROM relations s WHERE s.room = r.room"
        " AND s.parent = r.parent AND s.rel_type = 'm.thread' AND s.sender = :user))"
    )
    rows = tx.execute(
        "SELECT t.event, r.depth, r.tie FROM relations r INDEXED BY relations_of_threads JOIN events e ON e.event = r.event"
        " JOIN events t ON t.event_id = r.parent AND t.room = r.room AND t.stream <= :upto"
        " WHERE r.room = :room AND r.rel_type = 'm.thread' AND (r.depth, r.tie) <= (:depth, :tie)"
        " AND r.sender NOT IN (SELECT value FROM json_each(:without)) AND e.stream <= :upto"
        " AND NOT EXISTS (SELECT 1 FROM relations n JOIN events ne ON ne.event = n.event WHERE n.room = r.room AND n.parent = r.parent"
        "  AND n.rel_type = 'm.thread' AND (n.depth, n.tie, n.event) > (r.depth, r.tie, r.event)"
        "  AND n.sender NOT IN (SELECT value FROM json_each(:without)) AND ne.stream <= :upto)"
        f"{'' if participant is None else spoken} ORDER BY r.depth DESC, r.tie DESC, r.event DESC LIMIT :limit",
        {
            "room": room,
            "depth": before.depth,
            "tie": before.tie,
            "user": participant,
            "without": _array(without),
            "upto": upto,
            "limit": limit,
        },
    )
    return [Thread(root, Place(depth, tie)) for root, depth, tie in rows]


def _array(values: Iterable[str]) -> str:
    return orjson.dumps(list(values)).decode()
