"""Placing: an event whose references are complete is judged (checks 4 to 6 on receipt) and given its place in the room.

Where branches with different states meet, the resolution is worked out on a reader and written only if the room has not moved on
meanwhile; everything else is settled in the write transaction itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from edgeserver.matrix import auth
from edgeserver.matrix.auth_events import CREATE, auth_types_of
from edgeserver.matrix.verdicts import ACCEPTED, Accepted, Rejected, SoftFailed
from edgeserver.rooms import state_at
from edgeserver.rooms.persist import Placement
from edgeserver.rooms.state_at import NeedsResolution, Resolved, State
from edgeserver.store import events, rooms
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.verdicts import Verdict
    from edgeserver.rooms.persist import Persister
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Room

log = logging.getLogger(__name__)


class Stale(Exception):
    """The room has moved on between planning and writing: plan again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write for one event, and the room as it was when that was worked out."""

    room: Room
    before: State
    heads: tuple[str, ...]
    current: State | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Task:
    """One event to place.

    `states` are those after prev events that are not held; `before` overrides what the graph says. `deliver`: the event is
    ours to hand on; `backfilled`: it goes to the old end of the timeline and changes nothing now. `depth`: see `events.effective_depth`.
    """

    room: int
    event: Event
    states: Sequence[State] = ()
    before: State | None = None
    deliver: bool = False
    backfilled: bool = False
    depth: int | None = None


class Placer:
    """Judges and writes events that were not made after the room's present heads."""

    def __init__(self, db: Database, persister: Persister) -> None:
        self._db = db
        self._persister = persister
        self._turns: dict[int, trio.Lock] = {}

    async def place(self, task: Task) -> Verdict:
        """Checks 4 to 6 and the write. Every event that its task refers to is held by now."""

        def at_once(tx: Transaction) -> Verdict:
            return self._carry_out(tx, task, self._plan(tx, task, may_resolve=False))

        try:
            return await self._db.write(at_once)
        except NeedsResolution:
            return await self._place_resolved(task)

    async def place_in_order(self, tasks: Sequence[Task]) -> list[Verdict]:
        """`place` for each, in this order, in as few writes as can be: one, unless branches with different states meet."""
        verdicts: list[Verdict] = []
        while len(verdicts) < len(tasks):
            rest = tasks[len(verdicts) :]
            done = await self._db.write(lambda tx, rest=rest: self._place_some(tx, rest))  # type: ignore[misc]
            verdicts += done
            if len(done) < len(rest):
                verdicts.append(await self._place_resolved(rest[len(done)]))
        return verdicts

    def _place_some(self, tx: Transaction, tasks: Sequence[Task]) -> list[Verdict]:
        """Places tasks up to the first that needs a resolution."""
        verdicts: list[Verdict] = []
        for task in tasks:
            try:
                plan = self._plan(tx, task, may_resolve=False)
            except NeedsResolution:
                break
            verdicts.append(self._carry_out(tx, task, plan))
        return verdicts

    async def _place_resolved(self, task: Task) -> Verdict:
        if task.event.state_key is not None:
            await self.store_outliers(task.room, {task.event.event_id: task.event})  # resolution wants its number
        turn = self._turns.setdefault(task.room, trio.Lock())
        async with turn:
            while True:
                plan = await self._db.read(lambda tx: self._plan(tx, task, may_resolve=True))
                try:
                    return await self._db.write(lambda tx, plan=plan: self._carry_out(tx, task, plan))  # type: ignore[misc]
                except Stale:
                    continue

    async def store_outliers(self, room: int, found: Mapping[str, Event]) -> None:
        """Judges events by the events that they cite (check 4), in topological order, and stores them without a place."""
        ordered = topological(found)

        def run(tx: Transaction) -> None:
            for event in ordered:
                if not events.held(tx, [event.event_id]):
                    self._persister.outlier(tx, room, event, standing_of(judge_by_auth_events(tx, event)))

        await self._db.write(run)

    def _plan(self, tx: Transaction, task: Task, *, may_resolve: bool) -> Plan:
        room, event = rooms.by_number(tx, task.room), task.event
        assert room.snapshot is not None
        before = task.before
        if before is None:
            known = events.many(tx, event.prev_events)
            after = [stored.after for stored in known.values() if stored.after is not None and stored.room == task.room]
            before = state_at.resolved(tx, room.rules, [*after, *task.states], may_resolve=may_resolve)
        verdict = self._judge(tx, room, task, before)
        if task.backfilled or not isinstance(verdict, Accepted):
            return Plan(room, before, room.heads, None, verdict)
        others = tuple(head for head in room.heads if head not in event.prev_events)
        if others and events.is_named(tx, room.number, event.event_id):  # something held comes after it already
            return Plan(room, before, others, room.snapshot, verdict)
        current = self._current(tx, room, event, before, others, may_resolve=may_resolve)
        return Plan(room, before, (*others, event.event_id), current, verdict)

    def _judge(self, tx: Transaction, room: Room, task: Task, before: State) -> Verdict:
        event = task.event
        # Check 4: the event's own auth events
        verdict = judge_by_auth_events(tx, event)
        if not isinstance(verdict, Accepted):
            return verdict
        # Check 5: the state before it
        wanted = [CREATE, *auth_types_of(event)]
        verdict = auth.check(event, state_at.events_at(tx, before, wanted))
        if not isinstance(verdict, Accepted) or task.backfilled:
            return verdict
        # Check 6: the current state
        assert room.snapshot is not None
        if before != room.snapshot:
            now = auth.check(event, state_at.events_at(tx, room.snapshot, wanted))
            if isinstance(now, Rejected):
                return SoftFailed(now.why)
        return ACCEPTED

    def _current(
        self, tx: Transaction, room: Room, event: Event, before: State, others: Sequence[str], *, may_resolve: bool
    ) -> State | None:
        """The current state with the event among the heads; None: the state after the event."""
        if not others:
            return None
        after = [stored.after for stored in events.many(tx, others).values() if stored.after is not None]
        if event.state_key is None:
            if set(after) <= {before}:
                return None
            old = {stored.after for stored in events.many(tx, room.heads).values()}
            if old == {*after, before}:
                return room.snapshot
            return state_at.resolved(tx, room.rules, [*after, before], may_resolve=may_resolve)
        if not may_resolve:
            raise NeedsResolution
        number = events.numbers_by_id(tx, [event.event_id])[event.event_id]
        ours = state_at.with_event(before, (event.type, event.state_key), number)
        return state_at.resolved(tx, room.rules, [*after, ours], may_resolve=True)

    def _carry_out(self, tx: Transaction, task: Task, plan: Plan) -> Verdict:
        room, event = rooms.by_number(tx, task.room), task.event
        held = events.get(tx, event.event_id)
        if held is not None and not held.is_outlier:
            return verdict_of(held)  # came by another way meanwhile
        if (room.heads, room.snapshot) != (plan.room.heads, plan.room.snapshot):
            raise Stale
        placement = Placement(
            before=_written(tx, room.number, plan.before),
            heads=plan.heads,
            current=None if plan.current is None else _written(tx, room.number, plan.current),
            standing=standing_of(plan.verdict),
            backfilled=task.backfilled,
            depth=task.depth,
        )
        self._persister.persist(tx, room, event, placement, deliver=task.deliver)
        if not isinstance(plan.verdict, Accepted):
            log.info("%s in %s: %s", event.event_id, event.room_id, plan.verdict)
        return plan.verdict


def judge_by_auth_events(tx: Transaction, event: Event) -> Verdict:
    """Check 4: is the event allowed by the events that it cites? Those that are not held make it rejected."""
    found = events.many(tx, _cited(event))
    if any(event_id not in found for event_id in event.auth_events):
        return Rejected("it cites an event that could not be had")
    create = next((stored.event for stored in found.values() if stored.event.type == "m.room.create"), None)
    return auth.check_by_auth_events(
        event,
        [found[event_id].event for event_id in event.auth_events],
        rejected={event_id for event_id, stored in found.items() if stored.standing is Standing.REJECTED},
        create=create,
    )


def _cited(event: Event) -> list[str]:
    """What the event is judged by: its auth events, and in v12 the create event, which the room id cites."""
    if event.rules.room_id_is_create_hash and event.type != CREATE[0]:
        return [*event.auth_events, "$" + event.room_id[1:]]
    return list(event.auth_events)


def topological(found: Mapping[str, Event]) -> list[Event]:
    """The events, each after those of them that it cites. Cycles (only forged ids could make one) come last, in any order."""
    ordered: dict[str, Event] = {}
    for start in found.values():
        stack = [start]
        entered: set[str] = set()
        while stack:
            event = stack[-1]
            waiting = [
                found[one]
                for one in _cited(event)
                if one in found and one not in ordered and one not in entered
            ]
            entered.add(event.event_id)
            if waiting:
                stack.extend(waiting)
            else:
                ordered.setdefault(event.event_id, stack.pop())
    return list(ordered.values())


def standing_of(verdict: Verdict) -> Standing:
    if isinstance(verdict, SoftFailed):
        return Standing.SOFT_FAILED
    return Standing.ACCEPTED if isinstance(verdict, Accepted) else Standing.REJECTED


def verdict_of(stored: StoredEvent) -> Verdict:
    """What was found of an event when it was taken in."""
    if stored.standing is Standing.ACCEPTED:
        return ACCEPTED
    why = "found so when it first came"
    return Rejected(why) if stored.standing is Standing.REJECTED else SoftFailed(why)


def _written(tx: Transaction, room: int, at: State) -> int:
    return at.write(tx, room) if isinstance(at, Resolved) else at

