"""The compact screen: what a program that shows text to a person is told of rooms, and what it asks. Pure data, to and from JSON.

A third dialect of sliding sync (MSC4186 has the other two). What a person does not see is not told: of an event its number, its sender,
its second and its text. Handles stand in for identifiers. An event is named by its place in the box's stream, which is never given twice
and counts backfilled events below zero. A room is named by its number at the box; its id comes with the first mention on a connection.
Where the client names a room, a byte of the id's hash goes with the number (`handle`), so that a number which is another room's by now (the
box was restored from an older copy of its data) leads nowhere rather than there.

The order of rooms needs no numbers of its own: a room stands where its newest entry that counts as activity stands (`Entry.bumps`), unless
`Room.stamp` says otherwise.

What is left out has not changed, or is what it is in a room that is told of for the first time: no name, nobody, not encrypted. `unread`
and `highlights` are 0 where they are left out, `membership` is then "join".

`write_…` gives JSON, `read_…` takes what came from the network and raises `ScreenError` where it is not of this form.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

FEATURE: Final = "org.edgeserver.screen"
"""Its name among the `unstable_features` of /versions."""
BASE: Final = "/_matrix/client/unstable/org.edgeserver.screen"
MAX_TEXT: Final = 8000
"""Characters of one entry's text; what is longer is cut."""
MAX_NAME: Final = 255
"""Characters of a name."""
MAX_ID: Final = 255
MAX_ROOMS: Final = 1000
"""Rooms in one answer."""
MAX_ENTRIES: Final = 100
MAX_PEOPLE: Final = 500
MAX_READERS: Final = 1000
MAX_HEROES: Final = 5
LISTED: Final = 20
"""Rooms of the list that are asked for if nothing is said."""
MAX_LISTED: Final = 500
"""Rooms of the list that are asked for."""
MAX_WHOLE: Final = 50
"""Rooms that are asked for in full."""
MAX_OLDER: Final = 50
MAX_NUMBER: Final = (1 << 53) - 1

TEXT: Final = "text"
SAID: Final = frozenset((TEXT, "emote", "notice", "image", "file", "audio", "video", "location", "sticker"))
"""Kinds of what somebody says; `text` is the body, or what a file is called."""
CHANGES: Final = frozenset(("edit", "removal"))
"""Kinds of what is done to the entry `target`: `text` is its new text."""
ABOUT_SOMEBODY: Final = frozenset(("invite", "kick", "ban", "unban"))
"""Kinds of membership changes of somebody else, whose user id is `whom`."""
ENCRYPTED: Final = "encrypted"
"""An event whose content the box cannot read: there is nothing to be shown, so of whom it is, is not told."""
_HAPPENED: Final = frozenset(("removed", ENCRYPTED, "join", "leave", "decline", "knock", "name", "topic", "encryption", "closed"))
KINDS: Final = SAID | CHANGES | ABOUT_SOMEBODY | _HAPPENED
"""`removed` is what has been redacted, `closed` a tombstone."""
_BUMPS: Final = SAID | {"edit", "removed", ENCRYPTED}
MEMBERSHIPS: Final = frozenset(("join", "invite", "knock", "leave", "ban"))
_ROOM_ID: Final = re.compile(r"!.+", re.DOTALL)
_USER_ID: Final = re.compile(r"@.+", re.DOTALL)


class ScreenError(ValueError):
    """Not of this form; one sentence."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a timeline. `seconds` since the epoch.

    `transaction`: this very device has sent it, with this id. An entry of which nothing else is told (`is_echo`) is one that the device
    knows.
    """

    number: int
    sender: str = ""
    seconds: int = 0
    kind: str = TEXT
    text: str = ""
    is_cut: bool = False
    """The text goes on."""
    target: int | None = None
    whom: str = ""
    transaction: str = ""

    @property
    def is_echo(self) -> bool:
        return not self.sender and self.kind != ENCRYPTED

    @property
    def bumps(self) -> bool:
        """Whether it is activity in its room."""
        return self.is_echo or self.kind in _BUMPS


@dataclass(frozen=True, slots=True)
class Person:
    """What somebody is called in a room; empty: by the user id."""

    user_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody has read up to the event of this number, in the room of this number."""

    room: int
    user_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Room:
    """News of one room. `room_id` is there with the first mention on a connection, `name` where it has changed ("" is none)."""

    number: int
    room_id: str = ""
    membership: str = "join"
    inviter: str = ""
    name: str | None = None
    heroes: tuple[str, ...] = ()
    joined: int | None = None
    unread: int = 0
    highlights: int = 0
    is_encrypted: bool = False
    stamp: int | None = None
    has_gap: bool = False
    """Between what was told before and the first of `entries` there is more."""
    before: int | None = None
    """Where earlier entries go on from, if not from the first of `entries`."""
    entries: tuple[Entry, ...] = ()
    people: tuple[Person, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """`pos` is the place in the connection, to be sent with the next request; `count` how many rooms the whole list has, None where no list
    was asked for or a newer request has ended this one.
    """

    pos: int
    count: int | None = None
    rooms: tuple[Room, ...] = ()
    readers: tuple[Reader, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked: so many rooms of the list with their newest entry, and those in `whole` with some twenty; of the one in `open` also
    who has read what. A room is named by its handle, or by its id where the connection has not told its number yet.
    """

    listed: int = LISTED
    whole: tuple[int | str, ...] = ()
    open: int | str | None = None


@dataclass(frozen=True, slots=True)
class Older:
    """Earlier entries of a room, oldest first. `before`: where to go on from, None if there is nothing before."""

    entries: tuple[Entry, ...]
    people: tuple[Person, ...] = ()
    before: int | None = None


def is_user_id(text: str) -> bool:
    """Whether it may stand for somebody. Old rooms have user ids of every kind, and state keys that are none."""
    return len(text) <= MAX_ID and _USER_ID.fullmatch(text) is not None


# Handles


def handle(number: int, room_id: str) -> int:
    """How a client names a room."""
    return number << 8 | _check(room_id)


def number_of(handle: int) -> int:
    """The room's number in a handle."""
    return handle >> 8


def is_handle_of(handle: int, number: int, room_id: str) -> bool:
    """Whether the room is the one that the client means."""
    return handle >= 0 and handle == number << 8 | _check(room_id)


def _check(room_id: str) -> int:
    return hashlib.sha256(room_id.encode(errors="replace")).digest()[0]


# To JSON


def write_answer(answer: Answer) -> dict[str, Any]:
    readers = [{"room": reader.room, "sender": reader.user_id, "number": reader.number} for reader in answer.readers]
    told: dict[str, Any] = {"pos": answer.pos} if answer.count is None else {"pos": answer.pos, "count": answer.count}
    return told | _filled(rooms=list(map(write_room, answer.rooms)), receipts=readers)


def write_room(room: Room) -> dict[str, Any]:
    told: dict[str, Any] = {"number": room.number}
    told |= {} if room.name is None else {"name": room.name}
    told |= {} if room.membership == "join" else {"membership": room.membership}
    told |= {key: value for key, value in (("joined", room.joined), ("stamp", room.stamp), ("before", room.before)) if value is not None}
    return told | _filled(
        room_id=room.room_id,
        inviter=room.inviter,
        heroes=list(room.heroes),
        unread=room.unread,
        highlights=room.highlights,
        encrypted=room.is_encrypted,
        gap=room.has_gap,
        events=[_write_entry(entry) for entry in room.entries],
        users=[_write_person(person) for person in room.people],
    )


def _write_entry(entry: Entry) -> dict[str, Any]:
    told: dict[str, Any] = {"number": entry.number}
    if entry.transaction:
        told["txn_id"] = _short(entry.transaction)
    if entry.is_echo:
        return told
    told |= {"seconds": entry.seconds, **_filled(sender=entry.sender)}
    told |= {"text": entry.text} if entry.kind == TEXT else _filled(kind=entry.kind, text=entry.text)
    told |= {} if entry.target is None else {"target": entry.target}
    return told | _filled(cut=entry.is_cut, whom=entry.whom)


def _write_person(person: Person) -> dict[str, Any]:
    return {"sender": person.user_id, "name": person.name}


def write_wish(wish: Wish) -> dict[str, Any]:
    listed = {} if wish.listed == LISTED else {"listed": wish.listed}
    return {**listed, **_filled(whole=list(wish.whole)), **({} if wish.open is None else {"open": wish.open})}


def write_older(older: Older) -> dict[str, Any]:
    told: dict[str, Any] = {} if older.before is None else {"before": older.before}
    return told | _filled(events=list(map(_write_entry, older.entries)), users=list(map(_write_person, older.people)))


def _filled(**values: Any) -> dict[str, Any]:
    """Without what says nothing."""
    return {key: value for key, value in values.items() if value}


def _short(text: str) -> int | str:
    """A whole number as one, which costs less where it is near the last one."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 and str(int(text)) == text else text


# From JSON


def read_answer(told: object) -> Answer:
    fields = _Fields(told)
    rooms, readers = _all(read_room, fields.items("rooms", MAX_ROOMS)), _all(_read_reader, fields.items("receipts", MAX_READERS))
    return Answer(fields.number("pos"), fields.number_if_any("count", least=0), rooms, readers)


def read_room(told: object) -> Room:
    fields = _Fields(told)
    membership = fields.text("membership", MAX_ID) or "join"
    if membership not in MEMBERSHIPS:
        raise ScreenError("There is no such membership.")
    return Room(
        number=fields.number("number"),
        room_id=fields.identifier("room_id", _ROOM_ID),
        membership=membership,
        inviter=fields.identifier("inviter", _USER_ID),
        name=fields.text("name", MAX_NAME) if "name" in fields.told else None,
        heroes=tuple(_text(one, "heroes", MAX_NAME) for one in fields.items("heroes", MAX_HEROES)),
        joined=fields.number_if_any("joined", least=0),
        unread=fields.number_if_any("unread", least=0) or 0,
        highlights=fields.number_if_any("highlights", least=0) or 0,
        is_encrypted=fields.flag("encrypted"),
        stamp=fields.number_if_any("stamp"),
        has_gap=fields.flag("gap"),
        before=fields.number_if_any("before"),
        entries=_all(_read_entry, fields.items("events", MAX_ENTRIES)),
        people=_all(_read_person, fields.items("users", MAX_PEOPLE)),
    )


def _read_entry(told: object) -> Entry:
    fields = _Fields(told)
    kind = fields.text("kind", MAX_ID) or TEXT
    if kind not in KINDS:
        raise ScreenError("There is no such kind of entry.")
    number, sender = fields.number("number", least=-MAX_NUMBER), fields.identifier("sender", _USER_ID)
    transaction = fields.told.get("txn_id", "")
    transaction = str(transaction) if type(transaction) is int and transaction >= 0 else _text(transaction, "txn_id", MAX_ID)
    if not sender and kind != ENCRYPTED:
        return Entry(number, transaction=transaction)
    return Entry(
        number,
        sender,
        fields.number("seconds"),
        kind,
        fields.text("text", MAX_TEXT),
        fields.flag("cut"),
        fields.number_if_any("target"),
        fields.identifier("whom", _USER_ID),
        transaction,
    )


def _read_person(told: object) -> Person:
    fields = _Fields(told)
    return Person(fields.identifier("sender", _USER_ID, needed=True), fields.text("name", MAX_NAME))


def _read_reader(told: object) -> Reader:
    fields = _Fields(told)
    user_id = fields.identifier("sender", _USER_ID, needed=True)
    return Reader(fields.number("room"), user_id, fields.number("number", least=-MAX_NUMBER))


def read_wish(told: object) -> Wish:
    fields = _Fields(told)
    whole = _all(_name_of_room, fields.items("whole", MAX_WHOLE))
    opened = None if fields.told.get("open") is None else _name_of_room(fields.told["open"])
    listed = fields.number_if_any("listed", least=0)
    return Wish(LISTED if listed is None else min(listed, MAX_LISTED), whole, opened)


def read_older(told: object) -> Older:
    fields = _Fields(told)
    entries, people = fields.items("events", MAX_ENTRIES), fields.items("users", MAX_PEOPLE)
    return Older(_all(_read_entry, entries), _all(_read_person, people), fields.number_if_any("before"))


def _name_of_room(told: object) -> int | str:
    if type(told) is int and 0 <= told <= MAX_NUMBER:
        return told
    if isinstance(told, str) and len(told) <= MAX_ID and _ROOM_ID.fullmatch(told):
        return told
    raise ScreenError("A room is named by its handle or by its id.")


def _all(read: Callable[[object], T], told: Sequence[object]) -> tuple[T, ...]:
    return tuple(map(read, told))


@dataclass(frozen=True, slots=True)
class _Fields:
    """An object's members, each read as what it is to be."""

    given: object
    told: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.given, dict):
            raise ScreenError("Where an object is to be there is something else.")
        object.__setattr__(self, "told", self.given)

    def number(self, key: str, least: int = 0) -> int:
        found = self.number_if_any(key, least)
        if found is None:
            raise ScreenError(f"{key} is missing.")
        return found

    def number_if_any(self, key: str, least: int = -MAX_NUMBER) -> int | None:
        value = self.told.get(key)
        if value is None:
            return None
        if type(value) is not int or not least <= value <= MAX_NUMBER:
            raise ScreenError(f"{key} is not a whole number of at least {least}.")
        return value

    def text(self, key: str, most: int) -> str:
        return _text(self.told.get(key, ""), key, most)

    def identifier(self, key: str, form: re.Pattern[str], *, needed: bool = False) -> str:
        value = self.text(key, MAX_ID)
        if (value or needed) and not form.fullmatch(value):
            raise ScreenError(f"{key} is no identifier.")
        return value

    def flag(self, key: str) -> bool:
        value = self.told.get(key, False)
        if type(value) is not bool:
            raise ScreenError(f"{key} is true or false.")
        return value

    def items(self, key: str, most: int) -> Sequence[object]:
        value = self.told.get(key, [])
        if not isinstance(value, list) or len(value) > most:
            raise ScreenError(f"{key} is not a list of at most {most}.")
        return value


def _text(value: object, key: str, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ScreenError(f"{key} is not a text of at most {most} characters.")
    return value
