"""State at a point of the graph: before an event, and now, resolved where branches meet.

A resolved state is kept as a difference to the nearest snapshot that it came from (`Resolved`), so that writing it costs what the
branches disagree on. Everything here only reads; `rooms/persist.py` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver.matrix.state_resolution import resolve
from edgeserver.store import events, state
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.store.database import Transaction
    from edgeserver.store.state import StateKey


class NeedsResolution(Exception):
    """Branches with different states meet here; resolving them is not for the writer's thread."""


@dataclass(frozen=True, slots=True, eq=False)
class Resolved:
    """A state that no snapshot stands for yet: `parent` with `changes` (event numbers; None: the key leaves)."""

    parent: int
    changes: Mapping[StateKey, int | None]

    def write(self, tx: Transaction, room: int) -> int:
        """Makes it a snapshot."""
        return state.derive(tx, room, self.parent, self.changes)


State = int | Resolved
"""A snapshot's number, or a state that is not written yet."""


def numbers(tx: Transaction, at: State, keys: Iterable[StateKey]) -> dict[StateKey, int]:
    """The numbers of the events under those of the keys that the state has."""
    found: dict[StateKey, int] = {}
    for key in keys:
        if isinstance(at, Resolved):
            number = at.changes[key] if key in at.changes else state.lookup(tx, at.parent, key)
        else:
            number = state.lookup(tx, at, key)
        if number is not None:
            found[key] = number
    return found


def events_at(tx: Transaction, at: State, keys: Iterable[StateKey]) -> dict[StateKey, Event]:
    """The events under those of the keys that the state has."""
    found = numbers(tx, at, keys)
    loaded = events.many_by_number(tx, found.values())
    return {key: loaded[number].event for key, number in found.items()}


def whole_ids(tx: Transaction, at: State) -> dict[StateKey, str]:
    """The whole state as event ids."""
    if not isinstance(at, Resolved):
        return state.whole_ids(tx, at)
    found = state.whole_ids(tx, at.parent)
    ids = events.ids_by_number(tx, [number for number in at.changes.values() if number is not None])
    for key, number in at.changes.items():
        if number is None:
            found.pop(key, None)
        else:
            found[key] = ids[number]
    return found


def resolved(tx: Transaction, rules: RoomVersion, states: Sequence[State], *, may_resolve: bool) -> State:
    """One state out of several (server-server API, "State resolution").

    Raises `NeedsResolution` if they differ and `may_resolve` is False.
    """
    distinct = list(dict.fromkeys(one for one in states if not isinstance(one, Resolved)))
    unwritten = [one for one in states if isinstance(one, Resolved)]
    if not unwritten and len(distinct) == 1:
        return distinct[0]
    if not may_resolve:
        raise NeedsResolution
    every: list[State] = [*distinct, *unwritten]
    maps = [whole_ids(tx, one) for one in every]
    cache: dict[str, Event | None] = {}
    rejected: set[str] = set()

    def fetch(event_id: str) -> Event | None:
        if event_id not in cache:
            stored = events.get(tx, event_id)
            cache[event_id] = None if stored is None else stored.event
            if stored is not None and stored.standing is Standing.REJECTED:
                rejected.add(event_id)
        return cache[event_id]

    answer = resolve(rules, maps, fetch, rejected=rejected, auth_edges=lambda event_id: events.auth_edges(tx, event_id))
    return nearest(tx, answer, distinct or [unwritten[0].parent])


def nearest(tx: Transaction, wanted: Mapping[StateKey, str], snapshots: Sequence[int]) -> State:
    """The wanted state, expressed by that one of the snapshots which differs least from it."""
    number_of = events.numbers_by_id(tx, wanted.values())
    return nearest_of(tx, {key: number_of[event_id] for key, event_id in wanted.items()}, snapshots)


def nearest_of(tx: Transaction, wanted: Mapping[StateKey, int], snapshots: Sequence[int]) -> State:
    """The same of a state that is given as event numbers."""
    best: Resolved | None = None
    for snapshot in snapshots:
        have = state.whole(tx, snapshot)
        changes: dict[StateKey, int | None] = {key: number for key, number in wanted.items() if have.get(key) != number}
        changes.update({key: None for key in have if key not in wanted})
        if not changes:
            return snapshot
        if best is None or len(changes) < len(best.changes):
            best = Resolved(snapshot, changes)
    assert best is not None
    return best


def with_event(at: State, key: StateKey, number: int) -> Resolved:
    """The state with one more event in it."""
    if isinstance(at, Resolved):
        return Resolved(at.parent, {**at.changes, key: number})
    return Resolved(at, {key: number})
