"""Removing a room with everything that belongs to it. What that is the schema says: rows that refer to the room, to its events or to its
states go with it, in whatever table; of tables that name rooms by their ids only those that hold nothing but what is of the room.

Not removed: the media of the room, which may be of other rooms too, and the keys that people have backed up, which are theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

BY_ROOM_ID: Final = ("aliases", "account_data", "server_notice_rooms", "bridge_rooms")
_PARENTS: Final = {"rooms": "room", "events": "event", "snapshots": "snapshot"}
"""What other tables refer to, and by which column."""


def purge(tx: Transaction, room: int, room_id: str) -> None:
    """Removes the room; its number is given to no other (`rooms.add`).

    To be run by `Database.write_unchecked`: the order in which rows go is not that of their references.
    """
    for parent, number in _PARENTS.items():  # listed once: the events of a room are found by reading them all
        tx.execute(f"CREATE TEMP TABLE purged_{parent} (number INTEGER PRIMARY KEY)")
        tx.execute(f"INSERT INTO purged_{parent} SELECT {number} FROM {parent} WHERE room = ?", (room,))
    for table, column, parent in _references(tx):
        if table not in _PARENTS:
            tx.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT number FROM purged_{parent})")
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('purged_room', ?) ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
        (room,),
    )
    for parent, number in _PARENTS.items():
        tx.execute(f"DELETE FROM {parent} WHERE {number} IN (SELECT number FROM purged_{parent})")
        tx.execute(f"DROP TABLE purged_{parent}")
    for table in BY_ROOM_ID:
        tx.execute(f"DELETE FROM {table} WHERE room_id = ?", (room_id,))


def _references(tx: Transaction) -> list[tuple[str, str, str]]:
    """(table, column, table that it refers to) for all that refer to a room, an event or a state by its number."""
    rows = tx.all(
        'SELECT m.name, f."from", f."table" FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f'
        " WHERE m.type = 'table' AND f.\"table\" IN ('rooms', 'events', 'snapshots') ORDER BY 1, 2"
    )
    return [(table, column, parent) for table, column, parent in rows]


def undelivered(tx: Transaction, room: int) -> bool:
    """Whether events of the room still wait for a server that is to be given them."""
    return tx.one("SELECT 1 FROM outbox o JOIN events e ON e.event = o.event WHERE e.room = ? LIMIT 1", (room,)) is not None
