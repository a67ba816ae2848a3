"""Queries, keys of users and media, as other servers ask for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from edgeserver.api.endpoint import Call
from edgeserver.api.server import media, queries, users
from edgeserver.federation.multipart import decode_media
from edgeserver.media.files import FileStore
from edgeserver.media.repository import MediaRepository
from edgeserver.media.uploading import Upload
from edgeserver.rooms.directory import Directory as Aliases
from edgeserver.rooms.directory import Networks
from edgeserver.store import accounts, rooms
from edgeserver.store import profiles as profile_table
from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.users.device_keys import DeviceKeys
from edgeserver.users.device_lists import DeviceLists
from edgeserver.users.profiles import Profiles
from edgeserver.wakeups import Wakeups
from tests.asgi import AsgiClient, section_application

V1 = "/_matrix/federation/v1"
ALICE = "@alice:us.test"


async def guard(call: Call) -> None:
    await trio.lowlevel.checkpoint()
    call.origin = "b.test"


@dataclass
class Directory:
    """A directory of no rooms that repeats what it was asked."""

    async def page(
        self, *, limit: int | None, since: str | None, filter_: Mapping[str, Any], networks: Networks | None = None
    ) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"chunk": [], "asked": [limit, since, dict(filter_)], "networks": (networks or Networks()).asked()}


class Nowhere:
    """The directories of other servers, which nobody asks here."""

    async def directory(self, server: str, alias: str) -> tuple[str, list[str]]:
        raise AssertionError(server)

    async def public_rooms(self, server: str, content: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError(server)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "test.db", inline=True) as database:
        yield database


@pytest.fixture
def client(db: Database) -> AsgiClient:
    lists = DeviceLists(db, "us.test", Wakeups())
    device_keys = DeviceKeys(db, "us.test", Wakeups(), lists)
    profiles = Profiles(db, "us.test")

    async def openid_user(token: str) -> str | None:
        return {"token": ALICE}.get(token)

    found = [
        *queries.routes(guard, Aliases(db, "us.test", Nowhere()), "us.test", "1.2", profiles, Directory(), openid_user),
        *users.routes(guard, "us.test", device_keys, lists),
    ]
    return AsgiClient(section_application(found))


async def test_an_alias_leads_to_its_room_and_the_servers_in_it(db: Database, client: AsgiClient) -> None:
    def write(tx: Transaction) -> None:
        from edgeserver.matrix.room_versions import V11

        number = rooms.add(tx, "!r:us.test", V11)
        rooms.server_joined(tx, number, "b.test", 1)
        rooms.add_alias(tx, "#hall:us.test", "!r:us.test", ALICE)

    await db.write(write)
    answer = await client.get(V1 + "/query/directory?room_alias=%23hall:us.test")
    assert answer.json == {"room_id": "!r:us.test", "servers": ["us.test", "b.test"]}
    assert (await client.get(V1 + "/query/directory?room_alias=%23no:us.test")).status == 404
    assert (await client.get(V1 + "/query/directory?room_alias=%23hall:b.test")).json["errcode"] == "M_INVALID_PARAM"
    assert (await client.get(V1 + "/query/directory")).json["errcode"] == "M_MISSING_PARAM"


async def test_only_profiles_of_our_own_users_are_told(db: Database, client: AsgiClient) -> None:
    await db.write(lambda tx: profile_table.set_field(tx, ALICE, "displayname", "Alice"))
    assert (await client.get(f"{V1}/query/profile?user_id=@bob:b.test")).json["errcode"] == "M_INVALID_PARAM"
    assert (await client.get(f"{V1}/query/profile?user_id=@nobody:us.test")).status == 404


async def test_a_profile_field_that_is_not_set_is_left_out_and_is_no_error(db: Database, client: AsgiClient) -> None:
    await db.write(lambda tx: accounts.insert(tx, accounts.Account(ALICE, None, False, None, 1, None)))
    asked = f"{V1}/query/profile?user_id={ALICE}"
    assert [(await client.get(asked + field)).json for field in ("", "&field=displayname")] == [{}, {}]
    await db.write(lambda tx: profile_table.set_field(tx, ALICE, "displayname", "Alice"))
    assert (await client.get(asked)).json == (await client.get(asked + "&field=displayname")).json == {"displayname": "Alice"}
    assert (await client.get(asked + "&field=avatar_url")).json == {}


async def test_the_directory_gets_its_page_and_its_filter(client: AsgiClient) -> None:
    assert (await client.get(V1 + "/publicRooms?limit=0&since=x")).json["asked"] == [None, "x", {}]
    body = {"limit": 3, "filter": {"generic_search_term": "a"}}
    assert (await client.post(V1 + "/publicRooms", body)).json["asked"] == [3, None, {"generic_search_term": "a"}]
    one = {"third_party_instance_id": "irc|hills"}
    assert (await client.get(V1 + "/publicRooms?third_party_instance_id=irc%7Chills")).json["networks"] == one
    assert (await client.post(V1 + "/publicRooms", one)).json["networks"] == one
    every = {"include_all_networks": True}
    assert (await client.get(V1 + "/publicRooms?third_party_instance_id=irc&include_all_networks=true")).json["networks"] == every
    assert (await client.post(V1 + "/publicRooms", every)).json["networks"] == every
    assert (await client.get(V1 + "/publicRooms?include_all_networks=1")).json["errcode"] == "M_INVALID_PARAM"
    assert (await client.post(V1 + "/publicRooms", {"include_all_networks": "true"})).json["errcode"] == "M_BAD_JSON"
    assert (await client.post(V1 + "/publicRooms", {"third_party_instance_id": 7})).json["errcode"] == "M_BAD_JSON"
    assert (await client.post(V1 + "/publicRooms", {"limit": "3"})).json["errcode"] == "M_BAD_JSON"
    assert (await client.get(V1 + "/publicRooms?limit=many")).json["errcode"] == "M_INVALID_PARAM"


async def test_version_and_openid_need_no_authentication(client: AsgiClient) -> None:
    assert (await client.get(V1 + "/version")).json == {"server": {"name": "edgeserver", "version": "1.2"}}
    assert (await client.get(V1 + "/openid/userinfo?access_token=token")).json == {"sub": ALICE}
    assert (await client.get(V1 + "/openid/userinfo?access_token=x")).status == 401


async def test_keys_of_users_are_asked_for_in_the_specs_shape_alone(client: AsgiClient) -> None:
    assert (await client.get(f"{V1}/user/devices/{ALICE}")).json["devices"] == []
    assert (await client.get(f"{V1}/user/devices/@bob:b.test")).status == 400
    assert (await client.post(V1 + "/user/keys/query", {"device_keys": {ALICE: []}})).json == {"device_keys": {}}
    assert (await client.post(V1 + "/user/keys/claim", {"one_time_keys": {ALICE: {"D": "a"}}})).status == 200
    for path, body in (
        ("query", {}),
        ("query", {"device_keys": {ALICE: {}}}),
        ("query", {"device_keys": {ALICE: [1]}}),
        ("claim", {"one_time_keys": {ALICE: ["D"]}}),
        ("claim", {"one_time_keys": {ALICE: {"D": 1}}}),
    ):
        assert (await client.post(f"{V1}/user/keys/{path}", body)).json["errcode"] == "M_BAD_JSON"
    many = {"device_keys": {f"@u{number}:us.test": [] for number in range(1001)}}
    assert (await client.post(f"{V1}/user/keys/query", many)).json["errcode"] == "M_INVALID_PARAM"


async def test_media_comes_as_two_parts(tmp_path: Path, db: Database) -> None:
    files = FileStore(tmp_path / "media")
    await files.open()
    repository = MediaRepository(db, "us.test", files, lambda: 1_700_000_000_000)

    async def body() -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        yield b"some bytes"

    uri = await repository.upload(ALICE, Upload(body(), "text/plain", "a.txt", 10))
    client = AsgiClient(section_application(media.routes(guard, "us.test", repository)))
    answer = await client.get(f"{V1}/media/download/{uri.rpartition('/')[2]}")
    found = decode_media(answer.headers["content-type"], answer.body)
    assert (found.body, found.content_type) == (b"some bytes", "text/plain")
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert (await client.get(V1 + "/media/download/unknown")).status == 404
    assert (await client.get(V1 + "/media/thumbnail/unknown")).json["errcode"] == "M_MISSING_PARAM"
