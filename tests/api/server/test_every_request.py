"""Every request that this server makes of others (`Calls`), held against the request schemas of the specification."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import orjson
import pytest
import trio

from edgeserver.federation.calls import Calls
from edgeserver.federation.client import FederationClient
from edgeserver.federation.errors import FederationError
from edgeserver.federation.peers import Peers
from edgeserver.matrix.signatures import SigningKey
from tests.api.server.operations import OPERATIONS, faults_of_request, operation_of
from transports.exchange import LinkProfile, Priority, Request, Response

ROOM, EVENT, ALICE, BOB, TO = "!r/é:b.test", "$e/ü", "@alice:a.test", "@bob:b.test", "b.test"
PDU: dict[str, Any] = {
    "type": "m.room.member",
    "sender": ALICE,
    "state_key": BOB,
    "content": {"membership": "invite"},
    "depth": 7,
    "origin_server_ts": 1,
    "prev_events": [EVENT],
    "auth_events": [EVENT],
    "room_id": ROOM,
    "hashes": {"sha256": "x"},
    "signatures": {"a.test": {"ed25519:1": "x"}},
    "unsigned": {},
}
JOIN = {**PDU, "state_key": ALICE, "content": {"membership": "join"}}
LEAVE = {**JOIN, "content": {"membership": "leave"}}
KNOCK = {**JOIN, "content": {"membership": "knock"}}
PROOF = {"mxid": BOB, "token": "t", "signatures": {"id.test": {"ed25519:0": "x"}}}
PROPOSED = {
    **{name: PDU[name] for name in ("type", "room_id", "sender", "state_key")},
    "content": {"membership": "invite", "third_party_invite": {"display_name": "b...", "signed": PROOF}},
}
EDU = {"edu_type": "m.typing", "content": {"room_id": ROOM, "user_id": ALICE, "typing": True}}
TRANSACTION = {"origin": "a.test", "origin_server_ts": 1, "pdus": [PDU], "edus": [EDU]}

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("send", (TO, "t 1", TRANSACTION), {"priority": Priority.MESSAGE}),
    ("version", (TO,), {}),
    ("make_membership", (TO, ROOM, ALICE, "join", ["11", "12"]), {}),
    ("make_membership", (TO, ROOM, ALICE, "knock", ["11"]), {}),
    ("make_membership", (TO, ROOM, ALICE, "leave", ["11"]), {}),
    ("send_join", (TO, ROOM, EVENT, JOIN), {}),
    ("send_join", (TO, ROOM, EVENT, JOIN), {"omit_members": True}),
    ("send_leave", (TO, ROOM, EVENT, LEAVE), {}),
    ("send_knock", (TO, ROOM, EVENT, KNOCK), {}),
    ("invite", (TO, ROOM, EVENT, PDU, "12", [PDU]), {}),
    ("exchange_third_party_invite", (TO, ROOM, PROPOSED), {}),
    ("backfill", (TO, ROOM, [EVENT, "$other"], 10), {}),
    ("missing_events", (TO, ROOM, [EVENT], ["$other"], 10, 0), {}),
    ("event", (TO, EVENT), {}),
    ("state_ids", (TO, ROOM, EVENT), {}),
    ("state", (TO, ROOM, EVENT), {}),
    ("event_auth", (TO, ROOM, EVENT), {}),
    ("timestamp_to_event", (TO, ROOM, 1_700_000_000_000), {"backwards": True}),
    ("timestamp_to_event", (TO, ROOM, -1), {"backwards": False}),
    ("hierarchy", (TO, ROOM), {"suggested_only": True}),
    ("hierarchy", (TO, ROOM), {"suggested_only": False}),
    ("directory", (TO, "#hall:b.test"), {}),
    ("profile", (TO, BOB), {}),
    ("profile", (TO, BOB, "displayname"), {}),
    ("public_rooms", (TO, {}), {}),
    ("public_rooms", (TO, {"limit": 5, "since": "x", "filter": {"generic_search_term": "a", "room_types": [None, "m.space"]}}), {}),
    ("public_rooms", (TO, {"include_all_networks": True}), {}),
    ("public_rooms", (TO, {"third_party_instance_id": "irc"}), {}),
    ("user_devices", (TO, BOB), {}),
    ("query_keys", (TO, {BOB: [], "@b2:b.test": ["D"]}), {}),
    ("claim_keys", (TO, {BOB: {"D": "signed_curve25519"}}), {}),
    ("download", (TO, "id/x"), {"max_bytes": 1000}),
    ("thumbnail", (TO, "id"), {"width": 32, "height": 32, "method": "crop", "max_bytes": 1000}),
]
NOT_ASKED = {
    "GET /.well-known/matrix/server": "discovery asks it (tests/federation/test_discovery.py)",
    "GET /_matrix/key/v2/server": "the keyring asks it (tests/federation/test_key_fetch.py)",
    "GET /_matrix/key/v2/query/{serverName}": "POST says the same for many servers",
    "POST /_matrix/key/v2/query": "the keyring asks it (tests/federation/test_key_fetch.py)",
    "GET /_matrix/federation/v1/publicRooms": "POST says the same, with a filter",
    "GET /_matrix/federation/v1/query/{queryType}": "no other types of query are defined",
    "GET /_matrix/federation/v1/openid/userinfo": "widgets ask it of a homeserver, homeservers do not",
    "PUT /_matrix/federation/v1/invite/{roomId}/{eventId}": "for room versions 1 and 2, which are not made here",
    "PUT /_matrix/federation/v1/3pid/onbind": "identity servers ask it",
}
"""Operations that `Calls` does not ask, and why."""
ASKED_OF_POLICY_SERVERS = {"policy_sign"}
"""No operation of homeservers (tests/flows/test_policy_servers.py)."""


class Recorder:
    """An exchange that keeps what it is given and answers with an empty object."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    @property
    def profile(self) -> LinkProfile:
        return LinkProfile("memory")

    async def exchange(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        return Response(200, (), b"{}")


@pytest.mark.parametrize(("name", "args", "options"), CALLS)
async def test_the_request_is_as_the_specification_says(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    (request,) = await requests_of(name, args, options)
    body = orjson.loads(request.body) if request.body else None
    assert faults_of_request(request.method, request.target, body) == []
    headers = {key.lower(): value for key, value in request.headers}
    assert headers["authorization"].startswith("X-Matrix ")
    assert ("content-type" in headers) == (body is not None)


async def requests_of(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> list[Request]:
    recorder = Recorder()
    calls = Calls(FederationClient("a.test", SigningKey(b"k" * 32, "ed25519:1"), Peers("a.test", recorder, internet_up=True)))
    with contextlib.suppress(FederationError):  # the empty object is no answer to most
        await getattr(calls, name)(*args, **options)
    return recorder.requests


async def test_no_method_and_no_operation_is_left_out() -> None:
    methods = {name for name, _ in inspect.getmembers(Calls, inspect.iscoroutinefunction) if not name.startswith("_")}
    assert {name for name, _, _ in CALLS} == methods - ASKED_OF_POLICY_SERVERS
    asked = set()
    for name, args, options in CALLS:
        (request,) = await requests_of(name, args, options)
        asked.add(operation_of(request.method, request.target.partition("?")[0]))
    assert set(OPERATIONS) - asked == set(NOT_ASKED)


def test_a_wrong_request_is_found() -> None:
    v1 = "/_matrix/federation/v1"
    assert faults_of_request("GET", f"{v1}/state/%21r", None) == ["GET /_matrix/federation/v1/state/{roomId} lacks event_id"]
    assert faults_of_request("GET", f"{v1}/timestamp_to_event/%21r?ts=soon&dir=b", None) != []
    assert faults_of_request("GET", f"{v1}/timestamp_to_event/%21r?ts=1&dir=up", None) != []
    assert faults_of_request("GET", f"{v1}/version?x=1", None) != []
    assert faults_of_request("POST", f"{v1}/get_missing_events/%21r", {"earliest_events": [1], "latest_events": []}) != []
    assert faults_of_request("POST", f"{v1}/get_missing_events/%21r", None) != []
