"""Filters on events."""

from __future__ import annotations

import fnmatch

from hypothesis import given
from hypothesis import strategies as st

from edgeserver.rooms.event_filter import EventFilter, matches_type
from tests.matrix.room_builder import ALICE, BOB, make_event


@given(pattern=st.text("ab.*", max_size=8), text=st.text("ab.", max_size=10))
def test_a_star_stands_for_any_characters_and_nothing_else_is_special(pattern: str, text: str) -> None:
    assert matches_type(pattern, text) == fnmatch.fnmatchcase(text, pattern)
    assert matches_type(text, text)


def test_a_type_is_matched_as_it_is_written() -> None:
    assert not matches_type("m.room.Message", "m.room.message")
    assert not matches_type("m?room", "m.room")
    assert not matches_type("ab*ba", "aba")


def test_what_is_excluded_is_so_even_if_it_is_included() -> None:
    message = make_event("m.room.message", ALICE, {"url": "mxc://x/y"}, event_id="$a")
    assert EventFilter.parse({}).takes(message)
    assert not EventFilter.parse({}).leaves_out
    assert EventFilter.parse({"types": ["m.*"], "senders": [ALICE, BOB], "contains_url": True}).takes(message)
    assert not EventFilter.parse({"types": []}).takes(message)
    assert not EventFilter.parse({"types": ["m.*"], "not_types": ["*message"]}).takes(message)
    assert not EventFilter.parse({"senders": [ALICE], "not_senders": [ALICE]}).takes(message)
    assert not EventFilter.parse({"contains_url": False}).takes(message)
    assert EventFilter.parse({"contains_url": False}).leaves_out


def test_rooms_are_chosen_by_id() -> None:
    assert EventFilter.parse({}).takes_room("!a:b")
    assert not EventFilter.parse({"rooms": []}).takes_room("!a:b")
    assert not EventFilter.parse({"rooms": ["!a:b"], "not_rooms": ["!a:b"]}).takes_room("!a:b")
    lazy = EventFilter.parse({"lazy_load_members": True, "limit": 5})
    assert (lazy.lazy_load_members, lazy.include_redundant_members, lazy.limit, lazy.leaves_out) == (True, False, 5, False)
