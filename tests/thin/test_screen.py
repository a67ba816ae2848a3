"""What both ends of the compact screen say comes back as it was, whatever it is; and nothing that came from the network does harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.thin import screen
from edgeserver.thin.screen import Answer, Entry, Older, Person, Reader, Room, ScreenError, Wish

numbers = st.integers(-screen.MAX_NUMBER, screen.MAX_NUMBER)
counts = st.integers(0, screen.MAX_NUMBER)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
users = st.builds("@{}".format, texts.filter(bool))
room_ids = st.builds("!{}".format, texts.filter(bool))
transactions = st.sampled_from(["", "7", "007", "9" * 15, "9" * 16, "chat7", "-1"])
kinds = st.sampled_from(sorted(screen.KINDS))
targets, somebody = st.none() | numbers, st.just("") | users
whole_entries = st.builds(Entry, numbers, users, counts, kinds, texts, st.booleans(), targets, somebody, transactions)
entries = whole_entries | st.builds(Entry, numbers, transaction=transactions)
people = st.builds(Person, users, texts)


def several(one: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(one, max_size=4).map(tuple)


rooms = st.builds(
    Room,
    number=counts,
    room_id=st.just("") | room_ids,
    membership=st.sampled_from(sorted(screen.MEMBERSHIPS)),
    inviter=st.just("") | users,
    name=st.none() | texts,
    heroes=several(texts),
    joined=st.none() | counts,
    unread=counts,
    highlights=counts,
    is_encrypted=st.booleans(),
    stamp=st.none() | numbers,
    has_gap=st.booleans(),
    before=st.none() | numbers,
    entries=several(entries),
    people=several(people),
)
KEYS = ["pos", "count", "rooms", "number", "events", "sender", "kind", "receipts", "whole", "before"]
names_of_rooms = counts | room_ids
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | users,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=20,
)


def over_the_wire(told: dict[str, Any]) -> Any:
    return json.loads(json.dumps(told))


@given(st.builds(Answer, counts, st.none() | counts, several(rooms), several(st.builds(Reader, counts, users, numbers))))
def test_an_answer_comes_back_as_it_was(answer: Answer) -> None:
    assert screen.read_answer(over_the_wire(screen.write_answer(answer))) == answer


@given(st.builds(Wish, st.integers(0, screen.MAX_LISTED), several(names_of_rooms), st.none() | names_of_rooms))
def test_a_wish_comes_back_as_it_was(wish: Wish) -> None:
    assert screen.read_wish(over_the_wire(screen.write_wish(wish))) == wish


@given(st.builds(Older, several(entries), several(people), st.none() | numbers))
def test_earlier_entries_come_back_as_they_were(older: Older) -> None:
    assert screen.read_older(over_the_wire(screen.write_older(older))) == older


@given(values)
def test_what_is_of_another_form_is_refused_with_one_error(told: Any) -> None:
    for read in (screen.read_answer, screen.read_wish, screen.read_older):
        try:
            read(told)
        except ScreenError:
            continue


@pytest.mark.parametrize(
    "told",
    [
        {"count": 1},
        {"pos": 1, "count": True},
        {"pos": -1, "count": 0},
        {"pos": 1, "count": 1, "rooms": [{"number": 1, "membership": "king"}]},
        {"pos": 1, "count": 1, "rooms": [{"number": 1, "room_id": "harbour"}]},
        {"pos": 1, "count": 1, "rooms": [{"number": 1, "events": [{"number": 2, "sender": "alice", "seconds": 3}]}]},
        {"pos": 1, "count": 1, "rooms": [{"number": 1, "events": [{"number": 2, "sender": "@alice:a", "seconds": 3, "kind": "dance"}]}]},
        {"pos": 1, "count": 1, "rooms": [{"number": 1, "events": [{"number": 2, "sender": "@alice:a", "text": "no time"}]}]},
        {"pos": 1, "count": 1, "rooms": [{"number": 1}] * (screen.MAX_ROOMS + 1)},
        {"pos": 1, "count": 1, "rooms": [{"number": 1, "name": "x" * (screen.MAX_NAME + 1)}]},
    ],
)
def test_answers_that_no_box_gives_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ScreenError):
        screen.read_answer(told)


@given(counts.filter(lambda number: number < 1 << 45), room_ids)
def test_a_handle_leads_to_its_room_and_to_no_other_of_that_number(number: int, room_id: str) -> None:
    handle = screen.handle(number, room_id)
    assert screen.number_of(handle) == number
    assert screen.is_handle_of(handle, number, room_id)
    assert not screen.is_handle_of(handle, number + 1, room_id)
    assert not screen.is_handle_of(handle ^ 1, number, room_id)
