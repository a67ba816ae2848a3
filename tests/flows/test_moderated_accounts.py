"""Locked and suspended accounts: who may make them so, what is left to them, and that it ends without a trace."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
import trio

from edgeserver.api.moderated import LOCKED_MAY, SUSPENDED_MAY
from tests.asgi import Answer, AsgiClient
from tests.flows.world import BoxInWorld, Person, World

LAX = '[accounts]\nregistration = "open"\n[limits]\nrate_limits = false\n'
V3 = "/_matrix/client/v3"
V1 = "/_matrix/client/v1"
PASSWORD = "correct horse battery"


async def admin_of(box: BoxInWorld) -> Person:
    admin = await box.person("root")
    await box.box.users.accounts.set_admin(admin.user_id, True)
    return admin


async def ask(person: Person, method: str, path: str, json: object = None) -> Answer:
    body = {"json": {} if json is None else json} if method in ("PUT", "POST") else {}
    return await AsgiClient(person.box.box.app, token=person.token).request(method, path, **body)


def told(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json.get("errcode", "")


async def test_only_an_administrator_locks_and_suspends_and_nobody_their_like(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        root, alice = await admin_of(a), await a.person("alice")
        second = await a.person("second")
        await a.box.users.accounts.set_admin(second.user_id, True)
        gone = await a.person("gone")
        await a.box.users.accounts.deactivate(gone.user_id)
        for what, key in (("lock", "locked"), ("suspend", "suspended")):
            path = f"{V1}/admin/{what}/"
            for target in (alice.user_id, "@nobody:a.test", "@bob:elsewhere.test", root.user_id):
                assert told(await ask(alice, "GET", path + target)) == (403, "M_FORBIDDEN")
                assert told(await ask(alice, "PUT", path + target, {key: True})) == (403, "M_FORBIDDEN")
            for target, expected in (
                (second.user_id, (403, "M_FORBIDDEN")),
                ("@nobody:a.test", (404, "M_NOT_FOUND")),
                (gone.user_id, (404, "M_NOT_FOUND")),
                ("@bob:elsewhere.test", (400, "M_INVALID_PARAM")),
                ("nonsense", (400, "M_INVALID_PARAM")),
            ):
                assert told(await ask(root, "GET", path + target)) == expected
                assert told(await ask(root, "PUT", path + target, {key: True})) == expected
            assert told(await ask(root, "PUT", path + alice.user_id, {})) == (400, "M_MISSING_PARAM")
            assert told(await ask(root, "PUT", path + alice.user_id, {key: "yes"})) == (400, "M_BAD_JSON")
            assert (await ask(root, "GET", path + alice.user_id)).json == {key: False}
            assert (await ask(root, "PUT", path + alice.user_id, {key: True})).json == {key: True}
            assert (await ask(root, "GET", path + alice.user_id)).json == {key: True}
            assert (await ask(root, "PUT", path + alice.user_id, {key: False})).json == {key: False}
        may = (await root.ok("GET", "/capabilities"))["capabilities"]
        assert may["m.account_moderation"] == {"suspend": True, "lock": True}
        assert "m.account_moderation" not in (await alice.ok("GET", "/capabilities"))["capabilities"]


async def test_a_locked_account_may_log_out_and_nothing_else(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        root, alice = await admin_of(a), await a.person("alice")
        await ask(root, "PUT", f"{V1}/admin/lock/{alice.user_id}", {"locked": True})
        asked_of = 0
        for route in a.box.app._app.routes:
            method, path = route.methods[0], re.sub(r"\{[^}]*\}", "x", route.path)
            if not route.path.startswith("/_matrix/") or path.replace("/r0/", "/v3/") in (f"{V3}/logout", f"{V3}/logout/all"):
                continue
            body = {"json": {}} if method in ("PUT", "POST") else {}
            stranger = await AsgiClient(a.box.app).request(method, path, **body)
            if stranger.status == 401 and stranger.json.get("errcode") == "M_MISSING_TOKEN":
                assert _is_locked_out(await ask(alice, method, path)), (method, path)
                asked_of += 1
        assert asked_of > 150
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        answer = await AsgiClient(a.box.app).post(f"{V3}/login", login)
        assert _is_locked_out(answer)
        assert told(await AsgiClient(a.box.app).post(f"{V3}/login", {**login, "password": "wrong"})) == (403, "M_FORBIDDEN")
        # Lifted, it is as if nothing had been: the session goes on
        await ask(root, "PUT", f"{V1}/admin/lock/{alice.user_id}", {"locked": False})
        assert (await alice.ok("GET", "/account/whoami"))["user_id"] == alice.user_id
        await ask(root, "PUT", f"{V1}/admin/lock/{alice.user_id}", {"locked": True})
        assert (await ask(alice, "POST", f"{V3}/logout")).json == {}
        await ask(root, "PUT", f"{V1}/admin/lock/{alice.user_id}", {"locked": False})
        assert told(await ask(alice, "GET", f"{V3}/account/whoami")) == (401, "M_UNKNOWN_TOKEN")


def _is_locked_out(answer: Answer) -> bool:
    if answer.status != 401:
        return False
    return (answer.json.get("errcode"), answer.json.get("soft_logout")) == ("M_USER_LOCKED", True)


async def test_a_locked_account_keeps_its_refresh_token_and_may_not_use_it(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        root, _ = await admin_of(a), await a.person("alice")
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        session = (await AsgiClient(a.box.app).post(f"{V3}/login", {**login, "refresh_token": True})).json
        await ask(root, "PUT", f"{V1}/admin/lock/@alice:a.test", {"locked": True})
        body = {"refresh_token": session["refresh_token"]}
        assert _is_locked_out(await AsgiClient(a.box.app).post(f"{V3}/refresh", body))
        await ask(root, "PUT", f"{V1}/admin/lock/@alice:a.test", {"locked": False})
        assert (await AsgiClient(a.box.app).post(f"{V3}/refresh", body)).status == 200


async def test_every_endpoint_that_is_not_for_suspended_accounts_says_so_to_them(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        root, alice = await admin_of(a), await a.person("alice")
        await ask(root, "PUT", f"{V1}/admin/suspend/{alice.user_id}", {"suspended": True})
        tried = set()
        for route in a.box.app._app.routes:
            key = route.methods[0], re.sub(r"\{[^}]*\}", "{}", route.path)
            if not route.path.startswith(("/_matrix/client/", "/_matrix/media/")) or "/r0/" in route.path or key in LOCKED_MAY:
                continue
            method, path = route.methods[0], re.sub(r"\{[^}]*\}", "x", route.path)
            body = {"json": {}} if method in ("PUT", "POST") else {}
            query = {"timeout": "0", "dir": "b"}
            answer = await AsgiClient(a.box.app, token=alice.token).request(method, path, query=query, **body)
            stranger = await AsgiClient(a.box.app).request(method, path, query=query, **body)
            if stranger.status != 401 or stranger.json.get("errcode") != "M_MISSING_TOKEN":
                continue  # anybody may ask
            refused = answer.status == 403 and answer.json["errcode"] == "M_USER_SUSPENDED"
            if key == ("PUT", f"{V3}/rooms/{{}}/send/{{}}/{{}}"):
                assert refused  # the path's type is no redaction
                continue
            assert refused == (method != "GET" and key not in SUSPENDED_MAY), (method, path, answer.status, answer.body)
            tried.add(key)
        send = ("PUT", f"{V3}/rooms/{{}}/send/{{}}/{{}}")
        assert tried >= SUSPENDED_MAY - LOCKED_MAY - {send}, "the list names what is not served"


FORBIDDEN = [
    ("POST", f"{V3}/createRoom", {}),
    ("POST", f"{V3}/join/{{room}}", {}),
    ("POST", f"{V3}/rooms/{{room}}/join", {}),
    ("POST", f"{V3}/knock/{{room}}", {}),
    ("POST", f"{V3}/rooms/{{room}}/invite", {"user_id": "@root:a.test"}),
    ("POST", f"{V3}/rooms/{{room}}/kick", {"user_id": "@root:a.test"}),
    ("POST", f"{V3}/rooms/{{room}}/ban", {"user_id": "@root:a.test"}),
    ("POST", f"{V3}/rooms/{{room}}/upgrade", {"new_version": "12"}),
    ("PUT", f"{V3}/rooms/{{room}}/send/m.room.message/t1", {"msgtype": "m.text", "body": "hello"}),
    ("PUT", f"{V3}/rooms/{{room}}/state/m.room.name", {"name": "mine"}),
    ("PUT", f"{V3}/rooms/{{room}}/state/m.room.member/@alice:a.test", {"membership": "join"}),
    ("PUT", f"{V3}/rooms/{{room}}/typing/@alice:a.test", {"typing": True}),
    ("PUT", f"{V3}/rooms/{{room}}/redact/{{other}}/t2", {}),
    ("PUT", f"{V3}/rooms/{{room}}/send/m.room.redaction/t3", {"redacts": "{other}"}),
    ("PUT", f"{V3}/profile/@alice:a.test/displayname", {"displayname": "x"}),
    ("PUT", f"{V3}/profile/@alice:a.test/avatar_url", {"avatar_url": "mxc://a/b"}),
    ("PUT", f"{V3}/directory/room/%23mine:a.test", {"room_id": "{room}"}),
    ("PUT", f"{V3}/sendToDevice/m.x/t4", {"messages": {"@root:a.test": {"*": {}}}}),
    ("POST", "/_matrix/media/v3/upload", {}),
    ("POST", f"{V3}/account/3pid/add", {}),
]


async def test_a_suspended_account_reads_and_leaves_and_takes_back_and_nothing_that_others_see(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        root, alice = await admin_of(a), await a.person("alice")
        room = await alice.create_room(preset="public_chat", power_level_content_override={"redact": 0})
        await root.join(room)
        other, own, second = await root.say(room, "from root"), await alice.say(room, "hasty"), await alice.say(room, "rash")
        await ask(root, "PUT", f"{V1}/admin/suspend/{alice.user_id}", {"suspended": True})
        for method, path, body in FORBIDDEN:
            path = path.replace("{room}", quote(room)).replace("{other}", quote(other))
            body = {key: other if value == "{other}" else room if value == "{room}" else value for key, value in body.items()}
            assert told(await ask(alice, method, path, body)) == (403, "M_USER_SUSPENDED"), (method, path)
        # Reading, taking back, one's own devices, further sessions
        assert "from root" in await alice.texts(room)
        assert room in (await alice.sync())["rooms"]["join"]
        await alice.ok("PUT", f"/rooms/{quote(room)}/redact/{quote(own)}/t5", {"reason": "hasty"})
        await alice.ok("PUT", f"/rooms/{quote(room)}/send/m.room.redaction/t6", {"redacts": second})
        await alice.ok("PUT", "/sendToDevice/m.key.verification.request/t7", {"messages": {alice.user_id: {"*": {}}}})
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        another = (await AsgiClient(a.box.app).post(f"{V3}/login", login)).json
        further = Person(a, alice.user_id, another["access_token"])
        assert told(await ask(further, "POST", f"{V3}/createRoom")) == (403, "M_USER_SUSPENDED")
        await alice.ok("POST", f"/rooms/{quote(room)}/leave")
        await alice.ok("POST", "/logout")
        # Lifted
        await ask(root, "PUT", f"{V1}/admin/suspend/{alice.user_id}", {"suspended": False})
        await further.create_room()


async def test_a_suspended_account_declines_invites_and_can_be_deactivated_by_its_owner(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        root, alice = await admin_of(a), await a.person("alice")
        room = await root.create_room()
        await root.invite(room, alice.user_id)
        await ask(root, "PUT", f"{V1}/admin/suspend/{alice.user_id}", {"suspended": True})
        assert told(await alice.request("POST", f"/rooms/{quote(room)}/join")) == (403, "M_USER_SUSPENDED")
        await alice.ok("POST", f"/rooms/{quote(room)}/leave")
        auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        await alice.ok("POST", "/account/deactivate", {"auth": auth})


@pytest.mark.parametrize("about", ["@alice:a.test", "@root:a.test"])
async def test_where_somebody_is_logged_in_is_told_to_them_and_to_administrators(tmp_path, autojump_clock, about):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        root, alice = await admin_of(a), await a.person("alice")
        path = f"{V3}/admin/whois/{about}"
        await alice.ok("GET", "/account/whoami")
        found = await ask(root, "GET", path)
        assert found.status == 200
        assert found.json["user_id"] == about
        (device,) = found.json["devices"].values()
        (connection,) = device["sessions"][0]["connections"]
        assert connection["ip"] == "192.0.2.1"
        assert (await ask(alice, "GET", path)).status == (200 if about == alice.user_id else 403)
        assert told(await ask(root, "GET", f"{V3}/admin/whois/@nobody:a.test")) == (404, "M_NOT_FOUND")
        assert told(await ask(root, "GET", f"{V3}/admin/whois/@bob:b.test")) == (400, "M_INVALID_PARAM")
        assert told(await ask(alice, "GET", f"{V3}/admin/whois/@nobody:a.test")) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(("what", "expected"), [("lock", (401, "M_USER_LOCKED")), ("log out", (401, "M_UNKNOWN_TOKEN"))])
async def test_who_is_shut_out_while_waiting_for_news_is_not_told_them(tmp_path, autojump_clock, what, expected):
    async with World(tmp_path) as world:
        a = await world.box("a", LAX)
        alice, bob = await a.person("alice"), await a.person("bob")
        room = await alice.create_room(preset="public_chat")
        await bob.join(room)
        await alice.sync()
        answers: list[Answer] = []

        async def wait_for_news() -> None:
            answers.append(await alice.request("GET", "/sync", query={"since": alice.since or "", "timeout": "30000"}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_news)
            await trio.sleep(1)
            if what == "lock":
                await a.box.users.accounts.set_locked(alice.user_id, True)
            else:
                await a.box.users.devices.delete_all(alice.user_id)
            await bob.say(room, "not for alice")
        assert told(answers[0]) == expected
        assert b"not for alice" not in answers[0].body
