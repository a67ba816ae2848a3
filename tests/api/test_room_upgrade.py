"""POST /rooms/{roomId}/upgrade: what the new room has of the old, what becomes of the old, and who may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeserver.rooms.upgrade import BANS_AT_ONCE
from edgeserver.store import rooms
from edgeserver.store.database import Transaction
from tests.api.rooms_house import Place, open_place
from tests.rooms.house import ALICE, BOB, CAROL, DAVE

VERSIONS = ["6", "9", "10", "11", "12"]


async def contents(place: Place, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {key: stored.event.content for key, stored in (await place.house.state(room_id)).items()}


async def upgraded(place: Place, room_id: str, version: str, **body: Any) -> str:
    answer = await place.alice.ok("POST", "rooms", room_id, "upgrade", json={"new_version": version, **body})
    return str(answer["replacement_room"])


CARRIED = {
    "m.room.name": {"name": "Kitchen"},
    "m.room.topic": {"topic": "Tea"},
    "m.room.avatar": {"url": "mxc://one/tea"},
    "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
    "m.room.server_acl": {"allow": ["*"], "deny": ["bad.example"]},
    "m.room.guest_access": {"guest_access": "forbidden"},
    "m.room.history_visibility": {"history_visibility": "invited"},
    "m.room.join_rules": {"join_rule": "public"},
}


@pytest.mark.parametrize("new", VERSIONS)
@pytest.mark.parametrize("old", VERSIONS)
async def test_the_new_room_has_the_old_ones_state_and_each_names_the_other(tmp_path: Path, old: str, new: str) -> None:
    async with open_place(tmp_path) as place:
        state = [{"type": kind, "content": content} for kind, content in CARRIED.items()]
        room_id = await place.alice.create(
            room_version=old, preset="public_chat", creation_content={"m.federate": False, "type": "org.example"}, initial_state=state
        )
        await place.bob.ok("POST", "join", room_id)
        await place.alice.ok("POST", "rooms", room_id, "ban", json={"user_id": CAROL, "reason": "noise"})
        await place.alice.ok("PUT", "rooms", room_id, "state", "org.example", "k", json={"mine": True})
        new_id = await upgraded(place, room_id, new)

        before, after = await contents(place, room_id), await contents(place, new_id)
        assert {kind: after[kind, ""] for kind in CARRIED} == CARRIED
        assert after["m.room.member", CAROL] == {"membership": "ban", "reason": "noise"}
        assert after["m.room.member", ALICE]["membership"] == "join"
        assert ("m.room.member", BOB) not in after
        assert ("org.example", "k") not in after
        tombstone = before["m.room.tombstone", ""]
        assert (tombstone["replacement_room"], bool(tombstone["body"])) == (new_id, True)
        create = after["m.room.create", ""]
        assert (create["room_version"], create["type"], create["m.federate"]) == (new, "org.example", False)
        stone = (await place.house.state(room_id))["m.room.tombstone", ""].event.event_id
        expected = {"room_id": room_id} if new == "12" else {"room_id": room_id, "event_id": stone}
        assert create["predecessor"] == expected
        assert after["m.room.power_levels", ""]["users"].get(ALICE, 0) == (0 if new == "12" else 100 if old != "12" else 150)
        assert (before["m.room.power_levels", ""]["events_default"], before["m.room.power_levels", ""]["invite"]) == (50, 50)
        assert await place.bob.refused("PUT", "rooms", room_id, "send", "m.room.message", "1", json={}) == (403, "M_FORBIDDEN")
        await place.alice.say(new_id, "hello")


async def test_power_levels_go_over_without_the_creators_and_with_a_tombstone_for_them_alone(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        levels = {"users": {ALICE: 100, BOB: 100, CAROL: 50}, "events": {"m.room.tombstone": 100, "m.room.name": 60}, "kick": 77}
        room_id = await place.alice.create(room_version="11", power_level_content_override=levels)
        new_id = await upgraded(place, room_id, "12", additional_creators=[BOB, BOB, DAVE])
        after = await contents(place, new_id)
        assert after["m.room.create", ""]["additional_creators"] == [BOB, DAVE]
        assert after["m.room.power_levels", ""]["users"] == {CAROL: 50}
        assert after["m.room.power_levels", ""]["events"] == {"m.room.tombstone": 150, "m.room.name": 60}
        assert after["m.room.power_levels", ""]["kick"] == 77


async def test_additional_creators_of_the_old_room_are_not_carried_over_unasked(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(room_version="12", preset="trusted_private_chat", invite=[BOB])
        after = await contents(place, await upgraded(place, room_id, "12"))
        assert "additional_creators" not in after["m.room.create", ""]
        older = await contents(place, await upgraded(place, room_id, "11", additional_creators=["ignored here"]))
        assert "additional_creators" not in older["m.room.create", ""]
        assert older["m.room.power_levels", ""]["users"] == {ALICE: 150, BOB: 150}


async def test_a_moderator_is_lent_power_to_build_the_room_and_keeps_none_of_it(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.bob.create(
            room_version="10",
            preset="public_chat",
            initial_state=[{"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}],
        )
        await place.alice.ok("POST", "join", room_id)
        await place.bob.ok("POST", "rooms", room_id, "ban", json={"user_id": CAROL})
        levels = (await contents(place, room_id))["m.room.power_levels", ""]
        levels |= {"users": {BOB: 100, ALICE: 50}, "events": {**levels["events"], "m.room.tombstone": 50}}
        await place.bob.ok("PUT", "rooms", room_id, "state", "m.room.power_levels", json=levels)
        new_id = await upgraded(place, room_id, "11")
        after = await contents(place, new_id)
        assert after["m.room.power_levels", ""] == levels
        assert after["m.room.encryption", ""] == {"algorithm": "m.megolm.v1.aes-sha2"}
        assert after["m.room.member", CAROL]["membership"] == "ban"
        # The old room's levels are not for a moderator to change: they stay, and the upgrade stands all the same.
        assert (await contents(place, room_id))["m.room.power_levels", ""] == levels


async def test_levels_that_old_versions_kept_as_strings_are_integers_in_the_new_room(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        odd = {"users": {ALICE: "100"}, "invite": "7", "events": {"m.room.name": " 50 "}}
        room_id = await place.alice.create(room_version="9")
        await place.alice.ok("PUT", "rooms", room_id, "state", "m.room.power_levels", json=odd)
        after = await contents(place, await upgraded(place, room_id, "10"))
        assert after["m.room.power_levels", ""] == {"users": {ALICE: 100}, "invite": 7, "events": {"m.room.name": 50}}


@pytest.mark.parametrize(
    ("rule", "version", "becomes"),
    [("knock", "6", "invite"), ("restricted", "7", "invite"), ("knock_restricted", "9", "restricted"), ("knock_restricted", "11", None)],
)
async def test_a_join_rule_that_the_version_does_not_know_becomes_one_that_it_knows(
    tmp_path: Path, rule: str, version: str, becomes: str | None
) -> None:
    async with open_place(tmp_path) as place:
        content = {"join_rule": rule, "allow": [{"type": "m.room_membership", "room_id": "!x:one"}]}
        room_id = await place.alice.create(room_version="11", initial_state=[{"type": "m.room.join_rules", "content": content}])
        after = await contents(place, await upgraded(place, room_id, version))
        assert after["m.room.join_rules", ""] == {**content, "join_rule": becomes or rule}


async def test_a_space_takes_its_rooms_with_it_but_not_those_taken_out_of_it(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        space = await place.alice.create(creation_content={"type": "m.space"}, room_version="10")
        for child, content in (("!a:one", {"via": ["one"]}), ("!b:one", {"via": ["one"], "order": "1"}), ("!gone:one", {})):
            await place.alice.ok("PUT", "rooms", space, "state", "m.space.child", child, json=content)
        await place.alice.ok("PUT", "rooms", space, "state", "m.space.parent", "!p:one", json={"via": ["one"]})
        after = await contents(place, await upgraded(place, space, "12"))
        assert {key[1]: content for key, content in after.items() if key[0] == "m.space.child"} == {
            "!a:one": {"via": ["one"]},
            "!b:one": {"via": ["one"], "order": "1"},
        }
        assert after["m.space.parent", "!p:one"] == {"via": ["one"]}
        room = await place.alice.create(room_version="10")
        await place.alice.ok("PUT", "rooms", room, "state", "m.space.child", "!a:one", json={"via": ["one"]})
        assert ("m.space.child", "!a:one") not in await contents(place, await upgraded(place, room, "12"))


async def test_aliases_the_canonical_alias_and_the_directory_entry_move(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat", visibility="public", room_alias_name="tea", room_version="10")
        await place.alice.ok("PUT", "directory", "room", "#coffee:one", json={"room_id": room_id})
        content = {"alias": "#tea:one", "alt_aliases": ["#coffee:one"], "org.example": 1}
        await place.alice.ok("PUT", "rooms", room_id, "state", "m.room.canonical_alias", json=content)
        new_id = await upgraded(place, room_id, "12")
        for alias in ("#tea:one", "#coffee:one"):
            assert (await place.bob.ok("GET", "directory", "room", alias))["room_id"] == new_id
        assert (await contents(place, new_id))["m.room.canonical_alias", ""] == {"alias": "#tea:one", "alt_aliases": ["#coffee:one"]}
        assert (await contents(place, room_id))["m.room.canonical_alias", ""] == {"org.example": 1}
        listed = await place.bob.ok("GET", "publicRooms")
        assert [(one["room_id"], one["canonical_alias"]) for one in listed["chunk"]] == [(new_id, "#tea:one")]


async def test_another_servers_alias_stays_the_old_rooms(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        foreign = {"type": "m.room.canonical_alias", "content": {"alias": "#tea:two", "alt_aliases": ["#x:two"]}}
        room_id = await place.alice.create(initial_state=[foreign], room_version="11")
        new_id = await upgraded(place, room_id, "12")
        assert (await contents(place, room_id))["m.room.canonical_alias", ""] == foreign["content"]
        assert ("m.room.canonical_alias", "") not in await contents(place, new_id)


async def test_who_asks_again_because_the_answer_was_lost_is_told_of_the_same_room(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(room_version="10")
        first = await upgraded(place, room_id, "11")
        assert await upgraded(place, room_id, "11") == first
        second = await upgraded(place, room_id, "12", additional_creators=[BOB])
        assert second != first
        assert await upgraded(place, room_id, "12", additional_creators=[BOB]) == second
        assert await upgraded(place, room_id, "12") not in (first, second)


async def test_more_bans_than_are_carried_at_once_go_over_all_the_same_and_a_repeat_brings_those_that_a_crash_left(
    tmp_path: Path,
) -> None:
    async with open_place(tmp_path) as place:
        everybody = [f"@u{number:03}:x" for number in range(BANS_AT_ONCE + 3)]
        bans = [{"type": "m.room.member", "state_key": one, "content": {"membership": "ban"}} for one in everybody[3:]]
        room_id = await place.alice.create(room_version="11", initial_state=bans)
        for one in everybody[:3]:
            await place.house.memberships.ban(ALICE, room_id, one)
        before = place.house.db.commits
        new_id = await upgraded(place, room_id, "12")
        assert place.house.db.commits == before + 2
        after = await contents(place, new_id)
        assert sorted(key[1] for key, content in after.items() if content.get("membership") == "ban") == everybody

        # As a crash between the two would leave it; meanwhile somebody was pardoned.
        def crash(tx: Transaction) -> None:
            room = rooms.get(tx, new_id)
            assert room is not None
            rooms.drop_membership(tx, everybody[-1], room.number)

        await place.house.db.write(crash)
        await place.alice.ok("POST", "rooms", new_id, "unban", json={"user_id": everybody[0]})
        written = len(place.house.written)
        assert await upgraded(place, room_id, "12") == new_id
        assert [one.event.state_key for one in place.house.written[written:]] == [everybody[-1]]
        assert await place.house.membership(new_id, everybody[-1]) == "ban"
        assert await place.house.membership(new_id, everybody[0]) == "leave"


async def test_who_may_not_send_a_tombstone_may_not_upgrade_and_nothing_is_left_of_the_attempt(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(room_version="12", preset="public_chat")
        await place.bob.ok("POST", "join", room_id)
        before = await place.house.state(room_id)
        count = await place.house.db.read(lambda tx: tx.one("SELECT count(*) FROM events"))
        for new in ("11", "12"):
            body = {"new_version": new}
            assert await place.bob.refused("POST", "rooms", room_id, "upgrade", json=body) == (403, "M_FORBIDDEN")
            assert await place.client("admin").refused("POST", "rooms", room_id, "upgrade", json=body) == (403, "M_FORBIDDEN")
        assert await place.house.state(room_id) == before
        assert await place.house.db.read(lambda tx: tx.one("SELECT count(*) FROM events")) == count


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"new_version": 12}, "M_BAD_JSON"),
        ({"new_version": "nothing"}, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"new_version": "13"}, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"new_version": "12", "additional_creators": "bob"}, "M_INVALID_PARAM"),
        ({"new_version": "12", "additional_creators": ["bob"]}, "M_INVALID_PARAM"),
        ({"new_version": "12", "additional_creators": [f"@u{n}:one" for n in range(101)]}, "M_INVALID_PARAM"),
    ],
)
async def test_what_cannot_be_asked_for_is_refused(tmp_path: Path, body: dict[str, Any], code: str) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        assert await place.alice.refused("POST", "rooms", room_id, "upgrade", json=body) == (400, code)


async def test_a_room_that_is_not_known_is_not_found(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        body = {"new_version": "12"}
        assert await place.alice.refused("POST", "rooms", "!unknown:one", "upgrade", json=body) == (404, "M_NOT_FOUND")


async def test_an_upgrade_that_fails_half_way_leaves_both_rooms_as_they_were(tmp_path: Path) -> None:
    """The old room's levels hold a number that, one higher, is beyond what an event may say."""
    async with open_place(tmp_path) as place:
        highest = {"users": {ALICE: 2**53 - 1}, "state_default": 2**53 - 1}
        room_id = await place.alice.create(
            room_version="11", room_alias_name="tea", visibility="public", power_level_content_override=highest
        )
        before = await place.house.state(room_id)
        status, code = await place.alice.refused("POST", "rooms", room_id, "upgrade", json={"new_version": "12"})
        assert (status, code) == (400, "M_BAD_JSON")
        assert await place.house.state(room_id) == before
        assert await place.house.db.read(lambda tx: len(rooms.published(tx))) == 1
        assert (await place.bob.ok("GET", "directory", "room", "#tea:one"))["room_id"] == room_id
