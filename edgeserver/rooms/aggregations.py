"""What child events amount to, for their parents: the newest edit, the thread, the references.

Spec: client-server API, "Aggregations of child events" and the "Server-side aggregation" of m.replace and m.thread; "Reference
relations". Children of ignored users count for nothing. An event whose content is shown with another is one that the user may see; of a
thread the approximate number of events is counted, up to the moment when a user who has left did so. State events have no aggregations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edgeserver.matrix import errors
from edgeserver.matrix.relations import REFERENCE, REPLACE, THREAD, is_replacement, may_root_thread
from edgeserver.rooms import history
from edgeserver.store import account_data, events, relations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.relations import Tally
    from edgeserver.store.rooms import Membership

LOOKED_AT: Final = 20
"""So many edits of an event, or last events of a thread, are tried for one that is valid and may be seen."""
MAX_REFERENCES: Final = 100
"""References of one event that are bundled with it: the first ones."""


@dataclass(frozen=True, slots=True)
class Thread:
    """`latest` is its newest event, `count` the number of its events, `participated`: the user has spoken in it, or began it."""

    latest: StoredEvent
    count: int
    participated: bool


@dataclass(slots=True)
class Aggregation:
    """What is bundled with one event."""

    edit: StoredEvent | None = None
    thread: Thread | None = None
    references: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Eyes:
    """Who looks, from which membership, up to which stream position (None: all of it), and whom they ignore."""

    user_id: str
    membership: Membership | None
    upto: int | None
    ignored: frozenset[str]


def aggregated(tx: Transaction, found: Iterable[StoredEvent], user_id: str) -> dict[int, Aggregation]:
    """By event number, for those of the events that have something to bundle. Events that nothing relates to cost one look for each
    room.
    """
    rooms: dict[int, list[StoredEvent]] = {}
    for stored in found:
        if stored.event.state_key is None:
            rooms.setdefault(stored.room, []).append(stored)
    result: dict[int, Aggregation] = {}
    for room, listed in rooms.items():
        result.update(_of_room(tx, room, {stored.event.event_id: stored for stored in listed}, user_id))
    return result


def _of_room(tx: Transaction, room: int, parents: Mapping[str, StoredEvent], user_id: str) -> dict[int, Aggregation]:
    tallies = relations.tallies(tx, room, parents)
    eyes = _eyes(tx, next(iter(parents.values())).event.room_id, user_id) if tallies else None
    if eyes is None:
        return {}
    if eyes.upto is not None:
        tallies = relations.tallies(tx, room, parents, eyes.upto)
    counted = [one for one in tallies if one.sender not in eyes.ignored]
    result: dict[int, Aggregation] = {}

    def of(event_id: str) -> Aggregation:
        return result.setdefault(parents[event_id].number, Aggregation())

    for event_id, edit in _edits(tx, room, parents, counted, eyes).items():
        of(event_id).edit = edit
    for event_id, thread in _threads(tx, room, parents, counted, eyes).items():
        of(event_id).thread = thread
    for event_id, referring in _references(tx, room, counted, eyes).items():
        of(event_id).references = referring
    return result


def _eyes(tx: Transaction, room_id: str, user_id: str) -> _Eyes | None:
    """None: what relates to the room's events is not for this user to see."""
    try:
        view = history.view(tx, room_id, user_id)
    except errors.Forbidden:
        return None
    upto = None if view.upto == tx.position else view.upto
    return _Eyes(user_id, view.membership, upto, account_data.ignored_users(tx, user_id))


def _edits(
    tx: Transaction, room: int, parents: Mapping[str, StoredEvent], counted: Sequence[Tally], eyes: _Eyes
) -> dict[str, StoredEvent]:
    senders = {
        one.parent: one.sender
        for one in counted
        if one.rel_type == REPLACE and one.sender == (original := parents[one.parent]).event.sender and original.redacted_by is None
    }
    if not senders:
        return {}
    candidates = relations.edits(tx, room, senders, LOOKED_AT, upto=eyes.upto)
    return _first(tx, candidates, eyes, lambda event_id, edit: is_replacement(edit, parents[event_id].event))


def _threads(
    tx: Transaction, room: int, parents: Mapping[str, StoredEvent], counted: Sequence[Tally], eyes: _Eyes
) -> dict[str, Thread]:
    in_threads = [one for one in counted if one.rel_type == THREAD and may_root_thread(parents[one.parent].event)]
    if not in_threads:
        return {}
    counts: dict[str, int] = {}
    spoken = {root for root in parents if parents[root].event.sender == eyes.user_id}
    for one in in_threads:
        counts[one.parent] = counts.get(one.parent, 0) + one.number
        if one.sender == eyes.user_id:
            spoken.add(one.parent)
    candidates = relations.latest_replies(tx, room, counts, LOOKED_AT, without=eyes.ignored, upto=eyes.upto)
    latest = _first(tx, candidates, eyes, lambda _root, _event: True)
    return {root: Thread(event, counts[root], root in spoken) for root, event in latest.items()}


def _references(tx: Transaction, room: int, counted: Sequence[Tally], eyes: _Eyes) -> dict[str, list[str]]:
    parents = {one.parent for one in counted if one.rel_type == REFERENCE}
    if not parents:
        return {}
    found = relations.references(tx, room, parents, MAX_REFERENCES, without=eyes.ignored, upto=eyes.upto)
    ids = events.ids_by_number(tx, [number for numbers in found.values() for number in numbers])
    return {parent: [ids[number] for number in numbers] for parent, numbers in found.items() if numbers}


def _first(
    tx: Transaction, candidates: Mapping[str, Sequence[int]], eyes: _Eyes, takes: Callable[[str, Event], bool]
) -> dict[str, StoredEvent]:
    """Of each parent's candidates the first that the user may see and that is taken; most often it is the first of all."""
    found: dict[str, StoredEvent] = {}
    for turn in range(max(map(len, candidates.values()), default=0)):
        tried = {parent: numbers[turn] for parent, numbers in candidates.items() if parent not in found and turn < len(numbers)}
        loaded = events.many_by_number(tx, tried.values())
        seen = {one.number: one for one in history.visible(tx, eyes.user_id, eyes.membership, list(loaded.values()))}
        for parent, number in tried.items():
            if number in seen and takes(parent, seen[number].event):
                found[parent] = seen[number]
    return found
