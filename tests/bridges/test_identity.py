"""Whom application services act for, and what is theirs alone."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from edgeserver.bridges.registration import RegistrationError
from tests.asgi import AsgiClient
from tests.bridges.story import bridged, portal
from tests.flows.world import Person, World
from tests.lab.bridge import Bridge


async def test_the_services_own_account_is_made_and_the_first_person_is_still_the_owner(tmp_path, autojump_clock):
    from edgeserver.app.box import _owner

    bridge = Bridge()
    async with World(tmp_path) as world:
        bridge.register_in(world, "a")
        a = bridge.box = await world.box("a", bridge.config)
        assert (await bridge.ok("GET", "/account/whoami"))["user_id"] == "@ircbot:a.test"
        owner = await _owner(a.box)
        assert owner is not None
        assert owner[0] == "@owner:a.test"


async def test_names_in_exclusive_namespaces_are_nobody_elses(tmp_path, autojump_clock):
    text = '[accounts]\nregistration = "open"\n'
    async with bridged(tmp_path, text) as (_, _, bridge, alice):
        for name, code in (("irc_eve", "M_EXCLUSIVE"), ("ircbot", "M_USER_IN_USE")):
            body = {"username": name, "password": "correct horse battery"}
            refused = await alice.request("POST", "/register", body)
            assert (refused.status, refused.json["errcode"]) == (400, code)
            available = await alice.request("GET", f"/register/available?username={name}")
            assert (available.status, available.json["errcode"]) == (400, code)
        room = await alice.create_room()
        refused = await alice.request("PUT", f"/directory/room/{quote('#irc_x:a.test')}", {"room_id": room})
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        refused = await alice.request("POST", "/createRoom", {"room_alias_name": "irc_x"})
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        ghost = await bridge.register("irc_eve")
        theirs = await bridge.ok("POST", "/createRoom", {"room_alias_name": "irc_x", "preset": "public_chat"}, as_user=ghost)
        await alice.join(theirs["room_id"])
        refused = await alice.request("DELETE", f"/directory/room/{quote('#irc_x:a.test')}")
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        refused = await bridge.call("PUT", f"/directory/room/{quote('#x:a.test')}", {"room_id": theirs["room_id"]}, as_user=ghost)
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        await bridge.ok("PUT", f"/directory/room/{quote('#irc_y:a.test')}", {"room_id": room})  # its namespace, whoever is in the room
        await bridge.ok("DELETE", f"/directory/room/{quote('#irc_x:a.test')}")
        taken = await bridge.call("POST", "/register", {"type": "m.login.application_service", "username": "irc_eve"})
        assert (taken.status, taken.json["errcode"]) == (400, "M_USER_IN_USE")
        outside = await bridge.call("POST", "/register", {"type": "m.login.application_service", "username": "eve"})
        assert (outside.status, outside.json["errcode"]) == (400, "M_EXCLUSIVE")


async def test_memberships_are_dated_and_named_by_the_state_endpoint(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        ghost = await bridge.register("irc_bob")
        room = await alice.create_room(preset="public_chat")
        path = f"/rooms/{quote(room)}/state/m.room.member/{quote(ghost)}"
        await bridge.ok("PUT", path, {"membership": "join", "displayname": "Bob here", "org.x": 1}, as_user=ghost, ts="1000")
        other = f"/rooms/{quote(room)}/state/m.room.member/{quote('@irc_eve:a.test')}"
        await bridge.ok("PUT", other, {"membership": "invite", "reason": "long ago"}, as_user=ghost, ts="2000")
        state = {event["state_key"]: event for event in await alice.ok("GET", f"/rooms/{quote(room)}/state")}
        joined, invited = state[ghost], state["@irc_eve:a.test"]
        assert (joined["origin_server_ts"], joined["content"]["displayname"], joined["content"]["org.x"]) == (1000, "Bob here", 1)
        assert (invited["origin_server_ts"], invited["content"]["reason"]) == (2000, "long ago")
        for ts in ("-1", "x", "9" * 17):
            refused = await bridge.call("PUT", path, {"membership": "join"}, as_user=ghost, ts=ts)
            assert (refused.status, refused.json["errcode"]) == (400, "M_INVALID_PARAM")


async def test_a_ghost_logs_in_syncs_and_logs_out(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, alice):
        room, ghost = await portal(bridge, alice)
        login = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": ghost}}
        session = await bridge.ok("POST", "/login", login)
        person = Person(a, ghost, session["access_token"])
        assert room in (await person.sync())["rooms"]["join"]
        await person.ok("POST", "/logout")
        assert (await person.request("GET", "/account/whoami")).status == 401
        assert room in (await bridge.ok("GET", "/sync", as_user=ghost))["rooms"]["join"]
        human = {**login, "identifier": {"type": "m.id.user", "user": "alice"}}
        refused = await bridge.call("POST", "/login", human)
        assert (refused.status, refused.json["errcode"]) == (400, "M_EXCLUSIVE")
        for path in ("/login", "/register"):
            refused = await alice.request("POST", path, {**login, "username": "irc_eve"})
            assert (refused.status, refused.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")
            nobody = await AsgiClient(a.box.app).post(f"/_matrix/client/v3{path}", login)
            assert (nobody.status, nobody.json["errcode"]) == (401, "M_MISSING_TOKEN")
        await bridge.ok("POST", "/account/deactivate", {}, as_user=ghost)
        for method, path in (("GET", "/account/whoami"), ("PUT", f"/rooms/{quote(room)}/send/m.room.message/register")):
            gone = await bridge.call(method, path, {"msgtype": "m.text", "body": "x"}, as_user=ghost)
            assert (gone.status, gone.json["errcode"]) == (403, "M_USER_DEACTIVATED")


OUTSIDE = ["@alice:a.test", "@irc_stranger:b.test", "@irc_unregistered:a.test", "nonsense", f"@irc_{'x' * 300}:a.test"]
OF_A_USER = [
    ("GET", "/account/whoami"), ("GET", "/sync"), ("GET", "/devices"), ("GET", "/joined_rooms"), ("POST", "/createRoom"),
    ("POST", "/account/deactivate"), ("PUT", "/devices/X"), ("POST", "/delete_devices"), ("GET", "/pushrules/"), ("POST", "/keys/upload"),
    ("POST", "/keys/query"), ("POST", "/keys/device_signing/upload"), ("PUT", "/sendToDevice/m.test/t"), ("POST", "/logout/all"),
    ("PUT", "/profile/@alice:a.test/displayname"), ("GET", "/user/@alice:a.test/account_data/m.x"), ("GET", "/room_keys/version"),
    ("PUT", "/sendToDevice/m.test/register"), ("PUT", "/devices/register"),
]  # fmt: skip


async def test_an_as_token_reaches_nobody_outside_its_namespaces(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        for method, path in OF_A_USER:
            for as_user in OUTSIDE:
                answer = await bridge.call(method, path, {"displayname": "x", "messages": {}}, as_user=as_user)
                assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN"), (method, path, as_user)
        assert (await alice.ok("GET", "/account/whoami"))["user_id"] == alice.user_id


async def test_a_ghost_may_no_more_than_any_user(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        ghost = await bridge.register("irc_bob")
        room = await alice.create_room()
        device = (await alice.ok("GET", "/account/whoami"))["device_id"]
        for method, path, body in (
            ("PUT", f"/rooms/{quote(room)}/send/m.room.message/1", {"msgtype": "m.text", "body": "x"}),
            ("GET", f"/rooms/{quote(room)}/messages", None), ("GET", f"/rooms/{quote(room)}/state", None),
            ("PUT", "/profile/@alice:a.test/displayname", {"displayname": "x"}), ("GET", "/user/@alice:a.test/account_data/m.x", None),
            ("GET", "/admin/whois/@alice:a.test", None), ("PUT", f"/rooms/{quote(room)}/typing/@alice:a.test", {"typing": True}),
            ("POST", f"/rooms/{quote(room)}/join", {}),
        ):  # fmt: skip
            for user in (ghost, None):
                answer = await bridge.call(method, path, body, as_user=user, dir="b")
                assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN"), (path, answer.body)
        assert (await bridge.call("GET", f"/devices/{device}", as_user=ghost)).status == 404
        forged = {"device_keys": {"user_id": "@alice:a.test", "device_id": device, "algorithms": [], "keys": {}, "signatures": {}}}
        await bridge.ok("PUT", f"/devices/{device}", {}, as_user=ghost)
        answer = await bridge.call("POST", "/keys/upload", forged, as_user=ghost, device_id=device)
        assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("limited", [True, False])
async def test_rate_limits_are_lifted_unless_the_registration_says_otherwise(tmp_path, autojump_clock, limited):
    async with bridged(tmp_path, rate_limited=limited) as (_, _, bridge, _alice):
        ghost = await bridge.register("irc_bob")
        answers = [(await bridge.call("POST", "/createRoom", as_user=ghost)).status for _ in range(12)]
        assert (429 in answers) is limited
        own = [(await bridge.call("POST", "/createRoom")).status for _ in range(12)]
        assert set(own) == {200}


async def test_a_bad_registration_keeps_the_box_from_starting(tmp_path):
    from edgeserver.app.box import Wires, open_box
    from edgeserver.config import parse

    (tmp_path / "bad.yaml").write_text("id: [")
    with pytest.raises(RegistrationError, match=r"bad\.yaml: it is not valid YAML"):
        async with open_box(parse('[bridges]\nregistrations = ["bad.yaml"]\n', tmp_path), Wires(inline=True)):
            pass
    with pytest.raises(RegistrationError, match=r"none\.yaml cannot be read"):
        async with open_box(parse('[bridges]\nregistrations = ["none.yaml"]\n', tmp_path), Wires(inline=True)):
            pass
