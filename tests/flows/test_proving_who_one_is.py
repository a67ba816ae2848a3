"""User-interactive authentication where the specification asks for it, its web pages, and tokens that log a further device in."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from edgeserver.api.pages import AUTH_DONE
from edgeserver.users.login_tokens import KEPT, LIFETIME_MS, LoginTokens
from tests.asgi import Answer, AsgiClient
from tests.flows.world import BoxInWorld, Person, World

V3 = "/_matrix/client/v3"
V1 = "/_matrix/client/v1"
PASSWORD = "correct horse battery"
LAX = '[accounts]\nregistration = "open"\n[limits]\nrate_limits = false\n'
TOKEN = '[accounts]\nregistration = "token"\nregistration_tokens = ["t0ken"]\n[limits]\nrate_limits = false\n'
CROSS_SIGNING = f"{V3}/keys/device_signing/upload"


def told(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json.get("errcode", "")


def auth(name: str = "alice", session: str | None = None, word: str = PASSWORD) -> dict[str, Any]:
    found = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": word}
    return found if session is None else {**found, "session": session}


async def ask(person: Person, method: str, path: str, json: Any = None) -> Answer:
    return await AsgiClient(person.box.box.app, token=person.token).request(method, path, json={} if json is None else json)


# Method, path, body: what asks for the password again
GUARDED = [
    ("DELETE", f"{V3}/devices/OTHER", {}),
    ("POST", f"{V3}/delete_devices", {"devices": ["OTHER"]}),
    ("POST", f"{V3}/account/password", {"new_password": "a much longer one"}),
    ("POST", f"{V3}/account/deactivate", {"erase": True}),
    ("POST", f"{V1}/login/get_token", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), GUARDED)
async def test_a_session_serves_one_operation_of_one_user_with_one_body(tmp_path, autojump_clock, method, path, body):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        alice, bob = await a.person("alice"), await a.person("bob")
        asked = await ask(alice, method, path, body)
        assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
        session = asked.json["session"]
        assert told(await ask(bob, method, path, {**body, "auth": auth("bob", session)})) == (403, "M_FORBIDDEN")
        elsewhere = next(one for one in GUARDED if one[1] != path)
        other = await ask(alice, *elsewhere[:2], {**elsewhere[2], "auth": auth(session=session)})
        assert told(other) == (403, "M_FORBIDDEN")
        if body:
            changed = dict.fromkeys(body, "something else")
            assert told(await ask(alice, method, path, {**changed, "auth": auth(session=session)}))[0] in (400, 403)
        wrong = await ask(alice, method, path, {**body, "auth": auth(session=session, word="guess")})
        assert told(wrong) == (401, "M_FORBIDDEN")
        assert (await ask(alice, method, path, {**body, "auth": auth(session=session)})).status == 200


async def test_who_changes_the_body_in_the_middle_is_refused_and_nothing_happens(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        alice = await a.person("alice")
        asked = await ask(alice, "POST", f"{V3}/delete_devices", {"devices": ["OTHER"]})
        mine = (await alice.ok("GET", "/account/whoami"))["device_id"]
        body = {"devices": [mine], "auth": auth(session=asked.json["session"])}
        assert told(await ask(alice, "POST", f"{V3}/delete_devices", body)) == (403, "M_FORBIDDEN")
        await alice.ok("GET", "/account/whoami")


async def test_the_first_upload_of_cross_signing_keys_asks_for_nothing_and_other_keys_ask_for_the_password(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        alice = await a.person("alice")

        def master(key: str) -> dict[str, Any]:
            return {"master_key": {"user_id": alice.user_id, "usage": ["master"], "keys": {f"ed25519:{key}": key}}}

        first, second = master("A" * 43), master("B" * 42 + "A")
        assert (await ask(alice, "POST", CROSS_SIGNING, first)).status == 200
        assert (await ask(alice, "POST", CROSS_SIGNING, first)).status == 200  # the same again is no change
        asked = await ask(alice, "POST", CROSS_SIGNING, second)
        assert asked.status == 401
        proof = auth(session=asked.json["session"])
        assert told(await ask(alice, "POST", CROSS_SIGNING, {**master("C" * 42 + "A"), "auth": proof})) == (403, "M_FORBIDDEN")
        assert (await ask(alice, "POST", CROSS_SIGNING, {**second, "auth": proof})).status == 200


# Web pages for apps that cannot ask themselves


async def fill_in(box: BoxInWorld, kind: str, session: str, **fields: str) -> Answer:
    path = f"{V3}/auth/{kind}/fallback/web"
    return await AsgiClient(box.box.app).request("POST", path, query={"session": session}, body=urlencode(fields).encode())


@pytest.mark.provokes("POST /_matrix/client/v3/account/password")  # the last round brings its proof alone
async def test_a_stage_is_completed_on_a_web_page(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        alice = await a.person("alice")
        body = {"new_password": "a much longer one"}
        session = (await ask(alice, "POST", f"{V3}/account/password", body)).json["session"]
        page = await AsgiClient(a.box.app).get(f"{V3}/auth/m.login.password/fallback/web", query={"session": session})
        assert page.status == 200
        assert b'type="password"' in page.body
        wrong = await fill_in(a, "m.login.password", session, password="guess")
        assert wrong.status == 403
        assert b"Wrong password" in wrong.body
        assert AUTH_DONE.encode() not in wrong.body
        assert (await ask(alice, "POST", f"{V3}/account/password", {**body, "auth": {"session": session}})).status == 401
        done = await fill_in(a, "m.login.password", session, password=PASSWORD)
        assert done.status == 200
        assert AUTH_DONE.encode() in done.body
        assert (await ask(alice, "POST", f"{V3}/account/password", {"auth": {"session": session}})).json == {}
        over = await AsgiClient(a.box.app).get(f"{V3}/auth/m.login.password/fallback/web", query={"session": session})
        assert over.status == 404


async def test_pages_for_a_registration_and_pages_that_are_not_there(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a", TOKEN), await world.box("b", LAX)
        body = {"username": "alice", "password": PASSWORD}
        for box, kind, fields in ((a, "m.login.registration_token", {"token": "t0ken"}), (b, "m.login.dummy", {})):
            session = (await AsgiClient(box.box.app).post(f"{V3}/register", body)).json["session"]
            assert (await AsgiClient(box.box.app).get(f"{V3}/auth/{kind}/fallback/web", query={"session": session})).status == 200
            if fields:
                assert (await fill_in(box, kind, session, token="guess")).status == 401
            assert (await fill_in(box, kind, session, **fields)).status == 200
            made = await AsgiClient(box.box.app).post(f"{V3}/register", {**body, "auth": {"session": session}})
            assert made.status == 200, made.body
        client = AsgiClient(b.box.app)
        assert told(await client.get(f"{V3}/auth/m.login.magic/fallback/web")) == (404, "M_UNRECOGNIZED")
        assert (await client.get(f"{V3}/auth/m.login.dummy/fallback/web")).status == 404
        session = (await client.post(f"{V3}/register", {**body, "username": "eve"})).json["session"]
        assert (await fill_in(b, "m.login.password", session, password=PASSWORD)).status == 404  # not among this session's flows
        client = AsgiClient(a.box.app)
        session = (await client.post(f"{V3}/register", {**body, "username": "eve"})).json["session"]
        path = f"{V3}/auth/m.login.registration_token/fallback/web"
        assert (await client.request("POST", path, query={"session": session}, body=b"\xff")).status == 400


# Tokens that log one device in


async def test_a_login_token_logs_one_further_device_in_within_two_minutes(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        alice = await a.person("alice")
        client = AsgiClient(a.box.app)
        flows = (await client.get(f"{V3}/login")).json["flows"]
        assert {"type": "m.login.token", "get_login_token": True} in flows
        assert (await alice.ok("GET", "/capabilities"))["capabilities"]["m.get_login_token"] == {"enabled": True}

        async def fresh() -> str:
            answer = await ask(alice, "POST", f"{V1}/login/get_token", {"auth": auth()})
            assert answer.json["expires_in_ms"] == LIFETIME_MS
            return str(answer.json["login_token"])

        token = await fresh()
        odd = await client.post(f"{V3}/login", {"type": "m.login.token", "token": token, "device_id": 5})
        assert told(odd) == (400, "M_BAD_JSON")  # which costs the token nothing
        made = await client.post(f"{V3}/login", {"type": "m.login.token", "token": token, "initial_device_display_name": "Tablet"})
        assert made.json["user_id"] == alice.user_id
        assert told(await client.post(f"{V3}/login", {"type": "m.login.token", "token": token})) == (403, "M_FORBIDDEN")
        assert told(await client.post(f"{V3}/login", {"type": "m.login.token"})) == (400, "M_MISSING_PARAM")
        late = await fresh()
        await trio.sleep(LIFETIME_MS / 1000)
        assert told(await client.post(f"{V3}/login", {"type": "m.login.token", "token": late})) == (403, "M_FORBIDDEN")
        locked = await fresh()
        await a.box.users.accounts.set_locked(alice.user_id, True)
        assert told(await client.post(f"{V3}/login", {"type": "m.login.token", "token": locked})) == (401, "M_USER_LOCKED")


async def test_a_login_token_is_void_when_the_device_that_asked_for_it_is_logged_out(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        alice, bob = await a.person("alice"), await a.person("bob")
        tokens = {
            one.user_id: (await ask(one, "POST", f"{V1}/login/get_token", {"auth": auth(one.user_id)})).json["login_token"]
            for one in (alice, bob)
        }
        await a.box.users.accounts.set_password(alice.user_id, "another long one")
        client = AsgiClient(a.box.app)
        answers = [told(await client.post(f"{V3}/login", {"type": "m.login.token", "token": token})) for token in tokens.values()]
        assert answers == [(403, "M_FORBIDDEN"), (200, "")]


async def test_login_tokens_are_limited_and_can_be_switched_off(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice = await a.person("alice")
        answers = [told(await ask(alice, "POST", f"{V1}/login/get_token", {"auth": auth()})) for _ in range(3)]
        assert answers == [(200, ""), (200, ""), (429, "M_LIMIT_EXCEEDED")]
        b = await world.box("b", "[accounts]\nlogin_tokens = false\n")
        bob = await b.person("bob")
        assert told(await ask(bob, "POST", f"{V1}/login/get_token")) == (404, "M_UNRECOGNIZED")
        assert told(await AsgiClient(b.box.app).post(f"{V3}/login", {"type": "m.login.token", "token": "x"})) == (400, "M_UNKNOWN")
        assert (await AsgiClient(b.box.app).get(f"{V3}/login")).json == {"flows": [{"type": "m.login.password"}]}
        assert (await bob.ok("GET", "/capabilities"))["capabilities"]["m.get_login_token"] == {"enabled": False}


def test_only_so_many_login_tokens_are_out_at_once() -> None:
    tokens = LoginTokens(lambda: 0)
    first = tokens.issue("@alice:test", "A")
    last = [tokens.issue("@bob:test", "B") for _ in range(KEPT)][-1]
    with pytest.raises(Exception, match="not valid"):
        tokens.take(first)
    assert tokens.take(last) == "@bob:test"


async def test_there_is_no_single_sign_on_and_no_oauth(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        client = AsgiClient(a.box.app)
        for path in (f"{V1}/auth_metadata", f"{V3}/login/sso/redirect", f"{V3}/login/sso/redirect/idp"):
            assert told(await client.get(path)) == (404, "M_UNRECOGNIZED")
