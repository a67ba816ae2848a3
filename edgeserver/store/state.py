"""Room state: snapshots as differences with logarithmic chains (schema/0001_rooms.sql tells how)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.store import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeserver.store.database import Row, Transaction
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


def members_of(tx: Transaction, room: int, snapshot: int, server_name: str) -> list[StoredEvent]:
    """The m.room.member events of that server's users in a state of the room, of those who have a membership in it now."""
    users = [
        user_id
        for (user_id,) in tx.all(
            "SELECT user_id FROM memberships WHERE room = ? AND substr(user_id, instr(user_id, ':') + 1) = ? LIMIT ?",
            (room, server_name, _FEW + 1),
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
    """What to change in `older` to have `newer` (None: the key leaves). Costs what happened since their last common snapshot."""
    keys, (before, after) = conflicts(tx, [older, newer])
    return {key: after.get(key) for key in keys if before.get(key) != after.get(key)}


def conflicts(
    tx: Transaction, snapshots: Sequence[int], also: Iterable[StateKey] = ()
) -> tuple[set[StateKey], list[dict[StateKey, int]]]:
    """The keys under which the states are not all the same, and `also`; and what each state has under them.

    Costs what happened since the last snapshot that all come from, whatever the room's size; states that come from none
    (one was given by another server) are compared whole.
    """
    first, *others = snapshots
    touched: set[int] = set()
    for other in others:
        between = _touched_between(tx, first, other)
        if between is None:
            maps = [whole(tx, snapshot) for snapshot in snapshots]
            keys = {key for one in maps for key in one}
            keys = {key for key in keys if any(one.get(key) != maps[0].get(key) for one in maps)} | set(also)
            return keys, [{key: one[key] for key in keys if key in one} for one in maps]
        touched |= between
    known = [key for key in also if tx.one("SELECT 1 FROM state_keys WHERE type = ? AND state_key = ?", key)]
    kept = {key_number(tx, key) for key in known}
    values = [_values(tx, snapshot, touched | kept) for snapshot in snapshots]
    differing = {key for key in touched if any(one.get(key) != values[0].get(key) for one in values)} | kept
    names = _key_names(tx, differing)
    return {*names.values(), *also}, [
        {names[key]: number for key, number in one.items() if key in differing} for one in values
    ]


def newest(tx: Transaction, snapshot: int, after: int) -> dict[StateKey, int]:
    """The part of the state whose events were stored after that number."""
    numbers: dict[int, int | None] = dict(
        tx.all(
            f"{_CHAIN} SELECT e.key, e.event FROM chain c JOIN snapshot_entries e ON e.snapshot = c.snapshot"
            " WHERE e.event > ? ORDER BY c.height",
            (snapshot, after),
        )
    )
    current = _values(tx, snapshot, numbers)
    return _named(tx, {key: number for key, number in current.items() if number > after})


def _values(tx: Transaction, snapshot: int, keys: Iterable[int]) -> dict[int, int]:
    """The numbers of the events under those of the keys (by number) that the state has."""
    wanted = list(keys)
    found: dict[int, int | None] = {}
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        marks = ",".join("?" * len(part))
        found.update(
            tx.all(
                f"{_CHAIN} SELECT e.key, e.event FROM chain c CROSS JOIN snapshot_entries e ON e.snapshot = c.snapshot"
                f" WHERE e.key IN ({marks}) ORDER BY c.height",
                (snapshot, *part),
            )
        )
    return {key: number for key, number in found.items() if number is not None}


def _touched_between(tx: Transaction, one: int, other: int) -> set[int] | None:
    """The keys (by number) that anything has changed since the two states parted, and perhaps some more; None if they never were one.

    Both chains are walked down at the same height. Heights alone say where a jump leads, so that if the jumps of two snapshots
    of a height meet, the snapshots that they come from lie between.
    """
    touched: set[int] = set()
    left, right = _link(tx, one), _link(tx, other)
    while left is not None and right is not None and left[0] != right[0]:
        if left[1] < right[1]:
            left, right = right, left
        if left[1] == right[1]:
            jump = left[2] != right[2]
            touched.update(key for key, _ in (*_entries(tx, left[0]), *_entries(tx, right[0])))
            left = _link(tx, left[2] if jump else left[3])
            right = _link(tx, right[2] if jump else right[3])
        else:
            touched.update(key for key, _ in _entries(tx, left[0]))
            base = _link(tx, left[2])
            left = base if base is not None and base[1] >= right[1] else _link(tx, left[3])
    return None if left is None or right is None else touched


def _link(tx: Transaction, snapshot: int | None) -> Row | None:
    """A snapshot: its number, height, base and parent."""
    if snapshot is None:
        return None
    return tx.one("SELECT snapshot, height, base, parent FROM snapshots WHERE snapshot = ?", (snapshot,))


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
