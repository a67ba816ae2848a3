"""Rooms, as administrators look into them, block them and give power over them."""

from __future__ import annotations

import json
from urllib.parse import quote

from tests.api.admin.office import Office, open_office

ALICE, BOB, ROOT = "@alice:a.test", "@bob:a.test", "@root:a.test"


async def _names(office: Office, **query: str) -> list[str | None]:
    return [one["name"] for one in (await office.ok("GET", "v1", "rooms", **query))["rooms"]]


async def test_rooms_are_listed_with_filters_in_order_and_in_pages(office: Office, autojump_clock: object) -> None:
    await office.alice.create_room(name="Beta", room_alias_name="harbour", visibility="public")
    big = await office.alice.create_room(name="alpha", invite=[BOB])
    await office.bob.join(big)
    empty = await office.bob.create_room(name="Gamma", topic="harbour")
    await office.bob.ok("POST", f"/rooms/{quote(empty)}/leave")
    assert await _names(office) == ["alpha", "Beta", "Gamma"]
    assert await _names(office, dir="b") == ["Gamma", "Beta", "alpha"]
    assert await _names(office, order_by="joined_members") == ["alpha", "Beta", "Gamma"]
    assert await _names(office, order_by="size", dir="b", limit="1") == ["Gamma"]
    sizes = [one["state_events"] for one in (await office.ok("GET", "v1", "rooms", order_by="state_events"))["rooms"]]
    assert sizes == sorted(sizes, reverse=True)
    assert await _names(office, search_term="BET") == ["Beta"]
    assert await _names(office, search_term="harb") == ["Beta"]
    assert await _names(office, search_term=big) == ["alpha"]
    assert await _names(office, public_rooms="true") == ["Beta"]
    assert await _names(office, empty_rooms="true") == ["Gamma"]
    page = await office.ok("GET", "v1", "rooms", limit="1", **{"from": "1"})
    assert (page["offset"], page["total_rooms"], page["next_batch"], page["prev_batch"]) == (1, 3, 2, 0)
    assert await office.refused("GET", "v1", "rooms", search_term="") == (400, "M_INVALID_PARAM")
    assert await office.refused("GET", "v1", "rooms", order_by="colour") == (400, "M_INVALID_PARAM")


async def test_a_room_is_told_as_synapse_tells_it(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room(name="Harbour", topic="Ships", room_alias_name="harbour", preset="public_chat")
    found = await office.ok("GET", "v1", "rooms", room_id)
    size = len(await office.alice.state(room_id))
    assert found == {
        "room_id": room_id, "name": "Harbour", "topic": "Ships", "avatar": None, "canonical_alias": "#harbour:a.test",
        "joined_members": 1, "joined_local_members": 1, "joined_local_devices": 1, "version": found["version"], "creator": ALICE,
        "encryption": None, "federatable": True, "public": False, "join_rules": "public", "guest_access": "forbidden",
        "history_visibility": "shared", "state_events": size, "room_type": None, "forgotten": False, "tombstoned": False,
        "replacement_room": None,
    }  # fmt: skip
    assert await office.ok("GET", "v1", "rooms", room_id, "members") == {"members": [ALICE], "total": 1}
    state = (await office.ok("GET", "v1", "rooms", room_id, "state"))["state"]
    assert len(state) == size
    only = (await office.ok("GET", "v1", "rooms", room_id, "state", type="m.room.name"))["state"]
    assert [event["content"] for event in only] == [{"name": "Harbour"}]
    ends = await office.ok("GET", "v1", "rooms", "#harbour:a.test", "forward_extremities")
    assert (ends["count"], set(ends["results"][0])) == (1, {"event_id", "state_group", "depth", "received_ts"})
    for part in ((), ("members",), ("state",), ("messages",), ("forward_extremities",)):
        assert await office.refused("GET", "v1", "rooms", "!nowhere:a.test", *part) == (404, "M_NOT_FOUND"), part


async def test_an_administrator_reads_what_was_said_without_being_there(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room(initial_state=[
        {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    ])  # fmt: skip
    said = [await office.alice.say(room_id, text) for text in ("one", "two", "three")]
    at = ("v1", "rooms", room_id)
    page = await office.ok("GET", *at, "messages", dir="b", limit="2")
    assert [event["event_id"] for event in page["chunk"]] == said[:0:-1]
    older = await office.ok("GET", *at, "messages", dir="b", limit="1", **{"from": page["end"]})
    assert [event["content"]["body"] for event in older["chunk"]] == ["one"]
    wanted = json.dumps({"types": ["m.room.message"]})
    first = await office.ok("GET", *at, "messages", limit="100", filter=wanted)
    assert [event["event_id"] for event in first["chunk"]] == said
    between = await office.ok("GET", *at, "messages", dir="b", to=older["end"], filter=wanted)
    assert [event["event_id"] for event in between["chunk"]] == said[::-1]
    around = await office.ok("GET", *at, "context", said[1], limit="2")
    assert [around[part][0]["event_id"] for part in ("events_before", "events_after")] == [said[0], said[2]]
    assert around["event"]["event_id"] == said[1]
    assert {event["type"] for event in around["state"]} >= {"m.room.create", "m.room.member"}
    nearest = await office.ok("GET", *at, "timestamp_to_event", ts=str(around["event"]["origin_server_ts"]))
    assert nearest["event_id"] in [*said, *nearest.values()]
    assert await office.refused("GET", *at, "timestamp_to_event") == (400, "M_MISSING_PARAM")
    assert await office.refused("GET", *at, "timestamp_to_event", ts=str(2**50)) == (404, "M_NOT_FOUND")
    assert await office.refused("GET", *at, "context", "$nothing") == (404, "M_NOT_FOUND")
    assert await office.refused("GET", *at, "messages", filter="{") == (400, "M_INVALID_PARAM")
    assert await office.refused("GET", *at, "messages", filter="[]") == (400, "M_BAD_JSON")
    assert await office.refused("GET", *at, "messages", **{"from": "x"}) == (400, "M_INVALID_PARAM")


async def test_nobody_enters_a_blocked_room(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room(preset="public_chat")
    path = ("v1", "rooms", room_id, "block")
    assert await office.ok("GET", *path) == {"block": False}
    assert await office.ok("PUT", *path, json={"block": True}) == {"block": True}
    assert await office.ok("GET", *path) == {"block": True, "user_id": ROOT}
    assert (await office.bob.request("POST", f"/join/{quote(room_id)}")).status == 403
    invite = await office.alice.request("POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
    assert (invite.status, invite.json["errcode"]) == (403, "M_FORBIDDEN")
    assert (await office.bob.request("POST", f"/knock/{quote(room_id)}")).status == 403
    await office.ok("PUT", *path, json={"block": False})
    await office.bob.join(room_id)
    assert await office.refused("PUT", *path) == (400, "M_MISSING_PARAM")
    assert await office.refused("PUT", "v1", "rooms", "harbour", "block", json={"block": True}) == (400, "M_INVALID_PARAM")


async def test_a_blocked_room_of_another_server_invites_nobody(office: Office, autojump_clock: object) -> None:
    other = await office.world.box("b")
    carol = await other.person("carol")
    room_id = await carol.create_room()
    await office.ok("PUT", "v1", "rooms", room_id, "block", json={"block": True})
    invite = await carol.request("POST", f"/rooms/{quote(room_id)}/invite", {"user_id": ALICE})
    assert (invite.status, invite.json["errcode"]) == (403, "M_FORBIDDEN")


async def test_power_over_a_room_is_given_to_who_is_in_it_and_to_who_is_not(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room(room_version="11", room_alias_name="harbour", invite=[BOB])
    await office.bob.join(room_id)
    await office.ok("POST", "v1", "rooms", room_id, "make_room_admin", json={"user_id": BOB})
    assert await _power(office, room_id) == {ALICE: 100, BOB: 100}
    await office.ok("POST", "v1", "rooms", "#harbour:a.test", "make_room_admin")
    assert await _power(office, room_id) == {ALICE: 100, BOB: 100, ROOT: 100}
    assert (await office.ok("GET", "v1", "users", ROOT, "memberships"))["memberships"] == {room_id: "invite"}
    await office.ok("POST", "v1", "rooms", room_id, "make_room_admin")  # once is enough
    assert await _power(office, room_id) == {ALICE: 100, BOB: 100, ROOT: 100}
    assert await office.refused("POST", "v1", "rooms", "!nowhere:a.test", "make_room_admin") == (404, "M_NOT_FOUND")
    assert await office.refused("POST", "v1", "rooms", room_id, "make_room_admin", json={"user_id": "bob"}) == (400, "M_INVALID_PARAM")


async def test_creators_whose_power_has_no_number_give_a_number(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room(room_version="12", preset="public_chat")
    await office.bob.join(room_id)
    await office.ok("POST", "v1", "rooms", room_id, "make_room_admin", json={"user_id": BOB})
    assert await _power(office, room_id) == {BOB: 100}
    await office.ok("POST", "v1", "rooms", room_id, "make_room_admin", json={"user_id": ALICE})
    assert await _power(office, room_id) == {BOB: 100}


async def test_where_nobody_here_has_power_none_can_be_given(office: Office, autojump_clock: object) -> None:
    other = await office.world.box("b")
    carol = await other.person("carol")
    room_id = await carol.create_room(preset="public_chat")
    await office.alice.join(room_id, via="b.test")
    assert await office.refused("POST", "v1", "rooms", room_id, "make_room_admin") == (400, "M_UNKNOWN")


async def _power(office: Office, room_id: str) -> dict[str, int]:
    state = (await office.ok("GET", "v1", "rooms", room_id, "state", type="m.room.power_levels"))["state"]
    return dict(state[0]["content"]["users"])


async def test_somebody_is_put_into_a_room(office: Office, autojump_clock: object) -> None:
    public = await office.alice.create_room(preset="public_chat", room_alias_name="square")
    assert await office.ok("POST", "v1", "join", "#square:a.test", json={"user_id": BOB}) == {"room_id": public}
    private = await office.alice.create_room()
    assert await office.refused("POST", "v1", "join", private, json={"user_id": BOB}) == (403, "M_FORBIDDEN")
    await office.ok("POST", "v1", "rooms", private, "make_room_admin")
    office.bob.token, bobs = office.token, office.bob.token
    await office.bob.join(private)
    office.bob.token = bobs
    await office.ok("POST", "v1", "join", private, json={"user_id": BOB})
    assert (await office.ok("GET", "v1", "users", BOB, "joined_rooms"))["total"] == 2
    assert await office.refused("POST", "v1", "join", public, json={"user_id": "@x:b.test"}) == (400, "M_UNKNOWN")
    assert await office.refused("POST", "v1", "join", public, json={"user_id": "@x:a.test"}) == (404, "M_NOT_FOUND")
    assert await office.refused("POST", "v1", "join", public) == (400, "M_MISSING_PARAM")


async def test_pages_are_bounded(tmp_path, autojump_clock) -> None:
    async with open_office(tmp_path) as office:
        room_id = await office.alice.create_room()
        for limit in ("0", "99999999"):
            page = await office.ok("GET", "v1", "rooms", room_id, "messages", limit=limit)
            assert len(page["chunk"]) >= 1
