"""Sync tokens, filters, and the memory of members sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.matrix import errors
from edgeserver.rooms import tokens
from edgeserver.sync.filters import SyncFilter, takes
from edgeserver.sync.sent_members import MAX_ENTRIES, SentMembers
from edgeserver.sync.since import MAX_TYPING_ROOMS, Since, parse

positions = st.integers(0, 10**17)


@given(positions, positions, positions, st.lists(positions, max_size=MAX_TYPING_ROOMS))
def test_a_token_is_read_as_it_was_written(stream: int, typing: int, to_device: int, rooms: list[int]) -> None:
    token = Since(stream, typing, min(stream, to_device), tuple(rooms))
    assert parse(str(token)) == token
    assert tokens.parse(str(token)) == stream


@pytest.mark.parametrize(
    "text", ["", "s", "t1_2", "s1_", "s-1_2", "s1_2_3_4", "s" + "9" * 19, "s١", "s1~", "s1~2.", "s1_2~x", "s1~" + ".".join("1" * 17)]
)
def test_anything_else_is_no_token(text: str) -> None:
    with pytest.raises(errors.InvalidParam):
        parse(text)


@given(st.lists(positions, max_size=MAX_TYPING_ROOMS, unique=True), st.dictionaries(positions, st.booleans(), max_size=40))
def test_a_token_names_the_rooms_where_people_type_and_of_too_many_those_told_of_last(before: list[int], told: dict[int, bool]) -> None:
    rooms = Since(1, 1, 1).with_typing(tuple(before), told).typing_rooms
    busy = [room for room in before if room not in told] + [room for room, types in told.items() if types]
    assert rooms == tuple(busy[max(0, len(busy) - MAX_TYPING_ROOMS) :])
    assert parse(str(Since(1, 1, 1, rooms))).typing_rooms == rooms


def test_limits_have_a_default_and_a_bound() -> None:
    assert SyncFilter().limit == 10
    assert SyncFilter.of({"room": {"timeline": {"limit": 5000}}}).limit == 100


def test_fields_are_paths() -> None:
    wanted = SyncFilter.of({"event_fields": ["content.a.b", r"content.m\.x", "content.none.y", "type"]})
    event = {"type": "t", "sender": "s", "content": {"a": {"b": 1, "c": 2}, "m.x": 3, "d": 4}}
    assert wanted.fitted(event) == {"type": "t", "content": {"a": {"b": 1}, "m.x": 3}}
    whole = SyncFilter.of({"event_fields": ["content", "content.a"]})
    assert whole.fitted(event) == {"content": event["content"]}


def test_filters_look_at_what_is_no_event_of_a_room() -> None:
    part = SyncFilter.of({"presence": {"types": ["m.*"], "not_senders": ["@a:b"]}}).presence
    assert takes(part, {"type": "m.presence", "sender": "@c:b"})
    assert not takes(part, {"type": "m.presence", "sender": "@a:b"})
    assert not takes(part, {"type": "x.presence", "sender": "@c:b"})


def test_a_member_is_held_once_the_answer_has_been_acknowledged() -> None:
    sent = SentMembers()
    device = ("@a:b", "D")
    sent.sent(device, 5, 10, [(1, "@m:b", 7)])
    assert not sent.holds(device, 1, "@m:b", 7, 9)
    assert sent.holds(device, 1, "@m:b", 7, 10)
    assert not sent.holds(device, 1, "@m:b", 8, 10)
    sent.sent(device, 10, 11, [(1, f"@{number}:b", number) for number in range(MAX_ENTRIES)])
    assert not sent.holds(device, 1, "@m:b", 7, 10)
    assert sent.holds(device, 1, "@1:b", 1, 11)
    sent.sent(("@a:b", "OTHER"), None, 12, [(1, "@m:b", 7)])
    assert not sent.holds(device, 1, "@1:b", 1, 11)


def test_what_an_answer_carried_that_was_lost_is_not_held_once_another_came_in_its_place() -> None:
    sent = SentMembers()
    device = ("@a:b", "D")
    sent.sent(device, None, 5, [(1, "@held:b", 3)])
    sent.sent(device, 5, 10, [(1, "@m:b", 7)])
    sent.sent(device, 5, 12, [])
    assert not sent.holds(device, 1, "@m:b", 7, 12)
    assert sent.holds(device, 1, "@held:b", 3, 12)


def test_a_room_that_is_told_anew_begins_with_nobody_held() -> None:
    sent = SentMembers()
    device = ("@a:b", "D")
    sent.sent(device, None, 5, [(1, "@m:b", 3), (2, "@m:b", 4)])
    sent.sent(device, 5, 6, [], {1})
    assert not sent.holds(device, 1, "@m:b", 3, 6)
    assert sent.holds(device, 2, "@m:b", 4, 6)
