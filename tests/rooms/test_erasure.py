"""Events of the erased, by ways on which they could come unredacted to somebody who was not there."""

from __future__ import annotations

from pathlib import Path

from edgeserver.store import departures
from tests.api.rooms_house import Place, open_place
from tests.rooms.house import ALICE


async def erase(place: Place) -> None:
    await place.house.db.write(lambda tx: departures.erase(tx, ALICE, tx.stream()))


async def test_an_event_that_anybody_may_read_is_redacted_for_who_came_later(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        readable = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
        room_id = await place.alice.create(preset="public_chat", initial_state=[readable])
        await place.bob.ok("POST", "join", room_id)
        event_id = await place.alice.say(room_id, "1 Main Street")
        assert (await place.carol.ok("GET", "rooms", room_id, "event", event_id))["content"]["body"] == "1 Main Street"
        await erase(place)
        assert (await place.carol.ok("GET", "rooms", room_id, "event", event_id))["content"] == {}
        assert (await place.bob.ok("GET", "rooms", room_id, "event", event_id))["content"]["body"] == "1 Main Street"


async def test_the_name_of_before_is_not_told_with_the_membership_that_came_after(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.bob.create(preset="public_chat")
        await place.alice.ok("POST", "join", room_id)
        named = {"membership": "join", "displayname": "Alice A."}
        await place.alice.ok("PUT", "rooms", room_id, "state", "m.room.member", ALICE, json=named)
        await place.alice.ok("POST", "rooms", room_id, "leave")
        await erase(place)
        await place.carol.ok("POST", "join", room_id)

        async def before(client_name: str) -> object:
            page = await place.client(client_name).ok("GET", "rooms", room_id, "messages", dir="b")
            [left] = [one for one in page["chunk"] if one["content"] == {"membership": "leave"}]
            return left["unsigned"]["prev_content"]

        assert await before("bob") == named
        assert await before("carol") == {"membership": "join"}
