"""Aliases and the published room directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.api.rooms_house import open_place
from tests.rooms.house import ALICE, Street

ALIAS = ("directory", "room")
LISTED = ("directory", "list", "room")


async def test_an_alias_is_made_resolved_listed_and_removed(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        assert await place.alice.ok("PUT", *ALIAS, "#a/b ä:one", json={"room_id": room_id}) == {}
        assert await place.bob.ok("GET", *ALIAS, "#a/b ä:one") == {"room_id": room_id, "servers": ["one"]}
        assert await place.alice.ok("GET", "rooms", room_id, "aliases") == {"aliases": ["#a/b ä:one"]}
        assert await place.bob.refused("GET", "rooms", room_id, "aliases") == (403, "M_FORBIDDEN")
        taken = await place.alice.refused("PUT", *ALIAS, "#a/b ä:one", json={"room_id": room_id})
        assert taken == (409, "M_UNKNOWN")
        assert await place.bob.refused("DELETE", *ALIAS, "#a/b ä:one") == (403, "M_FORBIDDEN")
        await place.alice.ok("DELETE", *ALIAS, "#a/b ä:one")
        assert await place.alice.refused("GET", *ALIAS, "#a/b ä:one") == (404, "M_NOT_FOUND")
        assert await place.alice.refused("DELETE", *ALIAS, "#a/b ä:one") == (404, "M_NOT_FOUND")


async def test_an_alias_is_removed_by_its_maker_a_moderator_or_an_admin(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat")
        await place.bob.ok("POST", "join", room_id)
        for name in ("#one:one", "#two:one", "#three:one"):
            await place.bob.ok("PUT", *ALIAS, name, json={"room_id": room_id})
        await place.bob.ok("DELETE", *ALIAS, "#one:one")
        await place.alice.ok("DELETE", *ALIAS, "#two:one")
        await place.client("admin").ok("DELETE", *ALIAS, "#three:one")


async def test_aliases_that_cannot_be_made_here_are_refused(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        for alias in ("#x:two", "x:one", "#x"):
            assert await place.alice.refused("PUT", *ALIAS, alias, json={"room_id": room_id}) == (400, "M_INVALID_PARAM")
        assert await place.alice.refused("PUT", *ALIAS, "#x:one", json={}) == (400, "M_INVALID_PARAM")
        assert await place.bob.refused("PUT", *ALIAS, "#x:one", json={"room_id": room_id}) == (403, "M_FORBIDDEN")
        assert await place.alice.refused("GET", *ALIAS, "nonsense") == (400, "M_INVALID_PARAM")


async def test_an_alias_of_another_server_is_asked_for_there_but_not_for_strangers(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as one, open_place(tmp_path, "two", street) as two:
        room_id = await one.alice.create(room_alias_name="pub")
        assert await two.carol.ok("GET", *ALIAS, "#pub:one") == {"room_id": room_id, "servers": ["one"]}
        assert await two.client(None).refused("GET", *ALIAS, "#pub:one") == (404, "M_NOT_FOUND")
        assert await one.client(None).ok("GET", *ALIAS, "#pub:one") == {"room_id": room_id, "servers": ["one"]}
        assert await two.carol.refused("GET", *ALIAS, "#other:one") == (404, "M_NOT_FOUND")


async def test_a_room_is_published_by_its_moderators_and_by_admins(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat")
        await place.bob.ok("POST", "join", room_id)
        assert await place.bob.ok("GET", *LISTED, room_id) == {"visibility": "private"}
        assert await place.bob.refused("PUT", *LISTED, room_id, json={"visibility": "public"}) == (403, "M_FORBIDDEN")
        await place.alice.ok("PUT", *LISTED, room_id, json={})
        assert await place.client(None).ok("GET", *LISTED, room_id) == {"visibility": "public"}
        await place.client("admin").ok("PUT", *LISTED, room_id, json={"visibility": "private"})
        assert (await place.client(None).ok("GET", "publicRooms"))["chunk"] == []
        assert await place.alice.refused("PUT", *LISTED, room_id, json={"visibility": "x"}) == (400, "M_INVALID_PARAM")
        for method in ("GET", "PUT"):
            assert await place.alice.refused(method, *LISTED, "!none:one", json={}) == (404, "M_NOT_FOUND")


async def test_the_directory_shows_what_a_stranger_may_know(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(
            visibility="public", name="Pub", topic="Beer", room_alias_name="pub", creation_content={"type": "m.space"},
            initial_state=[{"type": "m.room.avatar", "content": {"url": "mxc://one/a"}},
                           {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}],
        )  # fmt: skip
        await place.alice.create(name="Private")
        (shown,) = (await place.client(None).ok("GET", "publicRooms"))["chunk"]
        assert shown == {
            "room_id": room_id, "name": "Pub", "topic": "Beer", "canonical_alias": "#pub:one", "avatar_url": "mxc://one/a",
            "join_rule": "public", "room_type": "m.space", "num_joined_members": 1, "world_readable": False, "guest_can_join": True,
        }  # fmt: skip


async def test_the_directory_is_paged_largest_first_and_searched(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        made = [await place.alice.create(visibility="public", name=f"Room {number}") for number in range(5)]
        await place.bob.ok("POST", "join", made[3])
        first = await place.bob.ok("GET", "publicRooms", limit="2")
        assert first["chunk"][0]["room_id"] == made[3]
        assert first["total_room_count_estimate"] == 5
        assert "prev_batch" not in first
        second = await place.bob.ok("POST", "publicRooms", json={"limit": 2, "since": first["next_batch"]})
        third = await place.bob.ok("GET", "publicRooms", limit="2", since=second["next_batch"])
        assert "next_batch" not in third
        assert {room["room_id"] for page in (first, second, third) for room in page["chunk"]} == set(made)
        assert await place.bob.ok("GET", "publicRooms", limit="2", since=second["prev_batch"]) == first
        found = await place.bob.ok("POST", "publicRooms", json={"filter": {"generic_search_term": "room 4"}})
        assert [room["name"] for room in found["chunk"]] == ["Room 4"]
        found = await place.bob.ok("POST", "publicRooms", json={"filter": {"room_types": ["m.space"]}})
        assert found["chunk"] == []
        found = await place.bob.ok("POST", "publicRooms", json={"filter": {"room_types": [None]}})
        assert len(found["chunk"]) == 5
        for body in ({"filter": []}, {"limit": "2"}, {"filter": {"room_types": "x"}}, {"filter": {"generic_search_term": 1}}):
            assert await place.bob.refused("POST", "publicRooms", json=body) == (400, "M_BAD_JSON")
        assert await place.bob.refused("GET", "publicRooms", since="x") == (400, "M_INVALID_PARAM")


async def test_the_directory_of_another_server_is_read_through_ours(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as one, open_place(tmp_path, "two", street) as two:
        await one.alice.create(visibility="public", name="Pub")
        answer = await two.carol.ok("GET", "publicRooms", server="one")
        assert [room["name"] for room in answer["chunk"]] == ["Pub"]
        assert await two.client(None).refused("GET", "publicRooms", server="one") == (401, "M_MISSING_TOKEN")
        assert await two.carol.refused("GET", "publicRooms", server="not a name") == (400, "M_INVALID_PARAM")


async def test_a_room_that_nobody_here_is_in_any_more_is_not_shown(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(visibility="public")
        await place.alice.ok("POST", "rooms", room_id, "leave")
        assert (await place.bob.ok("GET", "publicRooms"))["chunk"] == []
        assert await place.house.membership(room_id, ALICE) == "leave"


async def test_the_directory_of_another_server_is_paged_both_ways_and_searched(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as one, open_place(tmp_path, "two", street) as two:
        for number in range(3):
            await one.alice.create(visibility="public", name=f"Pier {number}")
        await one.alice.create(visibility="public", name="Pier space", creation_content={"type": "m.space"})
        wanted = {"generic_search_term": "pier", "room_types": [None]}

        async def page(**more: object) -> dict[str, Any]:
            found: dict[str, Any] = await two.carol.ok("POST", "publicRooms", json={"limit": 2, "filter": wanted, **more}, server="one")
            return found

        first = await page()
        second = await page(since=first["next_batch"])
        assert sorted(room["name"] for shown in (first, second) for room in shown["chunk"]) == ["Pier 0", "Pier 1", "Pier 2"]
        assert ("prev_batch" in first, "next_batch" in second) == (False, False)
        assert await page(since=second["prev_batch"]) == first
        assert first["total_room_count_estimate"] == 3
