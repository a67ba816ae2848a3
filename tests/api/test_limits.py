"""Every bound that a client can meet, by its error: rates (from the routes), sizes of bodies (from the routes), and a table of
all others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from edgeserver.api import user_interactive
from edgeserver.api.client import devices as device_section
from edgeserver.api.client import user_directory
from edgeserver.api.ratelimit import RATES
from edgeserver.rooms import create
from edgeserver.users import account_data, accounts, cross_signing, device_keys, filters, key_backup, passwords, presence, profiles
from edgeserver.users import devices as users_devices
from edgeserver.users import pushers as users_pushers
from edgeserver.users import to_device as users_to_device
from tests.api import openapi
from tests.asgi import AsgiClient
from tests.flows.world import BoxInWorld, World

V3 = "/_matrix/client/v3"
CLIENT_ROOTS = ("/_matrix/client/", "/_matrix/media/")
LIMITED = '[accounts]\nregistration = "open"\nregistration_shared_secret = "s"\n'
FREE = '[accounts]\nregistration = "open"\n[limits]\nrate_limits = false\nupload_bytes = 2000\nmedia_quota_bytes = 5000\n'
pytestmark = pytest.mark.provokes(*openapi.OPERATIONS)

CHEAP = {
    "GET /_matrix/client/v3/login": "a constant",
    "GET /_matrix/client/v3/capabilities": "a constant",
    "GET /_matrix/client/v3/account/whoami": "from memory",
    "GET /_matrix/client/v1/media/config": "a constant",
    "GET /_matrix/media/v3/config": "a constant",
    "GET /_matrix/client/v3/rooms/{roomId}/aliases": "one short read",
    **{f"GET /_matrix/client/v3/room_keys/{what}": "a device that is restored reads key by key" for what in (
        "version", "version/{version}", "keys", "keys/{roomId}", "keys/{roomId}/{sessionId}")},
    **{f"GET {root}/{what}": "a screen of pictures is asked for at once, and a file is read as slowly as it is sent" for root in (
        "/_matrix/client/v1/media", "/_matrix/media/v3") for what in (
        "download/{serverName}/{mediaId}", "download/{serverName}/{mediaId}/{fileName}", "thumbnail/{serverName}/{mediaId}")},
    **{f"POST /_matrix/client/v3/account/3pid/{what}": "refused at once" for what in ("add", "bind")},
}  # fmt: skip
"""Operations that the specification would limit and this box does not, with the reason."""
UNLIMITED_WRITES = re.compile(r".*/(logout|logout/all|3pid.*|requestToken)")
"""What only takes away from oneself, or does nothing."""


def routes_of(box: BoxInWorld) -> list[Any]:
    return [route for route in box.box.app._app.routes if route.path.startswith(CLIENT_ROOTS) and "/r0/" not in route.path]


def filled(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: {"userId": quote("@alice:a.test"), "keyName": "x.y"}.get(found[1], "x"), path)


async def test_what_costs_something_has_a_rate(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", LIMITED)
        without = []
        for route in routes_of(box):
            method, operation = route.methods[0], openapi.operation_of(route.methods[0], route.path)
            told = operation is not None and "429" in openapi.OPERATIONS[operation]["responses"] and operation not in CHEAP
            writes = method != "GET" and not UNLIMITED_WRITES.fullmatch(route.path)
            if (told or writes) and route.app._rate is None:
                without.append(f"{method} {route.path}")
            assert route.app._rate is None or route.app._rate in RATES, route.path
        assert without == []


async def test_each_rate_refuses_what_is_beyond_it_and_says_when_to_come_back(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", LIMITED)
        alice = await box.person("alice")
        limiter = box.box.app._app._gate.limiter
        for category, rate in RATES.items():
            for who in (alice.user_id, "192.0.2.1"):
                for _ in range(rate.burst):
                    limiter.check(category, who)
        refused = set()
        for route in routes_of(box):
            if route.app._rate is None:
                continue
            method = route.methods[0]
            client, body = AsgiClient(box.box.app, token=alice.token), {"json": {}} if method in ("PUT", "POST") else {}
            answer = await client.request(method, filled(route.path), headers={"host": "a.test"}, **body)
            said = answer.json
            assert (answer.status, said["errcode"]) == (429, "M_LIMIT_EXCEEDED"), (method, route.path, answer.status, said)
            per_second = RATES[route.app._rate].per_second
            assert 0 < said["retry_after_ms"] <= 1000 / per_second + 1
            assert int(answer.headers["retry-after"]) == -(-said["retry_after_ms"] // 1000)
            refused.add(route.app._rate)
        assert refused >= {
            "login", "registration", "message", "ephemeral", "join", "invite", "create_room", "account", "keys", "media", "search", "sync",
            "other",
        }  # fmt: skip


async def test_wrong_passwords_for_one_account_are_counted_wherever_they_come_from(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", LIMITED)
        await box.person("alice")
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "wrong"}
        answers = [
            await AsgiClient(box.box.app, address=f"192.0.2.{number}").post(f"{V3}/login", login)
            for number in range(RATES["login_account"].burst + 2)
        ]
        assert [answer.status for answer in answers[:-2]] == [403] * RATES["login_account"].burst
        assert {answer.json["errcode"] for answer in answers[-2:]} == {"M_LIMIT_EXCEEDED"}


async def test_no_body_is_read_beyond_what_its_endpoint_takes(tmp_path, autojump_clock):
    """Whether its length is announced or not."""
    async with World(tmp_path) as world:
        box = await world.box("a", FREE)
        alice = await box.person("alice")
        client = AsgiClient(box.box.app, token=alice.token)
        for route in routes_of(box):
            if route.methods[0] not in ("PUT", "POST") or route.path.endswith(("requestToken", "/logout", "/logout/all")):
                continue
            for announced in (True, False):
                headers = {"host": "a.test", **({"content-length": str(route.app._max_body + 1)} if announced else {})}
                body = b" " if announced else b'"' + b"x" * route.app._max_body + b'"'
                target = f"{filled(route.path)}?version=1"
                answer = await client.request(route.methods[0], target, body=body, headers=headers)
                if answer.status == 200:
                    operation = openapi.operation_of(route.methods[0], route.path)
                    assert operation is None or "requestBody" not in openapi.OPERATIONS[operation], route.path
                    continue
                told = (answer.status, answer.json["errcode"])
                unread = answer.status in (403, 404) or told == (400, "M_INVALID_PARAM")  # what the path names is not there
                assert unread or told == (413, "M_TOO_LARGE"), (route.path, told)


@dataclass(frozen=True)
class Bound:
    """A request that is taken with `at(limit)`, and refused with `status errcode` one beyond it."""

    what: str
    method: str
    path: str
    limit: int
    at: Callable[[int], Any]
    refusal: str
    query: dict[str, str] | None = None


def text(key: str, **more: Any) -> Callable[[int], Any]:
    return lambda size: {key: "x" * size, **more}


def device_name(size: int) -> dict[str, Any]:
    return {"display_name": "x" * size}


def one_time_keys(many: int) -> dict[str, Any]:
    return {"one_time_keys": {f"curve25519:{number}": "A" * 43 for number in range(many)}}


def recipients(many: int) -> dict[str, Any]:
    return {"messages": {"@alice:a.test": {f"D{number}": {} for number in range(many)}}}


def message_of(size: int) -> dict[str, Any]:
    """A content and whom it is for, of `size` bytes together."""
    return {"messages": {"@alice:a.test": {"*": {"a": "x" * (size - len('{"a":""}@alice:a.test*'))}}}}


def pusher(**changed: Any) -> dict[str, Any]:
    data = {"url": "https://push.test/_matrix/push/v1/notify"}
    names = {"app_display_name": "App", "device_display_name": "Telephone", "lang": "en"}
    return {"app_id": "app", "pushkey": "k", "kind": "http", "data": data, **names, **changed}


PUSHER_DATA = '{"a":"","url":"https://push.test/_matrix/push/v1/notify"}'


def password(size: int) -> dict[str, Any]:
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}
    return {"new_password": "x" * size, "auth": auth}


def profile_field(size: int) -> dict[str, Any]:
    """A whole profile of `size` bytes, in canonical JSON."""
    return {"x.y": "x" * (size - len('{"x.y":""}'))}


def session_data(size: int) -> dict[str, Any]:
    data = {"a": "x" * (size - len('{"a":""}'))}
    return {"first_message_index": 0, "forwarded_count": 0, "is_verified": True, "session_data": data}


def signed(many: int) -> dict[str, Any]:
    return {"@alice:a.test": {f"D{number}": {} for number in range(many)}}


def initial_state(many: int) -> dict[str, Any]:
    return {"initial_state": [{"type": f"x.{number}", "content": {}} for number in range(many)]}


USER = "/user/%40alice%3Aa.test"
LOGIN = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}
BOUNDS = [
    Bound("a password", "POST", "/account/password", passwords.MAX_LENGTH, password, "400 M_WEAK_PASSWORD"),
    Bound("a device's id", "POST", "/login", accounts.MAX_DEVICE_ID, text("device_id", **LOGIN), "400 M_INVALID_PARAM"),
    Bound("a device's name", "PUT", "/devices/{device}", users_devices.MAX_NAME, device_name, "400 M_INVALID_PARAM"),
    Bound("a device's first name", "POST", "/login", users_devices.MAX_NAME, text("initial_device_display_name", **LOGIN),
          "400 M_INVALID_PARAM"),
    Bound("devices deleted at once", "POST", "/delete_devices", device_section.MAX_AT_ONCE,
          lambda many: {"devices": [f"D{one}" for one in range(many)], "auth": LOGIN}, "400 M_BAD_JSON"),
    Bound("a display name", "PUT", "/profile/@alice:a.test/displayname", profiles.MAX_DISPLAYNAME, text("displayname"),
          "400 M_INVALID_PARAM"),
    Bound("an avatar's address", "PUT", "/profile/@alice:a.test/avatar_url", profiles.MAX_TEXT,
          lambda size: {"avatar_url": "mxc://a.test/" + "x" * (size - 13)}, "400 M_INVALID_PARAM"),
    Bound("a whole profile", "PUT", "/profile/@alice:a.test/x.y", profiles.MAX_PROFILE, profile_field, "400 M_PROFILE_TOO_LARGE"),
    Bound("a status message", "PUT", "/presence/@alice:a.test/status", presence.MAX_STATUS, text("status_msg", presence="online"),
          "400 M_INVALID_PARAM"),
    Bound("items of a filter", "POST", f"{USER}/filter", filters.MAX_ITEMS,
          lambda many: {"room": {"rooms": [f"!{one}:a.test" for one in range(many)]}}, "400 M_BAD_JSON"),
    Bound("a search for people", "POST", "/user_directory/search", user_directory.MAX_TERM, text("search_term"), "400 M_BAD_JSON"),
    Bound("an app's id", "POST", "/pushers/set", users_pushers.MAX_APP_ID, lambda size: pusher(app_id="x" * size), "400 M_INVALID_PARAM"),
    Bound("a push key", "POST", "/pushers/set", users_pushers.MAX_PUSHKEY, lambda size: pusher(pushkey="x" * size), "400 M_INVALID_PARAM"),
    Bound("an app's name", "POST", "/pushers/set", users_pushers.MAX_TEXT, lambda size: pusher(app_display_name="x" * size),
          "400 M_INVALID_PARAM"),
    Bound("data of a pusher", "POST", "/pushers/set", users_pushers.MAX_DATA,
          lambda size: pusher(data={"a": "x" * (size - len(PUSHER_DATA)), "url": "https://push.test/_matrix/push/v1/notify"}),
          "400 M_INVALID_PARAM"),
    Bound("one-time keys at once", "POST", "/keys/upload", device_keys.MAX_ONE_TIME_KEYS, one_time_keys, "400 M_BAD_JSON"),
    Bound("a key", "POST", "/keys/upload", device_keys.MAX_KEY_BYTES,
          lambda size: {"one_time_keys": {"curve25519:A": "x" * (size - len('{"curve25519:A":""}'))}}, "413 M_TOO_LARGE"),
    Bound("signatures at once", "POST", "/keys/signatures/upload", cross_signing.MAX_SIGNED, signed, "413 M_TOO_LARGE"),
    Bound("recipients of a message", "PUT", "/sendToDevice/m.x/{txn}", users_to_device.MAX_RECIPIENTS, recipients, "413 M_TOO_LARGE"),
    Bound("a message to devices", "PUT", "/sendToDevice/m.x/{txn}", users_to_device.MAX_MESSAGE, message_of, "413 M_TOO_LARGE"),
    Bound("the data of a backup", "POST", "/room_keys/version", key_backup.MAX_AUTH_DATA,
          lambda size: {"algorithm": "m.x", "auth_data": {"a": "x" * (size - len('{"a":""}'))}}, "413 M_TOO_LARGE"),
    Bound("a key in a backup", "PUT", "/room_keys/keys/!r:a.test/s", key_backup.MAX_SESSION_DATA, session_data, "413 M_TOO_LARGE",
          {"version": "1"}),
    Bound("the index of a key", "PUT", "/room_keys/keys/!r:a.test/s", key_backup.MAX_INDEX,
          lambda index: {**session_data(20), "first_message_index": index}, "400 M_BAD_JSON", {"version": "1"}),
    Bound("people invited at once", "POST", "/createRoom", create.MAX_INVITES,
          lambda many: {"invite": [f"@u{one}:a.test" for one in range(many)]}, "400 M_INVALID_PARAM"),
    Bound("state of a new room", "POST", "/createRoom", create.MAX_INITIAL_STATE, initial_state, "400 M_BAD_JSON"),
    Bound("an event's type", "PUT", "/rooms/{room}/send/{x}/{txn}", 255, lambda size: {"body": "x"}, "413 M_TOO_LARGE"),
    Bound("a state key", "PUT", "/rooms/{room}/state/x.y/{x}", 255, lambda size: {"body": "x"}, "413 M_TOO_LARGE"),
    Bound("a type of account data", "PUT", f"{USER}/account_data/{{x}}", account_data.MAX_TYPE, lambda size: {}, "400 M_INVALID_PARAM"),
    Bound("a tag", "PUT", f"{USER}/rooms/{{room}}/tags/{{x}}", account_data.MAX_TYPE, lambda size: {}, "400 M_INVALID_PARAM"),
    Bound("a profile field's name", "PUT", "/profile/@alice:a.test/x.{x}", profiles.MAX_FIELD_NAME - 2, lambda size: {"x." + "x" * size: 1},
          "400 M_KEY_TOO_LARGE"),
]  # fmt: skip
"""Path parts: {x} is a name of as many characters as the bound is tried with, {txn} a new transaction id."""


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.what)
async def test_what_is_at_the_bound_is_taken_and_what_is_beyond_is_refused(tmp_path, autojump_clock, bound):
    async with World(tmp_path) as world:
        box = await world.box("a", FREE)
        alice = await box.person("alice")
        room, device = await alice.create_room(), (await alice.ok("GET", "/account/whoami"))["device_id"]
        if "room_keys/keys" in bound.path:
            await alice.ok("POST", "/room_keys/version", {"algorithm": "m.x", "auth_data": {}})
        if "profile" in bound.path and "x.y" in bound.path:
            await alice.ok("DELETE", "/profile/@alice:a.test/displayname")

        async def ask(size: int) -> str:
            names = {"{room}": quote(room), "{device}": device, "{x}": "x" * min(size, 1000), "{txn}": f"t{size}"}
            path = re.sub(r"\{\w+\}", lambda found: names[found[0]], bound.path)
            answer = await alice.request(bound.method, path, bound.at(size), query=bound.query)
            return f"{answer.status} {answer.json.get('errcode', '')}"

        assert await ask(bound.limit + 1) == bound.refusal
        assert await ask(bound.limit) == "200 "


async def test_quotas_of_one_person(tmp_path, autojump_clock):
    """Files: each, all together, and those only announced; pushers; tags; one-time keys that wait."""
    async with World(tmp_path) as world:
        box = await world.box("a", FREE)
        alice = await box.person("alice")
        client = AsgiClient(box.box.app, token=alice.token)
        room = await alice.create_room()

        async def upload(size: int) -> str:
            answer = await client.request("POST", "/_matrix/media/v3/upload", body=bytes([size % 251]) * size)
            return f"{answer.status} {answer.json.get('errcode', '')}"

        assert await upload(2001) == "413 M_TOO_LARGE"
        assert [await upload(2000 - number) for number in range(2)] == ["200 "] * 2
        assert await upload(1998) in ("403 M_FORBIDDEN", "403 M_RESOURCE_LIMIT_EXCEEDED", "413 M_TOO_LARGE")
        made = 0
        while (answer := await client.post("/_matrix/media/v1/create")).status == 200:
            made += 1
            assert made < 100
        assert (answer.status, answer.json["errcode"], made > 5) == (429, "M_LIMIT_EXCEEDED", True)

        for number in range(users_pushers.MAX_PUSHERS):
            await alice.ok("POST", "/pushers/set", pusher(pushkey=f"k{number}"))
        answer = await alice.request("POST", "/pushers/set", pusher(pushkey="more"))
        assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")
        assert len((await alice.ok("GET", "/pushers"))["pushers"]) == users_pushers.MAX_PUSHERS

        tags = f"{USER}/rooms/{quote(room)}/tags"
        for number in range(account_data.MAX_TAGS):
            await alice.ok("PUT", f"{tags}/u.{number}", {})
        answer = await alice.request("PUT", f"{tags}/u.more", {})
        assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")
        assert len((await alice.ok("GET", tags))["tags"]) == account_data.MAX_TAGS

        await alice.ok("POST", "/keys/upload", one_time_keys(device_keys.MAX_ONE_TIME_KEYS))
        answer = await alice.request("POST", "/keys/upload", {"one_time_keys": {"curve25519:more": "A" * 43}})
        assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")


async def test_what_is_asked_for_in_pages_is_cut_to_the_bound_without_an_error(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", FREE)
        alice = await box.person("alice")
        room = quote(await alice.create_room())
        for path in (
            f"/rooms/{room}/messages?dir=b&limit=999999", "/publicRooms?limit=999999", "/notifications?limit=999999",
            f"/rooms/{room}/members",
        ):  # fmt: skip
            assert (await alice.request("GET", path)).status == 200
        for path in (f"/rooms/{room}/messages?dir=b&limit=-1", f"/rooms/{room}/messages?dir=b&limit=x", "/publicRooms?limit=x"):
            answer = await alice.request("GET", path)
            assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM"), path


async def test_a_body_kept_for_interactive_authentication_is_bounded(tmp_path, autojump_clock):
    """A larger one is not forgotten silently: it must be sent again with the proof."""
    async with World(tmp_path) as world:
        box = await world.box("a", FREE)
        alice = await box.person("alice")
        body = {"devices": ["D" * (user_interactive.MAX_KEPT_BODY + 1)]}
        asked = await alice.request("POST", "/delete_devices", body)
        auth = {**LOGIN, "session": asked.json["session"]}
        assert (await alice.request("POST", "/delete_devices", {"auth": auth})).json["errcode"] in ("M_BAD_JSON", "M_MISSING_PARAM")
        assert (await alice.request("POST", "/delete_devices", {**body, "auth": auth})).status == 200
