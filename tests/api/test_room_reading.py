"""Reading rooms: messages, context, single events, state, members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.api.rooms_house import Place, open_place
from tests.rooms.house import ALICE, BOB, CAROL, Street


async def chat(place: Place, count: int, **new: Any) -> str:
    """A room of Alice's with Bob in it and so many messages, by turns."""
    room_id = await place.alice.create(preset="public_chat", **new)
    await place.bob.ok("POST", "join", room_id)
    for number in range(count):
        await (place.bob if number % 2 else place.alice).say(room_id, str(number))
    return room_id


async def test_paging_back_and_forth_meets_every_event_once(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await chat(place, 7)
        for direction in ("b", "f"):
            seen: list[str] = []
            query = {"dir": direction, "limit": "3"}
            while True:
                page = await place.alice.ok("GET", "rooms", room_id, "messages", **query)
                seen += [event["event_id"] for event in page["chunk"]]
                if "end" not in page:
                    break
                query["from"] = page["end"]
            stored = [written.event.event_id for written in place.house.written]
            assert seen == (stored if direction == "f" else stored[::-1])


async def test_a_page_ends_at_the_to_token_and_starts_where_it_says(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await chat(place, 6)
        page = await place.alice.ok("GET", "rooms", room_id, "messages", dir="b", limit="2")
        rest = await place.alice.ok("GET", "rooms", room_id, "messages", dir="b", limit="2", **{"from": page["end"]})
        back = await place.alice.ok("GET", "rooms", room_id, "messages", dir="b", limit="50", to=rest["end"])
        assert [event["content"]["body"] for event in back["chunk"]] == ["5", "4", "3", "2"]
        forth = await place.alice.chunk(room_id, dir="f", to=page["end"], **{"from": rest["end"]})
        assert forth == ["2", "3"]


async def test_a_sync_position_is_a_token_too(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await chat(place, 2)
        position = place.house.db.position
        await place.alice.say(room_id, "later")
        assert (await place.alice.chunk(room_id, **{"from": f"s{position}"}))[:2] == ["1", "0"]
        assert await place.alice.chunk(room_id, dir="f", **{"from": f"s{position}"}) == ["later"]
        assert await place.alice.chunk(room_id, **{"from": "s0"}) == []
        assert await place.alice.refused("GET", "rooms", room_id, "messages", dir="b", **{"from": "x"}) == (400, "M_INVALID_PARAM")


async def test_filters_leave_out_and_look_further_back(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await chat(place, 12)

        async def bodies(size: int = 10, /, **wanted: Any) -> list[str]:
            return await place.alice.chunk(room_id, limit=str(size), filter=orjson.dumps(wanted).decode())

        assert await bodies(senders=[BOB], types=["m.room.message"]) == ["11", "9", "7", "5", "3", "1"]
        assert await bodies(3, not_senders=[BOB], types=["m.room.mess*"]) == ["10", "8", "6"]
        assert await bodies(types=["m.room.c*", "*.nothing"]) == ["m.room.create"]
        assert await bodies(types=["*"], not_types=["m.room.message", "m.room.*"]) == []
        assert await bodies(contains_url=True) == []
        assert await bodies(not_rooms=[room_id]) == []
        assert len(await bodies(50, limit=2)) == 2
        for broken, code in (("[", "M_INVALID_PARAM"), ("[]", "M_BAD_JSON"), ('{"types": 1}', "M_BAD_JSON")):
            answer = await place.alice.refused("GET", "rooms", room_id, "messages", dir="b", filter=broken)
            assert answer == (400, code)
        assert await place.alice.refused("GET", "rooms", room_id, "messages") == (400, "M_INVALID_PARAM")


async def test_with_lazy_members_the_page_brings_the_members_who_speak_in_it(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await chat(place, 3)
        page = await place.alice.ok("GET", "rooms", room_id, "messages", dir="b", limit="1", filter='{"lazy_load_members": true}')
        assert [(event["type"], event["state_key"]) for event in page["state"]] == [("m.room.member", ALICE)]
        plain = await place.alice.ok("GET", "rooms", room_id, "messages", dir="b", limit="1")
        assert "state" not in plain


async def test_unsigned_tells_age_own_transaction_previous_content_and_membership(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat", topic="old")
        event_id = await place.alice.say(room_id, "before bob", "tx/1")
        await place.bob.ok("POST", "join", room_id)
        topic = await place.alice.ok("PUT", "rooms", room_id, "state", "m.room.topic", json={"topic": "new"})
        for client, transaction, membership in (
            (place.alice, "tx/1", "join"), (place.client("alice2"), None, "join"), (place.bob, None, "leave"),
        ):  # fmt: skip
            unsigned = (await client.ok("GET", "rooms", room_id, "event", event_id))["unsigned"]
            assert unsigned["age"] > 0
            assert unsigned.get("transaction_id") == transaction
            assert unsigned["membership"] == membership
        shown = await place.bob.ok("GET", "rooms", room_id, "event", topic["event_id"])
        assert shown["unsigned"]["prev_content"]["topic"] == "old"
        assert shown["unsigned"]["replaces_state"].startswith("$")
        assert shown["unsigned"]["membership"] == "join"


async def test_history_before_joining_is_hidden_where_the_room_says_so(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room_id = await place.alice.create(preset="public_chat", initial_state=[hidden])
        event_id = await place.alice.say(room_id, "secret")
        await place.bob.ok("POST", "join", room_id)
        await place.alice.say(room_id, "open")
        assert (await place.bob.chunk(room_id))[:3] == ["open", "m.room.member", "m.room.history_visibility"]
        assert await place.bob.refused("GET", "rooms", room_id, "event", event_id) == (404, "M_NOT_FOUND")
        assert await place.bob.refused("GET", "rooms", room_id, "context", event_id) == (404, "M_NOT_FOUND")


async def test_who_has_left_reads_the_room_as_it_was_and_who_never_joined_nothing(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await chat(place, 2, topic="then")
        await place.bob.ok("POST", "rooms", room_id, "leave")
        later = await place.alice.say(room_id, "later")
        await place.alice.ok("PUT", "rooms", room_id, "state", "m.room.topic", json={"topic": "now"})
        assert (await place.bob.chunk(room_id))[:3] == ["m.room.member", "1", "0"]
        assert (await place.bob.ok("GET", "rooms", room_id, "state", "m.room.topic"))["topic"] == "then"
        members = (await place.bob.ok("GET", "rooms", room_id, "members"))["chunk"]
        assert {event["state_key"]: event["content"]["membership"] for event in members} == {ALICE: "join", BOB: "leave"}
        assert await place.bob.refused("GET", "rooms", room_id, "event", later) == (404, "M_NOT_FOUND")
        assert await place.bob.refused("GET", "rooms", room_id, "joined_members") == (403, "M_FORBIDDEN")
        # A new invite, declined, opens nothing more and closes nothing
        await place.alice.ok("POST", "rooms", room_id, "invite", json={"user_id": BOB})
        await place.bob.ok("POST", "rooms", room_id, "leave")
        assert (await place.bob.chunk(room_id))[:3] == ["m.room.member", "1", "0"]
        await place.alice.ok("POST", "rooms", room_id, "invite", json={"user_id": CAROL.replace("two", "one")})
        stranger = place.client("admin")
        await place.alice.ok("POST", "rooms", room_id, "invite", json={"user_id": "@admin:one"})
        await stranger.ok("POST", "rooms", room_id, "leave")
        for what in ("state", "members", "joined_members", "aliases"):
            assert await stranger.refused("GET", "rooms", room_id, what) == (403, "M_FORBIDDEN")


async def test_a_world_readable_room_is_read_by_anybody(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        shown = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
        room_id = await place.alice.create(initial_state=[shown], name="Open")
        await place.alice.say(room_id, "hello")
        assert (await place.bob.chunk(room_id))[0] == "hello"
        assert await place.bob.ok("GET", "rooms", room_id, "state", "m.room.name") == {"name": "Open"}
        assert await place.bob.refused("GET", "rooms", room_id, "joined_members") == (403, "M_FORBIDDEN")


async def test_context_has_events_and_state_around_and_tokens_to_go_on(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await chat(place, 9)
        page = await place.alice.ok("GET", "rooms", room_id, "messages", dir="b", limit="5")
        target = page["chunk"][4]
        found = await place.alice.ok("GET", "rooms", room_id, "context", target["event_id"], limit="4")
        assert found["event"]["content"]["body"] == "4"
        assert [event["content"]["body"] for event in found["events_before"]] == ["3", "2"]
        assert [event["content"]["body"] for event in found["events_after"]] == ["5", "6"]
        assert ("m.room.member", BOB) in {(event["type"], event["state_key"]) for event in found["state"]}
        assert await place.alice.chunk(room_id, limit="2", **{"from": found["start"]}) == ["1", "0"]
        assert await place.alice.chunk(room_id, dir="f", **{"from": found["end"]}) == ["7", "8"]
        lazy = await place.alice.ok(
            "GET", "rooms", room_id, "context", target["event_id"], limit="0", filter='{"lazy_load_members": true}'
        )
        assert (lazy["events_before"], lazy["events_after"]) == ([], [])
        assert [event["state_key"] for event in lazy["state"] if event["type"] == "m.room.member"] == [ALICE]


async def test_state_is_read_whole_or_by_key_as_content_or_event(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await chat(place, 0, name="Room")
        whole = await place.bob.ok("GET", "rooms", room_id, "state")
        assert {(event["type"], event["state_key"]) for event in whole} == set(await place.house.state(room_id))
        assert all(event["room_id"] == room_id for event in whole)
        name = await place.bob.ok("GET", "rooms", room_id, "state", "m.room.name", format="event")
        assert (name["content"], name["type"], name["sender"]) == ({"name": "Room"}, "m.room.name", ALICE)
        slashed = await place.bob.get(f"/_matrix/client/v3/rooms/{room_id}/state/m.room.name/")
        assert slashed.json == {"name": "Room"}
        assert await place.bob.refused("GET", "rooms", room_id, "state", "m.none") == (404, "M_NOT_FOUND")
        assert await place.bob.refused("GET", "rooms", room_id, "state", "m.room.name", format="x") == (400, "M_INVALID_PARAM")


async def test_members_are_filtered_by_membership_and_by_point_in_time(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await chat(place, 1)
        token = (await place.alice.ok("GET", "rooms", room_id, "messages", dir="b"))["start"]
        await place.alice.ok("POST", "rooms", room_id, "ban", json={"user_id": BOB})

        async def members(**query: str) -> dict[str, str]:
            chunk = (await place.alice.ok("GET", "rooms", room_id, "members", **query))["chunk"]
            return {event["state_key"]: event["content"]["membership"] for event in chunk}

        assert await members() == {ALICE: "join", BOB: "ban"}
        assert await members(membership="join") == {ALICE: "join"}
        assert await members(not_membership="join") == {BOB: "ban"}
        assert await members(at=token) == {ALICE: "join", BOB: "join"}
        assert await members(at="s0") == {}
        assert await place.alice.refused("GET", "rooms", room_id, "members", membership="x") == (400, "M_INVALID_PARAM")
        assert await place.alice.refused("GET", "rooms", room_id, "members", at="x") == (400, "M_INVALID_PARAM")


async def test_joined_members_come_with_name_and_picture(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        place.house.profiles[BOB] = {"displayname": "Bob", "avatar_url": "mxc://one/x"}
        room_id = await chat(place, 0)
        joined = (await place.alice.ok("GET", "rooms", room_id, "joined_members"))["joined"]
        assert joined == {ALICE: {}, BOB: {"display_name": "Bob", "avatar_url": "mxc://one/x"}}


async def test_history_from_before_a_join_comes_from_the_other_server_page_by_page(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as one, open_place(tmp_path, "two", street) as two:
        room_id = await one.alice.create(preset="public_chat")
        for number in range(5):
            await one.alice.say(room_id, str(number))
        await two.carol.ok("POST", "join", room_id, via="one")
        street.down.add("one")
        alone = await two.carol.ok("GET", "rooms", room_id, "messages", dir="b", limit="10")
        assert [event["type"] for event in alone["chunk"]] == ["m.room.member"]
        street.down.clear()
        seen: list[str] = []
        query = {"dir": "b", "limit": "3", "from": alone["end"]}
        while True:
            page = await two.carol.ok("GET", "rooms", room_id, "messages", **query)
            seen += [event["content"].get("body", event["type"]) for event in page["chunk"]]
            if "end" not in page:
                break
            query["from"] = page["end"]
        assert seen[:5] == ["4", "3", "2", "1", "0"]
        assert seen[-1] == "m.room.create"
