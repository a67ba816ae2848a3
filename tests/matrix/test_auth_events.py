"""Auth events selection."""

from __future__ import annotations

from edgeserver.matrix.auth_events import auth_types_for, select_auth_events, third_party_token
from edgeserver.matrix.room_versions import V7, V11, V12

ALICE, BOB, CAROL = "@alice:a", "@bob:b", "@carol:c"
CREATE, LEVELS, JOIN_RULES = ("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")


def member(user: str) -> tuple[str, str]:
    return "m.room.member", user


def test_a_create_event_cites_nothing() -> None:
    assert auth_types_for(V11, "m.room.create", "", ALICE, {}) == []


def test_any_event_cites_the_levels_its_sender_and_until_v11_the_room() -> None:
    assert auth_types_for(V11, "m.room.message", None, ALICE, {}) == [CREATE, LEVELS, member(ALICE)]
    assert auth_types_for(V12, "m.room.message", None, ALICE, {}) == [LEVELS, member(ALICE)]


def test_a_membership_cites_its_target_and_where_it_leads_inside_the_join_rules() -> None:
    for membership, inside in (("join", True), ("invite", True), ("knock", True), ("leave", False), ("ban", False)):
        keys = auth_types_for(V12, "m.room.member", BOB, ALICE, {"membership": membership})
        assert keys == [LEVELS, member(ALICE), member(BOB), *([JOIN_RULES] if inside else [])]
    assert auth_types_for(V12, "m.room.member", BOB, BOB, {"membership": "leave"}) == [LEVELS, member(BOB)]


def test_a_third_party_invite_cites_its_offer() -> None:
    content = {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}
    assert ("m.room.third_party_invite", "t") in auth_types_for(V12, "m.room.member", BOB, ALICE, content)
    for invite in ("x", {"signed": []}, {"signed": {"token": 5}}, {}):
        assert third_party_token({"third_party_invite": invite}) is None


def test_a_restricted_join_cites_who_authorised_it_where_the_version_knows_such() -> None:
    content = {"membership": "join", "join_authorised_via_users_server": CAROL}
    assert member(CAROL) in auth_types_for(V12, "m.room.member", BOB, BOB, content)
    assert member(CAROL) not in auth_types_for(V7, "m.room.member", BOB, BOB, content)
    assert member(CAROL) not in auth_types_for(V12, "m.room.member", BOB, BOB, {**content, "membership": "leave"})


def test_what_the_room_does_not_have_is_not_cited() -> None:
    state = {CREATE: "$create", member(ALICE): "$alice"}
    assert select_auth_events(V11, "m.room.topic", "", ALICE, {}, state.get) == ["$create", "$alice"]
    assert select_auth_events(V12, "m.room.topic", "", ALICE, {}, state.get) == ["$alice"]
