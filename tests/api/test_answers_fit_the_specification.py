"""A day in the life of two clients, each answer held against the schema that the specification gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.api import openapi
from tests.api.answer_schemas import SCHEMAS, faults_of, operation_of
from tests.api.conformance import NOT_MEANT
from tests.asgi import AsgiClient
from tests.flows.world import World

V1, V3 = "/_matrix/client/v1", "/_matrix/client/v3"
OPEN = '[accounts]\nregistration = "open"\n[limits]\nrate_limits = false\n[http]\npublic_url = "https://a.test"\n'
PASSWORD = "correct horse battery"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060"
    "000000050001a5f645400000000049454e44ae426082"
)


class Client:
    """Speaks to one box and gathers what is wrong with its answers."""

    def __init__(self, app: Any, covered: set[str], faults: list[str]) -> None:
        self._app = app
        self.box: Any = None
        self._covered = covered
        self._faults = faults
        self.token: str | None = None
        self.user_id = ""
        self.device_id = ""

    async def __call__(self, method: str, path: str, json: Any = None, *, query: dict[str, str] | None = None, **options: Any) -> Any:
        """The body of the answer, which must be 200."""
        full = path if path.startswith(("/_", "/.")) else V3 + path
        if json is None and method in ("PUT", "POST") and "body" not in options:
            json = {}
        client = AsgiClient(self._app, token=self.token)
        headers = {"host": "a.test", **options.pop("headers", {})}
        answer = await client.request(method, full, json=json, query=query, headers=headers, **options)
        assert answer.status == 200, (method, full, answer.status, answer.body)
        if not answer.headers.get("content-type", "").startswith("application/json"):
            return answer.body
        self._faults += [one for one in faults_of(method, full, answer.json) if not one.startswith(NOT_MEANT)]
        operation = operation_of(method, full)
        if operation is not None:
            self._covered.add(operation)
        return answer.json

    async def begin(self, name: str) -> None:
        auth = {"type": "m.login.dummy"}
        found = await self("POST", "/register", {"username": name, "password": PASSWORD, "auth": auth, "refresh_token": True})
        self.token, self.user_id, self.device_id = found["access_token"], found["user_id"], found["device_id"]
        refreshed = await self("POST", "/refresh", {"refresh_token": found["refresh_token"]})
        self.token = refreshed["access_token"]


def _room(room_id: str) -> str:
    return f"/rooms/{quote(room_id)}"


@pytest.fixture
async def day(tmp_path, autojump_clock):
    """(alice, bob, covered operations, faults)"""
    covered: set[str] = set()
    faults: list[str] = []
    async with World(tmp_path) as world:
        box = await world.box("a", OPEN)
        alice, bob = Client(box.box.app, covered, faults), Client(box.box.app, covered, faults)
        alice.box = box.box
        await alice.begin("alice")
        await bob.begin("bob")
        yield alice, bob, covered, faults


async def test_of_accounts_and_devices(day):
    alice, _, covered, faults = day
    await alice("GET", "/_matrix/client/versions")
    await alice("GET", "/.well-known/matrix/client")
    await alice("GET", "/register/available", query={"username": "carol"})
    await alice("GET", "/login")
    identifier = {"type": "m.id.user", "user": "alice"}
    wish = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD, "refresh_token": True}
    again = await alice("POST", "/login", wish)
    await alice("GET", "/account/whoami")
    await alice("GET", "/capabilities")
    await alice("GET", "/account/3pid")
    await alice("GET", "/devices")
    await alice("GET", f"/devices/{again['device_id']}")
    await alice("PUT", f"/devices/{again['device_id']}", {"display_name": "Second"})
    auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    await alice("DELETE", f"/devices/{again['device_id']}", {"auth": auth})
    await alice("PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    await alice("PUT", f"/profile/{alice.user_id}/avatar_url", {"avatar_url": "mxc://a.test/x"})
    await alice("GET", f"/profile/{alice.user_id}/displayname")
    await alice("GET", f"/profile/{alice.user_id}/avatar_url")
    await alice("GET", f"/profile/{alice.user_id}")
    await alice("POST", f"/user/{alice.user_id}/openid/request_token")
    await alice("POST", "/user_directory/search", {"search_term": "bob"})
    await alice("PUT", f"/presence/{alice.user_id}/status", {"presence": "online"})
    await alice("GET", f"/presence/{alice.user_id}/status")
    made = await alice("POST", f"/user/{alice.user_id}/filter", {"room": {"timeline": {"limit": 5}}})
    await alice("GET", f"/user/{alice.user_id}/filter/{made['filter_id']}")
    await alice("PUT", f"/user/{alice.user_id}/account_data/x.y", {"a": 1})
    await alice("GET", f"/user/{alice.user_id}/account_data/x.y")
    await alice("GET", "/pushrules/")
    await alice("GET", "/pushrules/global/")
    rule = "/pushrules/global/content/ship"
    await alice("PUT", rule, {"pattern": "ship", "actions": ["notify"]})
    await alice("GET", rule)
    await alice("PUT", f"{rule}/enabled", {"enabled": False})
    await alice("GET", f"{rule}/enabled")
    await alice("PUT", f"{rule}/actions", {"actions": []})
    await alice("GET", f"{rule}/actions")
    await alice("DELETE", rule)
    await alice("GET", "/pushers")
    await alice("POST", "/account/password", {"new_password": PASSWORD + "!", "auth": auth, "logout_devices": False})
    await alice("POST", "/logout")
    assert faults == []
    assert len(covered) > 35


async def test_of_accounts_that_are_moderated_and_end(day):
    alice, bob, covered, faults = day
    await alice.box.users.accounts.set_admin(alice.user_id, True)
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": PASSWORD}
    for what, key in (("lock", "locked"), ("suspend", "suspended")):
        await alice("GET", f"/_matrix/client/v1/admin/{what}/{bob.user_id}")
        await alice("PUT", f"/_matrix/client/v1/admin/{what}/{bob.user_id}", {key: False})
    await alice("GET", f"/admin/whois/{bob.user_id}")
    await alice("GET", "/capabilities")
    await bob("POST", "/_matrix/client/v1/login/get_token", {"auth": auth})
    await bob("POST", "/account/3pid/unbind", {"medium": "email", "address": "bob@home.example"})
    await bob("POST", "/delete_devices", {"devices": [], "auth": auth})
    await bob("POST", "/account/deactivate", {"auth": auth, "erase": True})
    assert faults == []
    assert len(covered) > 8


async def test_of_rooms(day):
    alice, bob, covered, faults = day
    wish = {"preset": "public_chat", "name": "Harbour", "room_alias_name": "harbour", "visibility": "public"}
    made = await alice("POST", "/createRoom", wish)
    room_id, room, alias = made["room_id"], _room(made["room_id"]), quote("#harbour:a.test")
    await alice("GET", f"/directory/room/{alias}")
    await alice("PUT", f"/directory/room/{quote('#pier:a.test')}", {"room_id": room_id})
    await alice("GET", f"{room}/aliases")
    await alice("DELETE", f"/directory/room/{quote('#pier:a.test')}")
    await alice("GET", f"/directory/list/room/{quote(room_id)}")
    await alice("PUT", f"/directory/list/room/{quote(room_id)}", {"visibility": "public"})
    await alice("GET", "/publicRooms")
    await alice("POST", "/publicRooms", {"limit": 5})
    await bob("POST", f"/join/{alias}")
    await bob("POST", f"{room}/leave")
    await alice("POST", f"{room}/invite", {"user_id": bob.user_id})
    invited = await bob("GET", "/sync")
    assert room_id in invited["rooms"]["invite"]
    await bob("POST", f"{room}/join")
    sent = await alice("PUT", f"{room}/send/m.room.message/t1", {"msgtype": "m.text", "body": "ahoy"})
    event_id = quote(sent["event_id"])
    reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": sent["event_id"], "key": "+"}}
    doomed = await bob("PUT", f"{room}/send/m.reaction/t2", reaction)
    await alice("PUT", f"{room}/state/m.room.topic/", {"topic": "Ships"})
    await alice("GET", f"{room}/state")
    await alice("GET", f"{room}/state/m.room.topic/")
    await alice("GET", f"{room}/event/{event_id}")
    wanted = {
        "search_term": "ahoy", "event_context": {"include_profile": True}, "include_state": True,
        "groupings": {"group_by": [{"key": "room_id"}, {"key": "sender"}]},
    }  # fmt: skip
    found = await alice("POST", "/search", {"search_categories": {"room_events": wanted}})
    assert len(found["search_categories"]["room_events"]["results"]) == 1
    begun = await alice("GET", "/initialSync", query={"archived": "true"})
    await alice("GET", f"{room}/initialSync")
    await alice("GET", "/events", query={"from": begun["end"], "timeout": "0"})
    await alice("GET", f"/events/{event_id}")
    await alice("GET", "/_matrix/client/v1/mutual_rooms", query={"user_id": bob.user_id})
    await alice("GET", f"{room}/context/{event_id}")
    await alice("GET", f"{room}/messages", query={"dir": "b", "limit": "5"})
    await alice("GET", f"{room}/members")
    await alice("GET", f"{room}/joined_members")
    await alice("GET", "/joined_rooms")
    await bob("PUT", f"{room}/redact/{quote(doomed['event_id'])}/t3", {"reason": "slip"})
    await bob("PUT", f"{room}/typing/{bob.user_id}", {"typing": True, "timeout": 30000})
    await bob("POST", f"{room}/receipt/m.read/{event_id}")
    await bob("POST", f"{room}/read_markers", {"m.fully_read": sent["event_id"]})
    await bob("PUT", f"/user/{bob.user_id}/rooms/{quote(room_id)}/tags/m.favourite", {"order": 0.5})
    await bob("GET", f"/user/{bob.user_id}/rooms/{quote(room_id)}/tags")
    await bob("PUT", f"/user/{bob.user_id}/rooms/{quote(room_id)}/account_data/x.y", {"a": 1})
    await bob("GET", f"/user/{bob.user_id}/rooms/{quote(room_id)}/account_data/x.y")
    whole = await bob("GET", "/sync", query={"full_state": "true"})
    assert whole["rooms"]["join"][room_id]["ephemeral"]["events"]
    lazy = '{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}'
    await bob("GET", "/sync", query={"filter": lazy})
    await bob("GET", "/notifications")
    await bob("DELETE", f"/user/{bob.user_id}/rooms/{quote(room_id)}/tags/m.favourite")
    for act in ("kick", "ban", "unban"):
        await alice("POST", f"{room}/{act}", {"user_id": bob.user_id, "reason": act})
    left = await bob("GET", "/sync", query={"since": whole["next_batch"]})
    assert room_id in left["rooms"]["leave"]
    await bob("POST", f"{room}/forget")
    await alice("POST", f"{room}/upgrade", {"new_version": "11"})
    assert faults == []
    assert len(covered) > 35


def _device_keys(client: Client) -> dict[str, Any]:
    return {
        "user_id": client.user_id,
        "device_id": client.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {f"ed25519:{client.device_id}": "A" * 43, f"curve25519:{client.device_id}": "A" * 43},
        "signatures": {client.user_id: {f"ed25519:{client.device_id}": "A" * 86}},
    }


async def test_of_encryption_and_media(day):
    alice, bob, covered, faults = day
    since = (await bob("GET", "/sync"))["next_batch"]
    one_time = {"signed_curve25519:A": {"key": "A" * 43, "signatures": {alice.user_id: {f"ed25519:{alice.device_id}": "A" * 86}}}}
    await alice("POST", "/keys/upload", {"device_keys": _device_keys(alice), "one_time_keys": one_time})
    await bob("POST", "/keys/query", {"device_keys": {alice.user_id: [], "@nobody:a.test": []}})
    await bob("POST", "/keys/claim", {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}})
    await bob("GET", "/keys/changes", query={"from": since, "to": since})
    await bob("PUT", "/sendToDevice/m.x/t1", {"messages": {alice.user_id: {"*": {"a": 1}}}})
    heard = await alice("GET", "/sync")
    assert heard["to_device"]["events"]
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "A" * 43}}
    made = await alice("POST", "/room_keys/version", backup)
    version = {"version": made["version"]}
    await alice("GET", "/room_keys/version")
    await alice("GET", f"/room_keys/version/{made['version']}")
    session = {"first_message_index": 0, "forwarded_count": 0, "is_verified": True, "session_data": {"ciphertext": "x"}}
    room = quote("!r:a.test")
    await alice("PUT", f"/room_keys/keys/{room}/s1", session, query=version)
    await alice("PUT", f"/room_keys/keys/{room}", {"sessions": {"s2": session}}, query=version)
    await alice("PUT", "/room_keys/keys", {"rooms": {"!r:a.test": {"sessions": {"s3": session}}}}, query=version)
    await alice("GET", f"/room_keys/keys/{room}/s1", query=version)
    await alice("GET", f"/room_keys/keys/{room}", query=version)
    await alice("GET", "/room_keys/keys", query=version)
    await alice("DELETE", f"/room_keys/keys/{room}/s1", query=version)
    await alice("DELETE", f"/room_keys/keys/{room}", query=version)
    await alice("DELETE", "/room_keys/keys", query=version)
    await alice("GET", "/_matrix/client/v1/media/config")
    uploaded = await alice("POST", "/_matrix/media/v3/upload", body=PNG, headers={"content-type": "image/png"})
    place = uploaded["content_uri"].removeprefix("mxc://")
    assert await bob("GET", f"/_matrix/client/v1/media/download/{place}") == PNG
    assert await bob("GET", f"/_matrix/client/v1/media/download/{place}/a.png") == PNG
    await alice("DELETE", f"/room_keys/version/{made['version']}")
    assert faults == []
    assert len(covered) > 20


@pytest.mark.parametrize("operation", sorted(SCHEMAS))
def test_the_checker_itself_finds_what_is_wrong(operation):
    schema = SCHEMAS[operation]
    method, path = operation.split(" ", 1)
    if schema.get("type") == "object":
        assert faults_of(method, path.replace("{", "x").replace("}", "x"), []) != []


async def test_of_the_rest(day):
    alice, bob, covered, faults = day
    room_id = (await alice("POST", "/createRoom", {"preset": "public_chat"}))["room_id"]
    room = _room(room_id)
    await alice("GET", f"/_matrix/client/v1/rooms/{quote(room_id)}/hierarchy")
    await bob("GET", f"/_matrix/client/v1/room_summary/{quote(room_id)}")
    await alice("GET", f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event", query={"ts": "0", "dir": "f"})
    await alice("PUT", f"{room}/state/m.room.join_rules/", {"join_rule": "knock"})
    await bob("POST", f"/knock/{quote(room_id)}", {"reason": "let me in"})
    await alice("PUT", f"/profile/{alice.user_id}/x.colour", {"x.colour": "blue"})
    await alice("DELETE", f"/profile/{alice.user_id}/x.colour")
    await alice("GET", f"/admin/whois/{alice.user_id}")
    await alice("GET", "/thirdparty/protocols")
    await alice("GET", "/voip/turnServer")
    data = {"url": "https://push.test/_matrix/push/v1/notify"}
    names = {"app_display_name": "App", "device_display_name": "Telephone", "lang": "en"}
    await alice("POST", "/pushers/set", {"app_id": "app", "pushkey": "k", "kind": "http", "data": data, **names})
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "A" * 43}}
    version = (await alice("POST", "/room_keys/version", backup))["version"]
    await alice("PUT", f"/room_keys/version/{version}", {**backup, "version": version})
    await alice("GET", "/_matrix/media/v3/config")
    made = (await alice("POST", "/_matrix/media/v1/create"))["content_uri"].removeprefix("mxc://")
    await alice("PUT", f"/_matrix/media/v3/upload/{made}", body=PNG, headers={"content-type": "image/png"})
    for base in ("/_matrix/media/v3", "/_matrix/client/v1/media"):
        await bob("GET", f"{base}/thumbnail/{made}", query={"width": "32", "height": "32"})
        await bob("GET", f"{base}/download/{made}")
        await bob("GET", f"{base}/download/{made}/a.png")
    threepid = {"medium": "email", "address": "alice@example.org"}
    await alice("POST", "/account/3pid/unbind", threepid)
    await alice("POST", "/account/3pid/delete", threepid)
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
    await alice("POST", "/delete_devices", {"devices": ["NONE"], "auth": auth})
    await bob("POST", "/logout/all")
    await alice("POST", "/account/deactivate", {"auth": auth})
    assert faults == []
    assert len(covered) > 20


NEVER: dict[str, str] = {
    **{
        f"POST {V3}/{path}": "M_THREEPID_DENIED"
        for path in (
            "account/3pid", "account/3pid/add", "account/3pid/bind", "account/3pid/email/requestToken",
            "account/3pid/msisdn/requestToken", "account/password/email/requestToken", "account/password/msisdn/requestToken",
            "register/email/requestToken", "register/msisdn/requestToken",
        )
    },
    **{
        f"GET {V3}/thirdparty/{path}": "M_NOT_FOUND"
        for path in ("location", "location/{protocol}", "protocol/{protocol}", "user", "user/{protocol}")
    },
    "GET /.well-known/matrix/support": "M_NOT_FOUND",
}  # fmt: skip
"""Operations that this box refuses by nature (it takes no email addresses, it bridges no networks), with their errcode."""

ELSEWHERE: dict[str, str] = {
    "GET /_matrix/client/v1/register/m.login.registration_token/validity":
        "tests/api/test_account_sections.py::test_a_registration_token_opens_the_door_once",
    f"POST {V3}/keys/device_signing/upload": "tests/api/test_keys.py::test_the_first_keys_need_no_password_and_neither_do_the_same_again",
    f"POST {V3}/keys/signatures/upload": "tests/api/test_keys.py::test_signatures_are_seen_by_those_whom_they_concern",
    **{f"GET {V1}/rooms/{{roomId}}/relations/{{eventId}}{rest}":
       "tests/api/test_relations.py::test_relations_are_narrowed_by_type_of_relation_and_of_event"
       for rest in ("", "/{relType}", "/{relType}/{eventType}")},
    f"GET {V1}/rooms/{{roomId}}/threads": "tests/api/test_relations.py::test_threads_are_listed_by_their_latest_event_and_paged",
    f"POST {V3}/rooms/{{roomId}}/report/{{eventId}}": "tests/api/test_reports.py::test_an_event_is_reported_by_who_is_in_its_room",
    f"POST {V3}/rooms/{{roomId}}/report": "tests/api/test_reports.py::test_a_room_is_reported_by_who_can_know_of_it",
    f"POST {V3}/users/{{userId}}/report": "tests/api/test_reports.py::test_whether_a_user_exists_is_not_told_by_a_report",
}  # fmt: skip
"""Operations that are asked for with success in another file; the test is named."""


async def test_every_operation_that_is_served_is_answered_here_or_elsewhere_or_never(whole_file, day, conformance):
    alice, *_ = day
    served = openapi.served(alice._app._app.routes)
    unproven = served - conformance.answered - ELSEWHERE.keys() - NEVER.keys()
    assert not unproven, f"ask for these in a test of this file, or name in ELSEWHERE the test that does: {sorted(unproven)}"
    for operation in served & ELSEWHERE.keys():
        file, _, name = ELSEWHERE[operation].partition("::")
        assert f"def {name}(" in (Path(__file__).parents[2] / file).read_text(), operation


@pytest.mark.parametrize("operation", sorted(NEVER))
async def test_what_is_never_done_says_so(day, operation):
    alice, *_ = day
    method, path = operation.split(" ", 1)
    answer = await AsgiClient(alice._app, token=alice.token).request(method, path.replace("{protocol}", "irc"), json={})
    assert answer.json["errcode"] == NEVER[operation]
