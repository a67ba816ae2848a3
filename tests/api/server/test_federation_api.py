"""The server-server API over its routes: authentication, membership requests, history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
import trio

from edgeserver.api.endpoint import Call, endpoint
from edgeserver.api.server.authentication import ServerGuard, origin_of
from edgeserver.api.server.events import streamed
from edgeserver.federation.client import Ask
from edgeserver.federation.errors import PeerError
from edgeserver.federation.resident import SMALL_ROOM
from edgeserver.matrix import signatures
from edgeserver.matrix.signatures import SigningKey
from tests.asgi import AsgiClient, section_application
from tests.federation.rig import Server, servers
from transports.exchange import LinkProfile

KEY = SigningKey(b"k" * 32, "ed25519:k")
BOB = "@bob:b.test"
V1 = "/_matrix/federation/v1"


def guarded(heard: list[str] | None = None, link: LinkProfile | None = None) -> AsgiClient:
    async def key(server: str, key_id: str) -> bytes | None:
        return KEY.verify_key if (server, key_id) == ("b.test", KEY.key_id) else None

    async def who(call: Call) -> dict[str, Any]:
        return {"origin": origin_of(call)}

    guard = ServerGuard("a.test", key, (heard if heard is not None else []).append)
    routes = [*endpoint("PUT", "/x/{id}", who, auth=guard), *endpoint("GET", "/x/{id}", who, auth=guard)]
    return AsgiClient(section_application(routes), link=link)


def signed(
    method: str, uri: str, content: Any = None, *, origin: str = "b.test", to: str = "a.test", key: SigningKey = KEY
) -> dict[str, str]:
    return {"authorization": signatures.sign_request(method, uri, origin, to, key, content)}


async def test_a_signed_request_is_its_origins() -> None:
    heard: list[str] = []
    client = guarded(heard)
    target = "/x/%24a%2Fb?q=%C3%BC"
    answer = await client.request("PUT", target, json={"a": [1]}, headers=signed("PUT", target, {"a": [1]}))
    assert (answer.status, answer.json) == (200, {"origin": "b.test"})
    answer = await client.request("GET", "/x/1", headers=signed("GET", "/x/1"))
    assert answer.status == 200
    assert heard == ["b.test", "b.test"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer token"},
        {"authorization": "X-Matrix origin=b.test"},
        signed("PUT", "/x/2", {"a": 1}),
        signed("PUT", "/x/1", {"a": 2}),
        signed("PUT", "/x/1"),
        signed("GET", "/x/1", {"a": 1}),
        signed("PUT", "/x/1", {"a": 1}, to="c.test"),
        signed("PUT", "/x/1", {"a": 1}, origin="c.test"),
        signed("PUT", "/x/1", {"a": 1}, origin="not a name"),
        signed("PUT", "/x/1", {"a": 1}, key=SigningKey(b"f" * 32, "ed25519:k")),
        signed("PUT", "/x/1", {"a": 1}, key=SigningKey(b"k" * 32, "ed25519:other")),
    ],
)
async def test_anything_else_is_not_authenticated(headers: dict[str, str]) -> None:
    heard: list[str] = []
    answer = await guarded(heard).request("PUT", "/x/1", json={"a": 1}, headers=headers)
    assert (answer.status, answer.json["errcode"], heard) == (401, "M_UNAUTHORIZED", [])


@pytest.mark.parametrize("value", [1.5, 2.0])
async def test_a_body_with_floats_is_verified_as_other_servers_sign_it(value: float) -> None:
    content = {"a": value}
    request = {"method": "PUT", "uri": "/x/1", "origin": "b.test", "destination": "a.test", "content": content}
    signature = signatures.encode_base64(KEY.sign(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)))
    claim = signatures.XMatrix("b.test", "a.test", KEY.key_id, signature)
    headers = {"authorization": signatures.format_authorization(claim)}
    assert (await guarded().request("PUT", "/x/1", json=content, headers=headers)).status == 200
    assert (await guarded().request("PUT", "/x/1", json={"a": 1.25}, headers=headers)).status == 401


async def test_a_links_peer_needs_no_signature_but_what_it_passes_on_keeps_its_own() -> None:
    client = guarded(link=LinkProfile("radio", peer="gw.test"))
    assert (await client.request("PUT", "/x/1", json={})).json == {"origin": "gw.test"}
    answer = await client.request("PUT", "/x/1", json={}, headers=signed("PUT", "/x/1", {}))
    assert answer.json == {"origin": "b.test"}
    answer = await client.request("PUT", "/x/1", json={}, headers=signed("PUT", "/x/2", {}))
    assert answer.status == 401


async def test_a_paired_client_is_no_server() -> None:
    client = guarded(link=LinkProfile("radio", peer="client:abc"))
    assert (await client.request("GET", "/x/1")).status == 401


async def refused(server: Server, ask: Ask, to: str = "a.test") -> tuple[int, str]:
    with pytest.raises(PeerError) as failure:
        await server.client.json(to, ask)
    return failure.value.status, failure.value.errcode


async def test_make_join_tells_an_incompatible_version_and_only_speaks_for_the_servers_own_users() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version="11")
        path = f"{V1}/make_join/{room.replace('!', '%21')}"
        assert await refused(b, Ask("GET", f"{path}/{BOB}?ver=10&ver=12")) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
        assert await refused(b, Ask("GET", f"{path}/{BOB}")) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
        assert await refused(b, Ask("GET", f"{path}/@carol:c.test?ver=11")) == (403, "M_FORBIDDEN")
        assert await refused(b, Ask("GET", f"{V1}/make_join/!no:a.test/{BOB}?ver=11")) == (404, "M_NOT_FOUND")
        template = await b.client.json("a.test", Ask("GET", f"{path}/{BOB}?ver=11"))
        assert template["room_version"] == "11"
        assert template["event"]["content"] == {"membership": "join"}
        assert "signatures" not in template["event"]


async def test_send_join_refuses_what_is_not_that_join() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version="11")
        proto, rules = await b.remote._template("a.test", room, BOB, "join")
        join = b.remote._complete("a.test", proto, {"membership": "join"}, rules)
        knock = b.remote._complete("a.test", proto, {"membership": "knock"}, rules)
        unsigned = {**join.pdu, "signatures": {}}
        altered = {**join.pdu, "content": {"membership": "join", "displayname": "x"}}
        unknown = b.remote._complete("a.test", {**proto, "prev_events": ["$" + "x" * 43]}, {"membership": "join"}, rules)
        cases = [(join.event_id, unsigned), ("$other", join.pdu), (knock.event_id, knock.pdu), (unknown.event_id, unknown.pdu)]
        for event_id, pdu in [*cases, (join.event_id, altered)]:
            ask = Ask("PUT", f"/_matrix/federation/v2/send_join/{room}/{event_id}", pdu)
            assert await refused(b, ask) == (400, "M_INVALID_PARAM")
        assert await a.membership(room, BOB) is None


async def test_a_join_may_leave_the_members_out() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version="11", name="Hall")
        for number in range(SMALL_ROOM):
            await a.members.join(f"@user{number}:a.test", room)
        proto, rules = await b.remote._template("a.test", room, BOB, "join")
        join = b.remote._complete("a.test", proto, {"membership": "join"}, rules)
        answer = await b.calls.send_join("a.test", room, join.event_id, join.pdu, omit_members=True)
        assert answer["members_omitted"] is True
        assert set(answer["servers_in_room"]) == {"a.test", "b.test"}
        assert "m.room.member" not in {event["type"] for event in answer["state"]}
        assert "m.room.member" in {event["type"] for event in answer["auth_chain"]}


async def test_v1_forms_answer_with_a_status_in_a_list() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version="11")
        proto, rules = await b.remote._template("a.test", room, BOB, "join")
        join = b.remote._complete("a.test", proto, {"membership": "join"}, rules)
        ask = Ask("PUT", f"{V1}/send_join/{room}/{join.event_id}", join.pdu)
        status, answer = orjson.loads((await b.client.response("a.test", ask)).body)
        assert status == 200
        assert {"state", "auth_chain"} <= set(answer)


async def test_a_knock_is_taken_and_answered_with_the_rooms_public_state() -> None:
    async with servers("a.test", "b.test") as (a, b):
        rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
        room = await a.room("@alice:a.test", room_version="11", initial_state=[rule], name="Door")
        proto, rules = await b.remote._template("a.test", room, BOB, "knock")
        knock = b.remote._complete("a.test", proto, {"membership": "knock"}, rules)
        shown = await b.calls.send_knock("a.test", room, knock.event_id, knock.pdu)
        assert {"m.room.create", "m.room.name", "m.room.join_rules"} <= {event["type"] for event in shown}
        assert await a.membership(room, BOB) == "knock"


async def test_history_is_for_servers_in_the_room_alone() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version="11")
        event_id = await a.say(room, "@alice:a.test", "secret")
        asks = [
            Ask("GET", f"{V1}/backfill/{room}?v={event_id}&limit=5"),
            Ask("POST", f"{V1}/get_missing_events/{room}", {"earliest_events": [], "latest_events": [event_id]}),
            Ask("GET", f"{V1}/state/{room}?event_id={event_id}"),
            Ask("GET", f"{V1}/state_ids/{room}?event_id={event_id}"),
            Ask("GET", f"{V1}/event/{event_id}"),
            Ask("GET", f"{V1}/event_auth/{room}/{event_id}"),
        ]
        for ask in asks:
            assert await refused(b, ask) == (403, "M_FORBIDDEN")
        await b.members.join(BOB, room, ["a.test"])
        for ask in asks:
            await b.client.json("a.test", ask)
        assert await refused(b, Ask("GET", f"{V1}/event/$unknown")) == (404, "M_NOT_FOUND")
        assert await refused(b, Ask("GET", f"{V1}/backfill/{room}")) == (400, "M_MISSING_PARAM")


async def test_backfill_and_missing_events_walk_the_graph_both_bounded() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version="11")
        await b.members.join(BOB, room, ["a.test"])
        ids = [await a.say(room, "@alice:a.test", str(number)) for number in range(8)]
        pdus = await b.calls.backfill("a.test", room, [ids[-1]], 3)
        assert [pdu["content"]["body"] for pdu in pdus] == ["7", "6", "5"]
        pdus = await b.calls.missing_events("a.test", room, [ids[1]], [ids[5]], 10, 0)
        assert [pdu["content"]["body"] for pdu in pdus] == ["2", "3", "4"]
        pdus = await b.calls.missing_events("a.test", room, [], [ids[5]], 2, 0)
        assert [pdu["content"]["body"] for pdu in pdus] == ["3", "4"]


async def test_state_before_an_event_comes_with_its_auth_chain() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test")
        await b.members.join(BOB, room, ["a.test"])
        before = set((await a.state_ids(room)).values())
        event_id = await a.say(room, "@alice:a.test", "now")
        ids, chain_ids = await b.calls.state_ids("a.test", room, event_id)
        pdus, chain = await b.calls.state("a.test", room, event_id)
        assert set(ids) == before
        assert (len(pdus), len(chain)) == (len(ids), len(chain_ids))


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 120])
async def test_a_state_is_read_and_sent_in_parts(count: int) -> None:
    parts: list[int] = []

    async def pdus(event_ids: Sequence[str]) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        parts.append(len(event_ids))
        return [orjson.dumps({"id": event_id}) for event_id in event_ids]

    ids = [str(number) for number in range(count)]
    response = streamed({"pdus": ids, "auth_chain": ids[:2]}, pdus)
    chunks = [chunk async for chunk in response.body_iterator]
    found = [{"id": event_id} for event_id in ids]
    assert orjson.loads(b"".join(chunks)) == {"pdus": found, "auth_chain": found[:2]}
    assert max(parts, default=0) <= 50


async def test_what_was_said_before_a_server_joined_is_redacted_where_history_is_for_the_joined() -> None:
    async with servers("a.test", "b.test") as (a, b):
        visibility = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
        room = await a.room("@alice:a.test", initial_state=[visibility])
        hidden = await a.say(room, "@alice:a.test", "hidden")
        await b.members.join(BOB, room, ["a.test"])
        shown = await a.say(room, "@alice:a.test", "shown")
        newest, _, oldest = await b.calls.backfill("a.test", room, [shown], 3)
        assert newest["content"]["body"] == "shown"
        assert oldest["content"] == {}
        assert (await b.calls.event("a.test", hidden))["content"] == {}
        assert (await b.calls.event("a.test", shown))["content"]["body"] == "shown"


async def test_an_invite_must_be_an_invite_of_one_of_our_users() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version="11")
        event, stripped, create = await a.db.read(lambda tx: a.members._draft(tx, room, "@alice:a.test", BOB, {"membership": "invite"}))
        good = {"event": event.pdu, "room_version": "11", "invite_room_state": [create, *stripped]}
        path = f"/_matrix/federation/v2/invite/{room}/"
        cases: list[tuple[str, dict[str, Any], str]] = [
            (event.event_id, {**good, "room_version": "org.unknown"}, "M_INCOMPATIBLE_ROOM_VERSION"),
            ("$other", good, "M_INVALID_PARAM"),
            (event.event_id, {**good, "event": {**event.pdu, "signatures": {}}}, "M_INVALID_PARAM"),
            (event.event_id, {**good, "event": 7}, "M_BAD_JSON"),
        ]
        for event_id, body, errcode in cases:
            assert (await refused(a, Ask("PUT", path + event_id, body), "b.test"))[1] == errcode
        answer = await a.client.json("b.test", Ask("PUT", path + event.event_id, good))
        assert set(answer["event"]["signatures"]) == {"a.test", "b.test"}
        assert await b.membership(room, BOB) == "invite"


async def test_keys_are_served_and_passed_on() -> None:
    async with servers("a.test", "b.test") as (a, _):
        client = AsgiClient(a.app)
        own = (await client.get("/_matrix/key/v2/server")).json
        signatures.verify_json(own, "a.test", a.key.key_id, a.key.verify_key)
        answer = (await client.get("/_matrix/key/v2/query/b.test")).json
        assert [one["server_name"] for one in answer["server_keys"]] == ["b.test"]
        wanted = {"server_keys": {"a.test": {}, "b.test": {"ed25519:1": {"minimum_valid_until_ts": 1}}, "gone.test": {}}}
        answer = (await client.post("/_matrix/key/v2/query", wanted)).json
        assert {one["server_name"] for one in answer["server_keys"]} == {"a.test", "b.test"}
        assert (await client.post("/_matrix/key/v2/query", {"server_keys": []})).status == 400
