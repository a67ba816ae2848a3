"""Room state: snapshots as differences with logarithmic chains (schema/0001_rooms.sql tells how)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.store import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent

_FEW = 50
"""So many keys are cheaper to look up one by one than to find among all of their type."""

StateKey = tuple[str, str]
"""(event type, state key)"""

_CHAIN = (
    "WITH RECURSIVE chain (snapshot, base, height) AS ("
    " SELECT snapshot, base, height FROM snapshots WHERE snapshot = ?"
    " UNION ALL SELECT s.snapshot, s.base, s.height FROM chain c JOIN snapshots s ON s.snapshot = c.base)"
)


def key_number(tx: Transaction, key: StateKey) -> int:
    """The numeric id of a (type, state key), made if need be."""
    row = tx.one("SELECT key FROM state_keys WHERE type = ? AND state_key = ?", key)
    return row[0] if row else tx.insert("INSERT INTO state_keys (type, state_key) VALUES (?, ?)", key)


def root(tx: Transaction, room: int, entries: Mapping[StateKey, int]) -> int:
    """A snapshot that stands alone: the empty state of a new room, or the state that came with a join."""
    snapshot = tx.insert("INSERT INTO snapshots (room, parent, base, height) VALUES (?, NULL, NULL, 0)", (room,))
    _insert(tx, snapshot, {key_number(tx, key): event for key, event in entries.items()})
    return snapshot


def derive(tx: Transaction, room: int, parent: int, changes: Mapping[StateKey, int | None]) -> int:
    """The snapshot that is `parent` with these changes (None: the key leaves the state)."""
    if not changes:
        return parent
    row = tx.one(
        "SELECT p.height, b.snapshot, b.height, b.base, bb.height FROM snapshots p"
        " LEFT JOIN snapshots b ON b.snapshot = p.base LEFT JOIN snapshots bb ON bb.snapshot = b.base"
        " WHERE p.snapshot = ?",
        (parent,),
    )
    if row is None:
        raise LookupError(f"no snapshot {parent}")
    height, base, base_height, base_base, base_base_height = row
    merged: dict[int, int | None] = {}
    if base is not None and base_base is not None and height - base_height == base_height - base_base_height:
        jump = base_base
        merged.update(_entries(tx, base))
        merged.update(_entries(tx, parent))
    else:
        jump = parent
    merged.update({key_number(tx, key): event for key, event in changes.items()})
    snapshot = tx.insert(
        "INSERT INTO snapshots (room, parent, base, height) VALUES (?,?,?,?)", (room, parent, jump, height + 1)
    )
    _insert(tx, snapshot, merged)
    return snapshot


def _entries(tx: Transaction, snapshot: int) -> list[tuple[int, int | None]]:
    return [(row[0], row[1]) for row in tx.all("SELECT key, event FROM snapshot_entries WHERE snapshot = ?", (snapshot,))]


def _insert(tx: Transaction, snapshot: int, entries: Mapping[int, int | None]) -> None:
    tx.executemany(
        "INSERT INTO snapshot_entries (snapshot, key, event) VALUES (?,?,?)",
        [(snapshot, key, event) for key, event in sorted(entries.items())],
    )


def lookup(tx: Transaction, snapshot: int, key: StateKey) -> int | None:
    """The number of the event under this key, or None."""
    row = tx.one(
        f"{_CHAIN} SELECT e.event FROM chain c JOIN snapshot_entries e ON e.snapshot = c.snapshot"
        " WHERE e.key = (SELECT key FROM state_keys WHERE type = ? AND state_key = ?)"
        " ORDER BY c.height DESC LIMIT 1",
        (snapshot, *key),
    )
    return row[0] if row else None


def lookup_event(tx: Transaction, snapshot: int, event_type: str, state_key: str = "") -> StoredEvent | None:
    """The event under this key, or None."""
    number = lookup(tx, snapshot, (event_type, state_key))
    return None if number is None else events.by_number(tx, number)


def lookup_many(tx: Transaction, snapshot: int, keys: Iterable[StateKey]) -> dict[StateKey, int]:
    """The numbers of the events under those of the keys that the state has, in the order of the keys; for a few keys."""
    wanted = list(dict.fromkeys(keys))
    if not wanted:
        return {}
    rows = tx.all(
        f"{_CHAIN}, wanted (type, state_key) AS (VALUES {','.join(['(?,?)'] * len(wanted))})"
        " SELECT k.type, k.state_key, (SELECT e.event FROM chain c JOIN snapshot_entries e ON e.snapshot = c.snapshot"
        " WHERE e.key = k.key ORDER BY c.height DESC LIMIT 1)"
        " FROM wanted w CROSS JOIN state_keys k ON k.type = w.type AND k.state_key = w.state_key",
        (snapshot, *(part for key in wanted for part in key)),
    )
    found = {(event_type, state_key): number for event_type, state_key, number in rows}
    return {key: number for key in wanted if (number := found.get(key)) is not None}


def lookup_events(tx: Transaction, snapshot: int, keys: Iterable[StateKey]) -> dict[StateKey, StoredEvent]:
    """The events under those of the keys that the state has."""
    numbers = lookup_many(tx, snapshot, keys)
    loaded = events.many_by_number(tx, numbers.values())
    return {key: loaded[number] for key, number in numbers.items()}


def whole(tx: Transaction, snapshot: int) -> dict[StateKey, int]:
    """The whole state map, as event numbers."""
    numbers: dict[int, int | None] = dict(
        tx.all(
            f"{_CHAIN} SELECT e.key, e.event FROM chain c JOIN snapshot_entries e ON e.snapshot = c.snapshot"
            " ORDER BY c.height",
            (snapshot,),
        )
    )
    return _named(tx, numbers)


def ids(tx: Transaction, snapshot: int) -> list[str]:
    """The ids of the events of the whole state, without their keys: for states of any size."""
    return [
        event_id
        for (event_id,) in tx.all(
            f"{_CHAIN}, newest (key, height) AS (SELECT e.key, max(c.height) FROM chain c"
            " JOIN snapshot_entries e ON e.snapshot = c.snapshot GROUP BY e.key)"
            " SELECT v.event_id FROM newest n JOIN chain c ON c.height = n.height"
            " JOIN snapshot_entries e ON e.snapshot = c.snapshot AND e.key = n.key JOIN events v ON v.event = e.event",
            (snapshot,),
        )
    ]


def members_of(tx: Transaction, snapshot: int, server_name: str) -> list[StoredEvent]:
    """The m.room.member events of that server's users in a state."""
    users = [
        user_id
        for (user_id,) in tx.all(
            "SELECT state_key FROM state_keys WHERE type = 'm.room.member' AND substr(state_key, instr(state_key, ':') + 1) = ?"
            " LIMIT ?",
            (server_name, _FEW + 1),
        )
    ]
    if len(users) <= _FEW:
        return list(lookup_events(tx, snapshot, [("m.room.member", user_id) for user_id in users]).values())
    found = {key: number for key, number in of_type(tx, snapshot, "m.room.member").items() if key[1].partition(":")[2] == server_name}
    return list(events.many_by_number(tx, found.values()).values())


def of_type(tx: Transaction, snapshot: int, event_type: str) -> dict[StateKey, int]:
    """The part of the state map with this event type."""
    numbers: dict[int, int | None] = dict(
        tx.all(
            f"{_CHAIN} SELECT e.key, e.event FROM chain c JOIN snapshot_entries e ON e.snapshot = c.snapshot"
            " JOIN state_keys k ON k.key = e.key WHERE k.type = ? ORDER BY c.height",
            (snapshot, event_type),
        )
    )
    return _named(tx, numbers)


def _named(tx: Transaction, numbers: Mapping[int, int | None]) -> dict[StateKey, int]:
    names = _key_names(tx, numbers)
    return {names[key]: number for key, number in numbers.items() if number is not None}


def whole_ids(tx: Transaction, snapshot: int) -> dict[StateKey, str]:
    """The whole state map, as event ids."""
    numbers = whole(tx, snapshot)
    ids = events.ids_by_number(tx, numbers.values())
    return {key: ids[number] for key, number in numbers.items()}


def whole_events(tx: Transaction, snapshot: int) -> dict[StateKey, StoredEvent]:
    """The whole state map, as events."""
    numbers = whole(tx, snapshot)
    loaded = events.many_by_number(tx, numbers.values())
    return {key: loaded[number] for key, number in numbers.items()}


def changed_between(tx: Transaction, older: int, newer: int) -> dict[StateKey, int | None]:
    """What to change in `older` to have `newer` (None: the key leaves). Costs the difference where one descends from the other."""
    if older == newer:
        return {}
    changes = _walk_back(tx, older, newer)
    if changes is not None:
        return changes
    before, after = whole(tx, older), whole(tx, newer)
    difference: dict[StateKey, int | None] = {key: number for key, number in after.items() if before.get(key) != number}
    difference.update({key: None for key in before if key not in after})
    return difference


def _walk_back(tx: Transaction, older: int, newer: int) -> dict[StateKey, int | None] | None:
    """The keys touched between the two, if `older` is an ancestor of `newer`; values are looked up in both."""
    row = tx.one("SELECT height FROM snapshots WHERE snapshot = ?", (older,))
    target = row[0] if row else -1
    touched: set[int] = set()
    at: int | None = newer
    while at is not None:
        row = tx.one("SELECT height, base, parent FROM snapshots WHERE snapshot = ?", (at,))
        if row is None or row[0] < target:
            return None
        height, base, parent = row
        if at == older:
            break
        if height == target:
            return None
        base_row = tx.one("SELECT height FROM snapshots WHERE snapshot = ?", (base,))
        touched.update(key for key, _ in _entries(tx, at))
        at = base if base_row is not None and base_row[0] >= target else parent
    names = _key_names(tx, touched)
    difference: dict[StateKey, int | None] = {}
    for name in names.values():
        number = lookup(tx, newer, name)
        if lookup(tx, older, name) != number:
            difference[name] = number
    return difference


def _key_names(tx: Transaction, keys: Iterable[int]) -> dict[int, StateKey]:
    wanted = list(keys)
    names: dict[int, StateKey] = {}
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        marks = ",".join("?" * len(part))
        for key, event_type, state_key in tx.all(
            f"SELECT key, type, state_key FROM state_keys WHERE key IN ({marks})", part
        ):
            names[key] = (event_type, state_key)
    return names
