"""What the client knows: rooms in the order of activity, unread counts, timelines, our own messages on their way (pure).

It is fed with `RoomUpdate`s, which `sliding` and `classic` read from the server's answers, and with what becomes of our messages.
Everything is bounded; every text in it went through `visible`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgeserver.chat import events, visible
from edgeserver.chat.events import Echo, Edit, Entry, Kind, Removal, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_ROOMS: Final = 1000
MAX_ENTRIES: Final = 400
"""Of a room's timeline; the oldest are forgotten."""
MAX_MEMBERS: Final = 500
MAX_READERS: Final = 100
MAX_SERVER: Final = 24
"""Letters of a server's name that are shown behind a person's; those of boxes without a domain are 57 long."""
Read = Entry | Edit | Removal | Echo | None
ENCRYPTED: Final = "This room is encrypted end to end, which needs a full client (Element, for one): nothing is shown or sent here."


@dataclass(slots=True)
class RoomUpdate:
    """News of one room; None means no news. `events` are timeline events, oldest first, `state` other state events, both as they came.

    Where the server tells what a person reads, `said` has it in place of `events`: each with the transaction id if it is ours, or none; and
    `names` in place of `state`: user ids and display names.
    """

    room_id: str
    membership: str | None = None
    is_whole: bool = False
    """The timeline is the end of what there is: what is held may have a gap before it."""
    name: str | None = None
    heroes: list[str] | None = None
    joined: int | None = None
    unread: int | None = None
    highlights: int | None = None
    stamp: int | None = None
    prev_batch: str | None = None
    inviter: str | None = None
    encrypted: bool = False
    events: list[Mapping[str, Any]] = field(default_factory=list)
    state: list[Mapping[str, Any]] = field(default_factory=list)
    receipts: list[tuple[str, str]] = field(default_factory=list)
    """User and event id."""
    said: list[tuple[Read, str]] = field(default_factory=list)
    names: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Room:
    """`number` is what people call it by: it never changes while the program runs. `pending` are our messages by transaction id."""

    room_id: str
    number: int
    home: str = ""
    """Our own server, whose people are called without it."""
    membership: str = "join"
    given_name: str = ""
    heroes: list[str] = field(default_factory=list)
    joined: int = 0
    unread: int = 0
    highlights: int = 0
    stamp: int = 0
    prev_batch: str = ""
    inviter: str = ""
    is_encrypted: bool = False
    timeline: list[Entry] = field(default_factory=list)
    pending: dict[str, Entry] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    readers: dict[str, str] = field(default_factory=dict)
    """The event that each other has read up to."""
    read_upto: str = ""
    """The event that we have read up to, as far as that is known."""

    @property
    def name(self) -> str:
        """Spec: client-server API, "Calculating the display name for a room"."""
        if self.given_name:
            return self.given_name
        if self.heroes:
            return visible.cut(", ".join(self.heroes), events.MAX_NAME)
        return f"Invite from {self.inviter}" if self.inviter else "Empty room"

    @property
    def entries(self) -> list[Entry]:
        """All that is to be read; nothing of an encrypted room."""
        return [] if self.is_encrypted else [*self.timeline, *self.pending.values()]

    @property
    def newest(self) -> str:
        """The id of the newest event that is shown; empty if there is none."""
        return self.timeline[-1].key if self.timeline else ""

    def unseen(self, me: str) -> int:
        """What others have said since we have last read or said something, as far as it is here."""
        count = 0
        for entry in reversed(self.timeline):
            if entry.key == self.read_upto or (entry.sender == me and entry.kind is not Kind.NOTE):
                break
            count += entry.sender != me and entry.kind is not Kind.NOTE
        return count

    def name_of(self, user_id: str) -> str:
        """What to call somebody: who shares a name with another that we know of is called by the user id as well.

        Spec: client-server API, "Calculating the display name for a user".
        """
        name = called(user_id, self.members.get(user_id, ""), self.home)
        is_shared = any(who != user_id and called(who, other, self.home) == name for who, other in self.members.items())
        poses = self.members.get(user_id, "").startswith("@")
        return f"{name} ({visible.one_line(user_id, events.MAX_ID)})" if is_shared or poses else name

    def readers_of(self, key: str) -> list[str]:
        """Who has read that entry or a later one, apart from its sender."""
        places = {entry.key: place for place, entry in enumerate(self.timeline)}
        if key not in places:
            return []
        sender = self.timeline[places[key]].sender
        return [who for who, upto in self.readers.items() if who != sender and places.get(upto, -1) >= places[key]]


def called(user_id: str, display_name: str, home: str) -> str:
    """The display name; without one the name at our own server, or the user id with its server's name cut, which may be a key."""
    if display_name:
        return display_name
    local, _, server = user_id[1:].partition(":")
    if server == home:
        return visible.one_line(local, events.MAX_NAME)
    return visible.one_line(f"@{visible.cut(local, events.MAX_NAME)}:{visible.cut(server, MAX_SERVER)}")


class Model:
    """All rooms of `me`."""

    def __init__(self, me: str) -> None:
        self.me = me
        self.home = me.partition(":")[2]
        self.rooms: dict[str, Room] = {}
        self.counts_are_told = False
        """The server has said how much is unread, so it counts; not all do in sliding sync."""
        self.count = 0
        """Rooms that the server has, as far as it has said so."""
        self._numbers = 0

    # ---- what the server tells

    def apply(self, update: RoomUpdate) -> list[Entry]:
        """Takes in the news and returns the entries that were not there before, oldest first."""
        room = self._room(update.room_id)
        if room is None:
            return []
        self._note_summary(room, update)
        for event in update.state:
            self._note_state(room, event)
        for user_id, name in update.names:
            self._note_name(room, user_id, name)
        is_new = not room.timeline
        before = {entry.key for entry in room.timeline}
        first = [events.identifier(event.get("event_id")) for event in update.events[:1]]
        first += [found.key for found, _ in update.said[:1] if isinstance(found, Entry)]
        if update.is_whole and before.isdisjoint(first):
            room.timeline.clear()
        for event in update.events:
            self._note_event(room, event)
        for found, transaction in update.said:
            self._note_said(room, found, transaction)
        if update.prev_batch and (update.is_whole or is_new):
            room.prev_batch = update.prev_batch
        for user_id, key in update.receipts:
            self._note_receipt(room, user_id, key)
        if not self.counts_are_told:
            room.unread = room.unseen(self.me)
        if room.is_encrypted:
            room.timeline.clear()
        del room.timeline[:-MAX_ENTRIES]
        return [entry for entry in room.timeline if entry.key not in before]

    def prepend(self, room: Room, older: Iterable[Mapping[str, Any]], prev_batch: str) -> int:
        """Takes in earlier events, newest first, and returns how many entries that gave. An empty `prev_batch`: there is nothing before."""
        return self.prepend_said(room, map(events.read, older), prev_batch)

    def prepend_said(self, room: Room, older: Iterable[Read], prev_batch: str) -> int:
        """The same of what was read already."""
        known = {entry.key for entry in room.timeline}
        found = [entry for entry in older if isinstance(entry, Entry) and entry.key not in known]
        room.prev_batch = prev_batch
        if room.is_encrypted:
            return 0
        room.timeline[:0] = found[::-1][-MAX_ENTRIES:]
        return len(found)

    def listed(self) -> list[Room]:
        """Invites first, then the rooms in the order of activity."""
        shown = [room for room in self.rooms.values() if room.membership in ("join", "invite")]
        return sorted(shown, key=lambda room: (room.membership != "invite", -room.stamp, room.number))

    def find(self, text: str) -> list[Room]:
        """The rooms that somebody may mean: by number, id, or the beginning of the name."""
        wanted = text.strip()
        if wanted.isascii() and wanted.isdecimal():
            return [room for room in self.listed() if room.number == int(wanted[:9])]
        if wanted in self.rooms:
            return [self.rooms[wanted]]
        folded = wanted.casefold()
        same = [room for room in self.listed() if room.name.casefold() == folded]
        return same or [room for room in self.listed() if folded and room.name.casefold().startswith(folded)]

    def _room(self, room_id: str) -> Room | None:
        room = self.rooms.get(room_id)
        if room is None and len(self.rooms) < MAX_ROOMS and events.identifier(room_id):
            self._numbers += 1
            room = self.rooms[room_id] = Room(room_id, self._numbers, self.home)
        return room

    def _note_summary(self, room: Room, update: RoomUpdate) -> None:
        if update.membership is not None:
            room.membership = update.membership
        if update.name is not None:
            room.given_name = visible.one_line(update.name, events.MAX_NAME)
        if update.heroes is not None:
            room.heroes = [visible.one_line(name, events.MAX_NAME) for name in update.heroes[:5]]
        if update.inviter is not None:
            room.inviter = called(update.inviter, "", self.home)
        room.joined = room.joined if update.joined is None else update.joined
        if update.unread is not None and (update.unread or self.counts_are_told):
            self.counts_are_told = True
            room.unread = update.unread
        room.highlights = room.highlights if update.highlights is None else update.highlights
        room.stamp = room.stamp if update.stamp is None else update.stamp
        room.is_encrypted = room.is_encrypted or update.encrypted

    def _note_state(self, room: Room, event: Mapping[str, Any]) -> None:
        kind, state_key = event.get("type"), event.get("state_key")
        if kind == "m.room.encryption" and state_key == "":
            room.is_encrypted = True  # for good: servers and clients alike ignore that it be switched off
        elif kind == "m.room.name" and state_key == "":
            room.given_name = visible.one_line(events.content_of(event).get("name"), events.MAX_NAME)
        elif kind == "m.room.member" and isinstance(state_key, str):
            membership = events.text_of(events.content_of(event), "membership")
            if state_key == self.me and membership in ("join", "leave", "ban"):
                room.membership = membership
            if membership in ("join", "invite"):
                self._note_name(room, state_key, events.member_name(event))

    def _note_name(self, room: Room, user_id: str, name: str) -> None:
        if user_id in room.members or len(room.members) < MAX_MEMBERS:
            room.members[user_id] = name

    def _note_event(self, room: Room, event: Mapping[str, Any]) -> None:
        if "state_key" in event:
            self._note_state(room, event)
        self._note_said(room, events.read(event), events.transaction_of(event))

    def _note_said(self, room: Room, found: Read, transaction: str) -> None:
        if isinstance(found, Entry):
            room.pending.pop(transaction, None)
            _put(room.timeline, found, transaction)
        elif isinstance(found, Echo):
            self.acknowledged(room.room_id, transaction, found.key)
            for entry in room.timeline:
                entry.key = found.key if transaction and entry.key == transaction else entry.key
        elif isinstance(found, Edit):
            for entry in room.timeline:
                if entry.key == found.target and entry.sender == found.sender:
                    entry.text = (*found.text[:-1], f"{found.text[-1]} (edited)")
        elif isinstance(found, Removal):
            for entry in room.timeline:
                if entry.key == found.target:
                    entry.text = events.REMOVED

    def _note_receipt(self, room: Room, user_id: str, key: str) -> None:
        if user_id == self.me:
            places = {entry.key: place for place, entry in enumerate(room.timeline)}
            if places.get(key, len(places)) >= places.get(room.read_upto, -1):  # our own word may have overtaken the server's
                room.read_upto = key
        elif user_id in room.readers or len(room.readers) < MAX_READERS:
            room.readers[user_id] = key

    def entered(self, room_id: str, name: str) -> Room | None:
        """We have joined or made a room, of which the server may not have told yet; None if there are too many rooms."""
        room = self._room(room_id)
        if room is not None:
            room.membership = "join"
            room.given_name = room.given_name or visible.one_line(name, events.MAX_NAME)
        return room

    # ---- our own messages

    def queued(self, room_id: str, transaction: str, kind: Kind, text: str, at: int) -> Entry | None:
        """A message of ours that waits; None if there are too many rooms."""
        room = self._room(room_id)
        if room is None:
            return None
        entry = Entry(transaction, self.me, at, kind, visible.lines(text, events.MAX_LINES, events.MAX_TEXT), State.QUEUED)
        room.pending[transaction] = entry
        return entry

    def acknowledged(self, room_id: str, transaction: str, event_id: str) -> Entry | None:
        """The server has it; None if it was here already."""
        room = self.rooms.get(room_id)
        entry = None if room is None else room.pending.pop(transaction, None)
        if room is None or entry is None or any(one.key == event_id for one in room.timeline):
            return None
        entry.key, entry.state, entry.why = event_id or transaction, State.SENT, ""
        room.timeline.append(entry)
        return entry

    def failed(self, room_id: str, transaction: str, why: str) -> Entry | None:
        """The server will not have it."""
        entry = self._pending(room_id, transaction)
        if entry is not None:
            entry.state, entry.why = State.FAILED, visible.one_line(why)
        return entry

    def again(self, room_id: str, transaction: str) -> None:
        """It waits once more."""
        entry = self._pending(room_id, transaction)
        if entry is not None:
            entry.state, entry.why = State.QUEUED, ""

    def dropped(self, room_id: str, transaction: str) -> None:
        room = self.rooms.get(room_id)
        if room is not None:
            room.pending.pop(transaction, None)

    def _pending(self, room_id: str, transaction: str) -> Entry | None:
        room = self.rooms.get(room_id)
        return None if room is None else room.pending.get(transaction)


def _put(timeline: list[Entry], entry: Entry, transaction: str) -> None:
    """At its end, or in the place of what it was before the server said it."""
    for place in range(len(timeline) - 1, -1, -1):
        if timeline[place].key in (entry.key, transaction or entry.key):
            timeline[place] = entry
            return
    timeline.append(entry)
