"""Power levels: how they are read, and the rule for changing them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgeserver.matrix.power_levels import CREATOR_LEVEL, PowerLevels, creators, parse_level
from edgeserver.matrix.room_versions import V5, V6, V9, V10, V11, V12, RoomVersion
from edgeserver.matrix.verdicts import Accepted, Rejected
from tests.matrix.room_builder import ALICE, BOB, CAROL, DAVE, Room, make_event, public_room


def by_version(rules: object) -> str:
    return f"v{rules.version}" if isinstance(rules, RoomVersion) else ""


def levels_of(rules: RoomVersion, content: dict[str, Any] | None, **create: Any) -> PowerLevels:
    room = Room(rules, create_content=create)
    if content is None:
        return PowerLevels(rules, room.create, None)
    event = make_event("m.room.power_levels", ALICE, content, event_id="$levels", state_key="", rules=rules)
    return PowerLevels(rules, room.create, event)


def test_a_level_is_an_integer_since_v10() -> None:
    assert [parse_level(value, V10) for value in (0, -5, 2**53 - 1)] == [0, -5, 2**53 - 1]
    assert [parse_level(value, V10) for value in ("50", 1.0, True, None, [], 2**53, -(2**53))] == [None] * 7


@pytest.mark.parametrize(
    ("value", "level"),
    [("100", 100), ("000100", 100), ("+100", 100), ("-100", -100), (" 100 ", 100), ("\t -007\n", -7)]
    + [("0" * 5000 + "1", 1), (50.57, 50), (-0.5, 0), (5.114698e4, 51146)]
    + [(text, None) for text in ("", "-", "1.5", "1e3", "1_0", "0x1", "٣", "+-1", "1 0", "9" * 5000, "9" * 309)]
    + [(2**70, 2**70), (-(2**70), -(2**70)), (1e300, int(1e300)), ("9007199254740992", 2**53), ("1" + "0" * 308, 10**308)]
    + [(value, None) for value in (math.inf, math.nan, 10**309, True, None, {}, [1])],
)
def test_strings_and_floats_were_levels_before(value: object, level: int | None) -> None:
    assert parse_level(value, V9) == level


def test_defaults_stand_in_for_what_is_not_stated() -> None:
    for levels in (levels_of(V11, {}), levels_of(V11, {"ban": "x", "users": [], "events": None, "notifications": 3})):
        assert (levels.ban, levels.kick, levels.redact, levels.invite) == (50, 50, 50, 0)
        assert (levels.to_send("x", is_state=True), levels.to_send("x", is_state=False)) == (50, 0)
        assert levels.notification("room") == 50
        assert levels.user(ALICE) == 0


def test_what_is_stated_counts() -> None:
    levels = levels_of(
        V12,
        {
            "users": {BOB: 7},
            "users_default": 3,
            "events": {"m.room.name": 9},
            "events_default": 1,
            "state_default": 2,
            "notifications": {"room": 20},
            "invite": 4,
            "kick": 5,
            "ban": 6,
            "redact": 8,
        },
    )
    assert (levels.user(BOB), levels.user(CAROL)) == (7, 3)
    assert (levels.invite, levels.kick, levels.ban, levels.redact) == (4, 5, 6, 8)
    assert (levels.to_send("m.room.name", is_state=True), levels.to_send("x", is_state=True)) == (9, 2)
    assert (levels.to_send("x", is_state=False), levels.notification("room"), levels.notification("x")) == (1, 20, 50)


def test_the_creator_has_100_until_levels_are_stated_and_stands_above_them_since_v12() -> None:
    assert (levels_of(V11, None).user(ALICE), levels_of(V11, None).user(BOB)) == (100, 0)
    assert levels_of(V11, {"users_default": 5}).user(ALICE) == 5
    levels = levels_of(V12, {"users": {ALICE: 1}}, additional_creators=[BOB])
    assert levels.user(ALICE) == levels.user(BOB) == levels_of(V12, None).user(ALICE) == CREATOR_LEVEL
    assert levels_of(V11, None, additional_creators=[BOB]).user(BOB) == 0


def test_the_creators_are_whom_the_version_says() -> None:
    assert creators(Room(V10, create_content={"creator": BOB}).create) == {BOB}
    assert creators(Room(V10, create_content={"creator": 1}).create) == set()
    assert creators(Room(V11, create_content={"creator": BOB}).create) == {ALICE}
    assert creators(Room(V12, create_content={"additional_creators": [BOB, 3]}).create) == {ALICE, BOB}
    assert creators(Room(V12, create_content={"additional_creators": BOB}).create) == {ALICE}


def refusal(room: Room, sender: str, content: dict[str, Any]) -> str:
    verdict = room.judge(room.draft("m.room.power_levels", sender, content, state_key=""))
    return verdict.why if isinstance(verdict, Rejected) else ""


@pytest.mark.parametrize("name", ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"])
@pytest.mark.parametrize("rules", [V6, V10, V12], ids=by_version)
def test_a_single_level_must_be_one(rules: RoomVersion, name: str) -> None:
    room = Room(rules)
    room.member(ALICE)
    for value in ("many", None, True, [], {}):
        assert name in refusal(room, ALICE, {name: value})
    assert (refusal(room, ALICE, {name: "7"}) == "") is (rules is V6)


@pytest.mark.parametrize("rules", [V6, V10, V12], ids=by_version)
def test_tables_of_levels_must_be_such(rules: RoomVersion) -> None:
    room = Room(rules)
    room.member(ALICE)
    for table in ("events", "notifications", "users"):
        for value in ([], None, "x", {BOB: None}, {BOB: "x"}, {BOB: {}}):
            assert table in refusal(room, ALICE, {table: value})
        assert (refusal(room, ALICE, {table: {BOB: " 7 "}}) == "") is (rules is V6)
    for user in ("bob", "@bob", "", "@bob:"):
        assert "users" in refusal(room, ALICE, {"users": {user: 1}})


def test_no_level_is_stated_for_a_creator_since_v12() -> None:
    room = Room(V12, create_content={"additional_creators": [BOB]})
    room.member(ALICE)
    for user in (ALICE, BOB):
        assert "creator" in refusal(room, ALICE, {"users": {user: 100}})
    assert refusal(room, ALICE, {"users": {CAROL: 100}}) == ""


@pytest.fixture(params=[V6, V9, V10, V11, V12], ids=by_version)
def room(request: pytest.FixtureRequest) -> Room:
    """Bob has 50, Carol 50, Dave 75; Alice is above all."""
    room = public_room(request.param, BOB, CAROL, DAVE)
    above = {} if request.param.privileged_creators else {ALICE: 100}
    room.levels(users={**above, BOB: 50, CAROL: 50, DAVE: 75}, events={"m.room.power_levels": 50}, ban=60, kick=40)
    return room


def changed(room: Room, **content: Any) -> dict[str, Any]:
    return {**room.events[room.state["m.room.power_levels", ""]].content, **content}


def test_a_level_above_ones_own_is_neither_changed_nor_given(room: Room) -> None:
    assert refusal(room, BOB, changed(room)) == ""
    assert refusal(room, BOB, changed(room, kick=50, redact=50, invite=-3)) == ""
    assert "a level" in refusal(room, BOB, changed(room, kick=51))
    assert "a level" in refusal(room, BOB, changed(room, ban=50))
    without_ban = changed(room)
    del without_ban["ban"]
    assert "a level" in refusal(room, BOB, without_ban)
    assert refusal(room, DAVE, without_ban) == ""
    assert "a level" in refusal(room, BOB, changed(room, state_default=51))


def test_an_entry_above_ones_own_is_neither_changed_nor_given(room: Room) -> None:
    room.levels(**changed(room, events={"m.room.power_levels": 50, "m.room.name": 60}, notifications={"room": 60}))
    assert "events" in refusal(room, BOB, changed(room, events={"m.room.power_levels": 50}))
    assert "events" in refusal(room, BOB, changed(room, events={"m.room.power_levels": 50, "m.room.name": 40}))
    assert "events" in refusal(room, BOB, changed(room, events={"m.room.power_levels": 50, "m.room.name": 60, "x": 51}))
    assert "notifications" in refusal(room, BOB, changed(room, notifications={"room": 50}))
    assert "notifications" in refusal(room, BOB, changed(room, notifications={}))
    assert "notifications" in refusal(room, BOB, changed(room, notifications={"room": 60, "x": 51}))
    assert refusal(room, BOB, changed(room, notifications={"room": 60, "x": 50})) == ""
    assert refusal(room, DAVE, changed(room, notifications={})) == ""


def test_a_user_who_is_not_below_is_not_touched(room: Room) -> None:
    users = changed(room)["users"]
    assert "not below" in refusal(room, BOB, changed(room, users={**users, CAROL: 40}))
    assert "not below" in refusal(room, BOB, changed(room, users={**users, DAVE: 0}))
    assert "not below" in refusal(room, BOB, changed(room, users={u: n for u, n in users.items() if u != DAVE}))
    assert "more than" in refusal(room, BOB, changed(room, users={**users, "@eve:x": 51}))
    assert "more than" in refusal(room, BOB, changed(room, users={**users, BOB: 51}))
    assert refusal(room, BOB, changed(room, users={**users, BOB: 10, "@eve:x": 50})) == ""
    assert refusal(room, ALICE, changed(room, users={**users, CAROL: 0, DAVE: 99})) == ""


def test_two_notations_of_a_level_are_no_change() -> None:
    room = public_room(V6, BOB)
    room.levels(users={ALICE: 100, BOB: 50}, ban=60, events={"m.room.power_levels": 50})
    content = {"users": {ALICE: "100", BOB: " 050"}, "ban": "+60", "events": {"m.room.power_levels": "50"}}
    assert refusal(room, BOB, content) == ""


def test_notifications_are_not_looked_at_until_v5() -> None:
    for rules, allowed in ((V5, True), (V6, False)):
        room = public_room(rules, BOB)
        content = {"users": {ALICE: 100, BOB: 50}, "events": {"m.room.power_levels": 50}}
        room.levels(**content, notifications={"room": 100})
        assert (refusal(room, BOB, {**content, "notifications": {"room": 0}}) == "") is allowed


def test_the_first_levels_may_be_any() -> None:
    room = Room(V11)
    room.member(ALICE)
    event = room.draft("m.room.power_levels", ALICE, {"users": {BOB: 1000}, "kick": 5000}, state_key="")
    assert room.add(event) == Accepted()
    assert "too low" in refusal(room, ALICE, {})
