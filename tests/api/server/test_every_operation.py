"""Every operation of the server-server API: asked of a whole box by another server, each answer held against the specification."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from edgeserver.federation.multipart import decode_media
from edgeserver.matrix import draft, signatures
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from tests.api.server.operations import OPERATIONS, faults_of_answer, faults_of_pdu, operation_of
from tests.asgi import Answer, AsgiClient
from tests.flows.test_third_party_invites import is_invited, offer, pending, signed
from tests.flows.world import BoxInWorld, Person, World

CONFIG = '[accounts]\nregistration = "open"\n[limits]\nrate_limits = false\n[http]\nwell_known_server = "a.test:443"\n'
V1, V2, KEY = "/_matrix/federation/v1", "/_matrix/federation/v2", "/_matrix/key/v2"
CARL, DORA = "@carl:b.test", "@dora:b.test"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060"
    "000000050001a5f645400000000049454e44ae426082"
)

covered: set[str] = set()
"""The operations of which an answer was checked, in all tests of this file."""


class Peer:
    """The server b.test, which asks a.test and gathers what is wrong with the answers."""

    def __init__(self, box: BoxInWorld, asked: BoxInWorld, version: str) -> None:
        self.box, self.version = box, version
        self.key = box.box.identity.signing_key
        self.client = AsgiClient(asked.box.app)
        self.faults: list[str] = []

    async def request(self, method: str, target: str, body: Any = None) -> Answer:
        headers = {"authorization": signatures.sign_request(method, target, "b.test", "a.test", self.key, body)}
        return await self.client.request(method, target, json=body, headers=headers)

    async def __call__(self, method: str, target: str, body: Any = None, *, is_json: bool = True) -> Any:
        """The JSON (or the whole answer) of a 200."""
        answer = await self.request(method, target, body)
        assert answer.status == 200, (method, target, answer.status, answer.body)
        operation = operation_of(method, target.partition("?")[0])
        covered.add(operation)
        if not is_json:
            return answer
        self.faults += faults_of_answer(operation, answer.json, self.version)
        return answer.json

    def signed(self, template: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """(event id, PDU) of a template that a.test gave us."""
        self.faults += faults_of_pdu({**template, "hashes": {"sha256": ""}, "signatures": {}}, self.version, "template")
        event = draft.complete(template, ROOM_VERSIONS[self.version], "b.test", self.key)
        return event.event_id, event.pdu


@pytest.fixture(params=["10", "11", "12"])
async def met(request, tmp_path, autojump_clock) -> AsyncIterator[tuple[Peer, Person, Person]]:
    """(the asking server, alice of the one that is asked, bob of the asking one)"""
    async with World(tmp_path) as world:
        a, b = await world.box("a", CONFIG), await world.box("b", CONFIG)
        yield Peer(b, a, request.param), await a.person("alice"), await b.person("bob")


async def joined(peer: Peer, room: str, user: str = CARL) -> dict[str, Any]:
    """b.test joins a room of a.test: the answer to the join."""
    answer = await peer("GET", f"{V1}/make_join/{quote(room)}/{user}?ver={peer.version}")
    event_id, pdu = peer.signed(answer["event"])
    return await peer("PUT", f"{V2}/send_join/{quote(room)}/{quote(event_id)}", pdu)


async def test_keys_version_and_where_the_server_is(met: tuple[Peer, Person, Person]) -> None:
    peer, _, _ = met
    assert await peer("GET", "/.well-known/matrix/server") == {"m.server": "a.test:443"}
    await peer("GET", f"{V1}/version")
    own = await peer("GET", f"{KEY}/server")
    assert own["server_name"] == "a.test"
    await peer("GET", f"{KEY}/query/b.test?minimum_valid_until_ts=1")
    told = await peer("POST", f"{KEY}/query", {"server_keys": {"b.test": {}, "a.test": {}}})
    assert {one["server_name"] for one in told["server_keys"]} == {"a.test", "b.test"}
    assert peer.faults == []


async def test_membership(met: tuple[Peer, Person, Person]) -> None:
    peer, alice, _ = met
    room = await alice.create_room(preset="public_chat", room_version=peer.version, name="Harbour")
    answer = await joined(peer, room)
    assert (answer["members_omitted"], answer["event"]["state_key"]) == (False, CARL)
    left = await peer("GET", f"{V1}/make_leave/{quote(room)}/{CARL}")
    event_id, pdu = peer.signed(left["event"])
    assert await peer("PUT", f"{V2}/send_leave/{quote(room)}/{quote(event_id)}", pdu) == {}
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    door = await alice.create_room(room_version=peer.version, initial_state=[rule])
    knock = await peer("GET", f"{V1}/make_knock/{quote(door)}/{DORA}?ver={peer.version}")
    event_id, pdu = peer.signed(knock["event"])
    shown = await peer("PUT", f"{V1}/send_knock/{quote(door)}/{quote(event_id)}", pdu)
    assert {"m.room.create", "m.room.join_rules"} <= {one["type"] for one in shown["knock_room_state"]}
    assert peer.faults == []


async def test_invites(met: tuple[Peer, Person, Person]) -> None:
    peer, alice, bob = met
    room = await bob.create_room(preset="private_chat", room_version=peer.version)
    members = peer.box.box.rooms.memberships
    event, stripped, create = await peer.box.box.ground.db.read(
        lambda tx: members._draft(tx, room, bob.user_id, alice.user_id, {"membership": "invite"})
    )
    body = {"event": event.pdu, "room_version": peer.version, "invite_room_state": [create, *stripped]}
    taken = await peer("PUT", f"{V2}/invite/{quote(room)}/{quote(event.event_id)}", body)
    assert set(taken["event"]["signatures"]) == {"a.test", "b.test"}
    assert peer.faults == []


async def test_invites_to_an_address(met: tuple[Peer, Person, Person]) -> None:
    peer, alice, bob = met
    ours = await alice.create_room(room_version=peer.version)
    await offer(alice, ours)
    proposed = {
        "type": "m.room.member", "room_id": ours, "sender": alice.user_id, "state_key": bob.user_id,
        "content": {"membership": "invite", "third_party_invite": {"display_name": "b…", "signed": signed(bob.user_id)}},
    }
    assert await peer("PUT", f"{V1}/exchange_third_party_invite/{quote(ours)}", proposed) == {}
    assert await is_invited(bob, ours)
    theirs = await bob.create_room(room_version=peer.version)
    await offer(bob, theirs)
    about = {"medium": "email", "address": "alice@example.org", "mxid": alice.user_id}
    told = pending(bob, theirs, alice.user_id)
    assert await peer("PUT", f"{V1}/3pid/onbind", {**about, "invites": [told]}) == {}
    assert await is_invited(alice, theirs)
    assert peer.faults == []


async def test_an_invite_in_the_first_form(met: tuple[Peer, Person, Person]) -> None:
    """The first version of the endpoint is for room versions 1 and 2, whose events name themselves."""
    peer, alice, bob = met
    room = await bob.create_room(preset="private_chat", room_version="1")
    members = peer.box.box.rooms.memberships
    event, stripped, create = await peer.box.box.ground.db.read(
        lambda tx: members._draft(tx, room, bob.user_id, alice.user_id, {"membership": "invite"})
    )
    body = {**event.pdu, "unsigned": {"invite_room_state": [create, *stripped]}}
    status, taken = await peer("PUT", f"{V1}/invite/{quote(room)}/{quote(event.event_id)}", body)
    assert status == 200
    assert set(taken["event"]["signatures"]) == {"a.test", "b.test"}
    assert peer.faults == []


async def test_events_and_state(met: tuple[Peer, Person, Person]) -> None:
    peer, alice, _ = met
    room = await alice.create_room(preset="public_chat", room_version=peer.version)
    await joined(peer, room)
    first, middle, last = [quote(await alice.say(room, text)) for text in ("one", "two", "three")]
    at = quote(room)
    pages = await peer("GET", f"{V1}/backfill/{at}?v={last}&limit=2")
    assert [pdu["content"]["body"] for pdu in pages["pdus"]] == ["three", "two"]
    body = {"earliest_events": [first.replace("%24", "$")], "latest_events": [last.replace("%24", "$")], "limit": 10, "min_depth": 0}
    between = await peer("POST", f"{V1}/get_missing_events/{at}", body)
    assert [pdu["content"]["body"] for pdu in between["events"]] == ["two"]
    one = await peer("GET", f"{V1}/event/{middle}")
    assert one["pdus"][0]["content"]["body"] == "two"
    await peer("GET", f"{V1}/event_auth/{at}/{middle}")
    whole = await peer("GET", f"{V1}/state/{at}?event_id={middle}")
    ids = await peer("GET", f"{V1}/state_ids/{at}?event_id={middle}")
    assert (len(whole["pdus"]), len(whole["auth_chain"])) == (len(ids["pdu_ids"]), len(ids["auth_chain_ids"]))
    said = one["pdus"][0]["origin_server_ts"]
    named = await peer("GET", f"{V1}/timestamp_to_event/{at}?ts={said}&dir=f")
    assert named["origin_server_ts"] == said
    assert peer.faults == []


async def test_a_transaction(met: tuple[Peer, Person, Person]) -> None:
    peer, alice, _ = met
    room = await alice.create_room(preset="public_chat", room_version=peer.version)
    answer = await joined(peer, room)
    rules = ROOM_VERSIONS[peer.version]
    join = draft.Event.from_pdu(answer["event"], rules)
    state = {(one["type"], one["state_key"]): draft.Event.from_pdu(one, rules).event_id for one in answer["state"]}
    cited = [state["m.room.power_levels", ""], join.event_id] + ([] if peer.version == "12" else [state["m.room.create", ""]])
    template = draft.template(
        rules,
        room_id=room,
        sender=CARL,
        event_type="m.room.message",
        content={"msgtype": "m.text", "body": "ahoy"},
        prev_events=[join.event_id],
        auth_events=cited,
        depth=join.depth + 1,
        origin_server_ts=join.origin_server_ts + 1,
    )
    event_id, pdu = peer.signed(template)
    edu = {"edu_type": "m.typing", "content": {"room_id": room, "user_id": CARL, "typing": True}}
    body = {"origin": "b.test", "origin_server_ts": 1, "pdus": [pdu], "edus": [edu]}
    assert await peer("PUT", f"{V1}/send/t1", body) == {"pdus": {event_id: {}}}
    assert await alice.texts(room) == ["ahoy"]
    assert peer.faults == []


async def test_queries_and_the_directory(met: tuple[Peer, Person, Person]) -> None:
    peer, alice, _ = met
    wish = {"preset": "public_chat", "room_version": peer.version, "visibility": "public", "room_alias_name": "harbour", "topic": "Ships"}
    room = await alice.create_room(name="Harbour", **wish)
    hidden = await alice.create_room(preset="private_chat", room_version=peer.version)
    space = await alice.create_room(preset="public_chat", room_version=peer.version, creation_content={"type": "m.space"})
    for child in (room, hidden):
        await alice.ok("PUT", f"/rooms/{quote(space)}/state/m.space.child/{quote(child)}", {"via": ["a.test"]})
    await alice.ok("PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    assert (await peer("GET", f"{V1}/query/directory?room_alias={quote('#harbour:a.test')}"))["room_id"] == room
    assert await peer("GET", f"{V1}/query/profile?user_id={alice.user_id}") == {"displayname": "Alice"}
    listed = await peer("GET", f"{V1}/publicRooms?limit=5&include_all_networks=true")
    assert [one["room_id"] for one in listed["chunk"]] == [room]
    found = await peer("POST", f"{V1}/publicRooms", {"filter": {"generic_search_term": "ship", "room_types": [None]}})
    assert [one["room_id"] for one in found["chunk"]] == [room]
    tree = await peer("GET", f"{V1}/hierarchy/{quote(space)}?suggested_only=false")
    assert [one["room_id"] for one in tree["children"]] == [room]
    assert tree["inaccessible_children"] == [hidden]
    assert [one["state_key"] for one in tree["room"]["children_state"]] == [room, hidden]
    token = (await alice.ok("POST", f"/user/{alice.user_id}/openid/request_token"))["access_token"]
    assert await peer("GET", f"{V1}/openid/userinfo?access_token={token}") == {"sub": alice.user_id}
    assert peer.faults == []


async def test_a_query_that_nobody_defined_is_refused(met: tuple[Peer, Person, Person]) -> None:
    """The specification states no answer for it; Synapse answers so, too."""
    peer, _, _ = met
    answer = await peer.request("GET", f"{V1}/query/weather?place=here")
    assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
    covered.add(operation_of("GET", f"{V1}/query/weather"))


async def test_devices_keys_and_media(met: tuple[Peer, Person, Person]) -> None:
    peer, alice, _ = met
    device = (await alice.ok("GET", "/account/whoami"))["device_id"]
    keys = {
        "user_id": alice.user_id,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"ed25519:{device}": "A" * 43, f"curve25519:{device}": "A" * 43},
        "signatures": {alice.user_id: {f"ed25519:{device}": "A" * 86}},
    }
    one_time = {"signed_curve25519:A": {"key": "A" * 43, "signatures": {alice.user_id: {f"ed25519:{device}": "A" * 86}}}}
    await alice.ok("POST", "/keys/upload", {"device_keys": keys, "one_time_keys": one_time})
    master = {"user_id": alice.user_id, "usage": ["master"], "keys": {"ed25519:" + "M" * 43: "M" * 43}}
    await alice.request("POST", "/keys/device_signing/upload", {"master_key": master})
    listed = await peer("GET", f"{V1}/user/devices/{alice.user_id}")
    assert [one["device_id"] for one in listed["devices"]] == [device]
    found = await peer("POST", f"{V1}/user/keys/query", {"device_keys": {alice.user_id: []}})
    assert set(found["device_keys"][alice.user_id]) == {device}
    wish = {"one_time_keys": {alice.user_id: {device: "signed_curve25519"}}}
    claimed = await peer("POST", f"{V1}/user/keys/claim", wish)
    assert set(claimed["one_time_keys"][alice.user_id][device]) == {"signed_curve25519:A"}
    client = AsgiClient(alice.box.box.app, token=alice.token)
    headers = {"content-type": "image/png"}
    uploaded = await client.request("POST", "/_matrix/media/v3/upload", body=PNG, headers=headers)
    media = uploaded.json["content_uri"].rpartition("/")[2]
    for target in (f"download/{media}", f"thumbnail/{media}?width=8&height=8&method=scale"):
        answer = await peer("GET", f"{V1}/media/{target}", is_json=False)
        assert answer.headers["content-type"].startswith("multipart/mixed")
        assert decode_media(answer.headers["content-type"], answer.body).content_type.startswith("image/")
    assert peer.faults == []


@pytest.mark.usefixtures("whole_file")
def test_no_operation_is_left_out() -> None:
    assert set(OPERATIONS) - covered == set()
    assert len(OPERATIONS) == 35
