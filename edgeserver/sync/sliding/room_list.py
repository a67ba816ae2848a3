"""The list of a user's rooms, most recently active first, and what of it a client's lists show.

MSC4186, "Lists". The list of a user who syncs is kept in memory and brought up to date by what has happened since; so a poll costs what
has changed, and not how many rooms there are.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from edgeserver.rooms import history
from edgeserver.store import account_data, events, room_list, room_views, rooms, state
from edgeserver.sync import room_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from edgeserver.store.database import Transaction
    from edgeserver.store.room_list import ListedRoom
    from edgeserver.store.rooms import Membership
    from edgeserver.sync.sliding.connections import Told
    from edgeserver.sync.sliding.wanted import ListFilter, ListWish

KEPT_USERS: Final = 100
KEPT_ROOMS: Final = 100_000
"""Rooms in all lists that are kept together."""
FEW: Final = 500
"""If more rooms than that have news, the list is read anew."""


@dataclass(frozen=True, slots=True)
class RoomList:
    """A user's rooms as of a stream position, the most recently active first. Never changed: several threads read it."""

    position: int
    rooms: list[ListedRoom]
    by_id: dict[str, ListedRoom] = field(default_factory=dict)
    hidden: frozenset[int] = frozenset()
    """Rooms that are shown to those connections alone that know them already."""
    forgotten: Mapping[int, int] = field(default_factory=dict)
    """Rooms that the user has forgotten, with the position since when: they are hidden, once a connection knows that the user is out."""
    asked: Mapping[int, tuple[tuple[Membership, str], ...]] = field(default_factory=dict)
    """Of rooms with an invite, the earlier invites and the knock that it took the place of, the latest first, and who made them."""


class RoomLists:
    """The lists that are kept. Calls are made inside read transactions, on whichever of the readers' threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, RoomList] = OrderedDict()
        self._lock = threading.Lock()
        self._rooms = 0

    def of(self, tx: Transaction, user_id: str) -> RoomList:
        """The list as of this moment."""
        with self._lock:
            kept = self._kept.get(user_id)
        if kept is None or kept.position > tx.position:
            found = _made(tx, user_id, room_list.all_rooms(tx, user_id))
        elif kept.position < tx.position:
            found = _updated(tx, user_id, kept)
        else:
            found = kept
        self._keep(user_id, found)
        return found

    def drop(self, user_id: str) -> None:
        """The list has a room that is not there any more (it was purged, which is no news): it is read anew the next time."""
        with self._lock:
            kept = self._kept.pop(user_id, None)
            self._rooms -= 0 if kept is None else len(kept.rooms)

    def _keep(self, user_id: str, found: RoomList) -> None:
        """In place of an older one: a transaction that began earlier may end later."""
        with self._lock:
            kept = self._kept.pop(user_id, None)
            newest = found if kept is None or kept.position <= found.position else kept
            self._kept[user_id] = newest
            self._rooms += len(newest.rooms) - (0 if kept is None else len(kept.rooms))
            while len(self._kept) > KEPT_USERS or (len(self._kept) > 1 and self._rooms > KEPT_ROOMS):
                self._rooms -= len(self._kept.popitem(last=False)[1].rooms)


def _made(tx: Transaction, user_id: str, found: Iterable[ListedRoom]) -> RoomList:
    ordered = sorted(found, key=lambda room: room.activity, reverse=True)
    hidden = frozenset(room.room for room in ordered if not _is_shown(tx, user_id, room))
    forgotten = {room.room: room.since for room in ordered if room.forgotten}
    asked = {room.room: before for room in ordered if room.membership == "invite" and (before := _asked(tx, user_id, room))}
    return RoomList(tx.position, ordered, {room.room_id: room for room in ordered}, hidden, forgotten, asked)


def _updated(tx: Transaction, user_id: str, old: RoomList) -> RoomList:
    numbers = {*events.rooms_with_news(tx, old.position, tx.position), *room_views.changed_rooms(tx, user_id, old.position)}
    if len(numbers) > FEW:
        return _made(tx, user_id, room_list.all_rooms(tx, user_id))
    fresh = []
    for room in room_list.some_rooms(tx, user_id, numbers):
        if room.activity > old.position:
            fresh.append(room)
        elif room.room_id in old.by_id:
            numbers.discard(room.room)  # news of a room that the user is not in is no news to them
    if not numbers:
        return replace(old, position=tx.position)
    new = _made(tx, user_id, fresh)
    new.rooms.extend(room for room in old.rooms if room.room not in numbers)
    by_id, hidden = {room.room_id: room for room in new.rooms}, (old.hidden - numbers) | new.hidden
    forgotten = {**{number: since for number, since in old.forgotten.items() if number not in numbers}, **new.forgotten}
    asked = {**{number: before for number, before in old.asked.items() if number not in numbers}, **new.asked}
    return RoomList(tx.position, new.rooms, by_id, hidden, forgotten, asked)


class Windows:
    """What a client's lists show of a user's rooms.

    Rooms that the user has left by themselves are among them only if the connection knows them (MSC4186, "Lists"). Rooms that they have
    forgotten, or were invited back to by somebody whom they ignore, only until the connection knows that they are out of it. An invite that
    is not wanted is as if it had not been: who knocked goes on knocking. `instead` has what it is to be told that the user is there, and
    `by_id` the rooms by their ids, as the connection is to see them.
    """

    def __init__(self, tx: Transaction, user_id: str, listed: RoomList, told: Told, ignored: frozenset[str]) -> None:
        self._tx = tx
        self._user_id = user_id
        self._listed = listed
        unwanted = _unwanted(tx, user_id, listed, ignored)
        asked = _still_asked(tx, user_id, unwanted, listed, ignored)
        self.instead = asked | _ended(tx, user_id, unwanted - asked.keys(), listed.forgotten, told)
        self.hidden = (listed.hidden.difference(told.rooms) | unwanted | listed.forgotten.keys()) - self.instead.keys()
        self.shown = [room for room in listed.rooms if room.room not in self.hidden] if self.hidden else listed.rooms
        self.by_id: Mapping[str, ListedRoom] = listed.by_id
        if asked:
            seen = {room.room: _as_asked(room, asked[room.room]) for room in listed.rooms if room.room in asked}
            self.shown = sorted((seen.get(room.room, room) for room in self.shown), key=lambda room: room.activity, reverse=True)
            self.by_id = {**listed.by_id, **{room.room_id: room for room in seen.values()}}
        self._direct: frozenset[str] | None = None
        self._tags: Mapping[str, frozenset[str]] | None = None

    @property
    def direct(self) -> frozenset[str]:
        """Ids of the rooms that are direct chats of the user."""
        if self._direct is None:
            content: Any = account_data.get(self._tx, self._user_id, "", "m.direct") or {}
            lists = [one for one in content.values() if isinstance(one, list)]
            self._direct = frozenset(room_id for rooms in lists for room_id in rooms if isinstance(room_id, str))
        return self._direct

    def window(self, wish: ListWish) -> tuple[int, list[ListedRoom]]:
        """How many rooms are in a list, and those in its ranges, in order."""
        found = self.shown
        for test in self._tests(wish.filter):
            found = list(filter(test, found))
        if wish.ranges is None:
            return len(found), found
        return len(found), [room for start, end in wish.ranges for room in found[start : end + 1]]

    def _tests(self, wanted: ListFilter) -> Iterator[Callable[[ListedRoom], bool]]:
        if wanted.is_invited is not None:
            yield lambda room: (room.membership == "invite") == wanted.is_invited
        if wanted.is_dm is not None:
            direct = self.direct
            yield lambda room: (room.room_id in direct) == wanted.is_dm
        if wanted.is_encrypted is not None:
            yield lambda room: self._described(room)[1] == wanted.is_encrypted
        if wanted.room_types is not None:
            types = wanted.room_types
            yield lambda room: self._described(room)[0] in types
        if wanted.not_room_types:
            yield lambda room: self._described(room)[0] not in wanted.not_room_types
        if wanted.tags is not None or wanted.not_tags:
            yield lambda room: self._is_tagged(room, wanted)
        if wanted.spaces is not None:
            children = self._children(wanted.spaces)
            yield lambda room: room.room_id in children
        if wanted.name_like is not None:
            yield lambda room: wanted.takes_name(self._name(room))

    def _described(self, room: ListedRoom) -> tuple[str | None, bool]:
        """Type and encryption: of a room that we are not in, as far as the invite tells."""
        if room.has_state:
            return room.type, bool(room.encrypted)
        stripped = room_list.stripped(self._tx, self._user_id, room.room)
        kind = stripped.get(("m.room.create", ""), {}).get("type")
        return kind if isinstance(kind, str) else None, ("m.room.encryption", "") in stripped

    def _is_tagged(self, room: ListedRoom, wanted: ListFilter) -> bool:
        if self._tags is None:
            self._tags = room_list.tagged(self._tx, self._user_id)
        tags = self._tags.get(room.room_id, frozenset())
        return not tags & wanted.not_tags and (wanted.tags is None or bool(tags & wanted.tags))

    def _children(self, spaces: Iterable[str]) -> set[str]:
        """The rooms in those of the spaces that the user is in; no further down."""
        found: set[str] = set()
        for space in spaces:
            room = self._listed.by_id.get(space)
            snapshot = None if room is None or room.membership != "join" else room_views.snapshot_now(self._tx, room.room)
            if snapshot is not None:
                children = events.many_by_number(self._tx, state.of_type(self._tx, snapshot, "m.space.child").values())
                found |= {stored.event.state_key or "" for stored in children.values() if isinstance(stored.event.content.get("via"), list)}
        return found

    def _name(self, room: ListedRoom) -> str:
        snapshot = room_views.snapshot_now(self._tx, room.room)
        stored = None if snapshot is None else state.lookup_event(self._tx, snapshot, "m.room.name")
        name = "" if stored is None else stored.event.content.get("name")
        return name if isinstance(name, str) else ""


def _unwanted(tx: Transaction, user_id: str, listed: RoomList, ignored: frozenset[str]) -> set[int]:
    """Invites that the user does not want to see: any, or those of people whom they ignore."""
    invites = {room.room for room in listed.rooms if room.membership == "invite"}
    if not invites:
        return invites
    if account_data.blocks_invites(tx, user_id):
        return invites
    return room_list.invited_by(tx, user_id, ignored) if ignored else set()


def _asked(tx: Transaction, user_id: str, room: ListedRoom) -> tuple[tuple[Membership, str], ...]:
    """What of `RoomList.asked` there is of a room with an invite."""
    member = rooms.membership(tx, user_id, room.room)
    found = () if member is None else room_view.before_invite(tx, member)
    return tuple((before, sender) for before, sender in found if before.membership in ("invite", "knock"))


def _still_asked(
    tx: Transaction, user_id: str, unwanted: set[int], listed: RoomList, ignored: frozenset[str]
) -> dict[int, Membership]:
    """The invites that are wanted, and the knocks, that unwanted invites took the place of."""
    found: dict[int, Membership] = {}
    for number in unwanted & listed.asked.keys():
        for before, sender in listed.asked[number]:
            if before.membership == "knock" or (sender not in ignored and not account_data.blocks_invites(tx, user_id)):
                found[number] = before
                break
    return found


def _as_asked(room: ListedRoom, before: Membership) -> ListedRoom:
    return room._replace(membership=before.membership, since=before.stream)


def _ended(tx: Transaction, user_id: str, unwanted: set[int], forgotten: Mapping[int, int], told: Told) -> dict[int, Membership]:
    found: dict[int, Membership] = {}
    for number in (unwanted | forgotten.keys()) & told.rooms.keys():
        since = told.since(told.rooms[number].upto) or 0
        if number in forgotten and forgotten[number] <= since:
            continue
        member = rooms.membership(tx, user_id, number)
        if member is not None and number in unwanted:
            out = (one for one, _ in room_view.before_invite(tx, member) if one.membership in ("leave", "ban"))
            member = next(out, None)
        if member is not None and room_view.was_in(tx, member, since):
            found[number] = member
    return found


def _is_shown(tx: Transaction, user_id: str, room: ListedRoom) -> bool:
    """Whether a connection is told of a room that it does not know yet: not of one that the user left by themselves, nor of one that they
    were kept out of without ever having been in it.
    """
    if room.membership in ("join", "invite", "knock"):
        return True
    if room.forgotten or not room.has_state or room.by_self:
        return False
    member = rooms.membership(tx, user_id, room.room)
    return member is not None and history.departure(tx, member) is not None
