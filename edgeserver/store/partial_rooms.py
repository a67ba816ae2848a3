"""Rooms whose members are not all known yet (faster joins: server-server API, PUT /v2/send_join with `omit_members`).

While a room is partial, each event that is placed in it is marked: its state lacks what the room's lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from edgeserver.store import events, rooms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent


@dataclass(frozen=True, slots=True)
class PartialRoom:
    """`join_event` is the id of the join by which we came in, `via` the server through which; `servers` are all in the room, as it told."""

    room: int
    room_id: str
    join_event: str
    via: str
    servers: tuple[str, ...]


def begin(tx: Transaction, room: int, via: str, servers: Sequence[str]) -> None:
    """The room is partial from now on. Each of the servers counts as in it, through a member whom nobody knows."""
    known = partial_servers(tx, room)
    for name in servers:
        if name not in known:
            rooms.server_joined(tx, room, name, 1)
    told = orjson.dumps(list(dict.fromkeys([*known, *servers]))).decode()
    tx.execute(
        "INSERT INTO partial_rooms (room, join_event, via, servers) VALUES (?, NULL, ?, ?)"
        " ON CONFLICT (room) DO UPDATE SET via = excluded.via, servers = excluded.servers",
        (room, via, told),
    )
    tx.execute("UPDATE rooms SET partial = 1 WHERE room = ?", (room,))


def set_join(tx: Transaction, room: int, join_event: int) -> None:
    """The join by which we came in (event number)."""
    tx.execute("UPDATE partial_rooms SET join_event = ? WHERE room = ?", (join_event, room))


def partial_servers(tx: Transaction, room: int) -> list[str]:
    row = tx.one("SELECT servers FROM partial_rooms WHERE room = ?", (room,))
    return [] if row is None else orjson.loads(row[0])


def mark(tx: Transaction, event: int) -> None:
    """The event has been placed while its room was partial."""
    tx.execute("UPDATE events SET partial = 1 WHERE event = ?", (event,))


_PARTIAL = (
    "SELECT p.room, r.room_id, e.event_id, p.via, p.servers FROM partial_rooms p JOIN rooms r ON r.room = p.room"
    " JOIN events e ON e.event = p.join_event"
)


def of(tx: Transaction, room: int) -> PartialRoom | None:
    row = tx.one(f"{_PARTIAL} WHERE p.room = ?", (room,))
    return None if row is None else PartialRoom(row[0], row[1], row[2], row[3], tuple(orjson.loads(row[4])))


def every(tx: Transaction) -> list[PartialRoom]:
    return [PartialRoom(row[0], row[1], row[2], row[3], tuple(orjson.loads(row[4]))) for row in tx.all(_PARTIAL)]


def marked(tx: Transaction, room: int, limit: int) -> list[StoredEvent]:
    """Events whose state has to be worked out again, the oldest (by depth) first."""
    numbers = [
        number
        for (number,) in tx.all(
            "SELECT event FROM events WHERE room = ? AND partial = 1 ORDER BY depth, tie LIMIT ?", (room, limit)
        )
    ]
    loaded = events.many_by_number(tx, numbers)
    return [loaded[number] for number in numbers]


def are_marked(tx: Transaction, event_ids: Sequence[str]) -> list[StoredEvent]:
    """Those of the events whose state has to be worked out again."""
    marks = ",".join("?" * len(event_ids))
    rows = tx.all(f"SELECT event FROM events WHERE event_id IN ({marks}) AND partial = 1", list(event_ids))
    return list(events.many_by_number(tx, [number for (number,) in rows]).values())


def settle(tx: Transaction, event: int) -> None:
    """The event's states are whole."""
    tx.execute("UPDATE events SET partial = 0 WHERE event = ?", (event,))


def end(tx: Transaction, room: int, stream: int) -> None:
    """The room is whole: its servers are those of its members alone again."""
    for name in partial_servers(tx, room):
        rooms.server_joined(tx, room, name, -1)
    tx.execute("DELETE FROM partial_rooms WHERE room = ?", (room,))
    tx.execute("UPDATE events SET partial = 0 WHERE room = ? AND partial = 1", (room,))
    tx.execute("UPDATE rooms SET partial = 0, whole_since = ? WHERE room = ?", (stream, room))


def nearly(tx: Transaction, room: int, stream: int) -> None:
    """All members are known but those whose servers' keys cannot be had: the room is shown, and what was placed since the join
    is judged again when they can.
    """
    tx.execute("UPDATE rooms SET partial = 2, whole_since = ? WHERE room = ?", (stream, room))
    tx.execute(
        "UPDATE events SET partial = 1 WHERE room = ? AND stream >="
        " (SELECT j.stream FROM partial_rooms p JOIN events j ON j.event = p.join_event WHERE p.room = ?)",
        (room, room),
    )


def became_whole(tx: Transaction, since: int, upto: int) -> dict[int, int]:
    """Rooms that became whole in (since, upto], with the position at which they did."""
    rows = tx.all("SELECT room, whole_since FROM rooms WHERE whole_since > ? AND whole_since <= ? AND whole_since > 0", (since, upto))
    return dict(rows)
