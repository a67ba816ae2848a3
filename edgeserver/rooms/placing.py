"""Placing: an event whose references are complete is judged (checks 4 to 6 on receipt) and given its place in the room.

Where branches with different states meet and the resolution takes long, it is worked out on a reader and written only if the room has
not moved on meanwhile; everything else is settled in the write transaction itself.

What holds of a room at any time: its heads are the accepted events that no accepted event comes after, and its current state is what the
states after its heads resolve to. So an event that cites just the heads has the current state before it, on every server.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from edgeserver.matrix import auth
from edgeserver.matrix.auth_events import CREATE, auth_types_of
from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.verdicts import ACCEPTED, Accepted, Dropped, Rejected, SoftFailed
from edgeserver.rooms import state_at
from edgeserver.rooms.graph import in_order
from edgeserver.rooms.persist import Placement
from edgeserver.rooms.seldom import Seldom
from edgeserver.rooms.state_at import NeedsResolution, State
from edgeserver.store import events, rooms
from edgeserver.store.database import DatabaseError
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.verdicts import Verdict
    from edgeserver.rooms.persist import Persister
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Room
    from edgeserver.store.state import StateKey

log = logging.getLogger(__name__)


LOOKUPS_AT_ONCE = 300
"""A resolution that looks at no more events than this is worked out in the write itself."""
READ_RETRIES = 5
"""So often a resolution worked out beforehand may come too late; then it is worked out in the write, whatever it costs."""


class Stale(Exception):
    """The room has moved on between planning and writing: plan again."""


class MembersKnown(Exception):
    """A state that was taken from a partial room is no good any more: the room is whole now. Work it out again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write for one event, and the room as it was when that was worked out.

    `heads` are the forward extremities afterwards, `current` the state that follows from them: None for the state after the event.
    """

    room: Room
    before: State
    heads: tuple[str, ...]
    current: State | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Task:
    """One event to place.

    `states` are those after prev events that are not held; `before` overrides what the graph says. `deliver`: the event is
    ours to hand on; `backfilled`: it goes to the old end of the timeline and is no news to anybody. `lacks_members`: the states
    given were taken from the room while it was partial. `not_recommended`: why check 7 failed (`policy.PolicyGate.judge`).
    `accepted(tx, number)` runs in the transaction that makes the event part of the room. `depth`: see `events.effective_depth`.
    """

    room: int
    event: Event
    states: Sequence[State] = ()
    before: State | None = None
    deliver: bool = False
    backfilled: bool = False
    lacks_members: bool = False
    not_recommended: str | None = None
    accepted: Callable[[Transaction, int], None] | None = None
    depth: int | None = None


class Placer:
    """Judges and writes events that were not made after the room's present heads."""

    def __init__(self, db: Database, persister: Persister) -> None:
        self._db = db
        self._persister = persister
        self._turns: dict[int, trio.Lock] = {}
        self._seldom = Seldom(log)

    async def place(self, task: Task) -> Verdict:
        """Checks 4 to 6 and the write. Every event that its task refers to is held by now. Raises `MembersKnown`, StoreError."""
        try:
            return await self._db.write(lambda tx: self._at_once(tx, task))
        except NeedsResolution:
            return await self._place_resolved(task)

    async def place_all(self, tasks: Sequence[Task]) -> list[Verdict]:
        """`place` for events of one room, in this order, in as few writes as can be: mostly one; the verdicts in the same order.

        What a task refers to is held by now or among the tasks before it. An event that cannot be placed (a fault of ours,
        or what it refers to could not be) is Dropped, and the others are placed all the same. Raises StoreError, and then
        nothing of the failed write is kept.
        """
        verdicts: list[Verdict] = []
        while len(verdicts) < len(tasks):
            rest = tasks[len(verdicts) :]
            verdicts += await self._db.write(lambda tx, rest=rest: self._run_at_once(tx, rest))  # type: ignore[misc]
            if len(verdicts) < len(tasks):
                verdicts.append(await self.place(tasks[len(verdicts)]))
        return verdicts

    def _run_at_once(self, tx: Transaction, tasks: Sequence[Task]) -> list[Verdict]:
        """Places events up to the first whose state takes long to resolve."""
        verdicts: list[Verdict] = []
        for task in tasks:
            try:
                with tx.part():
                    verdicts.append(self._at_once(tx, task))
            except (NeedsResolution, MembersKnown):
                break
            except DatabaseError:
                raise
            except Exception:
                log.exception("placing %s in %s failed", task.event.event_id, task.event.room_id)
                verdicts.append(Dropped("it could not be placed"))
        return verdicts

    def _at_once(self, tx: Transaction, task: Task, most: int | None = LOOKUPS_AT_ONCE) -> Verdict:
        if not self._is_complete(tx, task):
            return Dropped("an event before it has no place here")
        self._number(tx, task)
        return self._carry_out(tx, task, self._plan(tx, task, most))

    def _is_complete(self, tx: Transaction, task: Task) -> bool:
        """Whether the state before it can be known."""
        if task.before is not None:
            return True
        placed = events.afters(tx, task.room, task.event.prev_events)
        return len(set(task.event.prev_events)) - len(placed) <= len(task.states)

    def _number(self, tx: Transaction, task: Task) -> None:
        """Stores a state event where branches meet without a place at first: resolution wants its number."""
        event = task.event
        if event.state_key is not None and not events.held(tx, [event.event_id]):
            room = rooms.by_number(tx, task.room)
            if not set(room.heads) <= set(event.prev_events):
                self._persister.outlier(tx, room.number, event, standing_of(judge_by_auth_events(tx, event)))

    async def _place_resolved(self, task: Task) -> Verdict:
        """As `place`, with the resolution worked out on a reader, where it keeps nobody waiting."""
        if not await self._db.read(lambda tx: self._is_complete(tx, task)):
            return Dropped("an event before it has no place here")
        turn = self._turns.setdefault(task.room, trio.Lock())
        async with turn:
            await self._db.write(lambda tx: self._number(tx, task))
            for _ in range(READ_RETRIES):
                plan = await self._db.read(lambda tx: self._plan(tx, task, None))
                try:
                    return await self._db.write(lambda tx, plan=plan: self._carry_out(tx, task, plan))  # type: ignore[misc]
                except Stale:
                    continue
            return await self._db.write(lambda tx: self._at_once(tx, task, None))

    async def store_outliers(self, room: int, found: Mapping[str, Event]) -> None:
        """Judges events by the events that they cite (check 4), those first, and stores them without a place."""
        ordered = in_order(found, cited)

        def run(tx: Transaction) -> None:
            for event in ordered:
                if not events.held(tx, [event.event_id]):
                    self._persister.outlier(tx, room, event, standing_of(judge_by_auth_events(tx, event)))

        if ordered:
            await self._db.write(run)

    def _plan(self, tx: Transaction, task: Task, most: int | None) -> Plan:
        """`most`: see `state_at.resolved`."""
        room = rooms.by_number(tx, task.room)
        assert room.snapshot is not None
        before = task.before
        if before is None:
            before = self._before(tx, room, task, most)
        verdict = self._judge(tx, room, task, before)
        heads = self._heads(tx, room, task, verdict)
        return Plan(room, before, heads, self._current(tx, room, task.event, before, heads, most), verdict)

    def _before(self, tx: Transaction, room: Room, task: Task, most: int | None) -> State:
        """The state before the event: those after its prev events, resolved."""
        cited = set(task.event.prev_events)
        assert room.snapshot is not None
        if cited == set(room.heads):
            return room.snapshot  # which is just that
        after = events.afters(tx, room.number, cited)
        given = task.states if len(after) < len(cited) else ()  # else what was missing has come meanwhile
        return state_at.resolved(tx, room.rules, [*sorted(set(after.values())), *given], most=most)

    def _judge(self, tx: Transaction, room: Room, task: Task, before: State) -> Verdict:
        event = task.event
        # Check 4: the event's own auth events
        verdict = judge_by_auth_events(tx, event)
        if not isinstance(verdict, Accepted):
            return verdict
        # Check 5: the state before it
        wanted = [CREATE, *auth_types_of(event)]
        verdict = auth.check(event, auth_state(tx, event, before, wanted, is_partial=room.is_partial))
        if not isinstance(verdict, Accepted) or task.backfilled:
            return verdict
        # Check 6: the current state. A partial one says too little.
        assert room.snapshot is not None
        if before != room.snapshot and not room.is_partial:
            now = auth.check(event, state_at.events_at(tx, room.snapshot, wanted))
            if isinstance(now, Rejected):
                return SoftFailed(now.why)
        # Check 7: the room's policy server, which has been asked before
        return ACCEPTED if task.not_recommended is None else SoftFailed(task.not_recommended)

    def _heads(self, tx: Transaction, room: Room, task: Task, verdict: Verdict) -> tuple[str, ...]:
        """The forward extremities with the event in the room: the accepted events that no accepted event comes after.

        An event comes after what it cites, also through events that soft-failed or were rejected, which are no heads
        themselves. If something accepted that is held comes after this very event (it fills a gap), so it does after what
        this one cites, and this one is no head.
        """
        event = task.event
        is_passed = events.is_named(tx, room.number, event.event_id)
        is_accepted = isinstance(verdict, Accepted)
        if not is_passed and (task.backfilled or not is_accepted):
            return room.heads
        passed = events.behind(tx, event.prev_events).accepted
        kept = tuple(head for head in room.heads if head not in passed)
        if is_accepted and not is_passed:
            return (*kept, event.event_id)
        return kept or room.heads

    def _current(
        self, tx: Transaction, room: Room, event: Event, before: State, heads: Sequence[str], most: int | None
    ) -> State | None:
        """The state that the heads resolve to; None: the state after the event."""
        if set(heads) == set(room.heads):
            return room.snapshot
        is_head = event.event_id in heads
        others = set(events.afters(tx, room.number, [head for head in heads if head != event.event_id]).values())
        if is_head and not others:
            return None
        if is_head and event.state_key is None:
            if others == {before}:
                return None
            if {*others, before} == set(events.afters(tx, room.number, room.heads).values()):
                return room.snapshot  # the same states have been resolved already
        ours: list[State] = []
        if is_head and event.state_key is None:
            ours = [before]
        elif is_head and event.state_key is not None:
            number = events.numbers_by_id(tx, [event.event_id])[event.event_id]
            ours = [state_at.with_event(before, (event.type, event.state_key), number)]
        return state_at.resolved(tx, room.rules, [*sorted(others), *ours], most=most)

    def _carry_out(self, tx: Transaction, task: Task, plan: Plan) -> Verdict:
        room, event = rooms.by_number(tx, task.room), task.event
        held = events.get(tx, event.event_id)
        if held is not None and not held.is_outlier:
            return verdict_of(held)  # came by another way meanwhile
        if task.lacks_members and not room.is_partial:
            raise MembersKnown
        if (room.heads, room.snapshot) != (plan.room.heads, plan.room.snapshot):
            raise Stale
        placement = Placement(
            before=state_at.written(tx, room.number, plan.before),
            heads=plan.heads,
            current=None if plan.current is None else state_at.written(tx, room.number, plan.current),
            standing=standing_of(plan.verdict),
            backfilled=task.backfilled,
            depth=task.depth,
        )
        written = self._persister.persist(tx, room, event, placement, deliver=task.deliver)
        if task.accepted is not None and isinstance(plan.verdict, Accepted):
            task.accepted(tx, written.number)
        if not isinstance(plan.verdict, Accepted):
            verdict = plan.verdict
            tx.on_commit(lambda: self._seldom.say(domain_of(event.sender), "%s in %s: %s", event.event_id, event.room_id, verdict))
        return plan.verdict


def judge_by_auth_events(tx: Transaction, event: Event, known: Mapping[str, StoredEvent] | None = None) -> Verdict:
    """Check 4: is the event allowed by the events that it cites? Those that are not held make it rejected.

    `known` are held events that need not be read again.
    """
    known = known or {}
    wanted = cited(event)
    found = {event_id: known[event_id] for event_id in wanted if event_id in known}
    found |= events.many(tx, [event_id for event_id in wanted if event_id not in found])
    if any(event_id not in found for event_id in event.auth_events):
        return Rejected("it cites an event that could not be had")
    create = next((stored.event for stored in found.values() if stored.event.type == "m.room.create"), None)
    return auth.check_by_auth_events(
        event,
        [events.for_auth(tx, found[event_id]) for event_id in event.auth_events],
        rejected={event_id for event_id, stored in found.items() if stored.standing is Standing.REJECTED},
        create=create,
    )


def auth_state(tx: Transaction, event: Event, at: State, wanted: Sequence[StateKey], *, is_partial: bool) -> dict[StateKey, Event]:
    """What an event is judged by of a state. Where a partial state lacks a member, the one that the event cites stands in (MSC3706)."""
    found = state_at.events_at(tx, at, wanted)
    if is_partial:
        for stored in events.many(tx, event.auth_events).values():
            key = (stored.event.type, stored.event.state_key or "")
            if key in wanted and key[0] == "m.room.member" and stored.standing is Standing.ACCEPTED:
                found.setdefault(key, stored.event)
    return found


def cited(event: Event) -> list[str]:
    """What the event is judged by: its auth events, and in v12 the create event, which the room id cites."""
    if event.rules.room_id_is_create_hash and event.type != CREATE[0]:
        return [*event.auth_events, "$" + event.room_id[1:]]
    return list(event.auth_events)


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
