"""Receiving: the checks on receipt of a PDU, in the spec's order, then the one write path.

Server-server API, "Checks performed on receipt of a PDU": 1 format, 2 signatures, 3 hash (a mismatch: use the redacted form), 4 auth
against the event's auth events, 5 against the state before it, 6 against the current state (soft failure). Before 4, what the event
refers to is completed (`missing.py`). Events that came together are verified in one batch, and runs of them that refer to nothing
missing are placed in one write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeserver.matrix.pdu_checks import open_pdu
from edgeserver.matrix.policy_server import POLICY
from edgeserver.matrix.verdicts import Dropped, Unready
from edgeserver.rooms.event_source import Allowance, SourceFailed
from edgeserver.rooms.graph import in_order
from edgeserver.rooms.missing import Missing
from edgeserver.rooms.placing import MembersKnown, Task, verdict_of
from edgeserver.rooms.verifying import WITNESSES, checked
from edgeserver.store import events, rooms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.matrix.verdicts import Verdict
    from edgeserver.rooms.event_source import EventSource
    from edgeserver.rooms.placing import Placer
    from edgeserver.rooms.policy import PolicyGate
    from edgeserver.rooms.remote_state import RemoteState
    from edgeserver.rooms.verifying import Verifier
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

@dataclass(slots=True)
class _Work:
    """Events of one room that one server gave us."""

    origin: str
    room: Room
    placed: set[str]
    """Held in the timeline, as far as looked at."""
    held: set[str]
    """Held at all, as far as looked at."""
    verdicts: dict[str, Verdict]
    allowance: Allowance = field(default_factory=Allowance)

    def is_complete(self, event: Event) -> bool:
        """Whether all is known to be held that the event refers to."""
        return self.placed.issuperset(event.prev_events) and self.held.issuperset(event.auth_events)

    def look_up(self, tx: Transaction, found: Iterable[Event]) -> None:
        """Looks at what events refer to."""
        known = events.whereabouts(tx, {one for event in found for one in (*event.prev_events, *event.auth_events)})
        self.held.update(known)
        self.placed.update(event_id for event_id, one in known.items() if one.placed and one.room == self.room.number)

    def note(self, event: Event, verdict: Verdict) -> None:
        self.verdicts[event.event_id] = verdict
        if not isinstance(verdict, Dropped):
            self.placed.add(event.event_id)
            self.held.add(event.event_id)


class Receiver:
    """Takes in the events of other servers. `missing` completes what they refer to."""

    def __init__(
        self,
        db: Database,
        placer: Placer,
        source: EventSource,
        verifier: Verifier,
        remote_state: RemoteState,
        policy: PolicyGate | None = None,
    ) -> None:
        """`policy` None: rooms' policy servers are not heeded."""
        self._db = db
        self._placer = placer
        self._verifier = verifier
        self._policy = policy
        self.missing = Missing(db, placer, source, self.opened, remote_state)

    async def receive(self, origin: str, pdu: dict[str, Any]) -> Verdict:
        """One PDU that `origin` sent us, through all checks. Anything but Dropped is stored."""
        room_id = pdu.get("room_id") if isinstance(pdu, dict) else None
        room = None if not isinstance(room_id, str) else await self._db.read(lambda tx: rooms.get(tx, room_id))
        if room is None or room.snapshot is None:
            return Dropped("we are not in that room")
        event = open_pdu(pdu, room.rules)
        if isinstance(event, Dropped):
            return event
        return (await self.receive_all(origin, room, [event]))[event.event_id]

    async def receive_all(self, origin: str, room: Room, found: Sequence[Event]) -> dict[str, Verdict]:
        """Events of one room that `origin` sent us, past check 1: the verdict on each, by id.

        They are taken in the order given, but each after those of them that it names before it.
        """
        given = {event.event_id: event for event in found}
        work, witnesses = await self._db.read(lambda tx: _look_up(tx, origin, room, given))
        fresh = [event for event_id, event in given.items() if event_id not in work.verdicts]
        checked = await self.checked(fresh, told_by=origin, witnesses=witnesses) if fresh else []
        verified: dict[str, Event] = {}
        for event, result in zip(fresh, checked, strict=True):
            if isinstance(result, Dropped):
                work.verdicts[event.event_id] = result
            else:
                verified[event.event_id] = result
        await self._take_in_order(work, in_order(verified))
        return {event_id: work.verdicts[event_id] for event_id in given}

    async def checked(
        self, found: Sequence[Event], *, told_by: str | None = None, witnesses: Sequence[str] = ()
    ) -> list[Event | Dropped]:
        """Checks 2 and 3: see `verifying.checked`."""
        return await checked(self._verifier, found, told_by=told_by, witnesses=witnesses)

    async def judged_by_policy(self, room: int, found: Sequence[Event]) -> list[tuple[Event, str | None]]:
        """Check 7: see `PolicyGate.judge`."""
        return [(event, None) for event in found] if self._policy is None else await self._policy.judge(room, found)

    async def opened(self, pdus: Iterable[Any], room_id: str, rules: RoomVersion, told_by: str | None = None) -> dict[str, Event]:
        """Checks 1 to 3 for PDUs that we asked for: those of this room that pass, by id."""
        found = [event for pdu in pdus if not isinstance(event := open_pdu(pdu, rules), Dropped)]
        ours = list({event.event_id: event for event in found if event.room_id == room_id}.values())
        checked = await self.checked(ours, told_by=told_by)
        return {event.event_id: event for event in checked if not isinstance(event, Dropped)}

    async def _take_in_order(self, work: _Work, ordered: Iterable[Event], *, fill: bool = True) -> None:
        """Runs of events that refer to nothing missing go in one write; what is missing for one is completed before it.

        `fill`: the gap before an event is filled, too.
        """
        run: list[Event] = []
        for event in ordered:
            if work.is_complete(event):
                run.append(event)
                work.placed.add(event.event_id)
                work.held.add(event.event_id)
                if event.type != POLICY[0]:  # what comes after that is judged by it
                    continue
            await self._place_run(work, run)
            run = []
            if event.event_id in work.verdicts:
                continue
            if fill:
                before = await self.missing.gap(work.origin, work.room, event, work.allowance)
                await self._db.read(lambda tx, before=before: work.look_up(tx, before))  # type: ignore[misc]
                await self._take_in_order(work, before, fill=False)
            await self._complete_and_place(work, event)
        await self._place_run(work, run)

    async def _place_run(self, work: _Work, run: Sequence[Event]) -> None:
        if not run:
            return
        judged = await self.judged_by_policy(work.room.number, run)
        verdicts = await self._placer.place_all([Task(work.room.number, event, not_recommended=why) for event, why in judged])
        for event, verdict in zip(run, verdicts, strict=True):
            work.note(event, verdict)

    async def _complete_and_place(self, work: _Work, event: Event) -> None:
        """Completes its auth events and, where prev events stay missing, the state there; then places the event."""
        origin, room = work.origin, work.room
        missing = await self.missing.unplaced(room.number, event.prev_events)
        try:
            await self.missing.complete_auth(origin, room.room_id, room.number, room.rules, [event], work.allowance)
            states = [await self.missing.state_after(origin, room, prev, work.allowance) for prev in missing]
        except SourceFailed as error:
            work.note(event, Unready(f"what it refers to could not be had from {origin}: {error}"))
            return
        ((event, why),) = await self.judged_by_policy(room.number, [event])
        try:
            lacking = room.is_partial and bool(states)
            verdict = await self._placer.place(Task(room.number, event, states, lacks_members=lacking, not_recommended=why))
        except MembersKnown:
            work.room = await self._db.read(lambda tx: rooms.by_number(tx, room.number))
            await self._complete_and_place(work, event)
            return
        work.note(event, verdict)


def _look_up(tx: Transaction, origin: str, room: Room, given: dict[str, Event]) -> tuple[_Work, list[str]]:
    """What is held of the events and of what they refer to; and servers that may know their authors' keys."""
    cited = {one for event in given.values() for one in (*event.prev_events, *event.auth_events)}
    known = events.whereabouts(tx, [*given, *cited])
    placed = {event_id for event_id, one in known.items() if one.placed and one.room == room.number}
    work = _Work(origin, room, placed, set(known), {})
    for event_id, event in given.items():
        held = known.get(event_id)
        if event.room_id != room.room_id:
            work.verdicts[event_id] = Dropped("it is of another room")
        elif held is not None and held.placed:
            stored = events.get(tx, event_id)
            assert stored is not None
            work.verdicts[event_id] = verdict_of(stored)
        elif not event.prev_events:
            work.verdicts[event_id] = Dropped("it names no event before it")
        elif any(one in known and known[one].room != room.number for one in event.prev_events):
            # The state there would be that of the other room, where other people have the power.
            work.verdicts[event_id] = Dropped("it names an event of another room before it")
    return work, list(dict.fromkeys([origin, *rooms.servers(tx, room.number)]))[:WITNESSES]
