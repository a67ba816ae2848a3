"""Sliding sync as clients meet it: lists and ranges, deltas, retries, expiry, waiting, extensions, thin lines. MSC4186."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import trio

from edgeserver.sync.sliding import deployed
from edgeserver.sync.sliding.connections import PER_DEVICE, Connections
from edgeserver.sync.sliding.wanted import RequiredState, RoomWish
from edgeserver.users.accounts import DeviceWish
from tests.asgi import Answer, AsgiClient
from tests.flows.world import Person, World, until
from transports.exchange import LinkProfile

CONFIG = "[limits]\nrate_limits = false\n"
DEPLOYED = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
ACCEPTED = "/_matrix/client/v4/sync"
SOME_STATE = [["m.room.create", ""], ["m.room.name", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]


def a_list(last: int, limit: int = 1, **more: Any) -> dict[str, Any]:
    return {"ranges": [[0, last]], "timeline_limit": limit, "required_state": SOME_STATE, **more}


async def ask(person: Person, body: Any, *, pos: str | None = None, timeout: int = 0, link: LinkProfile | None = None) -> Answer:
    client = AsgiClient(person.box.box.app, token=person.token, link=link)
    query = {"timeout": str(timeout), **({} if pos is None else {"pos": pos})}
    return await client.request("POST", DEPLOYED, json=body, query=query)


async def told(person: Person, body: Any, *, pos: str | None = None, timeout: int = 0, link: LinkProfile | None = None) -> Any:
    answer = await ask(person, body, pos=pos, timeout=timeout, link=link)
    assert answer.status == 200, answer.body
    return answer.json


async def told_v4(person: Person, body: Any) -> Any:
    answer = await AsgiClient(person.box.box.app, token=person.token).request("POST", ACCEPTED, json=body)
    assert answer.status == 200, answer.body
    return answer.json


@pytest.fixture
async def two(tmp_path, autojump_clock) -> AsyncIterator[tuple[Person, Person]]:
    async with World(tmp_path) as world:
        box = await world.box("a", CONFIG)
        yield await box.person("alice"), await box.person("bob")


async def shared_rooms(alice: Person, bob: Person, count: int) -> list[str]:
    """Rooms of both, the one made first being the one with the oldest news."""
    made = []
    for number in range(count):
        room = await alice.create_room(name=f"room {number}", preset="public_chat")
        await bob.join(room)
        made.append(room)
    return made


# Lists


async def test_a_list_shows_the_most_active_rooms_and_a_wider_range_only_what_is_lacking(two):
    alice, bob = two
    made = await shared_rooms(alice, bob, 6)
    await bob.say(made[0], "wake up")
    first = await told(alice, {"lists": {"all": a_list(1)}})
    assert first["lists"]["all"] == {"count": 6}  # with the rooms' ids each answer would grow with the range
    assert list(first["rooms"]) == [made[0], made[5]]
    assert all(room["initial"] for room in first["rooms"].values())
    wider = await told(alice, {"lists": {"all": a_list(3)}}, pos=first["pos"])
    assert list(wider["rooms"]) == [made[4], made[3]]


async def test_ranges_that_overlap_show_a_room_once_and_the_most_active_first(two):
    alice, bob = two
    made = await shared_rooms(alice, bob, 5)
    answer = await told(alice, {"lists": {"all": {**a_list(0), "ranges": [[3, 9], [0, 1], [0, 0], [1, 1], [4, 6]]}}})
    assert list(answer["rooms"]) == [made[4], made[3], made[1], made[0]]
    wish = deployed.read("@a:x", "D", None, 0, {"lists": {"all": {**a_list(0), "ranges": [[0, 10**6]] * 100}}})
    assert wish.lists["all"].ranges == ((0, 10**6),)


async def test_a_room_that_comes_into_the_window_is_whole_and_one_that_returns_is_a_delta(two):
    alice, bob = two
    made = await shared_rooms(alice, bob, 3)
    answer = await told(alice, {"lists": {"all": a_list(0)}})
    assert list(answer["rooms"]) == [made[2]]
    await bob.say(made[0], "up")
    answer = await told(alice, {"lists": {"all": a_list(0)}}, pos=answer["pos"])
    assert (list(answer["rooms"]), answer["rooms"][made[0]]["initial"]) == ([made[0]], True)
    assert answer["rooms"][made[0]]["num_live"] == 1
    await bob.say(made[2], "back")
    answer = await told(alice, {"lists": {"all": a_list(0)}}, pos=answer["pos"])
    room = answer["rooms"][made[2]]
    assert "initial" not in room
    assert "name" not in room
    assert [event["content"]["body"] for event in room["timeline"]] == ["back"]


async def test_filters_pick_rooms_by_kind_tag_space_and_encryption(two):
    alice, _ = two
    plain = await alice.create_room(name="plain")
    encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    sealed = await alice.create_room(name="sealed", initial_state=[encryption])
    space = await alice.create_room(name="space", creation_content={"type": "m.space"})
    await alice.ok("PUT", f"/rooms/{quote(space)}/state/m.space.child/{quote(plain)}", {"via": ["a.test"]})
    await alice.ok("PUT", f"/user/{alice.user_id}/rooms/{quote(sealed)}/tags/m.favourite", {})
    await alice.ok("PUT", f"/user/{alice.user_id}/account_data/m.direct", {"@x:a.test": [plain]})
    cases = [
        ({"is_dm": True}, [plain]),
        ({"is_dm": False}, [space, sealed]),
        ({"is_encrypted": True}, [sealed]),
        ({"is_encrypted": False}, [space, plain]),
        ({"room_types": ["m.space"]}, [space]),
        ({"room_types": [None]}, [sealed, plain]),
        ({"not_room_types": ["m.space"]}, [sealed, plain]),
        ({"room_types": ["m.space"], "not_room_types": ["m.space"]}, []),
        ({"spaces": [space]}, [plain]),
        ({"spaces": ["!unknown"]}, []),
        ({"tags": ["m.favourite"]}, [sealed]),
        ({"not_tags": ["m.favourite"]}, [space, plain]),
        ({"is_invite": True}, []),
        ({"room_name_like": "PLA"}, [plain]),
    ]
    for given, wanted in cases:
        answer = await told(alice, {"lists": {"some": a_list(9, filters=given)}})
        assert list(answer["rooms"]) == wanted, given
        assert answer["lists"]["some"]["count"] == len(wanted)


async def test_an_invite_shows_what_it_came_with_and_leaving_shows_only_to_who_knew_the_room(two):
    alice, bob = two
    body = {"lists": {"all": a_list(9)}}
    start = await told(bob, body)
    room = await alice.create_room(name="Harbour", invite=[bob.user_id])
    answer = await told(bob, body, pos=start["pos"])
    assert {event["type"] for event in answer["rooms"][room]["invite_state"]} >= {"m.room.name", "m.room.member"}
    assert "timeline" not in answer["rooms"][room]
    invited = await told(bob, {"conn_id": "other", "lists": {"all": a_list(9, filters={"is_invite": True})}})
    assert invited["lists"]["all"]["count"] == 1
    await bob.join(room)
    answer = await told(bob, body, pos=answer["pos"])
    assert answer["rooms"][room]["initial"]
    await bob.ok("POST", f"/rooms/{quote(room)}/leave")
    answer = await told(bob, body, pos=answer["pos"])
    assert answer["rooms"][room]["timeline"][-1]["content"]["membership"] == "leave"
    assert answer["lists"]["all"]["count"] == 1
    assert (await told(bob, body))["lists"]["all"]["count"] == 0


async def test_who_was_kicked_is_told_even_on_a_new_connection(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    await alice.ok("POST", f"/rooms/{quote(room)}/kick", {"user_id": bob.user_id, "reason": "noise"})
    await alice.say(room, "not for bob")
    found = (await told(bob, {"lists": {"all": a_list(9, 5)}}))["rooms"][room]
    assert found["timeline"][-1]["content"]["reason"] == "noise"
    v4 = await told_v4(bob, {"lists": {"all": {"timeline_limit": 1, "required_state": {}}}})
    assert v4["rooms"][room]["membership"] == "leave"


async def test_invites_that_are_not_wanted_are_in_no_list(two):
    alice, bob = two
    room = await alice.create_room(invite=[bob.user_id])
    body = {"lists": {"all": a_list(9)}}
    assert (await told(bob, body))["lists"]["all"]["count"] == 1
    await bob.ok("PUT", f"/user/{bob.user_id}/account_data/m.ignored_user_list", {"ignored_users": {alice.user_id: {}}})
    answer = await told(bob, body)
    assert (answer["lists"]["all"]["count"], answer["rooms"]) == (0, {})
    await bob.ok("PUT", f"/user/{bob.user_id}/account_data/m.ignored_user_list", {"ignored_users": {}})
    assert list((await told(bob, body))["rooms"]) == [room]
    await bob.ok("PUT", f"/user/{bob.user_id}/account_data/m.invite_permission_config", {"default_action": "block"})
    assert (await told(bob, body))["rooms"] == {}


# Deltas


async def test_a_timeline_that_is_to_be_longer_comes_at_once_and_says_so(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    for number in range(5):
        await bob.say(room, str(number))
    answer = await told(alice, {"lists": {"all": a_list(9, 1)}})
    body = {"lists": {"all": a_list(9, 1)}, "room_subscriptions": {room: {"timeline_limit": 4, "required_state": []}}}
    answer = await told(alice, body, pos=answer["pos"], timeout=30_000)
    found = answer["rooms"][room]
    assert found["unstable_expanded_timeline"] is True
    assert [event["content"]["body"] for event in found["timeline"]] == ["1", "2", "3", "4"]
    assert found["num_live"] == 0
    answer = await told(alice, {"lists": {"all": a_list(9, 1)}}, pos=answer["pos"])  # less again, and then as much as before
    answer = await told(alice, body, pos=answer["pos"])
    assert answer["rooms"] == {}


async def test_state_that_is_wanted_only_now_is_told_and_state_that_goes_is_a_stub(two):
    alice, _ = two
    room = await alice.create_room(name="Harbour", topic="Boats")
    part = {"timeline_limit": 1, "required_state": {"include": [{"type": "m.room.name"}]}}
    answer = await told_v4(alice, {"room_subscriptions": {room: part}})
    assert [event["type"] for event in answer["rooms"][room]["required_state"]] == ["m.room.name"]
    part["required_state"] = {"include": [{"type": "m.room.name"}, {"type": "m.room.topic"}]}
    answer = await told_v4(alice, {"room_subscriptions": {room: part}, "pos": answer["pos"]})
    assert [event["type"] for event in answer["rooms"][room]["required_state"]] == ["m.room.topic"]
    await alice.ok("PUT", f"/rooms/{quote(room)}/state/m.room.name/", {})
    answer = await told_v4(alice, {"room_subscriptions": {room: part}, "pos": answer["pos"]})
    assert answer["rooms"][room]["name"] is None


async def test_members_come_with_who_speaks_and_not_twice(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    body = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": [["m.room.member", "$LAZY"]]}}}
    await alice.say(room, "first")
    answer = await told(alice, body)
    assert [event["state_key"] for event in answer["rooms"][room]["required_state"]] == [alice.user_id]
    await bob.say(room, "second")
    answer = await told(alice, body, pos=answer["pos"])
    assert [event["state_key"] for event in answer["rooms"][room]["required_state"]] == [bob.user_id]
    await bob.say(room, "third")
    answer = await told(alice, body, pos=answer["pos"])
    assert "required_state" not in answer["rooms"][room]


async def test_what_is_not_for_somebodys_eyes_makes_no_room_result(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    await alice.ok("PUT", f"/user/{alice.user_id}/account_data/m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    answer = await told(alice, {"lists": {"all": a_list(9)}})
    await bob.say(room, "unheard")
    assert (await told(alice, {"lists": {"all": a_list(9)}}, pos=answer["pos"]))["rooms"] == {}


# Connections


async def test_a_repeated_pos_is_answered_again_and_an_older_one_no_more(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    body = {"lists": {"all": a_list(9)}}
    first = await told(alice, body)
    await bob.say(room, "one")
    lost = await told(alice, body, pos=first["pos"])
    again = await told(alice, body, pos=first["pos"])
    assert list(lost["rooms"]) == list(again["rooms"]) == [room]
    assert (await told(alice, body, pos=again["pos"]))["rooms"] == {}
    answer = await ask(alice, body, pos=first["pos"])
    assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN_POS")


async def test_a_restart_expires_connections_honestly(two):
    alice, _ = two
    first = await told(alice, {})
    await alice.box.stop()
    await alice.box.start()
    for pos in (first["pos"], "nonsense", "s1_x_1", "s1_00000000_99999999999999999"):
        assert (await ask(alice, {}, pos=pos)).json["errcode"] == "M_UNKNOWN_POS"


async def test_connections_are_apart_and_bounded_for_each_device(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    tokens = [(await told(alice, {"conn_id": f"c{number}", "lists": {"all": a_list(9)}}))["pos"] for number in range(PER_DEVICE + 1)]
    assert (await ask(alice, {"conn_id": "c0"}, pos=tokens[0])).status == 400
    assert (await ask(alice, {"conn_id": "c1"}, pos=tokens[2])).status == 400  # of another connection
    await bob.say(room, "to all")
    for number in range(2, PER_DEVICE + 1):
        answer = await told(alice, {"conn_id": f"c{number}", "lists": {"all": a_list(9)}}, pos=tokens[number])
        assert list(answer["rooms"]) == [room]


async def test_a_newer_request_of_a_connection_ends_the_older(two, autojump_clock):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    body = {"lists": {"all": a_list(9)}}
    first = await told(alice, body)
    ended: list[Any] = []

    async def wait() -> None:
        ended.append(await told(alice, body, pos=first["pos"], timeout=300_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(5)
        began = trio.current_time()
        newer = await told(alice, body, pos=first["pos"])
    assert trio.current_time() - began < 1
    assert (ended[0]["pos"], ended[0]["rooms"]) == (first["pos"], {})
    await bob.say(room, "on")
    assert list((await told(alice, body, pos=newer["pos"]))["rooms"]) == [room]


async def test_who_waits_is_woken_by_what_concerns_them_and_by_nothing_else(two, autojump_clock):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    body = {"lists": {"all": a_list(9)}}
    first = await told(alice, body)
    heard: list[Any] = []

    async def wait() -> None:
        heard.append((await told(alice, body, pos=first["pos"], timeout=300_000), trio.current_time()))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(10)
        await bob.say(await bob.create_room(), "to myself")
        await trio.sleep(10)
        assert heard == []
        await bob.say(room, "to alice")
    answer, at = heard[0]
    assert list(answer["rooms"]) == [room]
    assert at - began == pytest.approx(20, abs=1)


async def test_logging_out_ends_a_devices_connections(two):
    alice, _ = two
    first = await told(alice, {})
    device = (await alice.ok("GET", "/account/whoami"))["device_id"]
    users = alice.box.box.users
    await users.devices.delete(alice.user_id, [device])
    session = await users.accounts.log_in(alice.user_id, DeviceWish(device))
    alice.token = session.tokens.access_token
    assert (await ask(alice, {}, pos=first["pos"])).json["errcode"] == "M_UNKNOWN_POS"


def test_connections_of_a_device_that_is_gone_are_forgotten():
    connections = Connections()
    connection = connections.enter("@a:x", "PHONE", "", None)
    connections.enter("@a:x", "LAPTOP", "", None)
    connections.forget("@a:x", frozenset({"PHONE"}))
    with pytest.raises(Exception, match="M_UNKNOWN_POS"):
        connections.enter("@a:x", "PHONE", "", f"s0_{connection.unique}_1")


# Extensions


async def test_messages_to_a_device_wait_until_they_are_acknowledged(two):
    alice, bob = two
    body: dict[str, Any] = {"extensions": {"to_device": {"enabled": True, "limit": 2}}}
    for number in range(3):
        await bob.ok("PUT", f"/sendToDevice/m.x/{number}", {"messages": {alice.user_id: {"*": {"n": number}}}})
    heard = []
    since = None
    for _ in range(3):
        body["extensions"]["to_device"]["since"] = since
        found = (await told(alice, body))["extensions"]["to_device"]
        heard += [event["content"]["n"] for event in found["events"]]
        since = found["next_batch"]
    assert heard == [0, 1, 2]
    body["extensions"]["to_device"]["since"] = "0"
    assert (await told(alice, body))["extensions"]["to_device"]["events"] == []
    body["extensions"]["to_device"]["since"] = "999999"
    assert (await told(alice, body))["extensions"]["to_device"]["events"] == []


async def test_extensions_can_be_switched_off_and_on_and_miss_nothing(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    lists = {"all": a_list(9)}
    with_data = {"lists": lists, "extensions": {"account_data": {"enabled": True}, "receipts": {"enabled": True}}}
    answer = await told(alice, with_data)
    event = await bob.say(room, "read me")
    answer = await told(alice, {"lists": lists}, pos=answer["pos"])
    await bob.ok("POST", f"/rooms/{quote(room)}/receipt/m.read/{quote(event, safe='')}")
    await alice.ok("PUT", f"/user/{alice.user_id}/rooms/{quote(room)}/account_data/x.y", {"a": 1})
    answer = await told(alice, {"lists": lists}, pos=answer["pos"])
    assert answer["extensions"] == {}
    answer = await told(alice, with_data, pos=answer["pos"])
    assert answer["extensions"]["account_data"] == {"rooms": {room: [{"type": "x.y", "content": {"a": 1}}]}}
    assert event in answer["extensions"]["receipts"]["rooms"][room]["content"]


async def test_an_extension_may_be_for_some_rooms_only(two):
    alice, bob = two
    made = await shared_rooms(alice, bob, 2)
    for room in made:
        await alice.ok("PUT", f"/user/{alice.user_id}/rooms/{quote(room)}/account_data/x.y", {})
    part = {"timeline_limit": 1, "required_state": []}
    cases = [({}, set(made)), ({"lists": ["*"]}, set(made)), ({"lists": []}, {made[0]}), ({"lists": ["top"], "rooms": []}, {made[1]})]
    for scope, wanted in cases:
        body = {
            "lists": {"top": a_list(0)},
            "room_subscriptions": {made[0]: part},
            "extensions": {"account_data": {"enabled": True, **scope}},
        }
        found = (await told(alice, body))["extensions"]["account_data"]
        assert set(found["rooms"]) == wanted, scope
    v4 = {
        "room_subscriptions": {made[0]: {"timeline_limit": 1, "required_state": {}}},
        "extensions": {"account_data": {"enabled": True, "rooms": []}},
    }
    assert "rooms" not in (await told_v4(alice, v4))["extensions"]["account_data"]


async def test_typing_is_told_where_the_client_looks_also_if_it_began_before(two, autojump_clock):
    alice, bob = two
    made = await shared_rooms(alice, bob, 2)

    async def types(room: str, typing: bool) -> None:
        path = f"/rooms/{quote(room)}/typing/{quote(bob.user_id)}"
        await bob.ok("PUT", path, {"typing": typing, **({"timeout": 30000} if typing else {})})

    def typing_in(answer: Any) -> Any:
        rooms = answer["extensions"].get("typing", {}).get("rooms", {})
        return {room: event["content"]["user_ids"] for room, event in rooms.items()}

    one, both = ({"lists": {"all": a_list(last)}, "extensions": {"typing": {"enabled": True}}} for last in (0, 1))
    await types(made[0], True)
    answer = await told(alice, one)
    assert typing_in(answer) == {}
    answer = await told(alice, both, pos=answer["pos"])
    assert typing_in(answer) == {made[0]: [bob.user_id]}
    await types(made[1], True)
    answer = await told(alice, both, pos=answer["pos"])
    assert typing_in(answer) == {made[1]: [bob.user_id]}
    await types(made[0], False)
    answer = await told(alice, one, pos=answer["pos"])
    assert typing_in(answer) == {}
    answer = await told(alice, both, pos=answer["pos"])
    assert typing_in(answer) == {made[0]: []}
    answer = await told(alice, both, pos=answer["pos"])
    assert typing_in(answer) == {}
    await trio.sleep(31)
    assert typing_in(await told(alice, both, pos=answer["pos"])) == {made[1]: []}


async def test_of_who_is_ignored_nothing_is_told_that_they_read_or_type(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    event = await alice.say(room, "read me")
    await alice.ok("PUT", f"/user/{alice.user_id}/account_data/m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    await bob.ok("POST", f"/rooms/{quote(room)}/receipt/m.read/{quote(event, safe='')}")
    await bob.ok("PUT", f"/rooms/{quote(room)}/typing/{quote(bob.user_id)}", {"typing": True})
    body = {"lists": {"all": a_list(9)}, "extensions": {"typing": {"enabled": True}, "receipts": {"enabled": True}}}
    answer = await told(alice, body)
    assert list(answer["rooms"]) == [room]
    assert answer["extensions"] == {}
    assert set((await told(bob, body))["extensions"]) == {"typing", "receipts"}


async def test_device_lists_and_key_counts_wake_a_connection_that_wants_them(two, autojump_clock):
    alice, bob = two
    body = {"extensions": {"e2ee": {"enabled": True}}}
    first = await told(alice, body)
    device = (await alice.ok("GET", "/account/whoami"))["device_id"]
    key = {"key": "A" * 43, "signatures": {alice.user_id: {f"ed25519:{device}": "A" * 86}}}
    await alice.ok("POST", "/keys/upload", {"one_time_keys": {"signed_curve25519:1": key}})
    heard: list[Any] = []

    async def wait() -> None:
        heard.append(await told(alice, body, pos=first["pos"], timeout=300_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        await bob.ok("POST", "/keys/claim", {"one_time_keys": {alice.user_id: {device: "signed_curve25519"}}})
    assert heard[0]["extensions"]["e2ee"]["device_one_time_keys_count"] == {"signed_curve25519": 0}


async def test_changes_of_thread_subscriptions_are_told_the_newest_first(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", CONFIG + "[features]\nthread_subscriptions = true\n")
        alice = await box.person("alice")
        room = await alice.create_room()
        roots = [await alice.say(room, str(number)) for number in range(3)]
        for root in roots:
            await _subscribe(alice, "PUT", room, root)
        body = {"extensions": {"io.element.msc4308.thread_subscriptions": {"enabled": True, "limit": 2}}}
        answer = await told(alice, body)
        found = answer["extensions"]["io.element.msc4308.thread_subscriptions"]
        assert set(found["subscribed"][room]) == {roots[1], roots[2]}
        assert found["prev_batch"]
        await _subscribe(alice, "DELETE", room, roots[2])
        answer = await told(alice, body, pos=answer["pos"])
        found = answer["extensions"]["io.element.msc4308.thread_subscriptions"]
        assert (list(found), list(found["unsubscribed"][room])) == (["unsubscribed"], [roots[2]])
        assert (await told(alice, body, pos=answer["pos"]))["extensions"] == {}


async def _subscribe(person: Person, method: str, room: str, root: str) -> None:
    path = f"/_matrix/client/unstable/io.element.msc4306/rooms/{quote(room)}/thread/{quote(root, safe='')}/subscription"
    answer = await AsgiClient(person.box.box.app, token=person.token).request(method, path, json={} if method == "PUT" else None)
    assert answer.status == 200, answer.body


# Wires


async def test_over_a_thin_line_the_first_answers_are_small_and_what_is_open_or_asks_for_the_person_comes_first(two):
    alice, bob = two
    made = await shared_rooms(alice, bob, 12)
    mention = {"msgtype": "m.text", "body": "alice!", "m.mentions": {"user_ids": [alice.user_id]}}
    await bob.ok("PUT", f"/rooms/{quote(made[3])}/send/m.room.message/x", mention)
    for room in made[6:]:
        await bob.say(room, "noise")
    line = LinkProfile("line", bit_rate=2400)
    body = {"lists": {"all": a_list(19)}, "room_subscriptions": {made[0]: {"timeline_limit": 1, "required_state": []}}}
    answer = await ask(alice, body, link=line)
    first = answer.json
    assert list(first["rooms"])[:2] == [made[0], made[3]]
    assert len(answer.body) < 25_000
    seen, pos = list(first["rooms"]), first["pos"]
    while (answer := await told(alice, body, pos=pos, link=line))["rooms"]:
        assert not set(seen) & set(answer["rooms"])
        seen, pos = [*seen, *answer["rooms"]], answer["pos"]
    assert sorted(seen) == sorted(made)


async def test_malformed_requests_are_told_what_is_wrong(two):
    alice, _ = two
    wish = {"timeline_limit": 1, "required_state": []}
    refused: list[tuple[Any, str]] = [
        ([], "M_BAD_JSON"),
        ({"lists": []}, "M_BAD_JSON"),
        ({"lists": {"a": {"ranges": [[0, 1]]}}}, "M_MISSING_PARAM"),
        ({"lists": {"a": {**wish, "timeline_limit": -1}}}, "M_BAD_JSON"),
        ({"lists": {"a": {**wish, "timeline_limit": 1.5}}}, "M_BAD_JSON"),
        ({"lists": {"a": {**wish, "ranges": [[5, 1]]}}}, "M_INVALID_PARAM"),
        ({"lists": {"a": {**wish, "ranges": [[0]]}}}, "M_BAD_JSON"),
        ({"lists": {"a": {**wish, "filters": {"is_dm": "yes"}}}}, "M_BAD_JSON"),
        ({"lists": {"a": {**wish, "filters": {"tags": [1]}}}}, "M_BAD_JSON"),
        ({"lists": {"a": {**wish, "required_state": [["a"]]}}}, "M_BAD_JSON"),
        ({"lists": {"a" * 65: wish}}, "M_INVALID_PARAM"),
        ({"lists": {f"l{number}": wish for number in range(101)}}, "M_INVALID_PARAM"),
        ({"room_subscriptions": {f"!{number}": wish for number in range(101)}}, "M_INVALID_PARAM"),
        ({"conn_id": 1}, "M_BAD_JSON"),
        ({"conn_id": "c" * 256}, "M_INVALID_PARAM"),
        ({"extensions": 1}, "M_BAD_JSON"),
        ({"extensions": {"to_device": {"enabled": True, "since": "x"}}}, "M_INVALID_PARAM"),
        ({"extensions": {"to_device": {"enabled": True, "limit": "x"}}}, "M_BAD_JSON"),
    ]
    for body, errcode in refused:
        answer = await ask(alice, body)
        assert (answer.status, answer.json["errcode"]) == (400, errcode), body
    for body in ({"timeout": "x"}, {"pos": 1}, {"lists": {"a": {"timeline_limit": 1}}}, {"set_presence": "gone"}):
        answer = await AsgiClient(alice.box.box.app, token=alice.token).request("POST", ACCEPTED, json=body)
        assert answer.status == 400, body


async def test_pos_is_a_pagination_token_too(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    event = await bob.say(room, "before")
    answer = await told(alice, {"lists": {"all": a_list(9)}})
    page = await alice.ok("GET", f"/rooms/{quote(room)}/messages", query={"dir": "b", "from": answer["pos"], "limit": "1"})
    assert page["chunk"][0]["event_id"] == event


async def test_a_room_of_another_server_is_in_the_list_as_soon_as_it_is_joined(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", CONFIG), await world.box("b", CONFIG)
        alice, bob = await a.person("alice"), await b.person("bob")
        room = await alice.create_room(name="Harbour", preset="public_chat")
        start = await told(bob, {"lists": {"all": a_list(9)}})
        await bob.join(room, "a.test")
        answer = await told(bob, {"lists": {"all": a_list(9)}}, pos=start["pos"])
        assert answer["rooms"][room]["name"] == "Harbour"
        sent = await alice.say(room, "welcome")
        found: list[str] = []

        async def heard() -> bool:
            nonlocal answer
            answer = await told(bob, {"lists": {"all": a_list(9)}}, pos=answer["pos"], timeout=1000)
            found.extend(event["event_id"] for event in answer["rooms"].get(room, {}).get("timeline", []))
            return sent in found

        await until(heard)


# Required state, pure


def test_wildcards_exclusions_and_exceptions_of_required_state():
    key, member = ("m.room.name", ""), ("m.room.member", "@a:x")
    everything = RequiredState(frozenset({(None, None)}))
    assert everything.takes(key)
    but_members = RequiredState(frozenset({(None, None)}), frozenset({("m.room.member", None)}), frozenset({member}))
    assert but_members.takes(key)
    assert but_members.takes(member)
    assert not but_members.takes(("m.room.member", "@b:x"))
    by_state_key = RequiredState(frozenset({(None, "@a:x")}))
    assert by_state_key.takes(member)
    assert not by_state_key.takes(key)
    both = RoomWish(1, frozenset({by_state_key})).together_with(RoomWish(5, frozenset({RequiredState(frozenset({key}))})))
    assert (both.limit, both.takes(key), both.takes(member)) == (5, True, True)
    assert both.exact_keys is None


async def test_a_timeline_limit_of_nothing_tells_of_the_room_and_of_no_event(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    body = {"lists": {"all": a_list(9, 0)}}
    first = await told(alice, body)
    found = first["rooms"][room]
    assert (found["initial"], found["name"], found.get("timeline", []), found["limited"]) == (True, "room 0", [], True)
    await bob.say(room, "unheard")
    answer = await told(alice, body, pos=first["pos"])
    assert answer["rooms"][room].get("timeline", []) == []
    wider = await told(alice, {"lists": {"all": a_list(9, 1)}}, pos=answer["pos"])
    assert wider["rooms"][room]["unstable_expanded_timeline"] is True
    assert [event["content"]["body"] for event in wider["rooms"][room]["timeline"]] == ["unheard"]


async def test_a_room_that_becomes_a_direct_chat_goes_from_one_list_to_the_other_and_says_so(two):
    alice, bob = two
    (room,) = await shared_rooms(alice, bob, 1)
    body = {"lists": {"dm": a_list(9, filters={"is_dm": True}), "rooms": a_list(9, filters={"is_dm": False})}}
    first = await told(alice, body)
    assert (first["lists"]["dm"]["count"], first["lists"]["rooms"]["count"]) == (0, 1)
    await alice.ok("PUT", f"/user/{alice.user_id}/account_data/m.direct", {bob.user_id: [room]})
    answer = await told(alice, body, pos=first["pos"], timeout=5000)
    assert (answer["lists"]["dm"]["count"], answer["lists"]["rooms"]["count"]) == (1, 0)
    assert answer["rooms"][room]["is_dm"] is True
    await alice.ok("PUT", f"/user/{alice.user_id}/account_data/m.direct", {})
    answer = await told(alice, body, pos=answer["pos"], timeout=5000)
    assert answer["rooms"][room]["is_dm"] is False
