"""Profiles, account data, push rules, filters and the small sections, over the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgeserver.api.client import (
    account_data,
    capabilities,
    filters,
    openid,
    presence,
    profile,
    push_rules,
    pushers,
    third_party,
    user_directory,
    versions,
    voip,
    well_known,
)
from edgeserver.matrix.room_versions import DEFAULT, ROOM_VERSIONS
from tests.asgi import AsgiClient, section_application
from tests.users.places import Clock, open_place

V3 = "/_matrix/client/v3"
ME = f"{V3}/user/@alice:test"
ROOM = "%21room:test"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsgiClient]:
    async with open_place(tmp_path) as place:
        await place.accounts.create_person("alice", "correct horse")
        await place.accounts.create_person("bob", "correct horse", displayname="Bob")
        routes = [
            *profile.routes(place.profiles), *account_data.routes(place.account_data), *filters.routes(place.filters),
            *push_rules.routes(place.account_data), *pushers.routes(place.pushers), *openid.routes(place.openid),
            *presence.routes(place.presence, place.profiles), *user_directory.routes(place.profiles),
            *capabilities.routes(ROOM_VERSIONS, DEFAULT.version), *voip.routes(place.clock), *third_party.routes(),
            *versions.routes({"org.example": True}), *well_known.routes(base_url="https://test", server="test:443"),
        ]  # fmt: skip
        yield AsgiClient(section_application(routes, {"alice": "@alice:test"}), token="alice")


async def test_a_profile_field_is_put_got_and_deleted(client: AsgiClient) -> None:
    path = f"{V3}/profile/@alice:test"
    assert (await client.put(f"{path}/displayname", {"displayname": "Alice"})).json == {}
    assert (await client.put(f"{path}/m.tz", {"m.tz": "Europe/Berlin"})).json == {}
    client.token = None
    assert (await client.get(path)).json == {"displayname": "Alice", "m.tz": "Europe/Berlin"}
    assert (await client.get(f"{path}/m.tz")).json == {"m.tz": "Europe/Berlin"}
    client.token = "alice"
    assert (await client.delete(f"{path}/m.tz")).json == {}
    assert (await client.get(f"{path}/m.tz")).status == 404
    assert (await client.put(f"{path}/displayname", {"name": "x"})).json["errcode"] == "M_MISSING_PARAM"
    assert (await client.put(f"{V3}/profile/@bob:test/displayname", {"displayname": "x"})).status == 403
    assert (await client.get(f"{V3}/profile/@nobody:test")).status == 404


async def test_account_data_of_the_user_and_of_a_room(client: AsgiClient) -> None:
    for path in (f"{ME}/account_data/m.x", f"{ME}/rooms/{ROOM}/account_data/m.x"):
        assert (await client.get(path)).status == 404
        assert (await client.put(path, {"a": 1.5})).json == {}
        assert (await client.get(path)).json == {"a": 1.5}
    assert (await client.request("PUT", f"{ME}/account_data/m.x", body=b"1")).json["errcode"] == "M_BAD_JSON"
    assert (await client.put(f"{ME}/rooms/nope/account_data/m.x")).json["errcode"] == "M_INVALID_PARAM"
    assert (await client.put(f"{ME}/rooms/{ROOM}/account_data/m.fully_read")).status == 405
    assert (await client.put(f"{ME}/account_data/m.push_rules")).status == 405
    assert (await client.get(f"{V3}/user/@bob:test/account_data/m.x")).status == 403


async def test_tags(client: AsgiClient) -> None:
    tags = f"{ME}/rooms/{ROOM}/tags"
    assert (await client.put(f"{tags}/m.favourite", {"order": 0.5})).json == {}
    assert (await client.get(tags)).json == {"tags": {"m.favourite": {"order": 0.5}}}
    assert (await client.delete(f"{tags}/m.favourite")).json == {}
    assert (await client.get(tags)).json == {"tags": {}}


async def test_filters(client: AsgiClient) -> None:
    filter_id = (await client.post(f"{ME}/filter", {"room": {"include_leave": True}})).json["filter_id"]
    assert (await client.get(f"{ME}/filter/{filter_id}")).json == {"room": {"include_leave": True}}
    assert (await client.get(f"{ME}/filter/99")).json["errcode"] == "M_NOT_FOUND"
    assert (await client.post(f"{ME}/filter", {"room": 1})).json["errcode"] == "M_BAD_JSON"


async def test_push_rules_are_added_changed_and_deleted(client: AsgiClient) -> None:
    base = f"{V3}/pushrules"
    rule = f"{base}/global/content/cake"
    assert (await client.put(rule, {"pattern": "cake*lie", "actions": ["notify"]})).json == {}
    expected = {"rule_id": "cake", "default": False, "enabled": True, "pattern": "cake*lie", "actions": ["notify"]}
    assert (await client.get(rule)).json == expected
    assert (await client.put(f"{rule}/enabled", {"enabled": False})).json == {}
    assert (await client.get(f"{rule}/enabled")).json == {"enabled": False}
    assert (await client.put(f"{rule}/actions", {"actions": []})).json == {}
    assert (await client.get(f"{rule}/actions")).json == {"actions": []}
    whole = (await client.get(f"{base}/")).json
    assert whole == {"global": (await client.get(f"{base}/global/")).json}
    assert (await client.get(f"{ME}/account_data/m.push_rules")).json == whole
    assert (await client.put(f"{base}/global/content/b?after=nope", {"pattern": "b", "actions": []})).status == 400
    assert (await client.put(f"{rule}/enabled", {})).json["errcode"] == "M_MISSING_PARAM"
    assert (await client.delete(rule)).json == {}
    assert (await client.get(rule)).status == 404
    assert (await client.get(f"{base}/global/nonsense/x")).status == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "refusal"),
    [
        ("GET", "override/nope", None, (404, "M_NOT_FOUND")),
        ("GET", "override/nope/enabled", None, (404, "M_NOT_FOUND")),
        ("GET", "override/nope/actions", None, (404, "M_NOT_FOUND")),
        ("PUT", "override/nope/enabled", {"enabled": True}, (404, "M_NOT_FOUND")),
        ("PUT", "override/nope/actions", {"actions": []}, (404, "M_NOT_FOUND")),
        ("DELETE", "override/nope", None, (404, "M_NOT_FOUND")),
        ("DELETE", "override/.m.rule.master", None, (404, "M_NOT_FOUND")),
        ("PUT", "override/.mine", {"actions": []}, (400, "M_INVALID_PARAM")),
        ("PUT", "override/.m.rule.master", {"actions": []}, (400, "M_INVALID_PARAM")),
        ("PUT", "shout/mine", {"actions": []}, (400, "M_INVALID_PARAM")),
        ("PUT", "content/mine", {"actions": []}, (400, "M_MISSING_PARAM")),
        ("PUT", "content/mine", {"pattern": "x"}, (400, "M_MISSING_PARAM")),
        ("PUT", "override/mine", {"actions": ["shout"]}, (400, "M_INVALID_PARAM")),
        ("PUT", "override/mine?before=.m.rule.master", {"actions": []}, (400, "M_UNKNOWN")),
        ("PUT", "override/mine?after=nope", {"actions": []}, (400, "M_UNKNOWN")),
        ("PUT", "override/.m.rule.master/enabled", {"enabled": "yes"}, (400, "M_INVALID_PARAM")),
        ("PUT", "override/.m.rule.master/enabled", {}, (400, "M_MISSING_PARAM")),
        ("PUT", "override/.m.rule.master/actions", {}, (400, "M_MISSING_PARAM")),
        ("PUT", "override/.m.rule.master/actions", {"actions": "notify"}, (400, "M_INVALID_PARAM")),
    ],
)
async def test_what_cannot_be_done_to_push_rules_is_refused(
    client: AsgiClient, method: str, path: str, body: Any, refusal: tuple[int, str]
) -> None:
    before = (await client.get(f"{V3}/pushrules/")).json
    answer = await client.request(method, f"{V3}/pushrules/global/{path}", json=body)
    assert (answer.status, answer.json["errcode"]) == refusal
    assert (await client.get(f"{V3}/pushrules/")).json == before


async def test_pushers(client: AsgiClient) -> None:
    url = "https://push.example/_matrix/push/v1/notify"
    pusher = {
        "kind": "http", "app_id": "app", "pushkey": "key", "lang": "en", "app_display_name": "App",
        "device_display_name": "Phone", "data": {"url": url},
    }  # fmt: skip
    assert (await client.post(f"{V3}/pushers/set", pusher)).json == {}
    shown = {"org.matrix.msc3881.enabled": True, "org.matrix.msc3881.device_id": "DEVICE"}
    assert (await client.get(f"{V3}/pushers")).json == {"pushers": [{**pusher, **shown}]}
    assert (await client.post(f"{V3}/pushers/set", {"app_id": "app", "pushkey": "key"})).status == 400
    assert (await client.post(f"{V3}/pushers/set", {"kind": None, "app_id": "app", "pushkey": "key"})).json == {}
    assert (await client.get(f"{V3}/pushers")).json == {"pushers": []}


async def test_presence_is_seen_only_by_those_who_share_a_room(client: AsgiClient) -> None:
    assert (await client.put(f"{V3}/presence/@alice:test/status", {"presence": "unavailable"})).json == {}
    assert (await client.get(f"{V3}/presence/@alice:test/status")).json["presence"] == "unavailable"
    assert (await client.get(f"{V3}/presence/@bob:test/status")).status == 403
    assert (await client.put(f"{V3}/presence/@bob:test/status", {"presence": "online"})).status == 403


async def test_the_directory(client: AsgiClient) -> None:
    answer = await client.post(f"{V3}/user_directory/search", {"search_term": "BO"})
    assert answer.json == {"results": [{"user_id": "@bob:test", "display_name": "Bob"}], "limited": False}
    for body in ({}, {"search_term": "x", "limit": "1"}, {"search_term": "x", "limit": 0}):
        assert (await client.post(f"{V3}/user_directory/search", body)).status == 400


async def test_what_the_server_says_of_itself(client: AsgiClient) -> None:
    capable: dict[str, Any] = (await client.get(f"{V3}/capabilities")).json["capabilities"]
    assert capable["m.room_versions"]["available"]["12"] == "stable"
    client.token = None
    told = (await client.get("/_matrix/client/versions")).json
    assert {"v1.1", "v1.11", "v1.13"} <= set(told["versions"])
    assert told["unstable_features"] == {"org.example": True}
    assert (await client.get("/.well-known/matrix/client")).json == {"m.homeserver": {"base_url": "https://test"}}
    assert (await client.get("/.well-known/matrix/server")).json == {"m.server": "test:443"}
    assert (await client.get("/.well-known/matrix/support")).status == 404


async def test_sections_with_nothing_behind_them(client: AsgiClient) -> None:
    assert (await client.get(f"{V3}/thirdparty/protocols")).json == {}
    assert (await client.get(f"{V3}/thirdparty/location")).json["errcode"] == "M_NOT_FOUND"
    assert (await client.get(f"{V3}/voip/turnServer")).json == {}
    token = (await client.post(f"{ME}/openid/request_token")).json
    assert (token["token_type"], token["matrix_server_name"]) == ("Bearer", "test")


async def test_turn_credentials_are_of_the_user_and_of_a_day() -> None:
    clock = Clock(1_000_000)
    client = AsgiClient(section_application(voip.routes(clock, ["turn:test"], "s"), {"a": "@a:test"}), token="a")
    answer = (await client.get(f"{V3}/voip/turnServer")).json
    assert (answer["username"], answer["ttl"], answer["uris"]) == ("87400:@a:test", 86400, ["turn:test"])
