"""One room for one connection: what is new since it was last told of it. From the store alone.

MSC4186, "Room results" and "Changing room configs".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgeserver.rooms import client_view, tokens
from edgeserver.store import events, room_views, rooms, state, unread
from edgeserver.sync import room_view
from edgeserver.sync.room_view import MEMBER
from edgeserver.sync.sliding.connections import LIVE, Sent
from edgeserver.sync.sliding.wanted import RoomResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.matrix.event import Event
    from edgeserver.rooms.client_view import Viewer
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.room_list import ListedRoom
    from edgeserver.store.rooms import Membership
    from edgeserver.store.state import StateKey
    from edgeserver.sync.room_view import Timeline, Window
    from edgeserver.sync.sliding.wanted import RoomWish

MAX_MEMBERS: Final = 200
"""Members of one room that a connection remembers to have told of; others are told of again."""
NAME, AVATAR = ("m.room.name", ""), ("m.room.avatar", "")
Changed = dict["StateKey", "int | None"]


class Composer:
    """Composes results for one answer. `instead`: what the user is to be told to be in a room, whatever came after that.
    `whole`: rooms whose members have all become known, with the position at which they have. `live_since`: events after this position
    have just happened, as far as the client can tell.
    """

    def __init__(
        self,
        viewer: Viewer,
        ignored: frozenset[str],
        direct: frozenset[str],
        instead: Mapping[int, Membership],
        whole: Mapping[int, int],
        *,
        upto: int,
        live_since: int,
    ) -> None:
        self._viewer = viewer
        self._ignored = ignored
        self._direct = direct
        self._instead = instead
        self._whole = whole
        self._upto = upto
        self._live_since = live_since
        self._held: dict[int, StoredEvent] = {}
        """Events of the room at hand that have been read already, by their number."""

    def compose(
        self, tx: Transaction, listed: ListedRoom, wish: RoomWish, lists: list[str], sent: Sent | None, since: int | None
    ) -> tuple[RoomResult | None, Sent]:
        """The result, None if there is nothing to tell; and what the connection has been told then. `since` goes with `sent`."""
        before = self._instead.get(listed.room)
        if before is not None:
            result, told = self._compose(tx, listed, before, wish, lists, sent, since)
            told = told._replace(upto=before.stream)  # so that an invite which came after is told if it is wanted one day
        else:
            result, told = self._compose(tx, listed, rooms.membership(tx, self._viewer.user_id, listed.room), wish, lists, sent, since)
        if result is not None:
            result.number = listed.room
        return result, told

    def _compose(
        self,
        tx: Transaction,
        listed: ListedRoom,
        member: Membership | None,
        wish: RoomWish,
        lists: list[str],
        sent: Sent | None,
        since: int | None,
    ) -> tuple[RoomResult | None, Sent]:
        told = Sent(LIVE, wish.limit, wish.parts, {}, listed.room_id in self._direct)
        if member is None:
            return None, told
        if member.membership in ("invite", "knock"):
            return self._asked(tx, listed, member, lists, since), told
        window = room_view.joined(tx, member, since, self._upto) if member.membership == "join" else room_view.left(tx, member, since)
        if window is None or window.snapshot is None:
            return self._ended(tx, listed, member, lists, since), told
        return self._of_window(tx, listed, window, wish, lists, None if window.is_whole else sent)

    def _asked(self, tx: Transaction, listed: ListedRoom, member: Membership, lists: list[str], since: int | None) -> RoomResult | None:
        """An invite or a knock."""
        own = events.by_number(tx, member.event)
        if (own is not None and own.event.sender in self._ignored) or (since is not None and member.stream <= since):
            return None
        result = RoomResult(member.membership, lists, initial=True, bump_stamp=listed.stamp, has_timeline=False)
        result.stripped = room_view.stripped(tx, member)
        return result

    def _ended(self, tx: Transaction, listed: ListedRoom, member: Membership, lists: list[str], since: int | None) -> RoomResult | None:
        """What became of an invite or a knock, or of a user who was not in the room any more."""
        if since is not None and member.stream <= since:
            return None
        result = RoomResult(member.membership, lists, initial=since is None, bump_stamp=listed.stamp)
        result.stripped = None if member.forgotten else room_view.stripped(tx, member)
        own = self._own(tx, member)
        result.timeline, result.state, result.streams = own, [_without_age(event) for event in own], [member.stream for _ in own]
        result.num_live = sum(member.stream > self._live_since for _ in own)
        return result

    def _own(self, tx: Transaction, member: Membership) -> list[dict[str, Any]]:
        """The user's own membership event, if it is held."""
        own = events.by_number(tx, member.event)
        return [] if own is None else client_view.state_events(tx, [own], self._viewer, with_room_id=False)

    # Rooms that the user is or was in

    def _of_window(
        self, tx: Transaction, listed: ListedRoom, window: Window, wish: RoomWish, lists: list[str], sent: Sent | None
    ) -> tuple[RoomResult | None, Sent]:
        self._held = {}
        expanded = sent is not None and wish.limit > sent.limit
        shown = self._timeline(tx, replace(window, since=None) if expanded else window, wish.limit)
        changed = self._changed(tx, window)
        is_completed = window.since is not None and self._whole.get(window.room.number, 0) > window.since
        wanted = self._state(tx, window, wish, sent, changed)
        if is_completed:  # and the states that it had before are whole now too: what the client lacks cannot be told from what it has
            wanted |= self._matching(tx, window, wish)
        members = self._members(tx, window, wish, sent, shown, changed)
        is_dm = window.room.room_id in self._direct
        numbers = {key: number for key, number in {**wanted, **members}.items() if number is not None}
        result = RoomResult(window.membership.membership, lists, initial=window.is_whole, expanded=expanded)
        result.gone = [] if window.is_whole else [key for key, number in wanted.items() if number is None]
        shown_state = client_view.state_events(tx, self._events(tx, numbers.values()), self._viewer, with_room_id=False)
        result.state = [_without_age(event) for event in shown_state]
        self._tell_timeline(tx, window, shown, result)
        self._tell_summary(tx, listed, window, changed, result, is_completed=is_completed)
        if is_dm != (sent is not None and sent.is_dm):
            result.is_dm = is_dm
        held = {**({} if sent is None else sent.members), **{key[1]: number for key, number in members.items()}}
        limit, counts = self._known_limit(wish, sent, shown), (result.notifications, result.highlights)
        told = Sent(LIVE, limit, wish.parts, _newest(held), is_dm, counts)
        if sent is not None and counts == sent.counts and _says_nothing(result):
            return None, told
        if window.membership.membership != "join":  # clients take a room for joined unless its state says otherwise
            own = (MEMBER, self._viewer.user_id)
            rest = [event for event in result.state if (event["type"], event["state_key"]) != own]
            result.state = [*rest, *map(_without_age, self._own(tx, window.membership))]
        return result, told

    def _events(self, tx: Transaction, numbers: Iterable[int]) -> list[StoredEvent]:
        """These events; only those are read that no look-up has read before."""
        wanted = list(dict.fromkeys(numbers))
        self._held |= events.many_by_number(tx, [number for number in wanted if number not in self._held])
        return [self._held[number] for number in wanted if number in self._held]

    def _look_up(self, tx: Transaction, snapshot: int, keys: Iterable[StateKey]) -> dict[StateKey, int]:
        """The numbers of the state events under these keys, which are held from now on."""
        found = state.lookup_events(tx, snapshot, keys)
        self._held |= {stored.number: stored for stored in found.values()}
        return {key: stored.number for key, stored in found.items()}

    def _known_limit(self, wish: RoomWish, sent: Sent | None, shown: Timeline) -> int:
        """How many of the newest events the client has for certain."""
        if sent is None or wish.limit >= sent.limit or shown.limited:
            return wish.limit
        return sent.limit

    def _timeline(self, tx: Transaction, window: Window, limit: int) -> Timeline:
        def wanted(event: Event) -> bool:
            return event.state_key is not None or event.sender not in self._ignored

        return room_view.timeline(tx, window, limit, wanted)

    def _changed(self, tx: Transaction, window: Window) -> Changed:
        """State keys that have changed in the window, with what they have now; nothing for a whole room."""
        if window.since is None or window.snapshot is None:
            return {}
        old = room_views.snapshot_at(tx, window.room.number, window.since)
        if old is None or old == window.snapshot:
            return {}
        return state.changed_between(tx, old, window.snapshot)

    def _state(self, tx: Transaction, window: Window, wish: RoomWish, sent: Sent | None, changed: Changed) -> Changed:
        """The state to tell: of a whole room all that is wanted, else what changed of it and what is wanted only now."""
        if sent is None:
            return dict(self._matching(tx, window, wish))
        found: Changed = {key: number for key, number in changed.items() if wish.takes(key)}
        if wish.parts != sent.parts:
            before = replace(wish, parts=sent.parts)
            found |= {key: number for key, number in self._matching(tx, window, wish).items() if not before.takes(key)}
        return found

    def _matching(self, tx: Transaction, window: Window, wish: RoomWish) -> dict[StateKey, int]:
        """The wanted part of the room's state, as event numbers."""
        if window.snapshot is None:
            return {}
        exact = wish.exact_keys
        found = state.whole(tx, window.snapshot) if exact is None else self._look_up(tx, window.snapshot, exact)
        return {key: number for key, number in found.items() if wish.takes(key)}

    def _members(
        self, tx: Transaction, window: Window, wish: RoomWish, sent: Sent | None, shown: Timeline, changed: Changed
    ) -> dict[StateKey, int]:
        """The members whom laziness tells of: who speaks or is spoken of in the timeline, and all that changed where there is no gap."""
        if not wish.lazy_members:
            return {}
        users = dict.fromkeys(stored.event.sender for stored in shown.events)
        users |= dict.fromkeys(stored.event.state_key or "" for stored in shown.events if stored.event.type == MEMBER)
        if sent is not None and not shown.limited:
            users |= dict.fromkeys(key[1] for key in changed if key[0] == MEMBER)
        keys = [(MEMBER, user_id) for user_id in users]
        found = self._look_up(tx, window.snapshot or 0, keys)
        if window.room.is_partial:
            for key in [key for key in keys if key not in found]:
                number = client_view.cited_member(tx, shown.events, key[1])
                found |= {} if number is None else {key: number}
        known: Mapping[str, int] = {} if sent is None else sent.members
        return {key: number for key, number in found.items() if known.get(key[1]) != number}

    def _tell_timeline(self, tx: Transaction, window: Window, shown: Timeline, result: RoomResult) -> None:
        result.timeline = client_view.timeline(tx, shown.events, self._viewer, with_room_id=False)
        result.streams = [stored.stream or 0 for stored in shown.events]
        result.limited = shown.limited
        result.num_live = sum((stored.stream or 0) > self._live_since for stored in shown.events)
        if result.timeline or result.initial:
            result.prev_batch = tokens.write_stream(window.upto) if shown.start is None else tokens.write_place(shown.start)

    def _tell_summary(
        self, tx: Transaction, listed: ListedRoom, window: Window, changed: Changed, result: RoomResult, *, is_completed: bool
    ) -> None:
        members_changed = is_completed or any(key[0] == MEMBER for key in changed)
        if window.is_whole or NAME in changed:
            result.name = _text(tx, window, NAME, "name")
        if window.is_whole or AVATAR in changed:
            result.avatar = _text(tx, window, AVATAR, "url")
        if window.is_whole or members_changed or NAME in changed:
            result.heroes = self._heroes(tx, window)
        if window.is_whole or members_changed:
            result.joined_count = rooms.count(tx, window.room.number, "join")
            result.invited_count = rooms.count(tx, window.room.number, "invite")
        result.bump_stamp = listed.stamp
        counts = unread.of_user(tx, window.room.number, self._viewer.user_id)
        result.notifications = sum(one.notifications for one in counts.values())
        result.highlights = sum(one.highlights for one in counts.values())

    def _heroes(self, tx: Transaction, window: Window) -> list[dict[str, Any]] | None:
        """None if the room has a name."""
        if window.snapshot is None or _text(tx, window, NAME, "name"):
            return None
        names = room_views.heroes(tx, window.room.number, self._viewer.user_id)
        known = state.lookup_events(tx, window.snapshot, [(MEMBER, user_id) for user_id in names])
        return [_hero(user_id, known.get((MEMBER, user_id))) for user_id in names]


def _text(tx: Transaction, window: Window, key: StateKey, name: str) -> str:
    stored = None if window.snapshot is None else state.lookup_event(tx, window.snapshot, *key)
    value = None if stored is None else stored.event.content.get(name)
    return value if isinstance(value, str) else ""


def _hero(user_id: str, stored: StoredEvent | None) -> dict[str, Any]:
    content = {} if stored is None else stored.event.content
    shown = {name: content.get(name) for name in ("displayname", "avatar_url")}
    return {"user_id": user_id, **{name: value for name, value in shown.items() if isinstance(value, str)}}


def _without_age(event: dict[str, Any]) -> dict[str, Any]:
    """State is true whatever its age, and a first screen has hundreds of events of it."""
    rest = {name: value for name, value in event["unsigned"].items() if name not in ("age", "transaction_id")}
    return {**event, "unsigned": rest} if rest else {name: value for name, value in event.items() if name != "unsigned"}


def _says_nothing(result: RoomResult) -> bool:
    """Whether there is nothing in it but what goes with anything else: what has happened is not for the user's eyes."""
    told = (result.name, result.avatar, result.heroes, result.is_dm, result.joined_count)
    events = result.timeline or result.state or result.gone
    return not events and not result.expanded and not result.limited and all(one is None for one in told)


def _newest(members: dict[str, int]) -> dict[str, int]:
    """No more than are remembered, the ones told last."""
    return members if len(members) <= MAX_MEMBERS else dict(list(members.items())[-MAX_MEMBERS:])
