"""A client of MSC3079 on a whole box: CoAP over a wire that loses datagrams, under the virtual clock."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
import trio

from tests.asgi import AsgiClient
from tests.flows.world import World
from tests.transports.coap_client import CoapClient, datagrams
from transports.coap.blockwise import Allowance
from transports.exchange import LinkProfile
from transports.lowband.tables import msc3079_path_codes
from transports.msc3079 import session
from transports.server import AsgiHandler

CLIENT = "/_matrix/client/v3"
LOGIN = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}


@asynccontextmanager
async def low_bandwidth(box, *, loss=0.0, seed=1, quick=False):
    """A client that nothing but datagrams joins to the box, and the box's end of them."""
    near, far = datagrams(loss=loss, seed=seed)
    handler = AsgiHandler(box.box.app, LinkProfile("msc3079"), client=("192.0.2.7", 5684))
    client = CoapClient(near, seed=seed, quick=quick)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.serve, far, handler, Allowance(1 << 24))
        await nursery.start(client.run)
        yield client, far
        nursery.cancel_scope.cancel()


def texts(response):
    rooms = json.loads(response.body).get("rooms", {}).get("join", {})
    return [event["content"]["body"] for room in rooms.values() for event in room["timeline"]["events"] if "body" in event["content"]]


@pytest.mark.parametrize(("loss", "quick"), [(0.0, False), (0.1, False), (0.1, True)])
async def test_somebody_logs_in_talks_and_is_told_of_what_others_say(tmp_path, autojump_clock, loss, quick):
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id)
        async with low_bandwidth(box, loss=loss, quick=quick) as (client, _):
            answer = await client.request("POST", f"{CLIENT}/login", json.dumps(LOGIN).encode())
            token = json.loads(answer.body)["access_token"]
            path = f"{CLIENT}/rooms/{quote(room_id)}"
            said = json.dumps({"msgtype": "m.text", "body": "Hello World"}).encode()
            answer = await client.request("PUT", f"{path}/send/m.room.message/1", said, token)
            assert answer.status == 200
            assert await bob.texts(room_id) == ["Hello World"]
            letter = "a long letter " * 1000
            said = json.dumps({"msgtype": "m.text", "body": letter}).encode()
            assert (await client.request("PUT", f"{path}/send/m.room.message/2", said)).status == 200
            assert (await client.request("GET", f"{path}/messages?dir=b&limit=1")).body.count(b"a long letter") == 1000
            async with client.asking("GET", f"{CLIENT}/sync") as syncs:
                assert texts(await anext(syncs)) == ["Hello World", letter]
                for text in ("one", "two", "three " * 1000, "four"):
                    await bob.say(room_id, text)
                    heard = []
                    while heard != [text]:
                        heard = texts(await anext(syncs))
                assert await bob.texts(room_id) == ["Hello World", letter, "one", "two", "three " * 1000, "four"]


async def test_a_long_poll_is_answered_by_itself_and_an_idle_observer_costs_nothing(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice = await box.person("alice")
        room_id = await alice.create_room()
        async with low_bandwidth(box) as (client, far):
            since = json.loads((await client.request("GET", f"{CLIENT}/sync?timeout=0", token=alice.token)).body)["next_batch"]
            began = trio.current_time()
            answer = await client.request("GET", f"{CLIENT}/sync?timeout=60000&since={since}")
            assert 60 <= trio.current_time() - began < 62
            assert set(json.loads(answer.body)) <= {"next_batch", "device_one_time_keys_count", "device_unused_fallback_key_types"}
            async with client.asking("GET", f"{CLIENT}/sync?since={since}") as syncs:
                await anext(syncs)
                quiet = len(far.sent)
                await trio.sleep(1800)
                assert len(far.sent) == quiet
                await alice.say(room_id, "news")
                assert texts(await anext(syncs)) == ["news"]


async def test_an_observer_whose_account_is_logged_out_hears_so_and_no_more(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice = await box.person("alice")
        room_id = await alice.create_room()
        async with low_bandwidth(box) as (client, far), client.asking("GET", f"{CLIENT}/sync", token=alice.token) as syncs:
            await anext(syncs)
            await alice.say(room_id, "last words")
            assert texts(await anext(syncs)) == ["last words"]
            await alice.ok("POST", "/logout")
            assert (await anext(syncs)).status == 401
            sent = len(far.sent)
            await trio.sleep(600)
            assert len(far.sent) == sent


async def test_an_error_arrives_with_its_status_and_its_code(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a")
        async with low_bandwidth(box) as (client, _):
            answer = await client.request("GET", f"{CLIENT}/sync")
            assert (answer.status, json.loads(answer.body)["errcode"]) == (401, "M_MISSING_TOKEN")
            answer = await client.request("POST", f"{CLIENT}/login", b'{"type":"m.login.password"}')
            assert answer.status == 400
            answer = await client.request("GET", "/_matrix/client/v3/nothing/of/the/kind")
            assert (answer.status, json.loads(answer.body)["errcode"]) == (404, "M_UNRECOGNIZED")


async def test_every_path_of_the_proposals_table_is_served_under_both_of_its_names(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a")
        client = AsgiClient(box.box.app)
        absent = []
        for template in msc3079_path_codes().values():
            for path in (template, template.replace("/r0/", "/v3/")):
                filled = "/".join("x" if part.startswith("{") else part for part in path.split("/"))
                answers = [await client.request(method, filled, headers={"host": "a.test"}) for method in ("GET", "PUT", "POST")]
                if all(answer.status in (404, 405) and answer.json.get("errcode") == "M_UNRECOGNIZED" for answer in answers):
                    absent.append(path)
        assert absent == []


async def test_clients_are_told_of_the_listener_only_where_there_is_one(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        off, on = await world.box("off"), await world.box("on", '[low_bandwidth]\nlisten = ["127.0.0.1:0"]\nport = 8448\n')
        told = {"dtls": 8448, "cbor_enum_version": 1, "coap_enum_version": 1, "observe": 1}
        for box, expected in ((off, None), (on, told)):
            answer = await AsgiClient(box.box.app).get("/_matrix/client/versions", headers={"host": f"{box.name}.test"})
            assert answer.json.get("m.low_bandwidth") == expected
            assert answer.json.get("org.matrix.msc3079.low_bandwidth") == expected
