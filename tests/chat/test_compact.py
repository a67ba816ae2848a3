"""What the compact screen tells becomes what a person sees, whatever stands in it."""

from __future__ import annotations

from typing import Any

import pytest

from edgeserver.chat import compact
from edgeserver.chat.compact import Compact
from edgeserver.chat.events import REMOVED, Entry, Kind, State
from edgeserver.chat.model import Model
from edgeserver.thin import screen
from edgeserver.thin.screen import Answer, Older, Person, Reader, Room, Wish

ME, BOB, HARBOUR, PIER = "@me:home", "@bob:home", "!harbour:home", "!pier:home"


def said(number: int, text: str = "", **more: Any) -> screen.Entry:
    return screen.Entry(number, more.pop("sender", BOB), 1_790_000_000 + number, text=text, **more)


class Looking:
    """A connection and what has become of its answers."""

    def __init__(self) -> None:
        self.screen, self.model = Compact(), Model(ME)
        self.model.counts_are_told = True
        self._pos = 0

    def told(self, *rooms: Room, readers: tuple[Reader, ...] = ()) -> list[str]:
        """The keys of the entries that are new."""
        self._pos += 1
        updates = self.screen.updates(Answer(self._pos, len(rooms), rooms, readers))
        return [entry.key for update in updates for entry in self.model.apply(update)]

    def texts(self, room_id: str = HARBOUR) -> list[str]:
        return [entry.text[0] for entry in self.model.rooms[room_id].timeline]


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (said(1, "Low tide."), (Kind.TEXT, "Low tide.")),
        (said(1, "waves", kind="emote"), (Kind.EMOTE, "waves")),
        (said(1, "tide.jpg", kind="image"), (Kind.TEXT, "[picture] tide.jpg")),
        (said(1, "wave", kind="sticker"), (Kind.NOTE, "sent a sticker: wave")),
        (said(1, kind="removed"), (Kind.TEXT, REMOVED[0])),
        (said(1), (Kind.TEXT, REMOVED[0])),
        (said(1, kind="join"), (Kind.NOTE, "joined")),
        (said(1, kind="kick", whom="@eve:home"), (Kind.NOTE, "removed @eve:home")),
        (said(1, "A\x1b[2J\nB", kind="topic"), (Kind.NOTE, "set the topic: A\ufffd[2J B")),
        (said(1, "long", is_cut=True), (Kind.TEXT, "long […]")),
        (said(1, "\x1b]0;owned\x07", kind="file"), (Kind.TEXT, "[file] \ufffd]0;owned\ufffd")),
    ],
)
def test_an_entry_reads_as_what_happened(told: screen.Entry, shown: tuple[Kind, str]) -> None:
    entry = compact.read(told)
    assert isinstance(entry, Entry)
    assert (entry.kind, entry.text[0]) == shown
    assert (entry.key, entry.sender, entry.at, entry.state) == ("1", BOB, 1_790_000_001_000, State.THERE)


@pytest.mark.parametrize("kind", sorted(screen.KINDS))
def test_every_kind_is_known(kind: str) -> None:
    told = compact.read(said(1, "x", kind=kind, whom="@eve:home", target=0))
    assert kind == "encrypted" or told is not None


def test_rooms_stand_in_the_order_of_activity_without_being_numbered() -> None:
    at = Looking()
    at.told(Room(1, HARBOUR, name="Harbour", entries=(said(7, "x"),)), Room(2, PIER, name="Pier", entries=(said(5, "y"),)))
    assert [room.name for room in at.model.listed()] == ["Harbour", "Pier"]
    at.told(Room(2, entries=(said(9, "z"),)))
    at.told(Room(1, entries=(said(11, kind="join"),), stamp=7))
    assert [room.name for room in at.model.listed()] == ["Pier", "Harbour"]


def test_an_edit_and_a_removal_find_their_entry_and_a_gap_clears_what_is_before_it() -> None:
    at = Looking()
    at.told(Room(1, HARBOUR, entries=(said(1, "helo"), said(2, "forged"))))
    edits = (said(3, "hello", kind="edit", target=1), said(4, "x", kind="edit", target=2, sender="@eve:home"))
    at.told(Room(1, entries=edits))
    assert at.texts() == ["hello (edited)", "forged"]
    at.told(Room(1, entries=(said(5, kind="removal", target=2),)))
    assert at.texts() == ["hello (edited)", REMOVED[0]]
    assert at.told(Room(1, has_gap=True, entries=(said(20, "later"),))) == ["20"]
    assert (at.texts(), at.model.rooms[HARBOUR].prev_batch) == (["later"], "20")
    at.model.prepend_said(at.model.rooms[HARBOUR], *compact.older(Older((said(18, "a"), said(19, "b")), before=17)))
    assert (at.texts(), at.model.rooms[HARBOUR].prev_batch) == (["a", "b", "later"], "17")


def test_our_own_message_stands_once_whichever_comes_first() -> None:
    for order in ("answer first", "echo first", "the answer is lost", "told in full after a new start"):
        at = Looking()
        at.told(Room(1, HARBOUR, entries=(said(1, "x"),)))
        at.model.queued(HARBOUR, "77", Kind.TEXT, "mine", 5)
        if order == "answer first":
            at.model.acknowledged(HARBOUR, "77", "2")
        if order == "told in full after a new start":
            at.told(Room(1, HARBOUR, entries=(said(1, "x"), said(2, "mine", sender=ME, transaction="77"))))
        else:
            at.told(Room(1, entries=(screen.Entry(2, transaction="77"),)))
        if order == "echo first":
            assert at.model.acknowledged(HARBOUR, "77", "2") is None
        room = at.model.rooms[HARBOUR]
        assert [(entry.key, entry.text[0]) for entry in room.timeline] == [("1", "x"), ("2", "mine")], order
        assert not room.pending


def test_a_message_that_went_the_long_way_gets_its_number_later() -> None:
    at = Looking()
    at.told(Room(1, HARBOUR, entries=(said(1, "x"),)))
    at.model.queued(HARBOUR, "77", Kind.TEXT, "mine", 5)
    at.model.acknowledged(HARBOUR, "77", "")
    at.told(Room(1, entries=(screen.Entry(2, transaction="77"),)))
    assert [entry.key for entry in at.model.rooms[HARBOUR].timeline] == ["1", "2"]
    at.told(Room(1, HARBOUR, entries=(said(1, "x"), said(2, "mine", sender=ME, transaction="77"))))
    assert at.texts() == ["x", "mine"]


def test_handles_hold_for_one_connection_and_rooms_that_were_never_told_of_are_passed_over() -> None:
    at = Looking()
    assert at.told(Room(9, entries=(said(1, "from nowhere"),)), readers=(Reader(9, BOB, 1),)) == []
    at.told(Room(1, HARBOUR, entries=(said(1, "x", sender=ME),)), readers=(Reader(1, BOB, 1),))
    assert at.model.rooms[HARBOUR].readers_of("1") == [BOB]
    handle = screen.handle(1, HARBOUR)
    assert at.screen.wish(20, {PIER, HARBOUR}, HARBOUR) == Wish(20, (PIER,), handle)
    at.told(Room(1, PIER))
    assert (at.screen.handle(HARBOUR), at.screen.handle(PIER)) == (None, screen.handle(1, PIER))
    at.screen.begin_anew()
    assert (at.screen.pos, at.screen.wish(20, set(), HARBOUR)) == (None, Wish(20, (), HARBOUR))


def test_people_are_called_what_they_call_themselves_and_no_more() -> None:
    at = Looking()
    at.told(Room(1, HARBOUR, people=(Person(BOB, "Bob\x1b[2J"), Person("@ana:home", "")), entries=(said(1, "x"),)))
    room = at.model.rooms[HARBOUR]
    assert (room.name_of(BOB), room.name_of("@ana:home")) == ("Bob\ufffd[2J", "ana")


def test_an_invite_names_who_asks() -> None:
    at = Looking()
    at.told(Room(3, PIER, "invite", BOB, name="Pier", stamp=4))
    [room] = at.model.listed()
    assert (room.membership, room.name, room.inviter) == ("invite", "Pier", "bob")
    at.told(Room(3, PIER, name="Pier", entries=(said(5, "x"),)))
    assert room.membership == "join"
    at.told(Room(3, membership="leave"))
    assert at.model.listed() == []
