"""PUT /rooms/{}/send, /state and /redact."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio

from edgeserver.matrix import canonical_json
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from tests.api.rooms_house import open_place
from tests.rooms.house import ALICE, BOB, CAROL, Street


async def test_a_transaction_makes_one_event_however_often_and_concurrently_it_is_sent(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat")
        answers: list[str] = []

        async def send() -> None:
            answers.append(await place.alice.say(room_id, "hello", "a/b c"))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(send)
        await send()
        assert len(answers) == 9
        assert len(set(answers)) == 1
        assert (await place.alice.chunk(room_id)).count("hello") == 1


async def test_transaction_ids_are_scoped_to_device_and_endpoint(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        first = await place.alice.say(room_id, "hello", "1")
        assert await place.client("alice2").say(room_id, "hello", "1") != first
        other = await place.alice.ok("PUT", "rooms", room_id, "send", "m.other", "1", json={})
        assert other["event_id"] != first
        redaction = await place.alice.ok("PUT", "rooms", room_id, "redact", first, "1", json={})
        again = await place.alice.ok("PUT", "rooms", room_id, "redact", first, "1", json={})
        assert redaction == again
        shown = await place.alice.ok("GET", "rooms", room_id, "event", redaction["event_id"])
        assert shown["unsigned"]["transaction_id"] == "1"
        assert shown["redacts"] == shown["content"]["redacts"] == first


async def test_a_redaction_empties_the_event_and_says_why(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat")
        await place.bob.ok("POST", "join", room_id)
        event_id, by_bob = await place.alice.say(room_id, "oops"), await place.bob.say(room_id, "his")
        assert await place.bob.refused("PUT", "rooms", room_id, "redact", event_id, "1", json={}) == (403, "M_FORBIDDEN")
        await place.alice.ok("PUT", "rooms", room_id, "redact", event_id, "1", json={"reason": "mistake"})
        shown = await place.bob.ok("GET", "rooms", room_id, "event", event_id)
        assert shown["content"] == {}
        because = shown["unsigned"]["redacted_because"]
        assert (because["content"]["reason"], because["sender"]) == ("mistake", ALICE)
        await place.alice.ok("PUT", "rooms", room_id, "redact", by_bob, "2")
        assert await place.alice.refused("PUT", "rooms", room_id, "redact", "nothing", "3", json={}) == (400, "M_INVALID_PARAM")


async def test_a_redaction_may_be_sent_as_an_event_in_rooms_of_every_version(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        for version in ("10", "12"):
            room_id = await place.alice.create(room_version=version)
            event_id = await place.alice.say(room_id, "oops", version)
            path = ("rooms", room_id, "send", "m.room.redaction", "r" + version)
            redaction = await place.alice.ok("PUT", *path, json={"redacts": event_id, "reason": "r"})
            stored = await place.house.get(redaction["event_id"])
            assert ("redacts" in stored.event.pdu) == (version == "10")
            assert ("redacts" in stored.event.content) == (version == "12")
            assert (await place.house.get(event_id)).event.content == {}
            assert await place.alice.refused("PUT", *path, json={"reason": "no target"}) == (400, "M_BAD_JSON")


async def test_bodies_that_are_no_content_are_refused(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        path = ("rooms", room_id, "send", "m.room.message", "1")
        assert await place.alice.refused("PUT", *path, json=[1]) == (400, "M_BAD_JSON")
        assert await place.alice.refused("PUT", *path, json={"f": 1.5}) == (400, "M_BAD_JSON")
        assert await place.alice.refused("PUT", *path, json={"body": "x" * 66000}) == (413, "M_TOO_LARGE")
        assert await place.alice.refused("PUT", "rooms", room_id, "state", "m" * 300, json={}) == (413, "M_TOO_LARGE")
        assert await place.alice.refused("PUT", "rooms", "!other:one", "send", "m", "1", json={}) == (403, "M_FORBIDDEN")


async def test_state_is_put_with_and_without_a_key_and_a_repeat_changes_nothing(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        url = f"/_matrix/client/v3/rooms/{room_id}/state/m.room.topic"
        first = await place.alice.put(url, {"topic": "Tea"})
        again = await place.alice.put(url + "/", {"topic": "Tea"})
        assert first.status == again.status == 200
        assert first.json == again.json
        await place.alice.ok("PUT", "rooms", room_id, "state", "org.x", "a/b", json={"y": 1})
        assert await place.alice.ok("GET", "rooms", room_id, "state", "org.x", "a/b") == {"y": 1}


async def test_a_canonical_alias_must_point_at_the_room_but_old_ones_are_left_alone(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as place, open_place(tmp_path, "two", street) as two:
        room_id, other = await place.alice.create(room_alias_name="here"), await place.alice.create(room_alias_name="there")
        await two.house.db.write(lambda tx: tx.execute("INSERT INTO aliases VALUES ('#far:two', ?, ?)", (room_id, CAROL)).rowcount)
        path = ("rooms", room_id, "state", "m.room.canonical_alias")

        async def refused(**content: Any) -> tuple[int, str]:
            return await place.alice.refused("PUT", *path, json=content)

        assert await refused(alias="#there:one") == (400, "M_BAD_ALIAS")
        assert await refused(alias="#nowhere:one") == (400, "M_BAD_ALIAS")
        assert await refused(alt_aliases=["#x:down"]) == (400, "M_BAD_ALIAS")
        assert await refused(alias="nonsense") == (400, "M_INVALID_PARAM")
        assert await refused(alt_aliases=[1]) == (400, "M_INVALID_PARAM")
        await place.alice.ok("PUT", *path, json={"alias": "#here:one", "alt_aliases": ["#far:two"]})
        await place.alice.ok("DELETE", "directory", "room", "#here:one")
        street.down.add("two")
        await place.alice.ok("PUT", *path, json={"alias": "#far:two", "alt_aliases": ["#here:one"]})
        await place.alice.ok("PUT", *path, json={})
        assert other != room_id


async def test_membership_by_the_state_endpoint_goes_the_way_of_the_endpoints_made_for_it(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as place, open_place(tmp_path, "two", street) as two:
        room_id = await place.alice.create()

        async def member(client: Any, target: str, membership: Any, **content: Any) -> str:
            path = ("rooms", room_id, "state", "m.room.member", target)
            answer = await client.ok("PUT", *path, json={"membership": membership, **content})
            return str(answer["event_id"])

        invite = await member(place.alice, BOB, "invite", reason="come")
        assert (await place.house.get(invite)).event.content == {"membership": "invite", "reason": "come"}
        join = await member(place.bob, BOB, "join")
        assert (await place.house.state(room_id))["m.room.member", BOB].event.event_id == join
        renamed = await member(place.bob, BOB, "join", displayname="Bobby", join_authorised_via_users_server="@x:y")
        assert (await place.house.get(renamed)).event.content == {"membership": "join", "displayname": "Bobby"}
        await member(place.alice, CAROL, "invite")
        assert await two.house.membership(room_id, CAROL) == "invite"
        await member(place.bob, BOB, "leave")
        await member(place.alice, BOB, "ban")
        assert await place.house.membership(room_id, BOB) == "ban"
        path = ("rooms", room_id, "state", "m.room.member")
        assert await place.alice.refused("PUT", *path, BOB, json={"membership": "guest"}) == (400, "M_BAD_JSON")
        assert await place.alice.refused("PUT", *path, "bob", json={"membership": "invite"}) == (400, "M_INVALID_PARAM")


async def test_an_application_service_may_date_its_events_and_nobody_else(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        bridge = place.client("bridge")
        room_id = await bridge.create(preset="public_chat")
        await place.alice.ok("POST", "join", room_id)
        path = ("rooms", room_id, "send", "m.room.message")
        dated = await bridge.ok("PUT", *path, "1", json={"body": "old"}, ts="1000")
        assert (await place.house.get(dated["event_id"])).event.origin_server_ts == 1000
        assert (await bridge.ok("PUT", *path, "1", json={"body": "old"})) == dated
        undated = await place.alice.ok("PUT", *path, "1", json={"body": "new"}, ts="1000")
        assert (await place.house.get(undated["event_id"])).event.origin_server_ts > 1_000_000
        assert await bridge.refused("PUT", *path, "2", json={}, ts="soon") == (400, "M_INVALID_PARAM")


async def test_rooms_of_every_version_are_made_spoken_in_read_and_redacted(tmp_path: Path) -> None:
    """In version 3 event ids may hold slashes: messages are sent until one does."""
    async with open_place(tmp_path) as place:
        for version in ROOM_VERSIONS:
            room_id = await place.alice.create(room_version=version, preset="public_chat")
            await place.bob.ok("POST", "join", room_id)
            event_id, number = await place.bob.say(room_id, "first"), 0
            while version == "3" and "/" not in event_id:
                event_id, number = await place.bob.say(room_id, f"{number}"), number + 1
            shown = await place.alice.ok("GET", "rooms", room_id, "event", event_id)
            assert (shown["event_id"], shown["room_id"]) == (event_id, room_id)
            assert (await place.alice.ok("GET", "rooms", room_id, "context", event_id))["event"]["event_id"] == event_id
            await place.alice.ok("PUT", "rooms", room_id, "redact", event_id, "r", json={})
            assert (await place.bob.ok("GET", "rooms", room_id, "event", event_id))["content"] == {}


async def test_clients_send_and_get_any_number_in_old_rooms_and_only_plain_ones_in_newer(tmp_path: Path) -> None:
    body = b'{"n":[1.0,1e16,-0.0,18446744073709551616,' + b"7" * 400 + b"]}"
    numbers = [1.0, 1e16, -0.0, 2**64, int("7" * 400)]
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(room_version="5")
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}"
        sent = (await place.alice.request("PUT", f"{path}/send/m.x/1", body=body)).json["event_id"]
        await place.alice.request("PUT", f"{path}/state/m.x/", body=body)
        answers = [await place.alice.request("GET", f"{path}/{what}") for what in (f"event/{sent}", "state/m.x/", "messages?dir=b")]
        event, state, page = (canonical_json.decode_exact(answer.body) for answer in answers)
        assert [answer.status for answer in answers] == [200] * 3
        for content in (event["content"], state, page["chunk"][0]["content"]):
            assert repr(content["n"]) == repr(numbers)
        newer = quote(await place.alice.create(room_version="6"))
        refused = await place.alice.request("PUT", f"/_matrix/client/v3/rooms/{newer}/send/m.x/1", body=body)
        assert (refused.status, refused.json["errcode"]) == (400, "M_BAD_JSON")
