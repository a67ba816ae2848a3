"""What a client is told when it asks for what it cannot have: status and errcode as the specification states them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.api import openapi
from tests.asgi import AsgiClient
from tests.flows.world import World

V1, V3 = "/_matrix/client/v1", "/_matrix/client/v3"
OPEN = '[accounts]\nregistration = "open"\n[limits]\nrate_limits = false\nupload_bytes = 2000\n'
LOGIN = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "wrong"}
UNKNOWN_ROOM, UNKNOWN_ALIAS = quote("!nowhere:a.test"), quote("#nowhere:a.test")

BACKUP = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "A" * 43}}
SESSION = {"first_message_index": 0, "forwarded_count": 0, "is_verified": True, "session_data": {}}
IMPOSSIBLE = {"power_level_content_override": {"users": {"@alice:a.test": 0}, "users_default": 0}, "name": "x"}

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
    # What the OpenAPI names besides
    ("alice", "DELETE", "/profile/@alice:a.test/%20", None, 400, "M_INVALID_PARAM"),
    ("bob", "DELETE", "/profile/@alice:a.test/displayname", None, 403, "M_FORBIDDEN"),
    ("alice", "PUT", "/profile/@alice:a.test/x.y", [], 400, "M_BAD_JSON"),
    ("alice", "PUT", "/profile/@alice:a.test/x.y", {}, 400, "M_MISSING_PARAM"),
    ("alice", "PUT", "/profile/@alice:a.test/%20", {" ": 1}, 400, "M_INVALID_PARAM"),
    ("alice", "PUT", f"/profile/@alice:a.test/{'x' * 256}", {"x" * 256: 1}, 400, "M_KEY_TOO_LARGE"),
    ("alice", "PUT", "/profile/@alice:a.test/x.y", {"x.y": "x" * 66_000}, 400, "M_PROFILE_TOO_LARGE"),
    ("alice", "DELETE", "/pushrules/global/content/none", None, 404, "M_NOT_FOUND"),
    *(("alice", method, f"/pushrules/global/content/none/{part}", body, 404, "M_NOT_FOUND")
      for part, value in (("actions", []), ("enabled", True)) for method, body in (("GET", None), ("PUT", {part: value}))),
    ("alice", "PUT", "/pushrules/global/content/x?after=none", {"pattern": "x", "actions": []}, 400, "M_UNKNOWN"),
    *(("alice", method, f"/room_keys/keys{path}?version=1", None, 404, "M_NOT_FOUND")
      for method in ("GET", "DELETE") for path in ("", "/!r:a.test", "/!r:a.test/s")),
    ("alice", "PUT", "/room_keys/keys?version=1", {"rooms": {}}, 404, "M_NOT_FOUND"),
    ("alice", "PUT", "/room_keys/keys/!r:a.test?version=1", {"sessions": {}}, 404, "M_NOT_FOUND"),
    ("alice", "GET", "/room_keys/version/1", None, 404, "M_NOT_FOUND"),
    ("alice", "DELETE", "/room_keys/version/1", None, 404, "M_NOT_FOUND"),
    ("alice", "PUT", "/room_keys/version/1", BACKUP, 404, "M_NOT_FOUND"),
    ("carol", "PUT", "/room_keys/keys?version=1", {"rooms": {}}, 403, "M_WRONG_ROOM_KEYS_VERSION"),
    ("carol", "PUT", "/room_keys/keys/!r:a.test?version=1", {"sessions": {}}, 403, "M_WRONG_ROOM_KEYS_VERSION"),
    ("carol", "PUT", "/room_keys/keys/!r:a.test/s?version=1", SESSION, 403, "M_WRONG_ROOM_KEYS_VERSION"),
    ("carol", "PUT", "/room_keys/version/2", {"algorithm": "m.other", "auth_data": {}}, 400, "M_INVALID_PARAM"),
    *(("alice", "GET", f"{media}/{kind}/a.test/{{announced}}{rest}", None, 504, "M_NOT_YET_UPLOADED")
      for media in ("/_matrix/client/v1/media", "/_matrix/media/v3")
      for kind, rest in (("download", "?timeout_ms=1"), ("download", "/a.png?timeout_ms=1"),
                         ("thumbnail", "?width=32&height=32&timeout_ms=1"))),
    *(("alice", "GET", f"{media}/thumbnail/a.test/none?width=x&height=32", None, 400, "M_INVALID_PARAM")
      for media in ("/_matrix/client/v1/media", "/_matrix/media/v3")),
    *(("alice", "GET", f"/_matrix/media/v3/{kind}/a.test/none{rest}", None, 404, "M_NOT_FOUND")
      for kind, rest in (("download", ""), ("download", "/a.png"), ("thumbnail", "?width=32&height=32"))),
    ("bob", "PUT", "/_matrix/media/v3/upload/a.test/{announced}", b"x", 403, "M_FORBIDDEN"),
    ("alice", "PUT", "/_matrix/media/v3/upload/a.test/none", b"x", 404, "M_NOT_FOUND"),
    ("alice", "PUT", "/_matrix/media/v3/upload/a.test/{uploaded}", b"x", 409, "M_CANNOT_OVERWRITE_MEDIA"),
    ("alice", "PUT", "/_matrix/media/v3/upload/a.test/{announced}", b"x" * 2001, 413, "M_TOO_LARGE"),
    ("", "GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token=x", None, 403, "M_FORBIDDEN"),
    ("bob", "GET", f"/_matrix/client/v1/room_summary/{UNKNOWN_ROOM}", None, 404, "M_NOT_FOUND"),
    ("bob", "GET", "/_matrix/client/v1/rooms/{private}/hierarchy", None, 403, "M_FORBIDDEN"),
    ("alice", "GET", "/_matrix/client/v1/rooms/{room}/hierarchy?from=nonsense", None, 400, "M_INVALID_PARAM"),
    ("alice", "GET", "/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts=9999999999999&dir=f", None, 404, "M_NOT_FOUND"),
    ("alice", "GET", f"/directory/list/room/{UNKNOWN_ROOM}", None, 404, "M_NOT_FOUND"),
    ("alice", "PUT", f"/directory/list/room/{UNKNOWN_ROOM}", {"visibility": "public"}, 404, "M_NOT_FOUND"),
    ("alice", "PUT", "/directory/room/nonsense", {"room_id": "{room}"}, 400, "M_INVALID_PARAM"),
    ("carol", "GET", "/presence/@alice:a.test/status", None, 403, "M_FORBIDDEN"),
    ("alice", "GET", "/rooms/nonsense/aliases", None, 400, "M_INVALID_PARAM"),
    ("bob", "GET", "/rooms/{private}/aliases", None, 403, "M_FORBIDDEN"),
    *(("alice", "GET", f"/thirdparty/{path}", None, 404, "M_NOT_FOUND")
      for path in ("location", "location/irc", "protocol/irc", "user", "user/irc")),
    ("alice", "GET", "/user/@alice:a.test/rooms/nonsense/account_data/x.y", None, 400, "M_INVALID_PARAM"),
    ("bob", "GET", "/user/@alice:a.test/rooms/{room}/account_data/x.y", None, 403, "M_FORBIDDEN"),
    ("alice", "GET", "/user/@alice:a.test/rooms/{room}/account_data/x.y", None, 404, "M_NOT_FOUND"),
    ("alice", "PUT", "/user/@alice:a.test/rooms/nonsense/account_data/x.y", {}, 400, "M_INVALID_PARAM"),
    ("bob", "PUT", "/user/@alice:a.test/rooms/{room}/account_data/x.y", {}, 403, "M_FORBIDDEN"),
    *(("alice", "PUT", f"/user/@alice:a.test/{path}account_data/x.y", body, 400, code)
      for path in ("", "rooms/{room}/") for body, code in (([], "M_BAD_JSON"), (b"{", "M_NOT_JSON"))),
    ("bob", "PUT", "/user/@alice:a.test/account_data/x.y", {}, 403, "M_FORBIDDEN"),
    *(("alice", "POST", f"/{path}/requestToken", {"client_secret": "x", "send_attempt": 1}, 403, "M_THREEPID_DENIED")
      for path in ("account/3pid/email", "account/3pid/msisdn", "account/password/email", "account/password/msisdn", "register/email",
                   "register/msisdn")),
    *(("alice", "POST", "/createRoom", body, 400, code)
      for body, code in (([], "M_BAD_JSON"), (b"{", "M_NOT_JSON"), (IMPOSSIBLE, "M_INVALID_ROOM_STATE"))),
    *(("alice", "POST", "/rooms/{room}/invite", body, 400, code) for body, code in (([], "M_BAD_JSON"), (b"{", "M_NOT_JSON"))),
    ("bob", "POST", "/join/{private}", {}, 403, "M_FORBIDDEN"),
    ("bob", "POST", "/knock/{private}", {}, 403, "M_FORBIDDEN"),
    ("bob", "POST", f"/knock/{UNKNOWN_ALIAS}", {}, 404, "M_NOT_FOUND"),
    ("bob", "POST", "/rooms/{room}/unban", {"user_id": "@alice:a.test"}, 403, "M_FORBIDDEN"),
    ("", "POST", "/login", {**LOGIN, "identifier": {"type": "m.id.user", "user": "gone"}, "password": "correct horse battery"}, 403,
     "M_USER_DEACTIVATED"),
    ("alice", "POST", "/pushers/set", {"kind": "http"}, 400, "M_MISSING_PARAM"),
    ("alice", "PUT", "/rooms/{room}/state/m.room.canonical_alias/", {"alias": "#none:a.test"}, 400, "M_BAD_ALIAS"),
    ("alice", "PUT", "/rooms/{room}/state/m.room.canonical_alias/", {"alias": "nonsense"}, 400, "M_INVALID_PARAM"),
]  # fmt: skip


async def test_each_refusal_has_its_status_and_errcode(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", OPEN)
        alice, bob, carol, gone = [await box.person(name) for name in ("alice", "bob", "carol", "gone")]
        await box.box.users.accounts.deactivate(gone.user_id)
        for _ in range(2):
            await carol.ok("POST", "/room_keys/version", BACKUP)
        files = AsgiClient(box.box.app, token=alice.token)
        announced = (await files.post("/_matrix/media/v1/create")).json["content_uri"].rpartition("/")[2]
        uploaded = (await files.request("POST", "/_matrix/media/v3/upload", body=b"x")).json["content_uri"].rpartition("/")[2]
        room, private = await alice.create_room(preset="public_chat", room_alias_name="taken"), await alice.create_room()
        event = await alice.say(room, "ahoy")
        tokens = {"": None, "nobody": "nonsense", "alice": alice.token, "bob": bob.token, "carol": carol.token}
        names = {"{room}": room, "{private}": private, "{event}": event, "{announced}": announced, "{uploaded}": uploaded}
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


_OF_THE_CAUSE = "tested with what brings it about, where there is such a thing"
_MEDIA = ("/_matrix/client/v1/media", "/_matrix/media/v3")
NOT_MET: dict[tuple[str, int, str], str] = {
    ("GET /_matrix/client/v1/mutual_rooms", 400, "M_INVALID_PARAM"): "tests/api/test_mutual_rooms.py::test_what_cannot_be_asked_is_refused",
    (f"POST {V3}/rooms/{{roomId}}/report/{{eventId}}", 404, "M_NOT_FOUND"):
        "tests/api/test_reports.py::test_an_event_is_reported_by_who_is_in_its_room",
    (f"POST {V3}/rooms/{{roomId}}/report", 404, "M_NOT_FOUND"): "tests/api/test_reports.py::test_a_room_is_reported_by_who_can_know_of_it",
    (f"POST {V3}/users/{{userId}}/report", 404, "M_NOT_FOUND"): "whether a user exists is not told by a report",
    (f"DELETE {V3}/profile/{{userId}}/{{keyName}}", 400, "M_BAD_JSON"): "the request has no body",
    (f"PUT {V3}/pushrules/global/{{kind}}/{{ruleId}}", 404, "M_NOT_FOUND"): "a rule that is not there is created",
    (f"GET {V3}/login", 404, "M_UNRECOGNIZED"): "this box has log-ins of its own",
    (f"GET {V3}/profile/{{userId}}", 403, "M_FORBIDDEN"): "profiles are open, as rooms show them",
    (f"GET {V3}/profile/{{userId}}/{{keyName}}", 403, "M_FORBIDDEN"): "profiles are open, as rooms show them",
    (f"GET {V3}/account/whoami", 403, "M_FORBIDDEN"):
        "tests/api/test_account_sections.py::test_an_application_service_registers_and_acts_for_its_users",
    (f"POST {V3}/register", 400, "M_EXCLUSIVE"): "tests/api/test_account_sections.py::test_registrations_that_cannot_be",
    (f"GET {V3}/register/available", 400, "M_EXCLUSIVE"): _OF_THE_CAUSE,
    (f"POST {V3}/register", 403, "M_FORBIDDEN"):
        "tests/api/test_account_sections.py::test_guests_are_refused_and_closed_doors_say_so",
    (f"POST {V3}/register", 400, "M_APPSERVICE_LOGIN_UNSUPPORTED"): "this box has log-ins of its own",
    (f"POST {V3}/login", 400, "M_APPSERVICE_LOGIN_UNSUPPORTED"): "this box has log-ins of its own",
    **{(f"POST {V3}/keys/device_signing/upload", status, code):
       "tests/api/test_keys.py::test_keys_that_do_not_hold_together_are_refused"
       for status, code in ((400, "M_INVALID_SIGNATURE"), (400, "M_MISSING_PARAM"), (403, "M_FORBIDDEN"))},
    **{(f"GET {root}/{what}", 502, "M_TOO_LARGE"):
       "tests/media/test_repository.py::test_what_another_server_does_not_give_is_an_error"
       for root in _MEDIA for what in ("download/{serverName}/{mediaId}", "download/{serverName}/{mediaId}/{fileName}",
                                       "thumbnail/{serverName}/{mediaId}")},
    **{(f"GET {root}/thumbnail/{{serverName}}/{{mediaId}}", 413, "M_TOO_LARGE"):
       "tests/media/test_thumbnails.py::test_a_pixel_bomb_is_refused_before_it_is_unpacked" for root in _MEDIA},
    **{(f"POST /_matrix/media/{path}", 403, "M_FORBIDDEN"): "tests/media/test_repository.py::test_a_user_has_a_quota_and_others_have_theirs"
       for path in ("v1/create", "v3/upload")},
    (f"POST {V3}/rooms/{{roomId}}/invite", 400, "M_UNSUPPORTED_ROOM_VERSION"): "a room of another version is not on this box",
    (f"PUT {V3}/rooms/{{roomId}}/send/{{eventType}}/{{txnId}}", 400, "M_DUPLICATE_ANNOTATION"): _OF_THE_CAUSE,
    **{(f"GET {V1}/rooms/{{roomId}}/relations/{{eventId}}{rest}", 404, "M_NOT_FOUND"):
       "tests/api/test_relations.py::test_relations_are_refused_to_who_may_not_see_the_parent"
       for rest in ("", "/{relType}", "/{relType}/{eventType}")},
    (f"GET {V1}/rooms/{{roomId}}/threads", 403, "M_FORBIDDEN"):
        "tests/api/test_relations.py::test_threads_are_refused_to_who_is_not_in_the_room",
    (f"GET {V1}/rooms/{{roomId}}/threads", 400, "M_INVALID_PARAM"): "tests/api/test_relations.py::test_tokens_of_others_are_refused",
    **{(f"{method} {V1}/admin/{what}/{{userId}}", status, code):
       "tests/flows/test_moderated_accounts.py::test_only_an_administrator_locks_and_suspends_and_nobody_their_like"
       for method in ("GET", "PUT") for what in ("lock", "suspend")
       for status, code in ((400, "M_INVALID_PARAM"), (403, "M_FORBIDDEN"), (404, "M_NOT_FOUND"))},
    **{(operation, 403, "M_INVITE_BLOCKED"): _OF_THE_CAUSE for operation in (
        f"POST {V3}/createRoom", f"POST {V3}/rooms/{{roomId}}/invite",
        f"PUT {V3}/rooms/{{roomId}}/state/{{eventType}}/{{stateKey}}")},
}  # fmt: skip
"""Errors that the OpenAPI names and that no test of this file meets: why, or the test that meets it."""


async def test_every_error_that_the_specification_names_is_met_here_or_elsewhere(whole_file, tmp_path, autojump_clock, conformance):
    async with World(tmp_path) as world:
        box = await world.box("a", OPEN)
        served = openapi.served(box.box.app._app.routes)
    assert conformance.refused, "no refusal of this file was observed"
    named = {
        (name, int(status), code)
        for name in served
        for status, response in openapi.OPERATIONS[name]["responses"].items()
        for code in response.get("x-errcodes", ())
        if int(status) >= 400 and int(status) != 429 and code != "M_UNKNOWN"  # rates: test_limits.py
    }
    unmet = {one for one in named - conformance.refused - NOT_MET.keys() if "THREEPID" not in one[2] and "requestToken" not in one[0]}
    assert not unmet, f"add them to REFUSALS, or to NOT_MET the test that meets them: {sorted(unmet)}"
    for (operation, _, _), where in NOT_MET.items():
        file, _, name = where.partition("::")
        if name and operation in served:
            assert f"def {name}(" in (Path(__file__).parents[2] / file).read_text(), where
