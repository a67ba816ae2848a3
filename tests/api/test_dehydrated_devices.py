"""A device that nobody holds: kept for its owner, met by others like any device, its messages read as often as needed."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.flows.world import Person, World, until

OPEN = "[limits]\nrate_limits = false\n"
PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
DEVICE = "a/+dehydrated"


def submission(owner: Person, device_id: str = DEVICE) -> dict[str, Any]:
    keys = {
        "user_id": owner.user_id,
        "device_id": device_id,
        "dehydrated": True,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"ed25519:{device_id}": "A" * 43, f"curve25519:{device_id}": "A" * 43},
        "signatures": {owner.user_id: {f"ed25519:{device_id}": "A" * 86}},
    }
    one_time = {"signed_curve25519:1": {"key": "A" * 43, "signatures": {owner.user_id: {f"ed25519:{device_id}": "A" * 86}}}}
    return {
        "device_id": device_id,
        "device_data": {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "x", "nonce": "y"},
        "initial_device_display_name": "Asleep",
        "device_keys": keys,
        "one_time_keys": one_time,
    }


async def tell(sender: Person, owner: Person, device_id: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        messages = {owner.user_id: {device_id: {"n": number}}}
        await sender.ok("PUT", f"/sendToDevice/m.x/t{number}", {"messages": messages})


async def events(owner: Person, method: str = "POST", token: str | None = None, device_id: str = DEVICE) -> dict[str, Any]:
    path = f"{PATH}/{quote(device_id, safe='')}/events"
    if method == "GET":
        query = {"limit": "50", **({} if token is None else {"from": token})}
        return await owner.at(path, "GET", query=query)
    return await owner.at(path, "POST", {} if token is None else {"next_batch": token})


class Owner(Person):
    """Alice, who speaks to paths outside /_matrix/client/v3 too."""

    async def answer(self, path: str, method: str, json: Any = None, **options: Any) -> Any:
        from tests.asgi import AsgiClient

        client = AsgiClient(self.box.box.app, token=self.token)
        return await client.request(method, path, json=json, headers={"host": "client"}, **options)

    async def at(self, path: str, method: str, json: Any = None, **options: Any) -> Any:
        answer = await self.answer(path, method, json, **options)
        assert answer.status == 200, (method, path, answer.status, answer.body)
        return answer.json


@pytest.fixture
async def house(tmp_path, autojump_clock):
    """(world, box, alice, bob)"""
    async with World(tmp_path) as world:
        box = await world.box("a", OPEN)
        alice, bob = await box.person("alice"), await box.person("bob")
        yield world, box, Owner(box, alice.user_id, alice.token), bob


async def test_it_is_a_device_to_everybody_and_its_keys_can_be_claimed(house):
    _, _, alice, bob = house
    assert await alice.at(PATH, "PUT", submission(alice)) == {"device_id": DEVICE}
    assert await alice.at(PATH, "GET") == {"device_id": DEVICE, "device_data": submission(alice)["device_data"]}
    found = await bob.ok("POST", "/keys/query", {"device_keys": {alice.user_id: []}})
    keys = found["device_keys"][alice.user_id][DEVICE]
    assert keys["dehydrated"] is True
    claimed = await bob.ok("POST", "/keys/claim", {"one_time_keys": {alice.user_id: {DEVICE: "signed_curve25519"}}})
    assert list(claimed["one_time_keys"][alice.user_id][DEVICE]) == ["signed_curve25519:1"]
    listed = (await alice.ok("GET", "/devices"))["devices"]
    assert {"device_id": DEVICE, "display_name": "Asleep"} in listed


async def test_its_messages_are_read_in_batches_and_read_again_until_it_is_gone(house):
    _, box, alice, bob = house
    await alice.at(PATH, "PUT", submission(alice))
    await tell(bob, alice, DEVICE, 130)
    for _ in range(2):  # the first who tried was cut off
        heard, token = [], None
        while batch := await events(alice, token=token):
            heard += [one["content"]["n"] for one in batch["events"]]
            token = batch["next_batch"]
            if not batch["events"]:
                break
        assert heard == list(range(130))
    page = await events(alice, "GET")
    assert len(page["events"]) == 50
    page = await events(alice, "GET", page["next_batch"])
    page = await events(alice, "GET", page["next_batch"])
    assert len(page["events"]) == 30
    assert "next_batch" not in page
    await box.stop()
    await box.start()
    assert len((await events(alice))["events"]) == 100


async def test_a_new_one_takes_the_place_of_the_old_with_all_that_waited_for_it(house):
    _, _, alice, bob = house
    await alice.at(PATH, "PUT", submission(alice))
    await tell(bob, alice, DEVICE, 1)
    await alice.at(PATH, "PUT", submission(alice, "other"))
    assert (await alice.at(PATH, "GET"))["device_id"] == "other"
    assert (await events(alice, device_id="other"))["events"] == []
    assert (await alice.answer(f"{PATH}/{quote(DEVICE, safe='')}/events", "POST", {})).status == 403
    found = await bob.ok("POST", "/keys/query", {"device_keys": {alice.user_id: []}})
    assert list(found["device_keys"][alice.user_id]) == ["other"]
    await alice.at(PATH, "PUT", submission(alice, "other"))  # the same once more, as after a lost answer
    assert await alice.at(PATH, "DELETE") == {"device_id": "other"}
    assert (await alice.answer(PATH, "GET")).status == 404
    assert (await alice.answer(PATH, "DELETE")).json["errcode"] == "M_NOT_FOUND"


async def test_deleting_it_among_the_devices_or_logging_out_everywhere_ends_it(house):
    _, box, alice, bob = house
    await alice.at(PATH, "PUT", submission(alice))
    await box.box.users.devices.delete(alice.user_id, [DEVICE])
    assert (await alice.answer(PATH, "GET")).status == 404
    await alice.at(PATH, "PUT", submission(alice))
    await alice.ok("POST", "/logout/all")
    session = await box.box.users.accounts.log_in(alice.user_id, _phone())
    alice.token = session.tokens.access_token
    assert (await alice.answer(PATH, "GET")).status == 404
    assert (await bob.ok("POST", "/keys/query", {"device_keys": {alice.user_id: []}}))["device_keys"].get(alice.user_id, {}) == {}


def _phone() -> Any:
    from edgeserver.users.accounts import DeviceWish

    return DeviceWish("PHONE")


async def test_nobody_reads_anothers_and_what_is_malformed_is_refused(house):
    _, box, alice, bob = house
    await alice.at(PATH, "PUT", submission(alice))
    other = Owner(box, bob.user_id, bob.token)
    assert (await other.answer(f"{PATH}/{quote(DEVICE, safe='')}/events", "POST", {})).json["errcode"] == "M_FORBIDDEN"
    assert (await other.answer(PATH, "GET")).status == 404
    own = (await alice.ok("GET", "/account/whoami"))["device_id"]
    refused = [
        ({"device_id": None}, 400, "M_MISSING_PARAM"),
        ({"device_keys": None}, 400, "M_MISSING_PARAM"),
        ({"device_id": 7}, 400, "M_INVALID_PARAM"),
        ({"device_id": "x" * 256}, 400, "M_INVALID_PARAM"),
        ({"device_id": "elsewhere"}, 400, "M_INVALID_PARAM"),  # the keys are of another device
        ({"initial_device_display_name": 7}, 400, "M_BAD_JSON"),
        ({"initial_device_display_name": "x" * 257}, 400, "M_INVALID_PARAM"),
        ({"device_data": {}}, 400, "M_BAD_JSON"),
        ({"device_data": {"algorithm": "x", "device_pickle": "y" * 270_000}}, 413, "M_TOO_LARGE"),
    ]
    for changes, status, errcode in refused:
        body = {key: value for key, value in {**submission(alice), **changes}.items() if value is not None}
        answer = await alice.answer(PATH, "PUT", body)
        assert (answer.status, answer.json["errcode"]) == (status, errcode), changes
    taken = await alice.answer(PATH, "PUT", submission(alice, own))
    assert taken.json["errcode"] == "M_INVALID_PARAM"
    for token in ("x", "-1", "9" * 30):
        path = f"{PATH}/{quote(DEVICE, safe='')}/events"
        assert (await alice.answer(path, "POST", {"next_batch": token})).json["errcode"] == "M_INVALID_PARAM"
        assert (await alice.answer(path, "GET", query={"from": token})).json["errcode"] == "M_INVALID_PARAM"
    assert (await alice.answer(path, "POST", {"next_batch": 1})).json["errcode"] == "M_BAD_JSON"


async def test_another_servers_people_send_keys_to_it(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", OPEN), await world.box("b", OPEN)
        alice, bob = await a.person("alice"), await b.person("bob")
        owner = Owner(a, alice.user_id, alice.token)
        room = await alice.create_room(preset="public_chat")
        await bob.join(room, "a.test")
        await owner.at(PATH, "PUT", submission(owner))
        found = await bob.ok("POST", "/keys/query", {"device_keys": {alice.user_id: []}})
        assert found["device_keys"][alice.user_id][DEVICE]["dehydrated"] is True
        await tell(bob, alice, DEVICE, 1)

        async def heard() -> bool:
            return [one["content"] for one in (await events(owner))["events"]] == [{"n": 0}]

        await until(heard)
