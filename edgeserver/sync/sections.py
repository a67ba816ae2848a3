"""The sections of one room in a classic sync: join, leave, invite, knock. Spec: client-server API, `GET /_matrix/client/v3/sync`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgeserver.rooms import client_view, history, tokens
from edgeserver.store import account_data, events, receipts, room_views, state, unread
from edgeserver.sync import room_view
from edgeserver.sync.filters import MAX_LIMIT, kept
from edgeserver.sync.room_view import MEMBER
from edgeserver.users.receipts import edu_content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgeserver.matrix.event import Event
    from edgeserver.rooms.client_view import Viewer
    from edgeserver.store.account_data import Item
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.receipts import Receipt
    from edgeserver.store.rooms import Membership
    from edgeserver.store.state import StateKey
    from edgeserver.sync.filters import SyncFilter
    from edgeserver.sync.room_view import Timeline, Window
    from edgeserver.sync.sent_members import SentMembers

SUMMARIZED: Final = frozenset({MEMBER, "m.room.name", "m.room.canonical_alias"})
"""State that `summary` follows from: heroes are told as soon as a room has neither name nor alias."""
MAX_RECEIPTS: Final = 100
"""Receipts of others that a client is given for a room that is new to it."""


@dataclass(slots=True)
class News:
    """What is new to a user beside the timelines, by room number; `typing` is what changed, by room id. `whole` are rooms whose members
    have all become known, `invites` those with an invite which the user may have come to want, or not to want any more.
    """

    receipts: dict[int, list[Receipt]] = field(default_factory=dict)
    account_data: dict[str, list[Item]] = field(default_factory=dict)
    typing: dict[str, list[str]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    blocks_invites: bool = False
    whole: set[int] = field(default_factory=set)
    invites: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Past:
    """What there is to tell of a room's past: its timeline, and the state events that the filter takes.

    `is_summary_new`: who is in the room, or what it is called, has changed, whether the filter takes the events that say so or not.
    `hides_ignored`: people have spoken whom the user ignores.
    """

    shown: Timeline
    state: list[StoredEvent]
    heroes: list[str] | None
    is_summary_new: bool
    hides_ignored: bool


class Sections:
    """Composes the sections of rooms for one answer. `members` are the membership events that it carries, `anew` the rooms that it tells
    whole, `typing` those of which it tells whether somebody types there.
    """

    def __init__(
        self,
        viewer: Viewer,
        wanted: SyncFilter,
        news: News,
        held: SentMembers,
        typing_in: Callable[[str], list[str]],
        *,
        since: int | None,
        since_token: str,
        upto: int,
        full_state: bool,
        state_after: bool,
    ) -> None:
        """`since_token`: what the client calls `since`; empty if that is None."""
        self._viewer = viewer
        self._filter = wanted
        self._news = news
        self._held = held
        self._typing_in = typing_in
        self.since = since
        self._since_token = since_token
        self._upto = upto
        self._full_state = full_state
        self._state_after = state_after
        self.members: list[tuple[int, str, int]] = []
        self.anew: set[int] = set()
        self.typing: dict[int, bool] = {}

    def joined(self, tx: Transaction, member: Membership) -> dict[str, Any] | None:
        """The room's entry in `join`; None if there is nothing new that the client wants to know.

        Who does not load members lazily is told of a room once all its members are known, and then of the whole of it.
        """
        lazy, is_news = self._filter.state.lazy_load_members, member.room in self._news.whole
        window = room_view.joined(tx, member, None if is_news and not lazy else self.since, self._upto)
        if window.room.is_loading and not lazy:
            return None
        past = self._history(tx, window, is_completed=is_news)
        ephemeral = self._ephemeral(tx, window)
        data = self._account_data(tx, window)
        read = any(one.user_id == member.user_id for one in self._news.receipts.get(member.room, ()))
        whole = window.is_whole or self._full_state
        is_news = bool(past.shown.events or past.shown.limited or past.state or past.is_summary_new or ephemeral or data or read)
        if not (whole or is_news or (past.hides_ignored and self._is_count_new(tx, window))):
            return None
        entry: dict[str, Any] = {
            "timeline": self._timeline(tx, window, past.shown),
            self._state_name: {"events": self._state(tx, past.state)},
            "account_data": {"events": data},
            "ephemeral": {"events": ephemeral},
            "summary": room_view.summary(tx, window, past.heroes) if whole or past.is_summary_new else {},
        }
        self._count_unread(tx, window, entry)
        return entry

    def left(self, tx: Transaction, member: Membership) -> dict[str, Any] | None:
        """The room's entry in `leave`; None if the user has forgotten it and the client knows already that they are out of it."""
        window = room_view.left(tx, member, self.since)
        if window is not None and member.forgotten and (self.since is None or not room_view.was_in(tx, member, self.since)):
            return None
        if window is None:
            leave = events.by_number(tx, member.event)
            found = [leave] if leave is not None and self._filter.timeline.takes(leave.event) else []
            alone = self._formatted(found, client_view.timeline(tx, found, self._viewer, with_room_id=False))
            return {"timeline": {"events": alone}, self._state_name: {"events": []}, "account_data": {"events": []}}
        past = self._history(tx, window)
        return {
            "timeline": self._timeline(tx, window, past.shown),
            self._state_name: {"events": self._state(tx, past.state)},
            "account_data": {"events": self._account_data(tx, window)},
        }

    def to_be_shown(self, tx: Transaction, member: Membership) -> Membership | None:
        """What the client is to be told that the user is: an invite that they do not want to see is as if it had not been. None if the
        client knows already what they were before it.
        """
        if member.membership != "invite":
            return member
        own = events.by_number(tx, member.event)
        if not self._is_unwanted(None if own is None else own.event.sender):
            return member
        for before, sender in room_view.before_invite(tx, member):
            if before.membership != "invite" or not self._is_unwanted(sender):
                return before if self._is_new(before) else None
        return None

    def _is_unwanted(self, inviter: str | None) -> bool:
        """Whether the user takes no invites, or none of theirs."""
        return self._news.blocks_invites or inviter in self._news.ignored

    def _is_new(self, before: Membership) -> bool:
        """Whether the client may not know what the user was before an invite that they do not want to see."""
        is_asked = before.membership in ("invite", "knock")
        if self.since is None:
            return is_asked or self._filter.include_leave
        return before.stream > self.since or (is_asked and before.room in self._news.invites)

    def asked(self, tx: Transaction, member: Membership) -> dict[str, Any]:
        """The room's entry in `invite` or `knock`."""
        return {f"{member.membership}_state": {"events": room_view.stripped(tx, member)}}

    # The timeline and the state

    @property
    def _state_name(self) -> str:
        return "state_after" if self._state_after else "state"

    def _history(self, tx: Transaction, window: Window, *, is_completed: bool = False) -> _Past:
        """`is_completed`: all members have become known."""
        room_id = window.room.room_id
        in_timeline, hides_ignored = self._filter.timeline.takes_room(room_id), False

        def wanted(event: Event) -> bool:
            nonlocal hides_ignored
            if event.state_key is None and event.sender in self._news.ignored:
                hides_ignored = True
                return False
            return in_timeline and self._filter.timeline.takes(event)

        shown = room_view.timeline(tx, window, self._filter.limit, wanted)
        if shown.limited and not window.is_whole and self._filter.unbroken and self._has_sent_of(tx, shown):
            shown = room_view.timeline(tx, window, MAX_LIMIT, wanted)
        whole = self._full_state or window.is_whole
        changes = room_view.state_changes(tx, window, shown, whole=whole, at_end=self._state_after)
        is_summary_new = is_completed or any(key[0] in SUMMARIZED for key in (*changes, *shown.first_changes()))
        of_heroes = room_view.heroes(tx, window) if whole or is_summary_new else None
        if self._filter.state.lazy_load_members:
            self._lazily(tx, window, shown, changes, of_heroes or (), whole)
        loaded = events.many_by_number(tx, changes.values()) if self._filter.state.takes_room(room_id) else {}
        told = [stored for stored in loaded.values() if self._filter.state.takes(stored.event)]
        self._note_members(window, shown, told)
        return _Past(shown, told, of_heroes, is_summary_new, hides_ignored)

    def _has_sent_of(self, tx: Transaction, shown: Timeline) -> bool:
        """Whether this client has sent any of these events. matrix-js-sdk, which knows those already, takes no notice of a gap before them,
        and never asks for what is in it.
        """
        user_id, device_id = self._viewer.user_id, self._viewer.device_id
        own = [stored.number for stored in shown.events if stored.event.sender == user_id]
        return device_id is not None and bool(events.transaction_ids(tx, user_id, device_id, own))

    def _lazily(
        self,
        tx: Transaction,
        window: Window,
        shown: Timeline,
        changes: dict[StateKey, int],
        of_heroes: Iterable[str],
        whole: bool,
    ) -> None:
        """Leaves only those members whom the client needs, and adds those who speak and are not known to it yet."""
        user_id = window.membership.user_id
        needed = {stored.event.sender for stored in shown.events} | set(of_heroes)
        if whole:
            needed.add(user_id)
            needed |= {key[1] for key in self._changed_meanwhile(tx, window) if key[0] == MEMBER}
            for key in [key for key in changes if key[0] == MEMBER and key[1] not in needed]:
                del changes[key]
            if not window.room.is_partial:
                return
        for member in needed:
            if (MEMBER, member) in changes:
                continue
            number = self._member(tx, window, shown, member)
            if number is None and window.room.is_partial:
                number = client_view.cited_member(tx, shown.events, member)
            if number is not None and not self._is_redundant(window, member, number):
                changes[MEMBER, member] = number

    def _changed_meanwhile(self, tx: Transaction, window: Window) -> Iterable[StateKey]:
        """What has changed of a room that is told whole to a client which knew it: of members whom it holds it is to hear all the same."""
        if self.since is None or window.snapshot is None:
            return ()
        if window.is_whole and not room_view.was_in(tx, window.membership, self.since):
            return ()
        old = room_views.snapshot_at(tx, window.room.number, self.since)
        return () if old is None else state.changed_between(tx, old, window.snapshot)

    def _member(self, tx: Transaction, window: Window, shown: Timeline, member: str) -> int | None:
        if self._state_after and window.snapshot is not None:
            return room_view.member_now(tx, window, member)
        return room_view.member_at_start(tx, window, shown, member)

    def _is_redundant(self, window: Window, member: str, number: int) -> bool:
        device, since = self._device, window.since
        if device is None or since is None or self._filter.state.include_redundant_members:
            return False
        return self._held.holds(device, window.room.number, member, number, since)

    @property
    def _device(self) -> tuple[str, str] | None:
        return None if self._viewer.device_id is None else (self._viewer.user_id, self._viewer.device_id)

    def _note_members(self, window: Window, shown: Timeline, told: list[StoredEvent]) -> None:
        if not self._filter.state.lazy_load_members or self._device is None:
            return
        room = window.room.number
        if window.is_whole:
            self.anew.add(room)
        by_timeline = () if self._state_after else shown.events  # whoever asks for state_after takes state from nowhere else
        for stored in (*told, *by_timeline):
            if stored.event.type == MEMBER and stored.event.state_key is not None:
                self.members.append((room, stored.event.state_key, stored.number))

    def _timeline(self, tx: Transaction, window: Window, shown: Timeline) -> dict[str, Any]:
        # With all that happened since, the client has the child events themselves
        listed = client_view.timeline(tx, shown.events, self._viewer, with_room_id=False, bundled=shown.limited)
        return {"events": self._formatted(shown.events, listed), "limited": shown.limited, "prev_batch": self._start(tx, window, shown)}

    def _start(self, tx: Transaction, window: Window, shown: Timeline) -> str:
        """`prev_batch`: the token that the client has, where that means the same, for a thin line has a short word for what it has told."""
        since, start = self.since, shown.start
        if start is None:
            return tokens.write_stream(window.upto)
        if since is None or window.since != since or shown.limited:
            return tokens.write_place(start)
        is_there = history.is_place_of(tx, window.room.number, start, since, window.upto)
        return self._since_token if is_there else tokens.write_place(start)

    def _state(self, tx: Transaction, found: list[StoredEvent]) -> list[dict[str, Any]]:
        return self._formatted(found, client_view.state_events(tx, found, self._viewer, with_room_id=False))

    def _formatted(self, found: list[StoredEvent], listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._filter.federation_format:
            raw = zip(found, listed, strict=True)
            listed = [{**one.event.pdu, "event_id": one.event.event_id, "unsigned": it["unsigned"]} for one, it in raw]
        return [self._filter.fitted(one) for one in listed]

    # What stands beside them

    def _ephemeral(self, tx: Transaction, window: Window) -> list[dict[str, Any]]:
        room, room_id, user_id = window.room.number, window.room.room_id, window.membership.user_id
        found: list[dict[str, Any]] = []
        if window.is_whole:
            of_room: list[Receipt] = receipts.of_room(tx, room, user_id, MAX_RECEIPTS)
            typing = self._typing_in(room_id) or self._news.typing.get(room_id)  # who was typing when it was told last may have stopped
        else:
            of_room = self._news.receipts.get(room, [])
            typing = self._news.typing.get(room_id)
        if typing is not None:
            typing = [one for one in typing if one not in self._news.ignored]
            found.append({"type": "m.typing", "content": {"user_ids": typing}})
        of_room = [one for one in of_room if one.user_id not in self._news.ignored]
        if of_room:
            found.append({"type": "m.receipt", "content": edu_content(of_room)})
        told = kept(self._filter.ephemeral, found, room_id)
        if typing is not None and any(event["type"] == "m.typing" for event in told):
            self.typing[room] = bool(typing)
        return told

    def _account_data(self, tx: Transaction, window: Window) -> list[dict[str, Any]]:
        room_id = window.room.room_id
        if window.is_whole and self.since is not None:
            items = account_data.of_room(tx, window.membership.user_id, room_id)
        else:
            items = self._news.account_data.get(room_id, [])
        found = [{"type": item.type, "content": item.content} for item in items]
        return kept(self._filter.room_account_data, found, room_id)

    def _is_count_new(self, tx: Transaction, window: Window) -> bool:
        """Whether there is more unread than the client knows, though it is given no event: what those have said who are ignored only since
        then.
        """
        return window.since is not None and unread.is_more(tx, window.room.number, window.membership.user_id, window.since)

    def _count_unread(self, tx: Transaction, window: Window, entry: dict[str, Any]) -> None:
        counts = unread.of_user(tx, window.room.number, window.membership.user_id)
        main = counts.pop(unread.MAIN, unread.NONE)
        if self._filter.threads:
            entry["unread_notifications"] = _count(main)
            if counts:
                entry["unread_thread_notifications"] = {thread: _count(count) for thread, count in counts.items()}
        else:
            every = [main, *counts.values()]
            total = unread.Count(sum(one.notifications for one in every), sum(one.highlights for one in every))
            entry["unread_notifications"] = _count(total)


def _count(count: unread.Count) -> dict[str, int]:
    return {"highlight_count": count.highlights, "notification_count": count.notifications}
