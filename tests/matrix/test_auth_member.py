"""The authorization rules for m.room.member."""

from __future__ import annotations

from typing import Any

import pytest

from edgeserver.matrix.room_versions import ROOM_VERSIONS, V6, V7, V8, V9, V10, V11, V12, RoomVersion
from edgeserver.matrix.signatures import SigningKey, encode_base64, sign_json
from edgeserver.matrix.verdicts import Accepted, Rejected
from tests.matrix.room_builder import ALICE, BOB, CAROL, DAVE, Room, make_event, public_room

FROM_6 = list(ROOM_VERSIONS.values())[5:]


def by_version(rules: object) -> str:
    return f"v{rules.version}" if isinstance(rules, RoomVersion) else ""


def refusal(room: Room, user: str, membership: object, *, by: str | None = None, **content: Any) -> str:
    """Why the membership is refused, "" if it is not."""
    event = room.draft("m.room.member", by or user, {"membership": membership, **content}, state_key=user)
    verdict = room.judge(event)
    return verdict.why if isinstance(verdict, Rejected) else ""


def room_with(join_rule: str, rules: RoomVersion, *members: str, **levels: Any) -> Room:
    room = public_room(rules, *members)
    users = levels.pop("users", {})
    room.levels(users=users if rules.privileged_creators else {ALICE: 100, **users}, **levels)
    room.join_rule(join_rule)
    return room


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_a_membership_has_a_target_and_a_value(rules: RoomVersion) -> None:
    room = public_room(rules)
    assert isinstance(room.judge(room.draft("m.room.member", BOB, {"membership": "join"})), Rejected)
    assert isinstance(room.judge(room.draft("m.room.member", BOB, state_key=BOB)), Rejected)
    assert "unknown" in refusal(room, BOB, "guest")
    assert "unknown" in refusal(room, BOB, ["join"])


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_the_creator_joins_first_and_nobody_else(rules: RoomVersion) -> None:
    room = Room(rules, create_content={"additional_creators": [BOB]})
    assert refusal(room, BOB, "join")
    room.member(ALICE)
    room.member(ALICE, "leave")
    assert "not invited" in refusal(room, ALICE, "join")


def test_the_creator_is_who_content_says_until_v10_and_the_sender_since() -> None:
    for rules, creator in ((V10, BOB), (V11, ALICE)):
        room = Room(rules, create_content={"creator": BOB})
        room.member(creator)
        assert "not joined" not in refusal(room, CAROL, "invite", by=creator)


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_a_public_room_lets_in_all_but_the_banned(rules: RoomVersion) -> None:
    room = public_room(rules, BOB)
    assert "somebody else" in refusal(room, CAROL, "join", by=BOB)
    room.member(BOB, "ban", by=ALICE)
    assert "banned" in refusal(room, BOB, "join")


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
@pytest.mark.parametrize("join_rule", ["invite", "knock", "restricted", "knock_restricted", "private"])
def test_an_invite_opens_a_room_where_the_version_knows_its_rule(rules: RoomVersion, join_rule: str) -> None:
    room = room_with(join_rule, rules)
    assert refusal(room, BOB, "join")
    room.member(BOB, "invite", by=ALICE)
    known = {
        "invite": True,
        "knock": rules.knocking,
        "restricted": rules.restricted,
        "knock_restricted": rules.knock_restricted,
        "private": False,
    }
    assert (refusal(room, BOB, "join") == "") is known[join_rule]


@pytest.mark.parametrize("rules", [V8, V9, V10, V11, V12], ids=by_version)
def test_a_restricted_join_is_authorised_by_a_member_who_may_invite(rules: RoomVersion) -> None:
    room = room_with("restricted", rules, BOB, DAVE, users={BOB: 10}, invite=10)
    assert "no user authorised" in refusal(room, CAROL, "join")
    assert "no user authorised" in refusal(room, CAROL, "join", join_authorised_via_users_server=7)
    assert "not joined" in refusal(room, CAROL, "join", join_authorised_via_users_server="@nobody:one.example")
    assert "may not invite" in refusal(room, CAROL, "join", join_authorised_via_users_server=DAVE)
    room.member(CAROL, content={"join_authorised_via_users_server": BOB})
    room.member(CAROL, content={"displayname": "Carol"})
    room.member(CAROL, "ban", by=ALICE)
    assert "banned" in refusal(room, CAROL, "join", join_authorised_via_users_server=BOB)


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_an_invite_needs_a_member_with_the_level_and_a_target_outside(rules: RoomVersion) -> None:
    room = room_with("invite", rules, BOB, DAVE, users={BOB: 10}, invite=10)
    assert "not joined" in refusal(room, "@eve:two.example", "invite", by=CAROL)
    assert "too low" in refusal(room, CAROL, "invite", by=DAVE)
    assert "already" in refusal(room, DAVE, "invite", by=BOB)
    room.member(CAROL, "invite", by=BOB)
    room.member(CAROL, "ban", by=ALICE)
    assert "banned" in refusal(room, CAROL, "invite", by=BOB)


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_who_is_in_may_leave_and_who_is_not_may_not(rules: RoomVersion) -> None:
    room = public_room(rules, BOB)
    assert "not in the room" in refusal(room, CAROL, "leave")
    room.member(CAROL, "invite", by=BOB)
    room.member(CAROL, "leave")
    assert "not in the room" in refusal(room, CAROL, "leave")
    room.member(BOB, "leave")
    room.member(BOB, "ban", by=ALICE)
    assert "not in the room" in refusal(room, BOB, "leave")


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_a_kick_needs_the_level_and_a_target_below(rules: RoomVersion) -> None:
    room = room_with("public", rules, BOB, CAROL, DAVE, users={BOB: 50, DAVE: 49})
    assert "remove" in refusal(room, CAROL, "leave", by=DAVE)
    assert "remove" in refusal(room, ALICE, "leave", by=BOB)
    assert "not joined" in refusal(room, CAROL, "leave", by="@eve:two.example")
    room.member(CAROL, "leave", by=BOB)
    room.member(DAVE, "leave", by=BOB)


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_to_lift_a_ban_takes_the_ban_level_and_the_kick_level(rules: RoomVersion) -> None:
    room = room_with("public", rules, BOB, CAROL, users={BOB: 50}, ban=60)
    assert "ban this user" in refusal(room, CAROL, "ban", by=BOB)
    room.member(CAROL, "ban", by=ALICE)
    assert "lift a ban" in refusal(room, CAROL, "leave", by=BOB)
    room.member(CAROL, "leave", by=ALICE)


@pytest.mark.parametrize("rules", FROM_6, ids=by_version)
def test_a_ban_needs_the_level_and_a_target_below_but_no_member(rules: RoomVersion) -> None:
    room = room_with("public", rules, BOB, DAVE, users={BOB: 50, DAVE: 50})
    assert "ban this user" in refusal(room, DAVE, "ban", by=BOB)
    assert "not joined" in refusal(room, DAVE, "ban", by=CAROL)
    room.member(CAROL, "ban", by=BOB)


def test_creators_cannot_be_removed_even_by_each_other() -> None:
    room = Room(V12, create_content={"additional_creators": [BOB]})
    room.member(ALICE)
    room.join_rule("public")
    room.member(BOB)
    room.member(CAROL)
    assert refusal(room, BOB, "leave", by=ALICE)
    assert refusal(room, ALICE, "ban", by=BOB)
    room.member(CAROL, "ban", by=BOB)


@pytest.mark.parametrize("rules", [V7, V9, V10, V12], ids=by_version)
def test_a_knock_is_for_who_is_outside_a_room_that_hears_it(rules: RoomVersion) -> None:
    room = room_with("knock", rules, BOB)
    assert "somebody else" in refusal(room, CAROL, "knock", by=BOB)
    assert "joined" in refusal(room, BOB, "knock")
    room.member(CAROL, "knock")
    room.member(CAROL, "leave")
    room.member(CAROL, "knock")
    room.member(CAROL, "invite", by=BOB)
    assert "invited" in refusal(room, CAROL, "knock")
    room.join_rule("knock_restricted")
    assert (refusal(room, DAVE, "knock") == "") is rules.knock_restricted
    room.join_rule("public")
    assert "knock" in refusal(room, DAVE, "knock")


def test_nobody_knocks_before_v7() -> None:
    assert "unknown" in refusal(room_with("knock", V6), BOB, "knock")


KEY = SigningKey(b"identity server" * 2 + b"..", "ed25519:0")


def offer_room(rules: RoomVersion, **offer: Any) -> Room:
    room = room_with("invite", rules, BOB)
    content = {"display_name": "c…@…", "key_validity_url": "https://id.example/", **offer}
    room.send("m.room.third_party_invite", ALICE, content, state_key="token")
    return room


def signed(mxid: str = CAROL, token: str = "token", key: SigningKey = KEY) -> dict[str, Any]:
    return {"display_name": "c…@…", "signed": sign_json({"mxid": mxid, "token": token}, "id.example", key)}


@pytest.mark.parametrize("rules", [V6, V11, V12], ids=by_version)
def test_a_third_party_invite_is_signed_by_a_key_of_the_offer(rules: RoomVersion) -> None:
    public = encode_base64(KEY.verify_key)
    another = encode_base64(SigningKey(bytes(32), "ed25519:1").verify_key)
    for offer in (
        {"public_key": public},
        {"public_key": another, "public_keys": ["x", {"public_key": "!"}, {"public_key": public + "="}]},
    ):
        room = offer_room(rules, **offer)
        assert refusal(room, CAROL, "invite", by=ALICE, third_party_invite=signed()) == ""
    wrong = offer_room(rules, public_key=another)
    assert "matches a key" in refusal(wrong, CAROL, "invite", by=ALICE, third_party_invite=signed())


def test_a_third_party_invite_is_refused_for_each_of_its_flaws() -> None:
    room = offer_room(V12, public_key=encode_base64(KEY.verify_key))

    def refused(invite: object, by: str = ALICE) -> str:
        return refusal(room, CAROL, "invite", by=by, third_party_invite=invite)

    assert "not signed" in refused(None)
    assert "not signed" in refused({"signed": "yes"})
    assert "no mxid" in refused({"signed": {"token": "token"}})
    assert "no token" in refused({"signed": {"mxid": CAROL, "token": 1}})
    assert "another user" in refused(signed(mxid=DAVE))
    assert "of this token" in refused(signed(token="other"))
    assert "made by another" in refused(signed(), by=BOB)
    for signatures in ([], {"a": []}, {"a": {"ed25519:0": 1}}, {"a": {"ed25519:0": "AAAA"}}):
        assert "matches a key" in refused({"signed": {"mxid": CAROL, "token": "token", "signatures": signatures}})
    room.member(CAROL, "ban", by=ALICE)
    assert "banned" in refused(signed())


def test_a_creator_who_joins_first_needs_no_join_rule_to_be_sound() -> None:
    room = Room(V12)
    room.member(ALICE)
    broken = make_event(
        "m.room.join_rules", ALICE, {"join_rule": 1}, event_id="$j", room_id=room.room_id, state_key="",
        prev_events=(room.newest,), auth_events=(),
    )  # fmt: skip
    assert room.add(broken) == Accepted()
    assert "does not let" in refusal(room, BOB, "join")
