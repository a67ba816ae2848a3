"""What a client is told when it asks for what it cannot have: status and errcode as the specification states them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.asgi import AsgiClient
from tests.flows.world import World

V3 = "/_matrix/client/v3"
OPEN = '[accounts]\nregistration = "open"\n[limits]\nrate_limits = false\nupload_bytes = 2000\n'
LOGIN = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "wrong"}
UNKNOWN_ROOM, UNKNOWN_ALIAS = quote("!nowhere:a.test"), quote("#nowhere:a.test")

# (who, method, path, body, status, errcode). {room} is a public room of alice's in which bob is not, {event} a message in it.
REFUSALS: list[tuple[str, str, str, Any, int, str]] = [
    ("", "GET", "/account/whoami", None, 401, "M_MISSING_TOKEN"),
    ("nobody", "GET", "/account/whoami", None, 401, "M_UNKNOWN_TOKEN"),
    ("", "GET", "/nowhere", None, 404, "M_UNRECOGNIZED"),
    ("", "GET", "/_matrix/client/v9/sync", None, 404, "M_UNRECOGNIZED"),
    ("", "GET", "/_matrix/unknown", None, 404, "M_UNRECOGNIZED"),
    ("alice", "DELETE", "/account/whoami", None, 405, "M_UNRECOGNIZED"),
    # Accounts
    ("", "POST", "/login", LOGIN, 403, "M_FORBIDDEN"),
    ("nobody", "POST", "/login", LOGIN, 403, "M_FORBIDDEN"),
    ("", "POST", "/login", {**LOGIN, "identifier": {"type": "m.id.user", "user": "nobody"}}, 403, "M_FORBIDDEN"),
    ("", "POST", "/login", {**LOGIN, "type": "m.login.magic"}, 400, "M_UNKNOWN"),
    ("", "POST", "/login", {}, 400, ""),
    ("", "POST", "/login", b"{", 400, "M_NOT_JSON"),
    ("", "POST", "/login", [], 400, "M_BAD_JSON"),
    ("", "POST", "/register", {"username": "alice", "password": "correct horse", "auth": {"type": "m.login.dummy"}}, 400, "M_USER_IN_USE"),
    ("", "POST", "/register", {"username": "Ä b", "password": "x" * 9, "auth": {"type": "m.login.dummy"}}, 400, "M_INVALID_USERNAME"),
    ("", "GET", "/register/available?username=alice", None, 400, "M_USER_IN_USE"),
    ("", "GET", "/register/available?username=A%20B", None, 400, "M_INVALID_USERNAME"),
    ("", "POST", "/refresh", {"refresh_token": "none"}, 401, "M_UNKNOWN_TOKEN"),
    ("", "GET", "/profile/@nobody:a.test", None, 404, "M_NOT_FOUND"),
    ("bob", "PUT", "/profile/@alice:a.test/displayname", {"displayname": "x"}, 403, "M_FORBIDDEN"),
    ("alice", "GET", "/devices/NONE", None, 404, "M_NOT_FOUND"),
    ("alice", "PUT", "/devices/NONE", {"display_name": "x"}, 404, "M_NOT_FOUND"),
    ("bob", "GET", "/user/@alice:a.test/account_data/x.y", None, 403, "M_FORBIDDEN"),
    ("alice", "GET", "/user/@alice:a.test/account_data/x.y", None, 404, "M_NOT_FOUND"),
    ("alice", "PUT", "/user/@alice:a.test/account_data/m.push_rules", {}, 405, "M_BAD_JSON"),
    ("alice", "PUT", "/user/@alice:a.test/rooms/{room}/account_data/m.fully_read", {}, 405, "M_BAD_JSON"),
    ("alice", "GET", "/user/@alice:a.test/filter/999", None, 404, "M_NOT_FOUND"),
    ("alice", "POST", "/user/@alice:a.test/filter", {"room": 1}, 400, "M_BAD_JSON"),
    ("alice", "GET", "/pushrules/global/content/none", None, 404, "M_NOT_FOUND"),
    ("alice", "PUT", "/pushrules/global/content/.m.own", {"pattern": "x", "actions": []}, 400, ""),
    # Rooms
    ("alice", "POST", "/createRoom", {"room_version": "99"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
    ("alice", "POST", "/createRoom", {"room_alias_name": "taken"}, 400, "M_ROOM_IN_USE"),
    ("alice", "POST", "/createRoom", {"invite": "bob"}, 400, "M_INVALID_PARAM"),
    ("alice", "PUT", f"/directory/room/{quote('#taken:a.test')}", {"room_id": "{room}"}, 409, "M_UNKNOWN"),
    ("alice", "GET", f"/directory/room/{UNKNOWN_ALIAS}", None, 404, "M_NOT_FOUND"),
    ("alice", "DELETE", f"/directory/room/{UNKNOWN_ALIAS}", None, 404, "M_NOT_FOUND"),
    ("alice", "GET", "/directory/room/nonsense", None, 400, "M_INVALID_PARAM"),
    ("bob", "POST", f"/join/{UNKNOWN_ALIAS}", {}, 404, "M_NOT_FOUND"),
    ("bob", "POST", "/rooms/{private}/join", {}, 403, "M_FORBIDDEN"),
    ("bob", "POST", "/rooms/{room}/invite", {"user_id": "@carol:a.test"}, 403, "M_FORBIDDEN"),
    ("alice", "POST", "/rooms/{room}/invite", {}, 400, ""),
    ("bob", "POST", "/rooms/{room}/kick", {"user_id": "@alice:a.test"}, 403, "M_FORBIDDEN"),
    ("bob", "POST", "/rooms/{room}/ban", {"user_id": "@alice:a.test"}, 403, "M_FORBIDDEN"),
    ("alice", "POST", "/rooms/{room}/forget", {}, 400, "M_UNKNOWN"),
    ("alice", "POST", "/rooms/{room}/upgrade", {"new_version": "99"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
    ("bob", "POST", "/rooms/{room}/upgrade", {"new_version": "12"}, 403, "M_FORBIDDEN"),
    ("bob", "POST", f"/rooms/{UNKNOWN_ROOM}/upgrade", {"new_version": "12"}, 404, "M_NOT_FOUND"),
    ("", "POST", "/register?kind=guest", {}, 403, "M_GUEST_ACCESS_FORBIDDEN"),
    ("bob", "PUT", "/rooms/{room}/send/m.room.message/t", {"body": "x"}, 403, "M_FORBIDDEN"),
    ("bob", "PUT", f"/rooms/{UNKNOWN_ROOM}/send/m.room.message/t", {"body": "x"}, 403, "M_FORBIDDEN"),
    ("alice", "PUT", "/rooms/{room}/send/m.room.message/t", {"body": "x" * 66_000}, 413, "M_TOO_LARGE"),
    ("alice", "PUT", "/rooms/{room}/send/m.room.message/t", {"body": 1.5}, 400, "M_BAD_JSON"),
    ("bob", "PUT", "/rooms/{room}/state/m.room.topic/", {"topic": "x"}, 403, "M_FORBIDDEN"),
    ("bob", "PUT", "/rooms/{room}/redact/{event}/t", {}, 403, "M_FORBIDDEN"),
    ("bob", "GET", "/rooms/{private}/state", None, 403, "M_FORBIDDEN"),
    ("bob", "GET", "/rooms/{private}/messages?dir=b", None, 403, "M_FORBIDDEN"),
    ("bob", "GET", "/rooms/{private}/members", None, 403, "M_FORBIDDEN"),
    ("bob", "GET", "/rooms/{private}/joined_members", None, 403, "M_FORBIDDEN"),
    ("bob", "GET", "/rooms/{private}/event/{event}", None, 404, "M_NOT_FOUND"),
    ("alice", "GET", "/rooms/{room}/event/$none", None, 404, "M_NOT_FOUND"),
    ("alice", "GET", "/rooms/{room}/context/$none", None, 404, "M_NOT_FOUND"),
    ("alice", "GET", "/rooms/{room}/state/m.room.topic/", None, 404, "M_NOT_FOUND"),
    ("alice", "GET", "/rooms/{room}/messages?dir=x", None, 400, "M_INVALID_PARAM"),
    ("alice", "GET", "/rooms/{room}/messages?dir=b&from=nonsense", None, 400, "M_INVALID_PARAM"),
    ("bob", "PUT", "/rooms/{room}/typing/@alice:a.test", {"typing": True}, 403, "M_FORBIDDEN"),
    ("bob", "POST", "/rooms/{room}/receipt/m.read/{event}", {}, 403, "M_FORBIDDEN"),
    ("alice", "POST", "/rooms/{room}/receipt/m.unknown/{event}", {}, 400, "M_INVALID_PARAM"),
    ("alice", "GET", "/sync?since=nonsense", None, 400, "M_INVALID_PARAM"),
    ("alice", "GET", "/sync?filter=nonsense", None, 400, ""),
    ("alice", "GET", "/sync?timeout=soon", None, 400, "M_INVALID_PARAM"),
    # Keys and media
    ("alice", "POST", "/keys/query", {"device_keys": []}, 400, "M_BAD_JSON"),
    ("alice", "GET", "/room_keys/version", None, 404, "M_NOT_FOUND"),
    ("alice", "GET", "/room_keys/keys?version=1", None, 404, "M_NOT_FOUND"),
    ("alice", "POST", "/keys/device_signing/upload", {"master_key": {}}, 400, ""),
    ("alice", "GET", "/_matrix/client/v1/media/download/a.test/none", None, 404, "M_NOT_FOUND"),
    ("", "GET", "/_matrix/client/v1/media/download/a.test/none", None, 401, "M_MISSING_TOKEN"),
    ("alice", "GET", "/_matrix/client/v1/media/thumbnail/a.test/none?width=32&height=32", None, 404, "M_NOT_FOUND"),
    ("alice", "POST", "/_matrix/media/v3/upload", b"x" * 2001, 413, "M_TOO_LARGE"),
]


async def test_each_refusal_has_its_status_and_errcode(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", OPEN)
        alice, bob = await box.person("alice"), await box.person("bob")
        room, private = await alice.create_room(preset="public_chat", room_alias_name="taken"), await alice.create_room()
        event = await alice.say(room, "ahoy")
        tokens = {"": None, "nobody": "nonsense", "alice": alice.token, "bob": bob.token}
        names = {"{room}": room, "{private}": private, "{event}": event}
        wrong = []
        for who, method, path, body, status, errcode in REFUSALS:
            for name, value in names.items():
                path = path.replace(name, quote(value))
            if isinstance(body, dict) and body.get("room_id") == "{room}":
                body = {"room_id": room}
            full = path if path.startswith("/_") else V3 + path
            sent = {"body": body} if isinstance(body, bytes) else {} if body is None else {"json": body}
            answer = await AsgiClient(box.box.app, token=tokens[who]).request(method, full, headers={"host": "a.test"}, **sent)
            if answer.status != status or errcode not in ("", answer.json["errcode"]) or not answer.json["error"]:
                wrong.append((who, method, path, status, errcode, "but", answer.status, answer.body[:200]))
        assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("path", ["/_matrix/client/versions", f"{V3}/sync", f"{V3}/nowhere", "/.well-known/matrix/client", "/x"])
async def test_browsers_may_ask_on_every_path(tmp_path, autojump_clock, path):
    async with World(tmp_path) as world:
        box = await world.box("a")
        for method in ("OPTIONS", "GET"):
            answer = await AsgiClient(box.box.app).request(method, path, headers={"host": "a.test"})
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "Authorization" in answer.headers["access-control-allow-headers"]
            assert {"GET", "POST", "PUT", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
            assert method == "GET" or answer.status < 300


async def test_a_transaction_that_is_sent_again_is_the_same_event(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", OPEN)
        alice = await box.person("alice")
        room = await alice.create_room()
        event = await alice.say(room, "once", txn="t")
        assert await alice.say(room, "once", txn="t") == event
        target = f"/rooms/{quote(room)}/redact/{quote(event)}/t"
        redaction = await alice.ok("PUT", target, {})
        assert await alice.ok("PUT", target, {}) == redaction
        await box.stop()
        await box.start()
        assert await alice.say(room, "once", txn="t") == event
