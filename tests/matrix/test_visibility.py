"""History visibility."""

from __future__ import annotations

import pytest

from edgeserver.matrix.event import Event
from edgeserver.matrix.visibility import membership_of, state_needed, visibility_of, visible_to_server, visible_to_user
from tests.matrix.room_builder import ALICE, BOB, CAROL, make_event

MESSAGE = make_event("m.room.message", ALICE, event_id="$m")


def setting(value: object) -> Event:
    return make_event("m.room.history_visibility", ALICE, {"history_visibility": value}, event_id="$h", state_key="")


def membership(user: str, value: str) -> Event:
    return make_event("m.room.member", user, {"membership": value}, event_id="$u", state_key=user)


def sees(event: Event, visibility: str, member: str, *, later: bool = False) -> bool:
    return visible_to_user(event, BOB, visibility=visibility, membership=member, joined_later=later)


@pytest.mark.parametrize(
    ("visibility", "member", "now", "once_joined"),
    [
        ("world_readable", "leave", True, True),
        ("world_readable", "ban", True, True),
        ("shared", "join", True, True),
        ("shared", "invite", False, True),
        ("shared", "leave", False, True),
        ("invited", "join", True, True),
        ("invited", "invite", True, True),
        ("invited", "leave", False, False),
        ("joined", "join", True, True),
        ("joined", "invite", False, False),
        ("joined", "knock", False, False),
    ],
)
def test_a_user_sees_what_the_room_allowed_them_then(visibility: str, member: str, now: bool, once_joined: bool) -> None:
    assert sees(MESSAGE, visibility, member) is now
    assert sees(MESSAGE, visibility, member, later=True) is once_joined


def test_a_change_of_visibility_is_seen_from_either_side() -> None:
    assert sees(setting("joined"), "world_readable", "leave")
    assert sees(setting("world_readable"), "joined", "leave")
    assert sees(setting("shared"), "joined", "leave", later=True)
    assert not sees(setting("invited"), "joined", "leave", later=True)


def test_ones_own_membership_is_seen_from_either_side() -> None:
    assert sees(membership(BOB, "join"), "joined", "leave")
    assert sees(membership(BOB, "leave"), "joined", "join")
    assert sees(membership(BOB, "invite"), "invited", "leave")
    assert not sees(membership(BOB, "invite"), "joined", "leave")
    assert not sees(membership(CAROL, "join"), "joined", "leave")


def test_what_is_not_understood_is_shared_and_nobody() -> None:
    assert visibility_of(None) == visibility_of(setting("secret")) == visibility_of(setting(["joined"])) == "shared"
    assert visibility_of(setting("joined")) == "joined"
    assert membership_of(None) == membership_of(make_event("m.room.member", BOB, event_id="$x")) == "leave"
    assert membership_of(membership(BOB, "ban")) == "ban"
    assert state_needed(BOB) == (("m.room.history_visibility", ""), ("m.room.member", BOB))


def test_a_server_sees_what_any_of_its_users_could() -> None:
    def shown(event: Event, visibility: str, *members: str) -> bool:
        return visible_to_server(event, "two.example", visibility=visibility, memberships=members)

    assert shown(MESSAGE, "world_readable")
    assert shown(MESSAGE, "shared")
    assert shown(MESSAGE, "joined", "leave", "join")
    assert not shown(MESSAGE, "joined", "invite")
    assert shown(MESSAGE, "invited", "leave", "invite")
    assert not shown(MESSAGE, "invited")
    assert shown(membership(CAROL, "join"), "joined")
    assert not shown(membership(BOB, "join"), "joined")
    assert shown(setting("shared"), "joined")
