"""One room, for one user, between two stream positions: its timeline, what changed of its state, its summary. From the store alone.

A `Window` says what of a room an answer is about; the other functions fill it. Events later than the window's end never show in a
timeline; the state may be that of a moment later, which is then told again and does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix.event import stripped_state as stripped_event
from edgeserver.matrix.visibility import membership_of
from edgeserver.rooms import history, membership
from edgeserver.store import events, room_views, rooms, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeserver.matrix.event import Event
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import Place, StoredEvent
    from edgeserver.store.rooms import Membership, Room
    from edgeserver.store.state import StateKey

MAX_SCANNED: Final = 1000
"""So many events of a room are looked at to fill one timeline."""
MAX_STEPS: Final = 32
"""So many membership events of one user are followed back; beyond that the user counts as newly joined."""
FAR: Final = 2**62
MEMBER: Final = "m.room.member"


@dataclass(frozen=True, slots=True)
class Window:
    """What an answer tells of a room: (since, upto] of its timeline, and its state at the end.

    `since` None: the client knows nothing of the room. `snapshot` is the state at the end; None: nothing of it is for the user's eyes
    but the timeline (an invite that was declined, say).
    """

    room: Room
    membership: Membership
    since: int | None
    upto: int
    snapshot: int | None

    @property
    def is_whole(self) -> bool:
        return self.since is None


@dataclass(slots=True)
class Timeline:
    """Events that the user may see, oldest first.

    `limited`: there is more between the window's start and the first of them. `start` is the place before the first, for pagination.
    `hidden_state` are state events of the window that are not among `events`; only known if not `limited`.
    """

    events: list[StoredEvent] = field(default_factory=list)
    limited: bool = False
    start: Place | None = None
    hidden_state: list[StoredEvent] = field(default_factory=list)
    last: StoredEvent | None = None

    def first_changes(self) -> dict[StateKey, StoredEvent]:
        """Of each state key that the timeline changes, the first event that does so."""
        found: dict[StateKey, StoredEvent] = {}
        for stored in self.events:
            if stored.event.state_key is not None:
                found.setdefault((stored.event.type, stored.event.state_key), stored)
        return found


# Windows


def joined(tx: Transaction, member: Membership, since: int | None, upto: int) -> Window:
    """The window of a room that the user is in. Who was away since `since` is told of the whole room."""
    room = rooms.by_number(tx, member.room)
    if since is not None and member.stream > since:
        was, stayed = _past(tx, member, since)
        if was != "join" or not stayed:
            since = None
    return Window(room, member, since, upto, room.snapshot)


def left(tx: Transaction, member: Membership, since: int | None) -> Window | None:
    """The window of a room that the user is not in any more, up to the event that says so. None if that has no place in a timeline of ours.

    Its state is that of the moment when they were last in it: who never was, or has been told of that moment, or has forgotten the room, is
    told of the event alone.
    """
    last = events.by_number(tx, member.event)
    if last is None or last.stream is None or last.before is None:
        return None
    room = rooms.by_number(tx, member.room)
    if member.forgotten:
        return Window(room, member, last.stream - 1, last.stream, None)
    departed = history.departure(tx, member)
    if departed is None or departed.stream is None:
        return Window(room, member, last.stream - 1 if since is None else since, last.stream, None)
    if since is not None and departed.stream <= since and departed.number != last.number:
        return Window(room, member, since, last.stream, None)
    if since is not None and member.stream <= since:
        return Window(room, member, last.stream, last.stream, departed.after)
    stayed = since is not None and _past(tx, member, since)[0] == "join"
    return Window(room, member, since if stayed else None, last.stream, departed.after)


def was_in(tx: Transaction, member: Membership, since: int) -> bool:
    """Whether the user, who is out of the room, was in it, invited or knocking at `since`."""
    return _past(tx, member, since)[0] in ("join", "invite", "knock")


def before_invite(tx: Transaction, member: Membership) -> Iterator[tuple[Membership, str]]:
    """What an invited user was before, the latest first, and who made them so: earlier invites, and at last what was before all of them
    (`leave`, `ban` or `knock`, if an event that is held says so). For invites that the user does not want to see, which are then as if they
    had not been.
    """
    stored = events.by_number(tx, member.event)
    for _ in range(MAX_STEPS):
        if stored is None or stored.before is None:
            return
        stored = state.lookup_event(tx, stored.before, MEMBER, member.user_id)
        if stored is None or (was := membership_of(stored.event)) not in ("invite", "knock", "leave", "ban"):
            return
        if stored.stream is not None:
            yield replace(member, membership=was, event=stored.number, stream=stored.stream, stripped=None), stored.event.sender
        if was != "invite":
            return


def _past(tx: Transaction, member: Membership, since: int) -> tuple[str | None, bool]:
    """The user's membership at `since` (None: none known), and whether all of theirs after that were joins."""
    at: int | None = member.event
    stayed = True
    for step in range(MAX_STEPS):
        stored = None if at is None else events.by_number(tx, at)
        if stored is None or (step == 0 and (stored.stream is None or stored.stream <= since)):
            return None, False  # the row is newer than its event: the room, or the membership, came in another way
        if stored.stream is None or stored.stream <= since:
            return membership_of(stored.event), stayed
        stayed = stayed and membership_of(stored.event) == "join"
        if stored.before is None:
            return None, False
        at = state.lookup(tx, stored.before, (MEMBER, member.user_id))
    return None, False


# The timeline


def timeline(tx: Transaction, window: Window, limit: int, wanted: Callable[[Event], bool]) -> Timeline:
    """The newest `limit` events of the window that the user may see and that are wanted.

    Where previous events are missing the timeline is cut, so that the client asks for what is before, and that is fetched.
    """
    number, user_id = window.room.number, window.membership.user_id
    floor = -FAR if window.since is None else window.since
    result, at, scanned, size = Timeline(), window.upto, 0, limit + 1
    while True:
        chunk = events.timeline_since(tx, number, floor, at, size)
        if not chunk:
            return result
        result.last = result.last or chunk[-1]
        seen = {one.number: one for one in history.visible(tx, user_id, window.membership, chunk)}
        gaps = room_views.with_gaps(tx, number, [one.number for one in chunk])
        for held in reversed(chunk):
            stored = seen.get(held.number, held)
            is_seen = stored.number in seen or stored.number == window.membership.event  # what became of them everyone may know
            if is_seen and wanted(stored.event):
                if len(result.events) == limit:
                    result.limited, result.start = True, result.start or history.place(stored)
                    break
                result.events.insert(0, stored)
                result.start = history.before(stored)
            elif stored.event.state_key is not None:
                result.hidden_state.append(stored)
            if stored.number in gaps:
                result.limited, result.start = True, history.before(stored)
                break
        if result.limited or len(chunk) < size:
            return result
        scanned, at, size = scanned + len(chunk), (chunk[0].stream or 0) - 1, 100
        if scanned >= MAX_SCANNED:
            result.limited, result.start = True, history.before(chunk[0])
            return result


# State


def state_changes(tx: Transaction, window: Window, shown: Timeline, *, whole: bool, at_end: bool) -> dict[StateKey, int]:
    """The state that a client is to be told of, as event numbers: all of it if `whole`, else what changed in the window.

    At the end of the timeline, or at its start: then the timeline's own state events go on from there. It is the room's resolved
    state that the client ends with; a key that left the state by a resolution cannot be told of.
    """
    if window.snapshot is None:
        return {}
    old = None if window.since is None else room_views.snapshot_at(tx, window.room.number, window.since)
    whole = whole or old is None
    if whole:
        changes: dict[StateKey, int | None] = dict(state.whole(tx, window.snapshot))
    else:
        changes = _changes_in(tx, window, shown, old or 0, at_end)
    if not at_end:
        for key, stored in shown.first_changes().items():
            was = None if stored.before is None else state.lookup(tx, stored.before, key)
            known = None if whole or old is None else state.lookup(tx, old, key)
            changes[key] = None if was == known else was
    elif window.membership.membership != "join":
        changes[MEMBER, window.membership.user_id] = window.membership.event  # who was banned after they had left is told of the ban
    return {key: number for key, number in changes.items() if number is not None}


def _changes_in(
    tx: Transaction, window: Window, shown: Timeline, old: int, at_end: bool
) -> dict[StateKey, int | None]:
    assert window.snapshot is not None
    changed = [*shown.hidden_state, *(one for one in shown.events if at_end and one.event.state_key is not None)]
    if shown.limited or not (shown.last is None or shown.last.after == window.snapshot):
        changes = state.changed_between(tx, old, window.snapshot)
    else:
        changes = {}  # nothing but what these events say
    for stored in changed:
        key = (stored.event.type, stored.event.state_key or "")
        changes[key] = state.lookup(tx, window.snapshot, key)
    return changes


def member_at_start(tx: Transaction, window: Window, shown: Timeline, user_id: str) -> int | None:
    """The number of a user's membership event at the start of the timeline."""
    key = (MEMBER, user_id)
    first = shown.first_changes().get(key)
    if first is not None:
        return None if first.before is None else state.lookup(tx, first.before, key)
    return member_now(tx, window, user_id)


def member_now(tx: Transaction, window: Window, user_id: str) -> int | None:
    """The number of a user's membership event at the end of the window."""
    return None if window.snapshot is None else state.lookup(tx, window.snapshot, (MEMBER, user_id))


# What stands beside it


def heroes(tx: Transaction, window: Window) -> list[str] | None:
    """Those who give the room its name; None if it has a name or an alias."""
    if window.snapshot is None:
        return None
    for event_type, name in (("m.room.name", "name"), ("m.room.canonical_alias", "alias")):
        stored = state.lookup_event(tx, window.snapshot, event_type)
        if stored is not None and stored.event.content.get(name):
            return None
    return room_views.heroes(tx, window.room.number, window.membership.user_id)


def summary(tx: Transaction, window: Window, of_heroes: list[str] | None) -> dict[str, Any]:
    """`summary` of a joined room."""
    counts: dict[str, Any] = {
        "m.joined_member_count": rooms.count(tx, window.room.number, "join"),
        "m.invited_member_count": rooms.count(tx, window.room.number, "invite"),
    }
    return counts if of_heroes is None else {"m.heroes": of_heroes, **counts}


def stripped(tx: Transaction, member: Membership) -> list[dict[str, Any]]:
    """`invite_state` or `knock_state`: stripped state events, the user's own membership among them."""
    own = events.by_number(tx, member.event)
    if member.stripped is not None:
        found = [one for given in member.stripped if (one := _stripped(given)) is not None]
    else:
        room = rooms.by_number(tx, member.room)
        inviter = None if own is None else own.event.sender
        found = [] if room.snapshot is None else membership.stripped_state(tx, room, inviter)
    found = [one for one in found if (one["type"], one["state_key"]) != (MEMBER, member.user_id)]
    return found if own is None else [*found, stripped_event(own.event)]


def _stripped(given: object) -> dict[str, Any] | None:
    """A stripped event from outside, if it has the shape of one."""
    if not isinstance(given, dict):
        return None
    if not all(isinstance(given.get(key), str) for key in ("type", "sender", "state_key")):
        return None
    if not isinstance(given.get("content"), dict):
        return None
    return {key: given[key] for key in ("content", "sender", "state_key", "type")}
