"""Accounts and devices, as administrators list and change them."""

from __future__ import annotations

from typing import Any

from tests.api.admin.office import Office

ALICE, ROOT = "@alice:a.test", "@root:a.test"


async def _names(office: Office, version: str = "v2", **query: str) -> list[str]:
    return [one["name"].partition(":")[0] for one in (await office.ok("GET", version, "users", **query))["users"]]


async def test_accounts_are_listed_with_filters_and_in_pages(office: Office, autojump_clock: object) -> None:
    await office.alice.ok("PUT", f"/profile/{ALICE}/displayname", {"displayname": "Wonder Land"})
    await office.ok("PUT", "v2", "users", "@gone:a.test", json={"password": "correct horse", "deactivated": True}, status=201)
    assert await _names(office, guests="false") == ["@alice", "@bob", "@root"]
    assert len(await _names(office)) == 4
    assert await _names(office, guests="false", deactivated="true") == ["@alice", "@bob", "@gone", "@root"]
    assert await _names(office, "v3", guests="false") == ["@alice", "@bob", "@gone", "@root"]
    assert await _names(office, "v3", deactivated="true") == ["@gone"]
    assert await _names(office, admins="true") == ["@root"]
    assert await _names(office, name="WONDER") == ["@alice"]
    assert await _names(office, name="a.test") == []
    assert await _names(office, user_id="OB:a") == ["@bob"]
    assert await _names(office, guests="false", order_by="admin", dir="b", limit="1") == ["@root"]
    first = await office.ok("GET", "v2", "users", guests="false", limit="2")
    assert (first["total"], first["next_token"]) == (3, "2")
    last = await office.ok("GET", "v2", "users", guests="false", limit="2", **{"from": first["next_token"]})
    assert ([one["name"] for one in last["users"]], "next_token" in last) == ([ROOT], False)


async def test_an_account_is_told_as_synapse_tells_it(office: Office, autojump_clock: object) -> None:
    whole = await office.ok("GET", "v2", "users", ALICE)
    created = whole.pop("creation_ts")
    assert 0 < created < 10**11  # in seconds
    assert whole == {
        "name": ALICE, "is_guest": False, "admin": False, "user_type": None, "deactivated": False, "erased": False,
        "shadow_banned": False, "displayname": None, "avatar_url": None, "last_seen_ts": whole["last_seen_ts"],
        "appservice_id": None, "consent_server_notice_sent": None, "consent_version": None, "consent_ts": None,
        "external_ids": [], "threepids": [], "locked": False, "suspended": False,
    }  # fmt: skip
    assert await office.refused("GET", "v2", "users", "@nobody:a.test") == (404, "M_NOT_FOUND")
    assert await office.refused("GET", "v2", "users", "@alice:b.test") == (400, "M_UNKNOWN")
    assert await office.refused("GET", "v2", "users", "alice") == (400, "M_INVALID_PARAM")


async def test_an_account_is_made_and_changed(office: Office, autojump_clock: object) -> None:
    path = ("v2", "users", "@carol:a.test")
    wish: dict[str, Any] = {"password": "correct horse", "displayname": "Carol", "avatar_url": "mxc://a.test/x", "admin": True}
    made = await office.ok("PUT", *path, json={**wish, "user_type": None, "threepids": []}, status=201)
    assert (made["name"], made["displayname"], made["avatar_url"], made["admin"]) == ("@carol:a.test", "Carol", "mxc://a.test/x", True)
    changed = await office.ok("PUT", *path, json={"displayname": "", "avatar_url": "", "admin": False})
    assert (changed["displayname"], changed["avatar_url"], changed["admin"]) == (None, None, False)
    assert await office.box.box.users.accounts.check_password("@carol:a.test", "correct horse")
    ended = await office.ok("PUT", *path, json={"deactivated": True})
    assert ended["deactivated"] is True
    assert await office.ok("PUT", *path, json={"deactivated": True, "admin": False, "displayname": ""}) == ended
    for more in ({"deactivated": False}, {"password": "correct horse"}, {"displayname": "Carol"}, {"admin": True}, {"locked": True}):
        assert await office.refused("PUT", *path, json={"deactivated": True, **more}) == (400, "M_UNKNOWN"), more


async def test_a_new_password_ends_sessions_unless_they_are_to_stay(office: Office, autojump_clock: object) -> None:
    await office.ok("PUT", "v2", "users", ALICE, json={"password": "another horse", "logout_devices": False})
    await office.alice.ok("GET", "/account/whoami")
    await office.ok("POST", "v1", "reset_password", ALICE, json={"new_password": "third horse"})
    assert (await office.alice.request("GET", "/account/whoami")).status == 401
    assert await office.box.box.users.accounts.check_password(ALICE, "third horse")
    assert await office.refused("POST", "v1", "reset_password", ALICE) == (400, "M_MISSING_PARAM")
    assert await office.refused("POST", "v1", "reset_password", ALICE, json={"new_password": "x"}) == (400, "M_WEAK_PASSWORD")


async def test_what_no_account_can_be_is_refused_before_anything_is_changed(office: Office, autojump_clock: object) -> None:
    wrong: list[tuple[dict[str, Any], tuple[int, str]]] = [
        ({"password": "short"}, (400, "M_WEAK_PASSWORD")),
        ({"admin": "yes"}, (400, "M_BAD_JSON")),
        ({"displayname": 3}, (400, "M_BAD_JSON")),
        ({"displayname": "x" * 1000}, (400, "M_INVALID_PARAM")),
        ({"avatar_url": "https://a.test/x"}, (400, "M_INVALID_PARAM")),
        ({"threepids": [{"medium": "email", "address": "a@b.test"}]}, (403, "M_THREEPID_DENIED")),
        ({"user_type": "bot"}, (400, "M_INVALID_PARAM")),
    ]
    for body, error in wrong:
        assert await office.refused("PUT", "v2", "users", "@dave:a.test", json={"admin": True, **body}) == error
    assert await office.refused("GET", "v2", "users", "@dave:a.test") == (404, "M_NOT_FOUND")


async def test_administrators_are_made_and_do_not_unmake_themselves(office: Office, autojump_clock: object) -> None:
    path = ("v1", "users", ALICE, "admin")
    assert await office.ok("GET", *path) == {"admin": False}
    await office.ok("PUT", *path, json={"admin": True})
    assert await office.ok("GET", *path) == {"admin": True}
    assert await office.refused("PUT", "v1", "users", ROOT, "admin", json={"admin": False}) == (400, "M_UNKNOWN")
    assert await office.refused("PUT", "v2", "users", ROOT, json={"admin": False}) == (400, "M_UNKNOWN")
    assert await office.refused("PUT", *path) == (400, "M_MISSING_PARAM")
    guests = await office.ok("GET", "v2", "users")
    guest = next(one["name"] for one in guests["users"] if one["is_guest"])
    assert await office.refused("PUT", "v1", "users", guest, "admin", json={"admin": True}) == (400, "M_UNKNOWN")
    assert await office.refused("PUT", "v2", "users", guest, json={"admin": True}) == (400, "M_UNKNOWN")
    assert await office.ok("GET", "v1", "users", guest, "admin") == {"admin": False}


async def test_an_account_is_ended(office: Office, autojump_clock: object) -> None:
    assert await office.ok("POST", "v1", "deactivate", ALICE) == {"id_server_unbind_result": "success"}
    assert (await office.alice.request("GET", "/account/whoami")).status == 401
    assert (await office.ok("GET", "v2", "users", ALICE))["deactivated"] is True
    assert await office.refused("POST", "v1", "deactivate", "@nobody:a.test") == (404, "M_NOT_FOUND")


async def test_an_administrator_acts_as_somebody_and_that_can_be_seen(office: Office, autojump_clock: object) -> None:
    token = (await office.ok("POST", "v1", "users", ALICE, "login"))["access_token"]
    office.alice.token, own = token, office.alice.token
    assert (await office.alice.ok("GET", "/account/whoami"))["user_id"] == ALICE
    office.alice.token = own
    names = [one["display_name"] for one in (await office.alice.ok("GET", "/devices"))["devices"]]
    assert "Session of an administrator" in names
    assert await office.refused("POST", "v1", "users", ROOT, "login") == (400, "M_UNKNOWN")
    assert await office.refused("POST", "v1", "users", ALICE, "login", json={"valid_until_ms": 1}) == (400, "M_INVALID_PARAM")


async def test_devices_are_shown_renamed_and_deleted(office: Office, autojump_clock: object) -> None:
    listed = await office.ok("GET", "v2", "users", ALICE, "devices")
    assert listed["total"] == 1
    device = listed["devices"][0]["device_id"]
    path = ("v2", "users", ALICE, "devices", device)
    await office.ok("PUT", *path, json={"display_name": "Renamed"})
    shown = await office.ok("GET", *path)
    assert (shown["display_name"], shown["user_id"]) == ("Renamed", ALICE)
    assert set(shown) == {"device_id", "display_name", "last_seen_ip", "last_seen_user_agent", "last_seen_ts", "user_id"}
    await office.alice.ok("GET", "/account/whoami")
    seen = await office.ok("GET", "v1", "whois", ALICE)
    assert seen["devices"][""]["sessions"][0]["connections"][0]["ip"] == "192.0.2.1"
    await office.ok("DELETE", *path)
    assert await office.refused("GET", *path) == (404, "M_NOT_FOUND")
    assert (await office.alice.request("GET", "/account/whoami")).status == 401
    bobs = [one["device_id"] for one in (await office.ok("GET", "v2", "users", "@bob:a.test", "devices"))["devices"]]
    await office.ok("POST", "v2", "users", "@bob:a.test", "delete_devices", json={"devices": bobs})
    assert (await office.ok("GET", "v2", "users", "@bob:a.test", "devices"))["total"] == 0
    many = {"devices": ["X"] * 1001}
    assert await office.refused("POST", "v2", "users", ALICE, "delete_devices", json=many) == (400, "M_BAD_JSON")


async def test_a_device_that_nobody_holds_is_shown_as_such(office: Office, autojump_clock: object) -> None:
    body = {
        "device_id": "ASLEEP",
        "device_data": {"algorithm": "x"},
        "device_keys": {"user_id": ALICE, "device_id": "ASLEEP", "algorithms": [], "keys": {"ed25519:ASLEEP": "A" * 43}, "signatures": {}},
    }
    await office.box.box.users.dehydrated.put(ALICE, body)
    listed = (await office.ok("GET", "v2", "users", ALICE, "devices"))["devices"]
    assert [one["device_id"] for one in listed if one["dehydrated"]] == ["ASLEEP"]
    assert len(listed) == 2


async def test_rooms_account_data_and_pushers_of_somebody_are_shown(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room()
    await office.alice.invite(room_id, "@bob:a.test")
    await office.alice.ok("PUT", f"/user/{ALICE}/account_data/x.y", {"a": 1})
    await office.alice.ok("PUT", f"/user/{ALICE}/rooms/{room_id}/account_data/x.z", {"b": 2})
    assert await office.ok("GET", "v1", "users", ALICE, "joined_rooms") == {"joined_rooms": [room_id], "total": 1}
    assert await office.ok("GET", "v1", "users", "@bob:a.test", "memberships") == {"memberships": {room_id: "invite"}}
    data = (await office.ok("GET", "v1", "users", ALICE, "accountdata"))["account_data"]
    assert data["global"]["x.y"] == {"a": 1}
    assert data["rooms"] == {room_id: {"x.z": {"b": 2}}}
    pusher = {
        "app_id": "app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Phone", "lang": "en", "kind": "http",
        "data": {"url": "https://push.test/_matrix/push/v1/notify"},
    }  # fmt: skip
    await office.alice.ok("POST", "/pushers/set", pusher)
    told = await office.ok("GET", "v1", "users", ALICE, "pushers")
    assert (told["total"], told["pushers"][0]["pushkey"]) == (1, "key")
    for part in ("joined_rooms", "accountdata", "pushers", "memberships"):
        assert await office.refused("GET", "v1", "users", "@nobody:a.test", part) == (404, "M_NOT_FOUND")


async def test_an_account_is_locked_suspended_and_erased(office: Office, autojump_clock: object) -> None:
    await office.ok("PUT", "v2", "users", ALICE, json={"locked": True})
    refused = await office.alice.request("GET", "/joined_rooms")
    assert (refused.status, refused.json["errcode"]) == (401, "M_USER_LOCKED")
    answer = await office.call("POST", "v1", "users", ALICE, "login")
    assert (answer.status, answer.json["errcode"], "soft_logout" in answer.json) == (400, "M_UNKNOWN", False)
    assert await office.refused("PUT", "v2", "users", ROOT, json={"locked": True}) == (400, "M_UNKNOWN")
    assert "@alice" not in await _names(office)
    assert "@alice" in await _names(office, locked="true")
    assert (await office.ok("PUT", "v2", "users", ALICE, json={"locked": False}))["locked"] is False
    assert await office.ok("PUT", "v1", "suspend", ALICE, json={"suspend": True}) == {f"user_{ALICE}_suspended": True}
    refused = await office.alice.request("POST", "/createRoom")
    assert (refused.status, refused.json["errcode"]) == (403, "M_USER_SUSPENDED")
    assert (await office.ok("GET", "v2", "users", ALICE))["suspended"] is True
    assert await office.ok("PUT", "v1", "suspend", ALICE, json={"suspend": False}) == {f"user_{ALICE}_suspended": False}
    assert await office.refused("PUT", "v1", "suspend", ALICE) == (400, "M_MISSING_PARAM")
    assert await office.refused("PUT", "v1", "suspend", ROOT, json={"suspend": True}) == (400, "M_UNKNOWN")
    await office.ok("POST", "v1", "deactivate", ALICE, json={"erase": True})
    ended = await office.ok("GET", "v2", "users", ALICE)
    assert (ended["deactivated"], ended["erased"]) == (True, True)
