"""The one write path: an event, its state, its relation, the room's heads, memberships, redactions and outbox, in one transaction.

Whoever made or received the event has judged it and knows the state before it; nothing here decides. Hooks run inside the same
transaction (unread counts, device lists) and are bound in `app.py`. After the commit exactly those are woken whom the event concerns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver import wakeups as topics
from edgeserver.matrix.auth_events import CREATE
from edgeserver.matrix.identifiers import domain_of
from edgeserver.store import events, outbox, partial_rooms, relations, rooms, state
from edgeserver.store.events import Standing
from edgeserver.store.redactions import may_redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Room
    from edgeserver.store.state import StateKey
    from edgeserver.wakeups import Wakeups


MEMBERS_AT_ONCE = 200
ENCRYPTION = ("m.room.encryption", "")
BUMPING = frozenset(
    {"m.room.create", "m.room.message", "m.room.encrypted", "m.sticker", "m.call.invite", "m.poll.start", "m.beacon_info"}
)
"""What counts as activity in a room (MSC4186, `bump_stamp`)."""


@dataclass(frozen=True, slots=True)
class PersistedEvent:
    """An event that has just been written, for hooks: `snapshot` is the room's current state after it.

    `is_news` is False for what was backfilled, soft-failed or rejected: nobody is to be notified of it.
    """

    number: int
    room: Room
    event: Event
    stream: int | None
    snapshot: int
    local_members: Sequence[str]
    is_news: bool


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an event goes.

    `before` is the snapshot of the state before it. `heads` are the room's forward extremities from now on and `current` the
    current state that follows from them: None means "the state after this event". `backfilled` puts it at the old end, as
    no news. `depth`: see `events.effective_depth`.
    """

    before: int
    heads: tuple[str, ...]
    current: int | None = None
    standing: Standing = Standing.ACCEPTED
    backfilled: bool = False
    depth: int | None = None


class Persister:
    """Writes events. One for the program; all methods run inside the caller's write transaction."""

    def __init__(self, server_name: str, wakeups: Wakeups, hooks: Sequence[Callable[..., None]] = ()) -> None:
        self._server_name = server_name
        self._wakeups = wakeups
        self._hooks = hooks

    def persist(
        self, tx: Transaction, room: Room, event: Event, placement: Placement, *, deliver: bool
    ) -> PersistedEvent:
        """Writes one event. `deliver`: it is ours to hand to the room's other servers."""
        accepted = placement.standing is Standing.ACCEPTED
        stream = self._stream(tx, placement)
        number, after = self._write_event(tx, room, event, placement, stream)
        if room.is_partial:
            partial_rooms.mark(tx, number)
        self._gaps(tx, room.number, event, number, is_shown=stream is not None)
        old_servers = _concerned(tx, room.number, event) if deliver else []
        current = after if placement.current is None else placement.current
        if (placement.heads, current) != (room.heads, room.snapshot):
            rooms.move(tx, room.number, placement.heads, current)
        if stream is not None and stream > 0:
            rooms.note_news(tx, room.number, stream, bumps=event.type in BUMPING)
        local_before = rooms.local_members(tx, room.number)
        if current != room.snapshot:
            self.follow_state(tx, room.number, room.snapshot, current, stream)
        if accepted:
            self._redactions(tx, event, number)
        if deliver and stream is not None:
            self._queue(tx, room.number, event, stream, old_servers)
            newcomer = domain_of(event.sender)
            if newcomer not in {*old_servers, self._server_name} and rooms.server_is_in(tx, room.number, newcomer):
                self._catch_up(tx, newcomer, event, placement.heads)
        members = rooms.local_members(tx, room.number) if current != room.snapshot else local_before
        is_news = accepted and not placement.backfilled
        written = PersistedEvent(number, room, event, stream, current, members, is_news)
        for hook in self._hooks:
            hook(tx, written)
        if is_news or current != room.snapshot:
            self._wake_after(tx, event, {*local_before, *members})
        return written

    def _gaps(self, tx: Transaction, room: int, event: Event, number: int, *, is_shown: bool) -> None:
        """Notes what is missing before an event of the timeline. What fails is not in it: what it cites is missing before those that
        cite it.
        """
        citing = [number] if is_shown else events.naming(tx, room, event.event_id)
        events.close_gaps(tx, room, event.event_id)
        missing = events.behind(tx, event.prev_events).missing if citing else ()
        for one in citing:
            events.note_gaps(tx, room, one, missing)

    def _stream(self, tx: Transaction, placement: Placement) -> int | None:
        if placement.standing is not Standing.ACCEPTED:
            return None
        return events.oldest_stream(tx) - 1 if placement.backfilled else tx.stream()

    def _write_event(
        self, tx: Transaction, room: Room, event: Event, placement: Placement, stream: int | None
    ) -> tuple[int, int]:
        """Stores the event or gives a held outlier its place; returns its number and the snapshot after it."""
        key: StateKey | None = (event.type, event.state_key) if event.state_key is not None else None
        takes_effect = key is not None and placement.standing is not Standing.REJECTED
        held = events.get(tx, event.event_id)
        depth = events.effective_depth(tx, room.number, event, placement.depth)
        if held is None:
            key_number = None if key is None else state.key_number(tx, key)
            number = events.insert(
                tx,
                room.number,
                event,
                stream=stream,
                key=key_number,
                before=placement.before,
                after=placement.before,
                standing=placement.standing,
                depth=depth,
            )
        else:
            number = held.number
            events.place(
                tx,
                number,
                stream=stream,
                before=placement.before,
                after=placement.before,
                standing=placement.standing,
                depth=depth,
            )
        relations.follow(tx, room.number, number, event, depth, shown=stream is not None)
        after = placement.before
        if takes_effect and key is not None:
            after = state.derive(tx, room.number, placement.before, {key: number})
            events.set_after(tx, number, after)
        return number, after

    def outlier(self, tx: Transaction, room: int, event: Event, standing: Standing) -> int:
        """Stores an event that is held only as an auth event or as state; returns its number."""
        key = state.key_number(tx, (event.type, event.state_key)) if event.state_key is not None else None
        return events.insert(tx, room, event, stream=None, key=key, before=None, after=None, standing=standing)

    def follow_state(self, tx: Transaction, room: int, older: int | None, newer: int, stream: int | None) -> None:
        """Makes the memberships and the servers of the room, and what lists of rooms tell of it, what its new current state says."""
        changes = (
            state.changed_between(tx, older, newer)
            if older is not None
            else dict(state.of_type(tx, newer, "m.room.member").items())
        )
        if older is None or CREATE in changes or ENCRYPTION in changes:
            found = state.lookup_events(tx, newer, [CREATE, ENCRYPTION])
            kind = found[CREATE].event.content.get("type") if CREATE in found else None
            rooms.describe(tx, room, kind if isinstance(kind, str) else None, encrypted=ENCRYPTION in found)
        members = {key[1]: number for key, number in changes.items() if key[0] == "m.room.member"}
        if members:
            self.follow_members(tx, room, members, tx.stream() if stream is None else stream)

    def follow_members(self, tx: Transaction, room: int, members: Mapping[str, int | None], stream: int) -> None:
        """Makes the memberships what these events say: user id → event number, None for a user whose membership is no more."""
        users = list(members)
        for start in range(0, len(users), MEMBERS_AT_ONCE):  # a room may have any number, and their events are large
            part = {user_id: members[user_id] for user_id in users[start : start + MEMBERS_AT_ONCE]}
            self._follow_some(tx, room, part, stream)

    def _follow_some(self, tx: Transaction, room: int, members: Mapping[str, int | None], stream: int) -> None:
        loaded = events.many_by_number(tx, [number for number in members.values() if number is not None])
        for user_id, number in members.items():
            before = rooms.membership(tx, user_id, room)
            if before is not None and before.event == number and before.stripped is None:
                continue
            was_joined = before is not None and before.membership == "join"
            if number is None:
                rooms.drop_membership(tx, user_id, room)
                is_joined = False
            else:
                membership = str(loaded[number].event.content.get("membership", "leave"))
                is_joined = membership == "join"
                local = domain_of(user_id) == self._server_name
                rooms.set_membership(tx, user_id, room, membership, number, stream, local=local)
            if was_joined != is_joined:
                rooms.server_joined(tx, room, domain_of(user_id), 1 if is_joined else -1)

    def _redactions(self, tx: Transaction, event: Event, number: int) -> None:
        pending = events.pending_redactions(tx, event.event_id)
        for redaction in pending:
            target = events.get(tx, event.event_id)
            if target is not None and may_redact(tx, redaction, target):
                _redact(tx, target, redaction.event)
        if pending:
            events.forget_pending_redactions(tx, event.event_id)
        if event.redacts is not None:
            target = events.get(tx, event.redacts)
            if target is None or target.is_outlier:
                events.remember_redaction(tx, event.redacts, number)
            elif may_redact(tx, events.many_by_number(tx, [number])[number], target):
                _redact(tx, target, event)

    def _queue(self, tx: Transaction, room: int, event: Event, stream: int, old_servers: Sequence[str]) -> None:
        """For whom it concerned before and for the room's servers after it, but not for the server that gave it to us to hand on.

        A third-party invite is made here in the name of its sender, whose server does not know of it yet.
        """
        names = {*old_servers, *rooms.servers(tx, room)} - {self._server_name}
        if not (event.type == "m.room.member" and "third_party_invite" in event.content):
            names.discard(domain_of(event.sender))
        if names:
            outbox.queue_pdu(tx, sorted(names), number_of(tx, event), stream)
            tx.on_commit(lambda: self._wakeups.notify([topics.OUTBOX]))

    def _catch_up(self, tx: Transaction, newcomer: str, join: Event, heads: Sequence[str]) -> None:
        """A server that joins learns of the room up to its join's prev events. What has happened beside them meanwhile it is sent."""
        for event_id in heads:
            stored = events.get(tx, event_id)
            if event_id != join.event_id and stored is not None and stored.stream is not None:
                outbox.queue_pdu(tx, [newcomer], stored.number, stored.stream)
                tx.on_commit(lambda: self._wakeups.notify([topics.OUTBOX]))

    def _wake_after(self, tx: Transaction, event: Event, users: set[str]) -> None:
        if event.type == "m.room.member" and event.state_key is not None:
            users = {*users, event.state_key}
        tx.on_commit(lambda: self._wakeups.notify(users))


def _concerned(tx: Transaction, room: int, event: Event) -> list[str]:
    """The servers in the room before the event, and that of a user whose invite or knock it ends."""
    names = rooms.servers(tx, room)
    if event.type == "m.room.member" and event.state_key is not None and event.content.get("membership") in ("leave", "ban"):
        before = rooms.membership(tx, event.state_key, room)
        if before is not None and before.membership in ("invite", "knock"):
            names.append(domain_of(event.state_key))
    return names


def number_of(tx: Transaction, event: Event) -> int:
    """The numeric id of a held event."""
    return events.numbers_by_id(tx, [event.event_id])[event.event_id]


def _redact(tx: Transaction, target: StoredEvent, redaction: Event) -> None:
    """What an event says of another is removed with the rest of its content."""
    events.redact(tx, target, redaction.event_id)
    relations.follow(tx, target.room, target.number, target.event, target.depth, shown=False)
