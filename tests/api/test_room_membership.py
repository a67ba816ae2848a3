"""Joining, leaving, inviting, kicking, banning, forgetting."""

from __future__ import annotations

from pathlib import Path

from tests.api.rooms_house import open_place
from tests.rooms.house import ALICE, BOB, CAROL, Street


async def test_a_public_room_is_joined_by_id_or_alias_and_left(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat", room_alias_name="pub")
        assert await place.bob.ok("POST", "join", "#pub:one") == {"room_id": room_id}
        assert await place.bob.ok("POST", "rooms", room_id, "join", json={"reason": "again"}) == {"room_id": room_id}
        assert (await place.house.state(room_id))["m.room.member", BOB].event.content["reason"] == "again"
        assert await place.bob.ok("GET", "joined_rooms") == {"joined_rooms": [room_id]}
        assert await place.bob.ok("POST", "rooms", room_id, "leave", json={"reason": "bye"}) == {}
        assert await place.bob.ok("POST", "rooms", room_id, "leave") == {}
        assert await place.bob.ok("GET", "joined_rooms") == {"joined_rooms": []}


async def test_a_private_room_is_joined_only_when_invited(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        assert await place.bob.refused("POST", "join", room_id) == (403, "M_FORBIDDEN")
        assert await place.alice.ok("POST", "rooms", room_id, "invite", json={"user_id": BOB}) == {}
        assert await place.bob.ok("POST", "join", room_id) == {"room_id": room_id}
        assert await place.alice.refused("POST", "rooms", room_id, "invite", json={"user_id": BOB}) == (403, "M_FORBIDDEN")


async def test_a_kick_a_ban_and_an_unban(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat")
        await place.bob.ok("POST", "join", room_id)
        assert await place.bob.refused("POST", "rooms", room_id, "kick", json={"user_id": ALICE}) == (403, "M_FORBIDDEN")
        await place.alice.ok("POST", "rooms", room_id, "kick", json={"user_id": BOB, "reason": "out"})
        assert (await place.house.state(room_id))["m.room.member", BOB].event.content == {"membership": "leave", "reason": "out"}
        assert await place.alice.refused("POST", "rooms", room_id, "kick", json={"user_id": BOB}) == (403, "M_FORBIDDEN")
        await place.alice.ok("POST", "rooms", room_id, "ban", json={"user_id": BOB})
        assert await place.bob.refused("POST", "join", room_id) == (403, "M_FORBIDDEN")
        assert await place.alice.refused("POST", "rooms", room_id, "invite", json={"user_id": BOB}) == (403, "M_FORBIDDEN")
        await place.alice.ok("POST", "rooms", room_id, "unban", json={"user_id": BOB})
        assert await place.alice.refused("POST", "rooms", room_id, "unban", json={"user_id": BOB}) == (403, "M_FORBIDDEN")
        await place.bob.ok("POST", "join", room_id)


async def test_a_room_is_forgotten_after_leaving_it_only_and_a_new_invite_remembers_it(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat")
        await place.bob.ok("POST", "join", room_id)
        await place.alice.say(room_id, "hello")
        assert await place.bob.refused("POST", "rooms", room_id, "forget") == (400, "M_UNKNOWN")
        await place.bob.ok("POST", "rooms", room_id, "leave")
        assert "hello" in await place.bob.chunk(room_id)
        await place.bob.ok("POST", "rooms", room_id, "forget")
        assert await place.bob.refused("GET", "rooms", room_id, "messages", dir="b") == (403, "M_FORBIDDEN")
        await place.alice.ok("POST", "rooms", room_id, "invite", json={"user_id": BOB})
        await place.bob.ok("POST", "join", room_id)
        assert "hello" in await place.bob.chunk(room_id)


async def test_a_room_of_another_server_is_joined_through_alias_or_named_servers(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as one, open_place(tmp_path, "two", street) as two:
        room_id = await one.alice.create(preset="public_chat", room_alias_name="pub")
        other = await one.alice.create(preset="public_chat")
        assert await two.carol.refused("POST", "join", other) == (404, "M_NOT_FOUND")
        assert await two.carol.ok("POST", "join", other, via="one") == {"room_id": other}
        assert await two.carol.ok("POST", "join", "#pub:one") == {"room_id": room_id}
        third = await one.alice.create(preset="public_chat")
        assert await two.carol.ok("POST", "join", third, server_name="one") == {"room_id": third}
        assert sorted((await two.carol.ok("GET", "joined_rooms"))["joined_rooms"]) == sorted([room_id, other, third])
        street.down.add("one")
        assert (await two.carol.call("POST", "join", "#other:one")).status == 504


async def test_an_invite_from_another_server_is_accepted_or_declined_there(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as one, open_place(tmp_path, "two", street) as two:
        first, second = await one.alice.create(), await one.alice.create()
        for room_id in (first, second):
            await one.alice.ok("POST", "rooms", room_id, "invite", json={"user_id": CAROL})
            assert await two.house.membership(room_id, CAROL) == "invite"
        await two.carol.ok("POST", "join", first)
        await two.carol.ok("POST", "rooms", second, "leave")
        assert (await two.house.membership(second, CAROL), await one.house.membership(second, CAROL)) == ("leave", "leave")
        assert await one.house.membership(first, CAROL) == "join"


async def test_inviting_to_a_server_that_is_down_fails_and_changes_nothing(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        answer = await place.alice.call("POST", "rooms", room_id, "invite", json={"user_id": CAROL})
        assert answer.status == 504
        assert ("m.room.member", CAROL) not in await place.house.state(room_id)


async def test_malformed_targets_and_rooms_are_refused(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        path = ("rooms", room_id, "invite")
        assert await place.alice.refused("POST", *path, json={}) == (400, "M_MISSING_PARAM")
        assert await place.alice.refused("POST", *path, json={"user_id": "bob"}) == (400, "M_INVALID_PARAM")
        assert await place.alice.refused("POST", *path, json={"user_id": BOB, "reason": 1}) == (400, "M_BAD_JSON")
        assert await place.alice.refused("POST", *path, json={"medium": "email", "address": "a@b"}) == (403, "M_THREEPID_DENIED")
        assert await place.alice.refused("POST", "join", "nonsense") == (400, "M_INVALID_PARAM")
        assert await place.alice.refused("POST", "rooms", "!other:one", "leave") == (403, "M_FORBIDDEN")
        assert await place.client("nobody").refused("POST", "join", room_id) == (401, "M_UNKNOWN_TOKEN")
