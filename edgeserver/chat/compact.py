"""The compact screen of a box at the other end of a line (`edgeserver.thin.screen`): what is asked and what is answered (pure).

It tells what a person reads, so there is little left to do: numbers become keys of entries, kinds become words. A room's handle holds as
long as the connection in which its number was told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeserver.chat import visible
from edgeserver.chat.events import FILES, MAX_ID, MAX_LINES, MAX_NAME, MAX_TEXT, REMOVED, Echo, Edit, Entry, Kind, Removal
from edgeserver.chat.model import Read, RoomUpdate
from edgeserver.thin import screen
from edgeserver.thin.screen import Wish

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgeserver.thin.screen import Answer, Older

FEATURE: Final = screen.FEATURE
_HAPPENED: Final = {
    "sticker": "sent a sticker: {text}",
    "join": "joined",
    "leave": "left",
    "decline": "declined the invite",
    "knock": "asks to be let in",
    "invite": "invited {whom}",
    "kick": "removed {whom}",
    "ban": "banned {whom}",
    "unban": "lifted the ban of {whom}",
    "name": "named the room {text}",
    "topic": "set the topic: {text}",
    "encryption": "switched encryption on",
    "closed": "closed this room; another has taken its place",
}
_LENGTHS: Final = {"topic": 200}


class Compact:
    """One connection: `pos` is where it is, None before its first answer."""

    def __init__(self) -> None:
        self.pos: int | None = None
        self._rooms: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    def begin_anew(self) -> None:
        """The box does not know the connection any more, nor do its numbers hold."""
        self.pos = None
        self._rooms.clear()
        self._numbers.clear()

    def handle(self, room_id: str) -> int | None:
        """None for a room that the connection has not told of."""
        number = self._numbers.get(room_id)
        return None if number is None else screen.handle(number, room_id)

    def wish(self, listed: int, rooms: Collection[str], open_room: str | None) -> Wish:
        """For the first `listed` rooms of the list, and for `rooms` in full; receipts are asked for of `open_room`."""
        others = sorted(room_id for room_id in rooms if room_id != open_room)
        opened = None if open_room is None else self._named(open_room)
        return Wish(min(listed, screen.MAX_LISTED), tuple(map(self._named, others[: screen.MAX_WHOLE])), opened)

    def _named(self, room_id: str) -> int | str:
        handle = self.handle(room_id)
        return room_id if handle is None else handle

    def updates(self, answer: Answer) -> list[RoomUpdate]:
        """The news in an answer; what is about rooms that were never told of is passed over."""
        self.pos = answer.pos
        found: dict[int, RoomUpdate] = {}
        for room in answer.rooms:
            room_id = self._known(room)
            if room_id:
                found[room.number] = _update(room_id, room)
        for reader in answer.readers:
            room_id = self._rooms.get(reader.room, "")
            if room_id:
                update = found.setdefault(reader.room, RoomUpdate(room_id))
                update.receipts.append((reader.user_id, str(reader.number)))
        return list(found.values())

    def _known(self, room: screen.Room) -> str:
        if room.room_id:
            self._numbers.pop(self._rooms.get(room.number, ""), None)
            self._rooms[room.number] = room.room_id
            self._numbers[room.room_id] = room.number
        return self._rooms.get(room.number, "")


def _update(room_id: str, room: screen.Room) -> RoomUpdate:
    is_first = bool(room.room_id)
    update = RoomUpdate(
        room_id,
        room.membership,
        is_whole=is_first or room.has_gap,
        name=room.name,
        heroes=list(room.heroes) or None,
        joined=room.joined,
        unread=room.unread,
        highlights=room.highlights,
        stamp=room.stamp,
        inviter=room.inviter or None,
        encrypted=room.is_encrypted,
        said=[(read(entry), entry.transaction) for entry in room.entries],
        names=names(room.people),
    )
    if update.stamp is None:
        update.stamp = max((entry.number for entry in room.entries if entry.bumps), default=None)
    before = room.before if room.before is not None or not room.entries else room.entries[0].number
    update.prev_batch = None if before is None else str(before)
    return update


def older(answer: Older) -> tuple[list[Read], str]:
    """The entries, newest first, and where the next ones begin (empty: there are none before)."""
    return [read(entry) for entry in reversed(answer.entries)], "" if answer.before is None else str(answer.before)


def number(key: str) -> int | None:
    """The event's number in the key of an entry; None for keys of another dialect."""
    return int(key) if key.removeprefix("-").isdecimal() and len(key) < 18 else None


def names(people: Collection[screen.Person]) -> list[tuple[str, str]]:
    return [(person.user_id, visible.one_line(person.name, MAX_NAME)) for person in people]


def read(told: screen.Entry) -> Read:
    """What the entry says."""
    key = str(told.number)
    if told.is_echo:
        return Echo(key)
    entry = Entry(key, told.sender, told.seconds * 1000, Kind.NOTE, ())
    if told.kind == "removal":
        return Removal(str(told.target))
    if told.kind == "edit":
        return Edit(str(told.target), told.sender, _lines(told) or REMOVED)
    if told.kind in _HAPPENED:
        text = visible.one_line(told.text, _LENGTHS.get(told.kind, MAX_NAME))
        entry.text = (_HAPPENED[told.kind].format(text=text, whom=visible.one_line(told.whom, MAX_ID)),)
        return entry
    if told.kind == screen.ENCRYPTED:
        return None
    entry.kind = Kind.EMOTE if told.kind == "emote" else Kind.TEXT
    file = FILES.get(f"m.{told.kind}")
    entry.text = _lines(told) if file is None else (f"[{file}] {visible.one_line(told.text, 120)}".rstrip(),)
    entry.text = entry.text or REMOVED
    return entry


def _lines(told: screen.Entry) -> tuple[str, ...]:
    found = visible.lines(told.text, MAX_LINES, MAX_TEXT)
    return (*found[:-1], f"{found[-1]} […]") if told.is_cut and found and not found[-1].endswith("[…]") else found
