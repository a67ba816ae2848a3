"""Reading a room's past: pages of the timeline, the state at a point, what a user may see of it; and filling gaps from other servers.

Client-server API, "Syncing" (pagination), "Room History Visibility". Pages run in topological order
(`events.effective_depth`, then the time that events state).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import errors, visibility
from edgeserver.rooms import state_at
from edgeserver.rooms.erasure import as_seen_by
from edgeserver.rooms.event_source import Allowance, SourceFailed
from edgeserver.rooms.graph import in_order, least_depths
from edgeserver.rooms.placing import MembersKnown, Task
from edgeserver.rooms.tokens import parse
from edgeserver.store import events, redactions, rooms, state
from edgeserver.store.events import Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.rooms.event_source import EventSource
    from edgeserver.rooms.placing import Placer
    from edgeserver.rooms.receive import Receiver
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Membership, Room

log = logging.getLogger(__name__)

MAX_PAGE = 1000
FAR = 2**62
MAX_TURNS = 200
"""So many membership events of a user who is not in the room are followed back to the one by which they left."""
BACKFILL_SERVERS = 5
MAX_BACKFILL = 100
BACKFILL_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `start` and `end` are places to go on from; `end` is None at the end of what there is."""

    chunk: list[StoredEvent]
    start: Place
    end: Place | None


@dataclass(frozen=True, slots=True)
class View:
    """What a user may read of a room: its state as of `snapshot`, its timeline up to stream position `upto`."""

    room: Room
    membership: Membership | None
    snapshot: int
    upto: int


def view(tx: Transaction, room_id: str, user_id: str) -> View:
    """The room as this user may read it: up to now if joined, up to when they left, or all of a world-readable room.

    A room that this server is no longer in is nobody's to read but of those who were in it, and have not forgotten it.
    Raises M_FORBIDDEN.
    """
    room = rooms.get(tx, room_id)
    membership = None if room is None else rooms.membership(tx, user_id, room.number)
    if room is not None and room.snapshot is not None:
        if membership is not None and membership.membership == "join":
            return View(room, membership, room.snapshot, tx.position)
        if is_world_readable(tx, room.snapshot) and rooms.local_members(tx, room.number):
            return View(room, membership, room.snapshot, tx.position)
        if membership is not None and not membership.forgotten:
            left = departure(tx, membership)
            if left is not None and left.after is not None and left.stream is not None:
                return View(room, membership, left.after, left.stream)
    raise errors.Forbidden(f"You are not in the room {room_id}.")


def is_world_readable(tx: Transaction, snapshot: int) -> bool:
    stored = state.lookup_event(tx, snapshot, "m.room.history_visibility")
    return stored is not None and visibility.visibility_of(stored.event) == "world_readable"


def is_for_anybody(tx: Transaction, stored: StoredEvent) -> bool:
    """Whether everybody may see the event, whatever the room's state is now: it was sent while that was world-readable."""
    if stored.before is None or not rooms.local_members(tx, stored.room) or redactions.withheld(tx, [stored]):
        return False
    found = state.lookup_event(tx, stored.before, *visibility.HISTORY_VISIBILITY)
    setting = visibility.visibility_of(None if found is None else found.event)
    return visibility.visible_to_user(stored.event, "", visibility=setting, membership="leave", joined_later=False)


def visible(tx: Transaction, user_id: str, membership: Membership | None, found: Sequence[StoredEvent]) -> list[StoredEvent]:
    """Those of the events that the user may see, as they may see them: see `erasure`, and `redactions` for what is kept from everybody."""
    kept: list[StoredEvent] = []
    settings: dict[int, tuple[str, str]] = {}
    joined_at = _last_join(tx, membership)
    withheld = redactions.withheld(tx, found)
    for stored in found:
        if stored.before is None or stored.number in withheld:
            continue
        if stored.before not in settings:
            known = state.lookup_events(tx, stored.before, visibility.state_needed(user_id))
            history, member = (known.get(key) for key in visibility.state_needed(user_id))
            settings[stored.before] = (
                visibility.visibility_of(None if history is None else history.event),
                visibility.membership_of(None if member is None else member.event),
            )
        setting, was = settings[stored.before]
        joined_later = joined_at is not None and (stored.stream or 0) <= joined_at
        if visibility.visible_to_user(
            stored.event, user_id, visibility=setting, membership=was, joined_later=joined_later
        ):
            kept.append(stored)
    return as_seen_by(tx, user_id, kept)


def visible_event(tx: Transaction, room_id: str, event_id: str, user_id: str) -> tuple[View, StoredEvent]:
    """The event, if the user may see it. Raises M_NOT_FOUND whether it does not exist or may not be seen."""
    missing = errors.NotFound("There is no such event in this room, or you may not see it.")
    try:
        at = view(tx, room_id, user_id)
    except errors.Forbidden as error:
        raise missing from error
    stored = events.get(tx, event_id)
    if stored is None or stored.room != at.room.number or stored.stream is None:
        raise missing
    seen = visible(tx, user_id, at.membership, [stored]) if stored.stream <= at.upto else []
    if not seen:
        raise missing  # who left and is invited again reads on only when they have joined
    return at, seen[0]


def departure(tx: Transaction, membership: Membership) -> StoredEvent | None:
    """The event that ended the last time that the user, who is not joined now, was: None if they never were.

    Whoever may ban can ban and pardon without end, and this is asked for each room of a list: after `MAX_TURNS` the user counts as one who
    never was in the room.
    """
    stored = events.by_number(tx, membership.event)
    for _ in range(MAX_TURNS):
        if stored is None or stored.before is None:
            return None
        was = state.lookup_event(tx, stored.before, "m.room.member", membership.user_id)
        if was is not None and visibility.membership_of(was.event) == "join":
            return stored
        stored = was
    return None


def _last_join(tx: Transaction, membership: Membership | None) -> int | None:
    """The stream position up to which events count as before a join of the user; None if they never joined."""
    if membership is None:
        return None
    if membership.membership == "join":
        return FAR
    left = departure(tx, membership)
    return None if left is None else left.stream


def place_of(tx: Transaction, room: int, token: str | None, upto: int, *, backwards: bool) -> Place:
    """The place that a token names; without one, the newest or the oldest end."""
    if token is None:
        return Place(FAR, FAR) if backwards else Place(-FAR, -FAR)
    at = parse(token)
    if isinstance(at, Place):
        return at
    stream = events.newest_stream(tx, room, min(at, upto))
    if stream is not None and stream == events.newest_stream(tx, room, upto):
        return Place(FAR, FAR)  # nothing came since: everything is before it, however deep
    found = None if stream is None else events.at_stream(tx, room, stream)
    if found is None:
        return Place(-FAR, -FAR)  # the room is younger than the token: nothing is before it, everything after
    return place(found)


def is_place_of(tx: Transaction, room: int, place: Place, stream: int, upto: int) -> bool:
    """Whether a stream position names a place of a room in which something came after it: what is before the one is before the other."""
    newest = events.newest_stream(tx, room, stream)
    return newest is not None and events.stream_before(tx, room, place, upto) == newest


def stretch(tx: Transaction, room: int, start: Place, stop: Place | None, limit: int, upto: int, *, backwards: bool) -> Page:
    """A page of what is held of a room's timeline up to a stream position, whoever may see it."""
    found = (events.page_backwards if backwards else events.page_forwards)(tx, room, start, limit, upto)
    if stop is not None:
        found = [one for one in found if (place(one) > stop) == backwards]
    if not found:
        return Page([], start, None)
    first = place(found[0]) if start.depth == FAR else start
    return Page(found, first, before(found[-1]) if backwards else place(found[-1]))


class History:
    """Pages of a room's timeline for local users, backfilled from other servers where we have gaps."""

    def __init__(self, db: Database, receiver: Receiver, placer: Placer, source: EventSource, server_name: str) -> None:
        self._db = db
        self._receiver = receiver
        self._placer = placer
        self._source = source
        self._server_name = server_name

    async def page(
        self, user_id: str, room_id: str, token: str | None, to: str | None, limit: int, *, backwards: bool
    ) -> Page:
        """One page of at most `limit` events that the user may see. Raises M_FORBIDDEN, M_INVALID_PARAM."""
        limit = max(1, min(limit, MAX_PAGE))
        for _ in range(BACKFILL_ROUNDS):  # one server may have what is before one gap, another what is before another
            page, gaps = await self._db.read(lambda tx: self._page(tx, user_id, room_id, token, to, limit, backwards))
            if not gaps or not await self.backfill(room_id, gaps, limit):
                return page
        page, _ = await self._db.read(lambda tx: self._page(tx, user_id, room_id, token, to, limit, backwards))
        return page

    def _page(
        self, tx: Transaction, user_id: str, room_id: str, token: str | None, to: str | None, limit: int, backwards: bool
    ) -> tuple[Page, list[str]]:
        at = view(tx, room_id, user_id)
        start = place_of(tx, at.room.number, token, at.upto, backwards=backwards)
        stop = None if to is None else place_of(tx, at.room.number, to, at.upto, backwards=backwards)
        raw = stretch(tx, at.room.number, start, stop, limit, at.upto, backwards=backwards)
        gaps: list[str] = []
        if backwards:
            low = raw.chunk[-1].depth if raw.chunk else start.depth
            gaps = [held for held, _ in events.gaps_from(tx, at.room.number, low, start.depth, limit)]
        return replace(raw, chunk=visible(tx, user_id, at.membership, raw.chunk)), list(dict.fromkeys(gaps))

    async def backfill(self, room_id: str, from_ids: Sequence[str], limit: int, *, servers: Sequence[str] = ()) -> bool:
        """Asks these of the room's servers (or those with most members) for the events and what comes before them; True if anything
        new was stored.
        """
        room, known = await self._db.read(lambda tx: _room_and_servers(tx, room_id))
        for server in [name for name in servers or known if name != self._server_name][:BACKFILL_SERVERS]:
            try:
                pdus = await self._source.backfill(server, room_id, list(from_ids), min(limit, MAX_BACKFILL))
                if await self._take_in(server, room, from_ids, pdus[:MAX_BACKFILL]):
                    return True
            except MembersKnown:
                return await self.backfill(room_id, from_ids, limit, servers=servers)
            except SourceFailed as error:
                log.info("%s did not give history of %s: %s", server, room_id, error)
        return False

    async def _take_in(self, server: str, room: Room, from_ids: Sequence[str], pdus: Sequence[dict[str, Any]]) -> bool:
        """Stores old events, newest first so that each gets a lower stream position than what comes after it."""
        got = await self._receiver.opened(pdus, room.room_id, room.rules, server)
        placed, starts = await self._db.read(lambda tx: (events.held(tx, got), events.many(tx, from_ids)))
        roots = [prev for stored in starts.values() for prev in stored.event.prev_events]
        before = _leading_to(got, [*roots, *(one for one in from_ids if one not in starts)])
        fresh = {event_id: got[event_id] for event_id in before if not placed.get(event_id)}
        allowance = Allowance()
        await self._receiver.missing.complete_auth(server, room.room_id, room.number, room.rules, fresh.values(), allowance)
        befores = await self._states_before(server, room, fresh, allowance)
        ordered = in_order(fresh)
        least = least_depths(ordered)
        for event in reversed(ordered):
            before_it, depth = befores[event.event_id], least[event.event_id]
            lacking = room.is_partial
            await self._placer.place(Task(room.number, event, before=before_it, backfilled=True, lacks_members=lacking, depth=depth))
        return bool(fresh)

    async def _states_before(self, server: str, room: Room, fresh: dict[str, Event], allowance: Allowance) -> dict[str, Any]:
        """The state before each event: asked for at the oldest ones, worked out along the graph for the rest."""
        befores: dict[str, state_at.State] = {}
        after: dict[str, state_at.State] = {}
        for event in in_order(fresh):
            missing = [prev for prev in event.prev_events if prev not in after]
            known = await self._db.read(lambda tx, missing=missing: events.many(tx, missing))  # type: ignore[misc]
            after.update({one: stored.after for one, stored in known.items() if stored.after is not None and stored.room == room.number})
            if all(prev in after for prev in event.prev_events) and event.prev_events:
                states = [after[prev] for prev in event.prev_events]
                before = await self._db.read(
                    lambda tx, states=states: state_at.resolved(tx, room.rules, states)  # type: ignore[misc]
                )
            elif event.type == "m.room.create":
                before = await self._db.write(lambda tx: state.root(tx, room.number, {}))
            else:
                before = await self._receiver.missing.state_before(server, room, event.event_id, allowance)
            befores[event.event_id] = before
            after[event.event_id] = before
            if event.state_key is not None:
                await self._placer.store_outliers(room.number, {event.event_id: event})
                stored = await self._db.read(lambda tx, event=event: events.get(tx, event.event_id))  # type: ignore[misc]
                if stored is not None and stored.standing is not events.Standing.REJECTED:
                    key = (event.type, event.state_key)
                    after[event.event_id] = state_at.with_event(before, key, stored.number)
        return befores


def _leading_to(got: Mapping[str, Event], starts: Sequence[str]) -> list[str]:
    """Those of the events that are among the starts or come before them: what was asked for, and nothing made up beside it."""
    found: dict[str, None] = {}
    wanted = list(starts)
    while wanted:
        event_id = wanted.pop()
        if event_id in got and event_id not in found:
            found[event_id] = None
            wanted += got[event_id].prev_events
    return list(found)


def _room_and_servers(tx: Transaction, room_id: str) -> tuple[Room, list[str]]:
    room = rooms.get(tx, room_id)
    if room is None:
        raise errors.NotFound("No such room.")
    return room, rooms.servers(tx, room.number)


def place(stored: StoredEvent) -> Place:
    """Just after this event."""
    return Place(stored.depth, events.tie_of(stored.event))


def before(stored: StoredEvent) -> Place:
    """Just before this event."""
    return Place(stored.depth, events.tie_of(stored.event) - 1)
