"""Every endpoint that the box serves, asked by everybody: the table is made of the routes, so that a new one is in it by itself.

Whatever is not named in a list below is for people with an account here, about what is their own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from edgeserver.api import moderated
from edgeserver.api.guests import GUESTS_MAY
from tests.api import openapi
from tests.asgi import Answer, AsgiClient
from tests.flows.world import BoxInWorld, Person, World

V1, V3, MEDIA = "/_matrix/client/v1", "/_matrix/client/v3", "/_matrix/media/v3"
CONFIG = '[accounts]\nregistration = "open"\nregistration_shared_secret = "s"\nguests = 5\n[limits]\nrate_limits = false\n'
PASSWORD = "correct horse battery"
CLIENT_ROOTS = ("/_matrix/client/", "/_matrix/media/", "/.well-known/", "/_synapse/")

# Who may ask ("GET path", {} for each parameter)

ANYBODY = {
    "GET /.well-known/matrix/client", "GET /.well-known/matrix/server", "GET /.well-known/matrix/support",
    "GET /_matrix/client/versions", f"GET {V3}/login", f"POST {V3}/login", f"POST {V3}/refresh", f"POST {V3}/register",
    f"GET {V3}/register/available", f"GET {V1}/register/m.login.registration_token/validity",
    f"GET {V3}/profile/{{}}", f"GET {V3}/profile/{{}}/{{}}",
    *(f"POST {V3}/{of}/{by}/requestToken" for of in ("account/3pid", "account/password", "register") for by in ("email", "msisdn")),
    f"GET {V3}/auth/{{}}/fallback/web", f"POST {V3}/auth/{{}}/fallback/web",
    "GET /_synapse/admin/v1/register", "POST /_synapse/admin/v1/register",  # the body is proven by the shared secret
    "GET /.well-known/matrix/policy_server", f"GET {V1}/auth_metadata", f"GET {V3}/login/sso/redirect", f"GET {V3}/login/sso/redirect/{{}}",
}  # fmt: skip
ANYBODY_OR_SOMEBODY = {
    f"GET {V3}/directory/room/{{}}", f"GET {V3}/directory/list/room/{{}}", f"GET {V3}/publicRooms", f"GET {V1}/room_summary/{{}}",
    "GET /_matrix/client/unstable/im.nheko.summary/summary/{}", "GET /_matrix/client/unstable/im.nheko.summary/rooms/{}/summary",
    f"GET {MEDIA}/download/{{}}/{{}}", f"GET {MEDIA}/download/{{}}/{{}}/{{}}", f"GET {MEDIA}/thumbnail/{{}}/{{}}",
}  # fmt: skip
"""No token is needed, and a wrong one is refused."""

ADMINS = (f"{V1}/admin/", f"{V3}/admin/", "/_synapse/admin/", "/_matrix/client/unstable/uk.timedout.msc4323/admin/")
"""Paths that begin so are for administrators (whois also for oneself)."""

SERVERS_UNSIGNED = {
    "GET /_matrix/key/v2/server", "GET /_matrix/key/v2/server/{}", "GET /_matrix/key/v2/query/{}", "POST /_matrix/key/v2/query",
    "GET /_matrix/federation/v1/version", "GET /_matrix/federation/v1/openid/userinfo",
    "PUT /_matrix/federation/v1/3pid/onbind", "POST /_matrix/federation/v1/3pid/onbind",
}  # fmt: skip
"""Of the server-server API, what the specification has without a request signature (identity servers ask onbind)."""

# Whose things may be asked for

ABOUT_OTHERS = {
    f"GET {V3}/profile/{{}}", f"GET {V3}/profile/{{}}/{{}}", f"GET {V3}/presence/{{}}/status", f"POST {V3}/users/{{}}/report",
}  # fmt: skip
"""Paths with the id of somebody else that anybody with an account may ask for."""

WITHOUT_BEING_IN_THE_ROOM = {
    f"POST {V3}/rooms/{{}}/forget": "to forget what one never knew changes nothing",
    f"GET {V3}/directory/list/room/{{}}": "whether a room is listed is no secret",
    **{f"{method} {V3}/room_keys/keys/{{}}{rest}": "a backup is of the room's name alone"
       for method in ("GET", "PUT", "DELETE") for rest in ("", "/{}")},
    **{f"{method} {V3}/user/{{}}/rooms/{{}}/{what}": "data of one's own, about any room"
       for method, what in (("GET", "account_data/{}"), ("PUT", "account_data/{}"), ("GET", "tags"), ("PUT", "tags/{}"),
                            ("DELETE", "tags/{}"))},
}  # fmt: skip

BODY: dict[str, Any] = {
    "typing": True, "timeout": 1000, "displayname": "x", "avatar_url": "mxc://a.test/x", "presence": "online", "order": 0.5,
    "user_id": "@bob:a.test", "new_version": "11", "topic": "x", "body": "x", "msgtype": "m.text", "visibility": "public",
    "m.fully_read": "{event}", "sessions": {}, "reason": "x", "locked": True, "suspended": True, "x.y": 1, "score": -100,
    "first_message_index": 0, "forwarded_count": 0, "is_verified": True, "session_data": {}, "thread_id": "main",
}  # fmt: skip
"""Keys that let the body of any request pass, so that what refuses it is whose it is."""

QUERY = {"dir": "b", "ts": "0", "version": "1", "timeout": "0", "width": "32", "height": "32"}


@dataclass(frozen=True)
class Asked:
    """One endpoint. `name` has {} for each parameter."""

    method: str
    path: str

    @property
    def name(self) -> str:
        return f"{self.method} " + re.sub(r"\{[^}]*\}", "{}", self.path)

    def target(self, values: dict[str, str]) -> str:
        return re.sub(r"\{(\w+)(?::path)?\}", lambda found: quote(values.get(found[1], "x"), safe=""), self.path)


def endpoints(box: BoxInWorld, *, roots: tuple[str, ...] = CLIENT_ROOTS) -> Iterator[Asked]:
    for route in box.box.app._app.routes:
        if route.path.startswith(roots) and "/r0/" not in route.path:
            yield Asked(route.methods[0], route.path)


@dataclass
class Place:
    box: BoxInWorld
    alice: Person
    bob: Person
    guest: Person
    admin: Person
    values: dict[str, str]

    async def ask(self, asked: Asked, token: str | None, **values: str) -> Answer:
        body = {**BODY, "m.fully_read": self.values["eventId"]} if asked.method in ("PUT", "POST") else None
        target = asked.target({**self.values, **values})
        client = AsgiClient(self.box.box.app, token=token)
        return await client.request(asked.method, target, json=body, query=QUERY, headers={"host": "a.test"})


CLOSED_TO_THE_BANNED = ("/messages", "/send/{eventType}/{txnId}", "/join", "/invite", "/typing/{userId}")
"""Who is banned may forget the room, and sees the ban itself in what reads state."""


@asynccontextmanager
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """Alice's private room, filter, device, file, backup and pusher; bob has nothing to do with her."""
    from edgeserver.users.accounts import DeviceWish

    async with World(tmp_path) as world:
        box = await world.box("a", CONFIG)
        alice, bob = await box.person("alice"), await box.person("bob")
        user_id, session = await box.box.users.accounts.create_person("admin", PASSWORD, admin=True, device=DeviceWish(None, "x"))
        guest = (await AsgiClient(box.box.app).post(f"{V3}/register?kind=guest", {})).json
        room_id = await alice.create_room(name="Private")
        event_id = await alice.say(room_id, "secret")
        made = (await AsgiClient(box.box.app, token=alice.token).post("/_matrix/media/v1/create")).json["content_uri"]
        await alice.ok("PUT", f"/user/{alice.user_id}/account_data/x.y", {"a": "secret"})
        backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "secret"}}
        values = {
            "userId": alice.user_id, "roomId": room_id, "roomIdOrAlias": room_id, "eventId": event_id, "eventType": "m.room.topic",
            "stateKey": "", "txnId": "t", "type": "x.y", "keyName": "displayname", "receiptType": "m.read", "tag": "u.x",
            "filterId": (await alice.ok("POST", f"/user/{alice.user_id}/filter", {"room": {"timeline": {"limit": 7}}}))["filter_id"],
            "deviceId": (await alice.ok("GET", "/account/whoami"))["device_id"], "serverName": "a.test",
            "mediaId": made.rpartition("/")[2], "version": (await alice.ok("POST", "/room_keys/version", backup))["version"],
            "kind": "content", "ruleId": "ship", "roomAlias": "#x:a.test", "relType": "m.thread", "sessionId": "s", "scope": "global",
        }  # fmt: skip
        admin = Person(box, user_id, session.tokens.access_token)
        yield Place(box, alice, bob, Person(box, guest["user_id"], guest["access_token"]), admin, values)


def code(answer: Answer) -> str:
    return f"{answer.status} {answer.json.get('errcode', '')}"


pytestmark = pytest.mark.provokes(*openapi.OPERATIONS)
"""The bodies here suit any operation, and none in particular."""


async def test_without_a_token_only_what_is_for_anybody_is_answered(tmp_path, autojump_clock):
    async with place(tmp_path) as here:
        wrong = []
        for asked in endpoints(here.box):
            free = asked.name in ANYBODY or asked.name in ANYBODY_OR_SOMEBODY
            answer = await here.ask(asked, None)
            refused = answer.status == 401 and answer.json.get("errcode") == "M_MISSING_TOKEN"
            if refused == free:
                wrong.append(f"{asked.name}: {answer.status} {answer.body[:80]!r}")
        assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer  ", "nonsense"])
async def test_what_is_no_bearer_token_is_a_missing_one(tmp_path, autojump_clock, header):
    async with place(tmp_path) as here:
        for path in ("/account/whoami", "/sync", "/publicRooms"):
            answer = await AsgiClient(here.box.box.app).get(V3 + path, headers={"authorization": header, "host": "a.test"})
            assert code(answer) == "401 M_MISSING_TOKEN"


async def test_tokens_that_are_not_or_no_longer_good_are_refused_everywhere(tmp_path, autojump_clock):
    """Made up; of another server's making; logged out; of a deactivated account; expired (softly)."""
    async with place(tmp_path) as here:
        gone, left = await here.box.person("gone"), await here.box.person("left")
        await here.box.box.users.accounts.deactivate(gone.user_id)
        await left.ok("POST", "/logout")
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        session = await here.alice.ok("POST", "/login", {**login, "refresh_token": True})
        await trio.sleep(session["expires_in_ms"] / 1000 + 1)
        tokens = {"unknown": "syt_x", "strange": "é\x00".encode().hex(), "deactivated": gone.token, "logged out": left.token,
                  "expired": session["access_token"]}  # fmt: skip
        wrong = []
        for asked in endpoints(here.box):
            for kind, token in tokens.items():
                answer = await here.ask(asked, token)
                said = answer.json if answer.status == 401 else {}
                refused = said.get("errcode") == "M_UNKNOWN_TOKEN" and said.get("soft_logout", False) == (kind == "expired")
                if refused == (asked.name in ANYBODY):
                    wrong.append(f"{kind}: {asked.name}: {answer.status} {answer.body[:80]!r}")
        assert not wrong, "\n".join(wrong[:30])


async def test_guests_are_refused_what_is_not_for_them(tmp_path, autojump_clock):
    async with place(tmp_path) as here:
        wrong = []
        for asked in endpoints(here.box):
            if asked.name in ANYBODY or asked.name in ANYBODY_OR_SOMEBODY or asked.path.startswith(f"{V3}/profile"):
                continue
            for_guests = tuple(asked.name.split(" ", 1)) in GUESTS_MAY
            answer = await here.ask(asked, here.guest.token)
            if (answer.status == 403 and answer.json["errcode"] == "M_GUEST_ACCESS_FORBIDDEN") == for_guests:
                wrong.append(f"{asked.name}: {answer.status} {answer.body[:80]!r}")
        assert not wrong, "\n".join(wrong)


async def test_administration_is_for_administrators(tmp_path, autojump_clock):
    async with place(tmp_path) as here:
        wrong = []
        for asked in endpoints(here.box):
            if asked.path.startswith(ADMINS) and asked.name not in ANYBODY:
                answer = await here.ask(asked, here.bob.token)
                if code(answer) != "403 M_FORBIDDEN":
                    wrong.append(f"bob: {asked.name}: {code(answer)}")
                answer = await here.ask(asked, here.guest.token)
                if code(answer) != "403 M_GUEST_ACCESS_FORBIDDEN":
                    wrong.append(f"guest: {asked.name}: {code(answer)}")
        assert not wrong, "\n".join(wrong)
        assert (await here.admin.request("GET", f"/admin/whois/{here.alice.user_id}")).status == 200


async def test_nobody_acts_for_somebody_else(tmp_path, autojump_clock):
    """With the id of another user in the path, one's own token is of no use; no secret comes out, and nothing is changed."""
    async with place(tmp_path) as here:
        wrong = []
        for asked in endpoints(here.box):
            if "{userId}" not in asked.path or asked.name in ABOUT_OTHERS:
                continue
            for values in ({}, {"roomId": await here.bob.create_room()}):
                answer = await here.ask(asked, here.bob.token, **values)
                if code(answer) != "403 M_FORBIDDEN":
                    wrong.append(f"{asked.name}: {code(answer)}")
        assert not wrong, "\n".join(wrong)
        assert (await here.alice.ok("GET", f"/user/{here.alice.user_id}/account_data/x.y")) == {"a": "secret"}
        assert (await here.alice.ok("GET", f"/profile/{here.alice.user_id}")).get("displayname") != "x"


async def test_a_room_is_closed_to_those_who_are_not_in_it(tmp_path, autojump_clock):
    """Never there; invited and not joined yet is another matter, banned and left are not: they see what they could see then."""
    async with place(tmp_path) as here:
        banned = await here.box.person("banned")
        room = f"/rooms/{quote(here.values['roomId'])}"
        await here.alice.ok("POST", f"{room}/ban", {"user_id": banned.user_id})
        wrong = []
        for asked in endpoints(here.box):
            if not {"{roomId}", "{roomIdOrAlias}"} & set(asked.path.split("/")) or asked.name in WITHOUT_BEING_IN_THE_ROOM:
                continue
            for person in (here.bob, banned):
                if person is banned and not asked.path.endswith(CLOSED_TO_THE_BANNED):
                    continue
                answer = await here.ask(asked, person.token, userId=person.user_id)
                if answer.status not in (403, 404):
                    wrong.append(f"{person.user_id}: {asked.name}: {answer.status} {answer.body[:200]!r}")
                if b"secret" in answer.body or b"Private" in answer.body:
                    wrong.append(f"{person.user_id}: {asked.name} tells: {answer.body[:200]!r}")
        assert not wrong, "\n".join(wrong)
        assert (await here.alice.state(here.values["roomId"])).keys() >= {("m.room.name", "")}


async def test_no_answer_to_somebody_else_holds_what_is_private(tmp_path, autojump_clock):
    """Every endpoint that only reads, asked by bob with alice's ids in every place."""
    async with place(tmp_path) as here:
        await here.alice.ok("PUT", f"/devices/{here.values['deviceId']}", {"display_name": "secret"})
        data = {"url": "https://secret.test/_matrix/push/v1/notify"}
        names = {"app_display_name": "secret", "device_display_name": "secret", "lang": "en"}
        await here.alice.ok("POST", "/pushers/set", {"app_id": "secret", "pushkey": "secret", "kind": "http", "data": data, **names})
        wrong = []
        for asked in endpoints(here.box):
            if asked.method == "GET":
                answer = await here.ask(asked, here.bob.token)
                if b"secret" in answer.body:
                    wrong.append(f"{asked.name}: {answer.body[:200]!r}")
        assert not wrong, "\n".join(wrong)


async def test_devices_filters_backups_and_files_of_others_are_as_if_they_were_not(tmp_path, autojump_clock):
    async with place(tmp_path) as here:
        device, filter_id, version = here.values["deviceId"], here.values["filterId"], here.values["version"]
        alice, bob = here.alice, here.bob
        for method in ("GET", "PUT"):
            assert code(await bob.request(method, f"/devices/{device}", {"display_name": "x"})) == "404 M_NOT_FOUND"
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": PASSWORD}
        await AsgiClient(here.box.box.app, token=bob.token).request("DELETE", f"{V3}/devices/{device}", json={"auth": login})
        await bob.ok("POST", "/delete_devices", {"devices": [device], "auth": login})
        assert (await alice.ok("GET", f"/devices/{device}"))["device_id"] == device
        assert code(await bob.request("GET", f"/user/{bob.user_id}/filter/{filter_id}")) == "404 M_NOT_FOUND"
        for method in ("GET", "DELETE"):
            assert code(await bob.request(method, f"/room_keys/version/{version}")) in ("404 M_NOT_FOUND", "200 ")
        assert (await alice.ok("GET", f"/room_keys/version/{version}"))["version"] == version
        upload = f"{MEDIA}/upload/a.test/{here.values['mediaId']}"
        assert code(await AsgiClient(here.box.box.app, token=bob.token).request("PUT", upload, body=b"x")) == "403 M_FORBIDDEN"
        assert (await bob.ok("GET", "/pushers")) == {"pushers": []}
        assert (await AsgiClient(here.box.box.app, token=alice.token).request("PUT", upload, body=b"x")).status == 200


async def test_proof_of_ones_password_is_of_no_use_to_somebody_else(tmp_path, autojump_clock):
    """A session of user-interactive authentication is of one operation and one person."""
    async with place(tmp_path) as here:
        alice, bob, device = here.alice, here.bob, here.values["deviceId"]
        right = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        begun = await alice.request("POST", "/delete_devices", {"devices": [device]})
        assert begun.status == 401
        stolen = {**right, "session": begun.json["session"]}
        for auth in (right, stolen, {"session": begun.json["session"]}, {**right, "identifier": {"type": "m.id.user", "user": "bob"},
                                                                        "session": begun.json["session"]}):  # fmt: skip
            for path, body in (("/account/password", {"new_password": "x" * 10}), ("/account/deactivate", {})):
                answer = await bob.request("POST", path, {**body, "auth": auth})
                assert answer.status in (401, 403), (path, auth, answer.status, answer.body)
        assert (await bob.request("GET", "/account/whoami")).status == 200
        login = {**right, "identifier": {"type": "m.id.user", "user": "bob"}}
        assert (await AsgiClient(here.box.box.app).post(f"{V3}/login", login)).status == 200


async def test_a_transaction_id_is_of_one_device(tmp_path, autojump_clock):
    async with place(tmp_path) as here:
        alice, room = here.alice, f"/rooms/{quote(here.values['roomId'])}"
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        session = await alice.ok("POST", "/login", login)
        second = Person(here.box, alice.user_id, session["access_token"])
        target, content = f"{room}/send/m.room.message/t", {"body": "x", "msgtype": "m.text"}
        sent = [await person.ok("PUT", target, content) for person in (alice, second, alice)]
        assert sent[0] == sent[2] != sent[1]
        await second.sync()
        for person in (alice, second):
            await person.ok("PUT", "/sendToDevice/m.x/t", {"messages": {alice.user_id: {session["device_id"]: {"a": 1}}}})
        assert len((await second.sync())["to_device"]["events"]) == 2


async def test_servers_must_sign_what_they_ask(tmp_path, autojump_clock):
    """A person's token is of no use there either."""
    async with place(tmp_path) as here:
        wrong = []
        for asked in endpoints(here.box, roots=("/_matrix/federation/", "/_matrix/key/")):
            for token in (None, here.alice.token):
                answer = await here.ask(asked, token)
                if (answer.status == 401) == (asked.name in SERVERS_UNSIGNED) and "openid" not in asked.path:
                    wrong.append(f"{asked.name}: {answer.status} {answer.body[:100]!r}")
        assert not wrong, "\n".join(wrong)


SOME_OF_IT = ("/send/{eventType}/{txnId}", "/redact/{eventId}/{txnId}", "/sendToDevice/{eventType}/{txnId}")
"""Of these a suspended account may do some: taking back its own words, and verifying its own devices."""


@pytest.mark.parametrize(("standing", "refusal"), [("locked", "401 M_USER_LOCKED"), ("suspended", "403 M_USER_SUSPENDED")])
async def test_locked_and_suspended_accounts_do_what_is_left_to_them(tmp_path, autojump_clock, standing, refusal):
    may = {"locked": moderated.locked_may, "suspended": moderated.suspended_may}[standing]
    async with place(tmp_path) as here:
        verb = {"locked": "lock", "suspended": "suspend"}[standing]
        admin = AsgiClient(here.box.box.app, token=here.admin.token)
        answer = await admin.put(f"{V1}/admin/{verb}/{quote(here.bob.user_id)}", {standing: True})
        assert answer.status == 200, answer.body
        wrong = []
        last = ("/logout", "/logout/all")  # what ends the session is asked last
        for asked in sorted(endpoints(here.box), key=lambda one: one.path.endswith(last)):
            if asked.name not in ANYBODY and not asked.path.startswith(ADMINS) and not asked.path.endswith(last):
                answer = await here.ask(asked, here.bob.token, userId=here.bob.user_id)
                refused, is_let_in = answer.status in (401, 403) and code(answer) == refusal, may(asked.method, asked.path)
                if refused == is_let_in and not (is_let_in and asked.path.endswith(SOME_OF_IT)):
                    wrong.append(f"{asked.name}: {answer.status} {answer.body[:80]!r}")
        assert not wrong, "\n".join(wrong)
        assert (await here.bob.request("POST", "/logout")).status == 200
