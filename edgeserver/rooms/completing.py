"""Making partial rooms whole, in the background (faster joins).

A room that was joined without its members is usable at once. Meanwhile the state before the join is fetched whole; then every event that
was placed since is judged again by it, in the order of the graph; at last the room's current state, its members and its servers follow.
Each step is written as it is done: after a restart the work goes on, and what has been fetched is not fetched again.

On a line that is paid by volume (`at_once` False) this waits until somebody asks for the members.

Members whose servers' keys cannot be had, since nobody reaches those servers, are left out after a few tries; but they are not forgotten:
the room stays partial, for judging others' events, until the keys can be had or a long time has passed.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from edgeserver import wakeups as topics
from edgeserver.matrix import auth, errors
from edgeserver.matrix.auth_events import CREATE, auth_types_of
from edgeserver.matrix.verdicts import Accepted, Rejected
from edgeserver.rooms import state_at
from edgeserver.rooms.event_source import SourceFailed
from edgeserver.rooms.placing import judge_by_auth_events
from edgeserver.rooms.remote_state import ONE_BY_ONE
from edgeserver.store import events, partial_rooms, relations, rooms, state
from edgeserver.store.database import StoreError
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.matrix.verdicts import Verdict
    from edgeserver.rooms.persist import Persister
    from edgeserver.rooms.remote_state import GivenState, RemoteState
    from edgeserver.rooms.state_at import State
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.partial_rooms import PartialRoom
    from edgeserver.store.rooms import Room
    from edgeserver.store.state import StateKey
    from edgeserver.wakeups import Wakeups

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3600.0
"""Seconds between tries while no server gives the state."""
WAIT: Final = 240.0
"""Seconds for which who asks for members is kept waiting."""
KEY_TRIES: Final = 4
"""After so many tries (some minutes) a room is shown without members whose servers' keys cannot be had."""
MOST_TRIES: Final = 60
"""After so many (two days and more), or if they are very many, it counts as whole without them."""
AT_ONCE: Final = 100
SERVERS_ASKED: Final = 8


@dataclass(frozen=True, slots=True)
class _Settled:
    """What an event's place is found to be: the state before it, and whether that allows it."""

    before: State
    verdict: Verdict


class Completer:
    """Runs as one task (`run`); the other methods may be called at any time from the trio thread."""

    def __init__(
        self, db: Database, persister: Persister, remote: RemoteState, wakeups: Wakeups, server_name: str, *, at_once: bool
    ) -> None:
        self._db = db
        self._persister = persister
        self._remote = remote
        self._wakeups = wakeups
        self._server_name = server_name
        self._at_once = at_once
        self._wanted: set[str] = set()
        self._busy: set[int] = set()
        self._finished: dict[str, trio.Event] = {}
        self._hurry = trio.Event()
        self._one = trio.CapacityLimiter(1)  # a room's state at a time: memory is bounded by the largest

    def route_returned(self, server_name: str | None) -> None:
        """A way to that server (None: to servers at large) is back: pauses end."""
        self._hurry.set()
        self._hurry = trio.Event()

    async def until_whole(self, room_id: str) -> None:
        """Returns once the room's members are all known, or nobody of ours is in it, for whom they would be fetched.

        Raises 504 M_UNKNOWN if that takes too long.
        """
        finished = self._finished.setdefault(room_id, trio.Event())

        def is_loading(tx: Transaction) -> bool:
            room = rooms.get(tx, room_id)
            return room is not None and room.is_loading and bool(rooms.local_members(tx, room.number))

        if not await self._db.read(is_loading):
            if not finished.is_set() and self._finished.get(room_id) is finished:
                del self._finished[room_id]
                finished.set()
            return
        self._wanted.add(room_id)
        self._wakeups.notify([topics.PARTIAL_ROOMS])
        with trio.move_on_after(WAIT):
            await finished.wait()
            return
        raise errors.MatrixError(504, "M_UNKNOWN", "The room's members are still being fetched. Please try again later.")

    async def run(self) -> None:
        """Completes rooms until cancelled."""
        with self._wakeups.listening(topics.PARTIAL_ROOMS) as listener:
            async with trio.open_nursery() as nursery:
                while True:
                    for one in await self._db.read(partial_rooms.every):
                        if one.room not in self._busy and (self._at_once or one.room_id in self._wanted):
                            self._busy.add(one.room)
                            nursery.start_soon(self._complete_at_last, one)
                    await listener.wait()

    async def _complete_at_last(self, one: PartialRoom) -> None:
        """Tries until the room is whole, or has nobody of ours in it any more."""
        pause = FIRST_PAUSE
        try:
            for number in itertools.count(1):
                if not await self._is_lacking(one.room):
                    break
                hurry = self._hurry
                async with self._one:
                    if await self._complete_once(one, number):
                        break
                with trio.move_on_after(pause):
                    await hurry.wait()
                pause = min(2 * pause, LONGEST_PAUSE)
            self._release(one.room_id)
        finally:
            self._busy.discard(one.room)

    def _release(self, room_id: str) -> None:
        """Nobody waits for the room's members any longer."""
        self._wanted.discard(room_id)
        finished = self._finished.pop(room_id, None)
        if finished is not None:
            finished.set()

    async def _is_lacking(self, room: int) -> bool:
        return await self._db.read(lambda tx: rooms.by_number(tx, room).is_partial and bool(rooms.local_members(tx, room)))

    async def _complete_once(self, one: PartialRoom, number: int) -> bool:
        try:
            return await self._complete(one, number)
        except StoreError as error:
            log.error("%s could not be made whole: %s", one.room_id, error)
        except Exception:  # one room's trouble is not the others'
            log.exception("making %s whole failed", one.room_id)
        return False

    # One room

    async def _complete(self, one: PartialRoom, number: int) -> bool:
        """The try with this number; True if no other is needed."""
        room = await self._db.read(lambda tx: rooms.by_number(tx, one.room))
        join = await self._db.read(lambda tx: events.get(tx, one.join_event))
        assert join is not None
        given = await self._state_at_join(one, room)
        if given is None:
            return False
        server, known = given
        is_hopeless = number >= MOST_TRIES or (number >= KEY_TRIES and known.unready > ONE_BY_ONE)
        unready = 0 if is_hopeless else known.unready
        if unready and (number < KEY_TRIES or not room.is_loading):
            return False  # the keys may be had at the next try; and a room that is shown is not gone through again for nothing
        if not await self._db.write(lambda tx: self._take_state(tx, room, join, known.entries)):
            log.warning("%s gave a state of %s that does not allow our join", server, one.room_id)
            return False
        await self._learn_members(room, known.entries)
        while await self._finish(room, nearly=unready > 0) is False:
            for stored in await self._db.read(lambda tx: partial_rooms.marked(tx, room.number, AT_ONCE)):
                await self._settle(server, room, stored)
        self._release(one.room_id)
        if unready:
            log.info("%s: all members are known but %d whose servers' keys cannot be had now", one.room_id, unready)
            return not self._at_once
        log.info("%s is whole: all its members are known", one.room_id)
        return True

    async def _state_at_join(self, one: PartialRoom, room: Room) -> tuple[str, GivenState] | None:
        """The state before the join and the server that gave it; None if none did."""
        candidates = dict.fromkeys([one.via, *one.servers])
        for server in [name for name in candidates if name != self._server_name][:SERVERS_ASKED]:
            try:
                given = await self._remote.before(server, room, one.join_event)
            except SourceFailed as error:
                log.info("%s did not give the state of %s: %s", server, one.room_id, error)
                continue
            return server, given
        return None

    def _take_state(self, tx: Transaction, room: Room, join: StoredEvent, entries: Mapping[StateKey, int]) -> bool:
        wanted = [key for key in (CREATE, *auth_types_of(join.event)) if key in entries]
        loaded = events.many_by_number(tx, [entries[key] for key in wanted])
        if not isinstance(auth.check(join.event, {key: loaded[entries[key]].event for key in wanted}), Accepted):
            return False
        _place_again(tx, join, _Settled(state.root(tx, room.number, entries), Accepted()))
        return True

    async def _learn_members(self, room: Room, entries: Mapping[StateKey, int]) -> None:
        """Fills in the memberships that are not known from later events, some at a time, so that nobody waits long for the writer."""

        def unknown(tx: Transaction) -> dict[str, int]:
            now = rooms.by_number(tx, room.number)
            known = {} if now.snapshot is None else state.of_type(tx, now.snapshot, "m.room.member")
            return {key[1]: number for key, number in entries.items() if key[0] == "m.room.member" and key not in known}

        members = await self._db.read(unknown)
        users = list(members)
        for start in range(0, len(users), AT_ONCE):
            part = {user: members[user] for user in users[start : start + AT_ONCE]}
            await self._db.write(lambda tx, part=part: self._learn(tx, room.number, part))  # type: ignore[misc]

    def _learn(self, tx: Transaction, room: int, members: Mapping[str, int]) -> None:
        fresh = {user: number for user, number in members.items() if rooms.membership(tx, user, room) is None}
        if fresh:
            self._persister.follow_members(tx, room, fresh, tx.stream())

    # One event

    async def _settle(self, server: str, room: Room, stored: StoredEvent) -> None:
        """Judges an event again, those before it first."""
        pending = [stored]
        while pending:
            top = pending[-1]
            found = await self._db.read(lambda tx, top=top: _look(tx, room, top))  # type: ignore[misc]
            if isinstance(found, list):
                entered = {one.number for one in pending}
                fresh = [one for one in found if one.number not in entered]
                if fresh:
                    pending += fresh
                    continue
            settled = found if isinstance(found, _Settled) else await self._ask(server, room, top)
            await self._db.write(lambda tx, top=top, settled=settled: _place_again(tx, top, settled))  # type: ignore[misc]
            pending.pop()

    async def _ask(self, server: str, room: Room, stored: StoredEvent) -> _Settled:
        """What came before the event is not held: its state is asked for, as at any gap."""
        try:
            entries = (await self._remote.before(server, room, stored.event.event_id)).entries
        except SourceFailed as error:
            log.info("%s did not give the state before %s: %s", server, stored.event.event_id, error)
            entries = {}

        def express(tx: Transaction) -> _Settled:
            base = _whole_base(tx, room)
            return _judged(tx, stored, state_at.nearest_of(tx, entries, [base]) if entries else base)

        return await self._db.read(express)

    # The end

    async def _finish(self, room: Room, *, nearly: bool) -> bool:
        """Sets the room's current state from its heads; False if events are still to be judged again.

        `nearly`: some members are lacking still, whose servers' keys cannot be had.
        """

        def plan(tx: Transaction) -> tuple[Room, tuple[str, ...], State] | None:
            now = rooms.by_number(tx, room.number)
            if partial_rooms.marked(tx, room.number, 1):
                return None
            heads = _accepted_heads(tx, now)
            after = [one.after for one in events.many(tx, heads).values() if one.after is not None]
            return now, heads, state_at.resolved(tx, now.rules, after)

        planned = await self._db.read(plan)
        if planned is None:
            return False
        return await self._db.write(lambda tx: self._conclude(tx, *planned, nearly=nearly))

    def _conclude(self, tx: Transaction, planned: Room, heads: tuple[str, ...], current: State, *, nearly: bool) -> bool:
        now = rooms.by_number(tx, planned.number)
        if (now.heads, now.snapshot) != (planned.heads, planned.snapshot) or partial_rooms.marked(tx, now.number, 1):
            return False
        snapshot = state_at.written(tx, now.number, current)
        stream = tx.stream()
        rooms.move(tx, now.number, heads, snapshot)
        self._persister.follow_state(tx, now.number, now.snapshot, snapshot, stream)
        (partial_rooms.nearly if nearly else partial_rooms.end)(tx, now.number, stream)
        concerned = rooms.local_members(tx, now.number)
        tx.on_commit(lambda: self._wakeups.notify(concerned))
        return True


def _look(tx: Transaction, room: Room, stored: StoredEvent) -> _Settled | list[StoredEvent] | None:
    """What the events before this one say of it; those of them that are to be settled first; or None if some are not held."""
    prev_events = stored.event.prev_events
    if not prev_events and stored.before is not None:
        return _judged(tx, stored, stored.before)  # the first event of all: there is nothing before it to be lacking
    waiting = partial_rooms.are_marked(tx, prev_events)
    if waiting:
        return waiting
    after = [one.after for one in events.many(tx, prev_events).values() if one.after is not None]
    if len(after) < len(set(prev_events)):
        return None
    return _judged(tx, stored, state_at.resolved(tx, room.rules, after))


def _judged(tx: Transaction, stored: StoredEvent, before: State) -> _Settled:
    """Checks 4 and 5 on receipt of a PDU. What was soft-failed stays so; nothing is soft-failed afterwards, for it has been shown."""
    event = stored.event
    verdict = judge_by_auth_events(tx, event)
    if isinstance(verdict, Accepted):
        verdict = auth.check(event, state_at.events_at(tx, before, [CREATE, *auth_types_of(event)]))
    return _Settled(before, verdict)


def _place_again(tx: Transaction, stored: StoredEvent, settled: _Settled) -> None:
    event, stream = stored.event, stored.stream
    before = state_at.written(tx, stored.room, settled.before)
    if isinstance(settled.verdict, Rejected):
        standing, stream = Standing.REJECTED, None
        log.info("%s in %s is not allowed after all: %s", event.event_id, event.room_id, settled.verdict.why)
    elif stored.standing is Standing.SOFT_FAILED:
        standing = Standing.SOFT_FAILED
    else:
        standing, stream = Standing.ACCEPTED, tx.stream() if stream is None else stream
    events.place(tx, stored.number, stream=stream, before=before, after=before, standing=standing, depth=stored.depth)
    relations.follow(tx, stored.room, stored.number, event, stored.depth, shown=stream is not None)
    if event.state_key is not None and standing is not Standing.REJECTED:
        events.set_after(tx, stored.number, state.derive(tx, stored.room, before, {(event.type, event.state_key): stored.number}))
    if stored.standing is Standing.REJECTED and standing is Standing.ACCEPTED:
        _make_head(tx, stored)
    partial_rooms.settle(tx, stored.number)


def _make_head(tx: Transaction, stored: StoredEvent) -> None:
    """An event that was wrongly rejected for want of members stands for what came after it was left out: later events come after it."""
    room = rooms.by_number(tx, stored.room)
    assert room.snapshot is not None
    passed = events.behind(tx, stored.event.prev_events).accepted
    heads = [head for head in room.heads if head not in passed and head != stored.event.event_id]
    rooms.move(tx, room.number, [*heads, stored.event.event_id], room.snapshot)


def _whole_base(tx: Transaction, room: Room) -> int:
    """A whole state to express others by: that after the join."""
    one = partial_rooms.of(tx, room.number)
    join = None if one is None else events.get(tx, one.join_event)
    assert join is not None
    assert join.after is not None
    return join.after


def _accepted_heads(tx: Transaction, room: Room) -> tuple[str, ...]:
    """The heads, with those that proved to be rejected replaced by what came before them."""
    heads: dict[str, None] = {}
    pending = list(room.heads)
    seen = set(pending)
    while pending:
        stored = events.get(tx, pending.pop(0))
        if stored is not None and stored.standing is Standing.ACCEPTED and not stored.is_outlier:
            heads[stored.event.event_id] = None
        elif stored is not None:
            fresh = [one for one in stored.event.prev_events if one not in seen]
            seen.update(fresh)
            pending += fresh
    return tuple(heads)
