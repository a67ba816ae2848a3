from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.lab import jssdk, netns, synapse
from tests.lab.ca import Authority
from tests.lab.client import NioClient
from tests.lab.dns import NameServer
from tests.lab.jssdk import JsClient
from tests.lab.rpc import RpcError
from tests.lab.synapse import Synapse

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(synapse.unavailable() is not None, reason=synapse.unavailable() or ""),
]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Synapse, Synapse]]:
    directory = tmp_path_factory.mktemp("synapse")
    authority = Authority(directory / "ca")
    one, two = Synapse(directory / "one", authority), Synapse(directory / "two", authority)
    try:
        one.begin()
        two.begin()
        one.wait_ready()
        two.wait_ready()
        one.register("alice")
        two.register("bob")
        yield one, two
    finally:
        one.stop()
        two.stop()


async def test_two_people_on_two_synapses_talk_in_an_encrypted_room(peers: tuple[Synapse, Synapse], tmp_path: Path) -> None:
    one, two = peers
    with (
        NioClient(tmp_path, one.base_url, name="alice") as alice,
        NioClient(tmp_path, two.base_url, name="bob") as bob,
    ):
        assert (await alice.login("alice", "lab-password"))["user_id"] == f"@alice:{one.server_name}"
        bob_id = (await bob.login("bob", "lab-password"))["user_id"]
        room = await alice.create_room(encrypted=True, room_version="12", name="Hills", invite=[bob_id])
        assert ":" not in room
        await bob.wait_invite(room)
        assert await bob.join(room) == room
        await alice.wait_member(room, bob_id)
        sent = await alice.send(room, "Do you hear me?")
        heard = await bob.wait_message(room, "Do you hear me?")
        assert (heard["event_id"], heard["decrypted"]) == (sent, True)
        await bob.send(room, "Loud and clear.")
        assert (await alice.wait_message(room, "Loud and clear."))["decrypted"]
        assert await alice.members(room) == sorted([f"@alice:{one.server_name}", bob_id])


@pytest.mark.skipif(jssdk.unavailable() is not None, reason=jssdk.unavailable() or "")
async def test_matrix_js_sdk_and_nio_read_each_other(peers: tuple[Synapse, Synapse], tmp_path: Path) -> None:
    one, two = peers
    with (
        JsClient(tmp_path, one.base_url, name="erin") as erin,
        NioClient(tmp_path, two.base_url, name="frank") as frank,
    ):
        one.register("erin")
        two.register("frank")
        erin_id = (await erin.login("erin", "lab-password"))["user_id"]
        frank_id = (await frank.login("frank", "lab-password"))["user_id"]
        room = await erin.create_room(encrypted=True, invite=[frank_id])
        await frank.wait_invite(room)
        await frank.join(room, via=(one.server_name,))
        await erin.wait_member(room, frank_id)
        sent = await erin.send(room, "From a browser's heart")
        assert (await frank.wait_message(room, "From a browser's heart"))["event_id"] == sent
        await frank.wait_member(room, erin_id)
        replied = await frank.send(room, "From Python's")
        assert (await erin.wait_event(room, replied))["content"]["body"] == "From Python's"
        assert (await erin.wait_message(room, "From Python's"))["decrypted"]
        assert await erin.members(room) == await frank.members(room) == sorted([erin_id, frank_id])
        assert [event["event_id"] for event in await erin.events(room)][-1] == replied
        assert (await erin.http("GET", "/_matrix/client/v3/account/whoami"))["json"]["user_id"] == erin_id
        with pytest.raises(RpcError, match="not within"):
            await erin.wait_message(room, "never said", timeout=0.2)
        with pytest.raises(RpcError, match="not within"):
            await frank.wait_message(room, "never said", timeout=0.2)


@pytest.mark.netns
@pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or "")
async def test_a_synapse_with_a_name_without_a_port_federates_between_namespaces(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with netns.Network() as net:
        lan = net.bridge("lan", "10.77.0.0/24")
        here, there = net.namespace("hills"), net.namespace("coast")
        lan.join(here)
        lan.join(there)
        zone = {"hills.test": {"A": [here.address]}, "coast.test": {"A": [there.address]}}
        names = net.namespace("names")
        lan.join(names)
        here.nameserver(names.address)
        there.nameserver(names.address)
        federation = {space.label: (space.address, 8448) for space in (here, there)}
        hills = Synapse(tmp_path / "hills", authority, "hills.test", federation=federation["hills"], netns=here.name)
        coast = Synapse(tmp_path / "coast", authority, "coast.test", federation=federation["coast"], netns=there.name)
        by_name = "https://coast.test:8448"
        with (
            NameServer(tmp_path, zone, space=names),
            hills,
            coast,
            NioClient(tmp_path, hills.base_url, name="gus", netns=here.name) as gus,
            NioClient(tmp_path, by_name, name="hana", netns=there.name, ca=authority.certificate) as hana,
        ):
            hills.register("gus")
            coast.register("hana")
            await gus.login("gus", "lab-password")
            await hana.login("hana", "lab-password")
            room = await gus.create_room(preset="public_chat", room_alias_name="square")
            assert await hana.join("#square:hills.test") == room
            await hana.send(room, "The sea is calm")
            assert (await gus.wait_message(room, "The sea is calm"))["sender"] == "@hana:coast.test"
            lan.cut(there)
            sent = await gus.send(room, "Snow here")
            lan.restore(there)
            assert (await hana.wait_event(room, sent))["content"]["body"] == "Snow here"


async def test_the_test_can_look_into_synapse(peers: tuple[Synapse, Synapse]) -> None:
    one, two = peers
    tokens = one.register("carol"), two.register("dave")
    body = {"name": "Hills", "preset": "public_chat"}
    room = (await one.arequest("POST", "/_matrix/client/v3/createRoom", body, tokens[0])).json["room_id"]
    path = f"/_matrix/client/v3/join/{quote(room)}?via={one.server_name}"
    assert (await two.arequest("POST", path, {}, tokens[1])).status == 200
    assert "ed25519:a_lab" in two.keys_of(one.server_name)
    assert two.key_responses_from(one.server_name)[0]["key_json"]["server_name"] == one.server_name
    assert one.destination("nobody.test") is None
    assert one.state(room)["m.room.name", ""]["content"] == {"name": "Hills"}
    assert one.timeline(room)[0]["type"] == "m.room.create"
    assert all(event["rejection_reason"] is None for event in two.timeline(room))
