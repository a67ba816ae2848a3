"""State at a point of the graph: before an event, and now, resolved where branches meet.

A resolved state is kept as a difference to the nearest snapshot that it came from (`Resolved`), so that writing it costs what the
branches disagree on. Everything here only reads; `rooms/persist.py` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver.matrix.room_versions import StateResolution
from edgeserver.matrix.state_resolution import resolve, resolve_conflict
from edgeserver.store import events, state
from edgeserver.store.events import Standing
from edgeserver.store.state import StateKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.store.database import Transaction


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


def written(tx: Transaction, room: int, at: State) -> int:
    """The state's snapshot, made if need be."""
    return at.write(tx, room) if isinstance(at, Resolved) else at


def numbers(tx: Transaction, at: State, keys: Iterable[StateKey]) -> dict[StateKey, int]:
    """The numbers of the events under those of the keys that the state has."""
    if not isinstance(at, Resolved):
        return state.lookup_many(tx, at, keys)
    wanted = list(keys)
    found = state.lookup_many(tx, at.parent, [key for key in wanted if key not in at.changes])
    return found | {key: number for key in wanted if (number := at.changes.get(key)) is not None}


def events_at(tx: Transaction, at: State, keys: Iterable[StateKey]) -> dict[StateKey, Event]:
    """The events under those of the keys that the state has, as others are judged by them."""
    found = numbers(tx, at, keys)
    loaded = events.many_by_number(tx, found.values())
    return {key: events.for_auth(tx, loaded[number]) for key, number in found.items()}


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


def resolved(tx: Transaction, rules: RoomVersion, states: Sequence[State], *, most: int | None = None) -> State:
    """One state out of several, at least one (server-server API, "State resolution").

    Costs what the states disagree on and what authorises that, whatever the room's size. `most` bounds how many events are
    looked up: `NeedsResolution` is raised where that is not enough. 0: unless they are the same.
    """
    distinct = list(dict.fromkeys(states))
    if len(distinct) == 1:
        return distinct[0]
    if most == 0:
        raise NeedsResolution
    keys, found = _conflicts(tx, distinct)
    if not keys:
        return distinct[0]
    if rules.state_resolution is StateResolution.V1:
        return _resolved_whole(tx, rules, distinct)
    ids = events.ids_by_number(tx, {number for one in found for number in one.values()})
    look = _Lookups(tx, most)
    conflicted = [{key: ids[number] for key, number in one.items()} for one in found]
    outcome = resolve_conflict(
        rules,
        conflicted,
        _Unconflicted(look, distinct[0], keys),
        look.event,
        rejected=look.rejected,
        auth_edges=look.auth_edges,
        unconflicted_chain=lambda wanted: _unconflicted_chain(tx, distinct[0], keys, wanted),
    )
    number_of = events.numbers_by_id(tx, outcome.values())
    wanted = {key: number_of[event_id] for key, event_id in outcome.items()}
    return _nearest_of(distinct, found, keys, wanted)


def _conflicts(tx: Transaction, states: Sequence[State]) -> tuple[set[StateKey], list[dict[StateKey, int]]]:
    """The keys under which the states differ, and what each has there."""
    changes = [one.changes if isinstance(one, Resolved) else {} for one in states]
    parents = [one.parent if isinstance(one, Resolved) else one for one in states]
    keys, parts = state.conflicts(tx, parents, {key for one in changes for key in one})
    found: list[dict[StateKey, int]] = []
    for part, changed in zip(parts, changes, strict=True):
        over: dict[StateKey, int | None] = {**part, **changed}
        found.append({key: number for key, number in over.items() if number is not None})
    keys = {key for key in keys if any(one.get(key) != found[0].get(key) for one in found)}
    return keys, [{key: number for key, number in one.items() if key in keys} for one in found]


def _nearest_of(
    states: Sequence[State], found: Sequence[Mapping[StateKey, int]], keys: Iterable[StateKey], wanted: Mapping[StateKey, int]
) -> State:
    """The outcome, expressed by that one of the states which differs least from it; `found` is what each has under the keys."""
    best: Resolved | None = None
    for one, have in zip(states, found, strict=True):
        changes: dict[StateKey, int | None] = {key: wanted.get(key) for key in keys if have.get(key) != wanted.get(key)}
        if not changes:
            return one
        if isinstance(one, Resolved):
            changes = {**one.changes, **changes}
        if best is None or len(changes) < len(best.changes):
            best = Resolved(one.parent if isinstance(one, Resolved) else one, changes)
    assert best is not None
    return best


def _resolved_whole(tx: Transaction, rules: RoomVersion, states: Sequence[State]) -> State:
    """For rooms of version 1, whose resolution looks at all of the state."""
    look = _Lookups(tx, None)
    answer = resolve(rules, [whole_ids(tx, one) for one in states], look.event, rejected=look.rejected)
    return nearest(tx, answer, [one.parent if isinstance(one, Resolved) else one for one in states])


class _Lookups:
    """What one resolution has read, and how much it still may."""

    def __init__(self, tx: Transaction, most: int | None) -> None:
        self.tx = tx
        self.rejected: set[str] = set()
        self._left = most
        self._events: dict[str, Event | None] = {}
        self._edges: dict[str, tuple[str, ...]] = {}

    def event(self, event_id: str) -> Event | None:
        if event_id not in self._events:
            self._count()
            stored = events.get(self.tx, event_id)
            self._events[event_id] = None if stored is None else events.for_auth(self.tx, stored)
            if stored is not None and stored.standing is Standing.REJECTED:
                self.rejected.add(event_id)
        return self._events[event_id]

    def auth_edges(self, event_id: str) -> tuple[str, ...]:
        if event_id not in self._edges:
            self._count()
            self._edges[event_id] = events.auth_edges(self.tx, event_id)
        return self._edges[event_id]

    def _count(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise NeedsResolution


class _Unconflicted(Mapping[StateKey, str]):
    """What all the states have in common, read from one of them where it is asked for."""

    def __init__(self, look: _Lookups, at: State, conflicted: AbstractSet[StateKey]) -> None:
        self._look = look
        self._at = at
        self._conflicted = conflicted
        self._known: dict[StateKey, str | None] = {}

    def __getitem__(self, key: StateKey) -> str:
        if key not in self._known:
            tx = self._look.tx
            number = None if key in self._conflicted else numbers(tx, self._at, [key]).get(key)
            self._known[key] = None if number is None else events.ids_by_number(tx, [number])[number]
        found = self._known[key]
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[StateKey]:
        return iter(whole_ids(self._look.tx, self._at).keys() - self._conflicted)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _unconflicted_chain(tx: Transaction, at: State, conflicted: AbstractSet[StateKey], wanted: set[str]) -> set[str]:
    """Those of the wanted ids that are in the auth chain of what the states have in common."""
    oldest = min(events.numbers_by_id(tx, wanted).values(), default=0)
    fresh: dict[StateKey, int | None] = {**state.newest(tx, at.parent if isinstance(at, Resolved) else at, oldest)}
    if isinstance(at, Resolved):
        fresh.update(at.changes)
    return events.auth_chain_among(tx, [number for key, number in fresh.items() if number and key not in conflicted], wanted)


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
