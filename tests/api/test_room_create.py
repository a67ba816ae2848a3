"""POST /createRoom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.rooms_house import Place, open_place
from tests.rooms.house import ALICE, BOB, CAROL, DAVE, Street


async def contents(place: Place, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {key: stored.event.content for key, stored in (await place.house.state(room_id)).items()}


async def test_a_private_room_has_the_events_of_its_preset_in_the_order_of_the_spec(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        place.house.profiles[ALICE] = {"displayname": "Alice"}
        room_id = await place.alice.create(name="Kitchen", topic="Tea", room_alias_name="kitchen")
        types = [written.event.type for written in place.house.written]
        assert types == [
            "m.room.create", "m.room.member", "m.room.power_levels", "m.room.canonical_alias", "m.room.join_rules",
            "m.room.history_visibility", "m.room.guest_access", "m.room.name", "m.room.topic",
        ]  # fmt: skip
        state = await contents(place, room_id)
        assert state["m.room.member", ALICE] == {"membership": "join", "displayname": "Alice"}
        assert state["m.room.join_rules", ""] == {"join_rule": "invite"}
        assert state["m.room.guest_access", ""] == {"guest_access": "can_join"}
        assert state["m.room.canonical_alias", ""] == {"alias": "#kitchen:one"}
        assert (await place.bob.ok("GET", "directory", "room", "#kitchen:one"))["room_id"] == room_id


async def test_initial_state_goes_before_the_preset_and_the_name_before_both(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(
            preset="public_chat",
            name="Right",
            initial_state=[
                {"type": "m.room.join_rules", "content": {"join_rule": "knock"}},
                {"type": "m.room.name", "content": {"name": "Wrong"}},
                {"type": "org.example", "state_key": "k", "content": {"x": 1}},
            ],
        )
        state = await contents(place, room_id)
        assert state["m.room.join_rules", ""] == {"join_rule": "knock"}
        assert state["m.room.name", ""] == {"name": "Right"}
        assert state["org.example", "k"] == {"x": 1}


async def test_in_an_old_version_the_creator_has_power_and_trusted_invitees_have_it_too(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(room_version="10", preset="trusted_private_chat", invite=[BOB])
        state = await contents(place, room_id)
        assert state["m.room.create", ""]["creator"] == ALICE
        assert state["m.room.power_levels", ""]["users"] == {ALICE: 100, BOB: 100}


async def test_in_version_12_trusted_invitees_are_creators_too(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(room_version="12", preset="trusted_private_chat", invite=[BOB])
        state = await contents(place, room_id)
        assert ":" not in room_id
        assert state["m.room.create", ""]["additional_creators"] == [BOB]
        assert state["m.room.power_levels", ""]["users"] == {}
        assert state["m.room.power_levels", ""]["events"]["m.room.tombstone"] == 150


async def test_invitees_are_invited_with_their_profile_and_told_that_the_chat_is_direct(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        place.house.profiles[BOB] = {"displayname": "Bob"}
        room_id = await place.alice.create(invite=[BOB, BOB], is_direct=True)
        state = await contents(place, room_id)
        assert state["m.room.member", BOB] == {"membership": "invite", "is_direct": True, "displayname": "Bob"}


async def test_an_invitee_whose_server_is_down_does_not_fail_the_room_nor_the_other_invites(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as place, open_place(tmp_path, "two", street) as other:
        room_id = await place.alice.create(invite=[DAVE, CAROL, BOB], is_direct=True)
        state = await contents(place, room_id)
        assert ("m.room.member", DAVE) not in state
        assert state["m.room.member", CAROL] == {"membership": "invite", "is_direct": True}
        assert state["m.room.member", BOB]["membership"] == "invite"
        assert await other.house.membership(room_id, CAROL) == "invite"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"room_version": "999"}, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"preset": "odd"}, "M_INVALID_PARAM"),
        ({"visibility": "odd"}, "M_INVALID_PARAM"),
        ({"invite": ["bob"]}, "M_INVALID_PARAM"),
        ({"invite": [ALICE]}, "M_INVALID_PARAM"),
        ({"name": 1}, "M_BAD_JSON"),
        ({"initial_state": [{"type": "x"}]}, "M_BAD_JSON"),
        ({"initial_state": [{"type": "x", "content": {"f": 0.5}}]}, "M_BAD_JSON"),
        ({"room_alias_name": "a:b"}, "M_INVALID_PARAM"),
        ({"power_level_content_override": {"users": {"@x:one": 100}, "events": {"m.room.name": 100}}, "name": "x",
          "room_version": "11"}, "M_INVALID_ROOM_STATE"),
        ({"creation_content": {"additional_creators": ["nobody"]}}, "M_INVALID_ROOM_STATE"),
        ({"initial_state": [{"type": "m.room.create", "content": {}}]}, "M_BAD_JSON"),
        ({"initial_state": [{"type": "m.room.member", "state_key": CAROL, "content": {"membership": "invite"}}]}, "M_INVALID_PARAM"),
        ({"initial_state": [{"type": "m.room.member", "state_key": CAROL, "content": {"membership": "join"}}]}, "M_INVALID_ROOM_STATE"),
        ({"power_level_content_override": {"users": {ALICE: 100}}}, "M_INVALID_ROOM_STATE"),
        ({"power_level_content_override": {"users": {BOB: 100}}, "creation_content": {"additional_creators": [BOB]}},
         "M_INVALID_ROOM_STATE"),
        ({"creation_content": {"additional_creators": BOB}, "preset": "trusted_private_chat"}, "M_BAD_JSON"),
        ({"creation_content": {"additional_creators": {}}}, "M_INVALID_ROOM_STATE"),
        ({"room_version": 12}, "M_BAD_JSON"),
        ({"invite": [f"@u{number}:one" for number in range(101)]}, "M_INVALID_PARAM"),
        ({"initial_state": [{"type": "x", "state_key": str(number), "content": {}} for number in range(201)]}, "M_BAD_JSON"),
        ({"power_level_content_override": []}, "M_BAD_JSON"),
        ({"room_alias_name": ""}, "M_INVALID_PARAM"),
        ({"room_alias_name": "x" * 255}, "M_INVALID_PARAM"),
        ({"creation_content": []}, "M_BAD_JSON"),
    ],
)  # fmt: skip
async def test_what_cannot_be_made_is_refused_and_leaves_nothing_behind(tmp_path: Path, body: dict[str, Any], code: str) -> None:
    async with open_place(tmp_path) as place:
        assert await place.alice.refused("POST", "createRoom", json=body) == (400, code)
        assert await place.house.db.read(lambda tx: tx.one("SELECT count(*) FROM rooms")) == (0,)


async def test_an_alias_that_is_taken_is_room_in_use(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        await place.alice.create(room_alias_name="x")
        assert await place.alice.refused("POST", "createRoom", json={"room_alias_name": "x"}) == (400, "M_ROOM_IN_USE")


async def test_inviting_by_third_party_identifiers_is_refused(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        body = {"invite_3pid": [{"medium": "email", "address": "a@b"}]}
        assert await place.alice.refused("POST", "createRoom", json=body) == (403, "M_THREEPID_DENIED")


@pytest.mark.parametrize(
    ("override", "level"),
    [
        ({}, 150),
        ({"events": {"m.room.name": 10}}, 150),
        ({"state_default": 160}, 161),
        ({"events": {"m.room.tombstone": 100}}, 100),
    ],
)
async def test_in_version_12_a_tombstone_is_for_creators_unless_somebody_says_otherwise(
    tmp_path: Path, override: dict[str, Any], level: int
) -> None:
    async with open_place(tmp_path) as place:
        levels = (await contents(place, await place.alice.create(power_level_content_override=override)))["m.room.power_levels", ""]
        assert levels["events"]["m.room.tombstone"] == level
        assert levels["users"] == {}


async def test_the_server_says_who_made_the_room_and_of_what_version_whatever_the_client_does(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        said = {"creator": BOB, "room_version": "1", "m.federate": False, "predecessor": {"room_id": "!old:one"}}
        for version, expected in (("10", {"creator": ALICE}), ("12", {})):
            room_id = await place.alice.create(creation_content=said, room_version=version)
            create = (await contents(place, room_id))["m.room.create", ""]
            assert create == {"m.federate": False, "predecessor": {"room_id": "!old:one"}, "room_version": version, **expected}


async def test_named_creators_and_trusted_invitees_are_told_once_each(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        said = {"additional_creators": [CAROL, BOB]}
        room_id = await place.alice.create(creation_content=said, preset="trusted_private_chat", invite=[BOB])
        state = await contents(place, room_id)
        assert state["m.room.create", ""]["additional_creators"] == [CAROL, BOB]
        assert state["m.room.member", BOB]["membership"] == "invite"


async def test_a_ban_may_be_part_of_the_beginning(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        ban = {"type": "m.room.member", "state_key": CAROL, "content": {"membership": "ban"}}
        assert (await contents(place, await place.alice.create(initial_state=[ban])))["m.room.member", CAROL] == {"membership": "ban"}


PRESETS = {
    "private_chat": ("invite", "shared", "can_join"),
    "trusted_private_chat": ("invite", "shared", "can_join"),
    "public_chat": ("public", "shared", "forbidden"),
}


@pytest.mark.parametrize("version", ["10", "11", "12"])
@pytest.mark.parametrize("override", [{}, {"invite": 75}, {"users_default": 10, "events": {"m.room.name": 0}}, {"ban": 100, "x.y": 1}])
@pytest.mark.parametrize("preset", sorted(PRESETS))
async def test_every_preset_with_every_override(tmp_path: Path, preset: str, override: dict[str, Any], version: str) -> None:
    async with open_place(tmp_path) as place:
        plain = await contents(place, await place.alice.create(preset=preset, room_version=version, invite=[BOB]))
        changed = await contents(
            place,
            await place.alice.create(preset=preset, room_version=version, invite=[BOB], power_level_content_override=override),
        )
        for state in (plain, changed):
            found = (
                state["m.room.join_rules", ""]["join_rule"],
                state["m.room.history_visibility", ""]["history_visibility"],
                state["m.room.guest_access", ""]["guest_access"],
            )
            assert found == PRESETS[preset]
            trusted = preset == "trusted_private_chat"
            creators = state["m.room.create", ""].get("additional_creators", [])
            assert creators == ([BOB] if trusted and version == "12" else [])
            powerful = {} if version == "12" else {ALICE: 100, **({BOB: 100} if trusted else {})}
            assert state["m.room.power_levels", ""]["users"] == powerful
        expected = {**plain["m.room.power_levels", ""], **override}
        if version == "12" and "events" in override:
            expected["events"] = {**override["events"], "m.room.tombstone": 150}
        assert changed["m.room.power_levels", ""] == expected


@pytest.mark.parametrize(("visibility", "preset"), [("public", "public_chat"), ("private", "private_chat"), (None, "private_chat")])
async def test_without_a_preset_the_visibility_chooses_one(tmp_path: Path, visibility: str | None, preset: str) -> None:
    async with open_place(tmp_path) as place:
        state = await contents(place, await place.alice.create(**({} if visibility is None else {"visibility": visibility})))
        assert state["m.room.join_rules", ""]["join_rule"] == PRESETS[preset][0]
