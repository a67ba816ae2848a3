"""The authorization rules, but for membership and power levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeserver.matrix.auth import check, check_auth_events, check_by_auth_events
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import ROOM_VERSIONS, V1, V3, V5, V6, V10, V11, V12, RoomVersion
from edgeserver.matrix.verdicts import Accepted, Rejected, Verdict
from tests.matrix.room_builder import ALICE, BOB, CAROL, Room, make_event, public_room

ALL = list(ROOM_VERSIONS.values())
FROM_6 = ALL[5:]


def by_version(rules: object) -> str:
    return f"v{rules.version}" if isinstance(rules, RoomVersion) else ""


def why(verdict: Verdict) -> str:
    assert isinstance(verdict, Rejected)
    return verdict.why


def create(rules: RoomVersion = V12, content: dict[str, Any] | None = None, **more: Any) -> Event:
    more.setdefault("room_id", None if rules.room_id_is_create_hash else "!room:one.example")
    content = {"room_version": rules.version, "creator": ALICE} if content is None else content
    return make_event("m.room.create", ALICE, content, event_id="$create:x", state_key="", rules=rules, **more)


@pytest.mark.parametrize("rules", ALL, ids=by_version)
def test_a_room_can_be_created_and_used_in_every_version(rules: RoomVersion) -> None:
    assert check(create(rules), {}) == Accepted()
    room = public_room(rules, BOB, CAROL)
    room.send("m.room.message", BOB, {"body": "hello"})
    room.send("m.room.topic", ALICE, {"topic": "us"}, state_key="")
    for event in room.events.values():
        cited = [room.events[event_id] for event_id in event.auth_events]
        assert check_by_auth_events(event, cited, create=room.create) == Accepted()


@pytest.mark.parametrize("rules", [V6, V11, V12], ids=by_version)
def test_a_create_event_follows_nothing(rules: RoomVersion) -> None:
    assert "prev_events" in why(check(create(rules, prev_events=("$other",)), {}))


def test_the_room_id_is_of_the_creators_domain_until_v12_and_absent_since() -> None:
    assert "domain" in why(check(create(V11, room_id="!room:two.example"), {}))
    assert "room_id" in why(check(create(V12, room_id="!room:one.example"), {}))
    assert create(V12).room_id == "!create:x"


@pytest.mark.parametrize("version", ["13", "", 12, None])
def test_a_room_of_an_unknown_version_is_not_created(version: object) -> None:
    assert "version" in why(check(create(content={"room_version": version}), {}))


def test_a_create_event_states_its_creator_until_v10() -> None:
    assert "creator" in why(check(create(V10, content={"room_version": "10"}), {}))
    assert check(create(V11, content={"room_version": "11"}), {}) == Accepted()


@pytest.mark.parametrize("additional", ["@bob:one.example", [1], ["bob"], [BOB, "@carol"], None])
def test_additional_creators_are_user_ids(additional: object) -> None:
    assert "additional_creators" in why(check(create(content={"additional_creators": additional}), {}))
    assert check(create(V11, content={"additional_creators": additional}), {}) == Accepted()


def test_additional_creators_may_be_named_since_v12() -> None:
    assert check(create(content={"room_version": "12", "additional_creators": [BOB, CAROL]}), {}) == Accepted()


def test_without_a_create_event_nothing_is_allowed() -> None:
    room = public_room(V12)
    assert "m.room.create" in why(check(room.draft("m.room.message", ALICE), {}))


def test_the_room_id_must_name_the_create_event_since_v12() -> None:
    room = public_room(V12)
    event = room.draft("m.room.message", ALICE)
    other = replace(room.create, event_id="$another")
    assert "room id" in why(check(event, {}, create=other))
    assert "room id" in why(check_auth_events(event, [], create=other))
    assert "room id" in why(check_auth_events(event, [], create=None))
    assert "accepted" in why(check_auth_events(event, [], create=room.create, rejected={room.create.event_id}))


@pytest.mark.parametrize("rules", [V11, V12], ids=by_version)
def test_auth_events_that_do_not_belong_are_refused(rules: RoomVersion) -> None:
    room = public_room(rules, BOB)
    event = room.draft("m.room.message", BOB)
    cited = [room.events[event_id] for event_id in event.auth_events]

    def judge(events: list[Event], rejected: tuple[str, ...] = ()) -> Verdict:
        return check_auth_events(event, events, rejected=rejected, create=room.create)

    assert judge(cited) == Accepted()
    assert "two events" in why(judge([*cited, cited[-1]]))
    join_rules = room.events[room.state["m.room.join_rules", ""]]
    assert "no part" in why(judge([*cited, join_rules]))
    message = make_event("m.room.power_levels", BOB, event_id="$m", room_id=room.room_id, rules=rules)
    assert "no part" in why(judge([*cited, message]))
    assert "rejected" in why(judge(cited, rejected=(cited[0].event_id,)))
    assert "another room" in why(judge([replace(cited[0], room_id="!else:one.example"), *cited[1:]]))


def test_the_create_event_is_cited_until_v11_and_must_not_be_since() -> None:
    old, new = public_room(V11, BOB), public_room(V12, BOB)
    event = old.draft("m.room.message", BOB)
    cited = [old.events[event_id] for event_id in event.auth_events if event_id != old.create.event_id]
    assert "no m.room.create" in why(check_by_auth_events(event, cited))
    event = new.draft("m.room.message", BOB)
    cited = [new.events[event_id] for event_id in event.auth_events]
    assert "no part" in why(check_auth_events(event, [new.create, *cited], create=new.create))


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_an_unfederated_room_is_for_the_creators_server_alone(rules: RoomVersion) -> None:
    room = Room(rules, create_content={"m.federate": False})
    room.member(ALICE)
    room.join_rule("public")
    room.member(BOB)
    event = room.draft("m.room.member", CAROL, {"membership": "join"}, state_key=CAROL)
    assert "not federated" in why(room.judge(event))


def test_aliases_are_for_servers_to_state_until_v5() -> None:
    old, new = public_room(V5, BOB), public_room(V6, BOB)
    for room, allowed in ((old, True), (new, False)):
        event = room.draft("m.room.aliases", CAROL, {"aliases": []}, state_key="two.example")
        assert isinstance(room.judge(event), Accepted) is allowed
    assert "domain" in why(old.judge(old.draft("m.room.aliases", CAROL, state_key="one.example")))
    assert "state event" in why(old.judge(old.draft("m.room.aliases", CAROL)))


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_only_members_may_speak(rules: RoomVersion) -> None:
    room = public_room(rules, BOB)
    assert "not joined" in why(room.judge(room.draft("m.room.message", CAROL)))
    room.member(BOB, "leave")
    assert "not joined" in why(room.judge(room.draft("m.room.message", BOB)))


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_a_third_party_invite_asks_for_the_invite_level(rules: RoomVersion) -> None:
    room = public_room(rules, BOB)
    room.send("m.room.third_party_invite", BOB, {"display_name": "B…"}, state_key="token")
    room.levels(invite=50, users={} if rules.privileged_creators else {ALICE: 100})
    event = room.draft("m.room.third_party_invite", BOB, state_key="@token")
    assert "invite" in why(room.judge(event))
    room.send("m.room.third_party_invite", ALICE, state_key="@token")


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_the_type_of_an_event_asks_for_a_level(rules: RoomVersion) -> None:
    room = public_room(rules, BOB, CAROL)
    levels = {BOB: 50} if rules.privileged_creators else {ALICE: 100, BOB: 50}
    room.levels(users=levels, events={"m.room.topic": 51, "m.reaction": -1}, events_default=10)
    room.send("m.room.message", BOB)
    room.send("m.room.name", BOB, state_key="")
    room.send("m.reaction", CAROL)
    assert "requires 10" in why(room.judge(room.draft("m.room.message", CAROL)))
    assert "requires 50" in why(room.judge(room.draft("m.room.name", CAROL, state_key="")))
    assert "requires 51" in why(room.judge(room.draft("m.room.topic", BOB, state_key="")))
    room.send("m.room.topic", ALICE, state_key="")


def test_a_state_key_that_is_a_user_id_is_that_users() -> None:
    room = public_room(V12, BOB)
    room.levels(state_default=0)
    room.send("x.status", BOB, state_key=BOB)
    assert "another user" in why(room.judge(room.draft("x.status", BOB, state_key=ALICE)))
    assert "another user" in why(room.judge(room.draft("x.status", BOB, state_key=BOB + "_device")))


def test_a_redaction_is_weighed_by_the_auth_rules_until_v2() -> None:
    for rules, allowed in ((V1, False), (V3, True)):
        room = public_room(rules, CAROL)
        foreign = room.draft("m.room.redaction", CAROL, redacts="$message:two.example")
        assert isinstance(room.judge(foreign), Accepted) is allowed
        room.send("m.room.redaction", CAROL, redacts="$message:one.example")
        room.send("m.room.redaction", ALICE, redacts="$message:two.example")
