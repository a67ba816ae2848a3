"""Removing a room with everything that belongs to it. What that is the schema says: rows that refer to the room, to its events or to its
states go with it, in whatever table; of tables that name rooms by their ids only those that hold nothing but what is of the room.

Not removed: the media of the room, which may be of other rooms too, and the keys that people have backed up, which are theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

BY_ROOM_ID: Final = ("aliases", "account_data", "server_notice_rooms")
_PARENTS: Final = {
    "rooms": "SELECT ?1",
    "events": "SELECT event FROM events WHERE room = ?1",
    "snapshots": "SELECT snapshot FROM snapshots WHERE room = ?1",
}


def purge(tx: Transaction, room: int, room_id: str) -> None:
    """Removes the room; its number is given to no other (`rooms.add`).

    To be run by `Database.write_unchecked`: the order in which rows go is not that of their references.
    """
    for table, column, parent in _references(tx):
        if table not in _PARENTS:
            tx.execute(f"DELETE FROM {table} WHERE {column} IN ({_PARENTS[parent]})", (room,))
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('purged_room', ?) ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
        (room,),
    )
    for table in ("snapshots", "events", "rooms"):
        tx.execute(f"DELETE FROM {table} WHERE room = ?", (room,))
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
