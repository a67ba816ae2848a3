"""/room_keys/…: versions, keys, and which of two keys is the better one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgeserver.api.client import key_backup as section
from edgeserver.store.database import open_database
from edgeserver.users.key_backup import KeyBackup
from tests.asgi import AsgiClient, section_application

BASE = "/_matrix/client/v3/room_keys"
ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
ROOM, ROOM_PATH = "!r:test", "%21r%3Atest"


@pytest.fixture
async def alice(tmp_path: Path) -> AsyncIterator[AsgiClient]:
    async with open_database(tmp_path / "store.db", inline=True) as db:
        users = {"alice": "@alice:test", "bob": "@bob:test"}
        yield AsgiClient(section_application(section.routes(KeyBackup(db)), users), token="alice")


async def create(client: AsgiClient, key: str = "k") -> str:
    answer = await client.post(f"{BASE}/version", {"algorithm": ALGORITHM, "auth_data": {"public_key": key}})
    return answer.json["version"]


def key(verified: bool = False, index: int = 5, forwarded: int = 5, data: str = "d") -> dict[str, Any]:
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ciphertext": data},
    }


async def test_versions_are_made_read_changed_and_deleted(alice: AsgiClient) -> None:
    assert (await alice.get(f"{BASE}/version")).json["errcode"] == "M_NOT_FOUND"
    first, second = await create(alice, "one"), await create(alice, "two")
    assert first != second
    newest = (await alice.get(f"{BASE}/version")).json
    expected = {"algorithm": ALGORITHM, "auth_data": {"public_key": "two"}, "count": 0, "etag": "0", "version": second}
    assert newest == expected
    changed = {"algorithm": ALGORITHM, "auth_data": {"public_key": "new"}, "version": first}
    assert (await alice.put(f"{BASE}/version/{first}", changed)).json == {}
    assert (await alice.get(f"{BASE}/version/{first}")).json["auth_data"] == {"public_key": "new"}
    for wrong in ({**changed, "version": second}, {**changed, "algorithm": "other"}):
        assert (await alice.put(f"{BASE}/version/{first}", wrong)).json["errcode"] == "M_INVALID_PARAM"
    for _ in range(2):
        assert (await alice.delete(f"{BASE}/version/{second}")).status == 200
    assert (await alice.delete(f"{BASE}/version/9")).status == 404
    assert (await alice.get(f"{BASE}/version/{second}")).status == 404
    assert (await alice.get(f"{BASE}/version")).json["version"] == first
    assert await create(alice) not in (first, second)


async def test_keys_are_stored_and_read_by_session_by_room_and_altogether(alice: AsgiClient) -> None:
    v = f"version={await create(alice)}"
    assert (await alice.put(f"{BASE}/keys/{ROOM_PATH}/s1?{v}", key(data="1"))).json == {"etag": "1", "count": 1}
    assert (await alice.put(f"{BASE}/keys/{ROOM_PATH}?{v}", {"sessions": {"s2": key(data="2")}})).json["count"] == 2
    whole = {"rooms": {"!o:test": {"sessions": {"s/3": key(True, data="3")}}, ROOM: {"sessions": {}}}}
    assert (await alice.put(f"{BASE}/keys?{v}", whole)).json == {"etag": "3", "count": 3}

    assert (await alice.get(f"{BASE}/keys/{ROOM_PATH}/s1?{v}")).json == key(data="1")
    assert (await alice.get(f"{BASE}/keys/%21o%3Atest/s%2F3?{v}")).json == key(True, data="3")
    sessions = {"s1": key(data="1"), "s2": key(data="2")}
    assert (await alice.get(f"{BASE}/keys/{ROOM_PATH}?{v}")).json == {"sessions": sessions}
    everything = {ROOM: {"sessions": sessions}, "!o:test": {"sessions": {"s/3": key(True, data="3")}}}
    assert (await alice.get(f"{BASE}/keys?{v}")).json == {"rooms": everything}

    assert (await alice.get(f"{BASE}/keys/{ROOM_PATH}/none?{v}")).json["errcode"] == "M_NOT_FOUND"
    assert (await alice.get(f"{BASE}/keys/%21none%3Atest?{v}")).json == {"sessions": {}}
    assert (await alice.delete(f"{BASE}/keys/{ROOM_PATH}/s1?{v}")).json == {"etag": "4", "count": 2}
    assert (await alice.delete(f"{BASE}/keys/{ROOM_PATH}?{v}")).json == {"etag": "5", "count": 1}
    assert (await alice.delete(f"{BASE}/keys?{v}")).json == {"etag": "6", "count": 0}
    assert (await alice.get(f"{BASE}/keys?{v}")).json == {"rooms": {}}


@pytest.mark.parametrize(
    ("held", "offered", "replaced"),
    [
        (key(False), key(True, index=9, forwarded=9, data="new"), True),
        (key(True), key(False, index=0, forwarded=0, data="new"), False),
        (key(), key(index=4, forwarded=9, data="new"), True),
        (key(), key(index=6, forwarded=0, data="new"), False),
        (key(), key(forwarded=4, data="new"), True),
        (key(), key(forwarded=6, data="new"), False),
        (key(), key(data="new"), False),
    ],
)
async def test_the_better_key_stays(alice: AsgiClient, held: Any, offered: Any, replaced: bool) -> None:
    v = f"version={await create(alice)}"
    path = f"{BASE}/keys/{ROOM_PATH}/s?{v}"
    before = (await alice.put(path, held)).json
    after = (await alice.put(path, offered)).json
    assert after["count"] == 1
    assert (after["etag"] != before["etag"]) is replaced
    assert (await alice.get(path)).json == (offered if replaced else held)


async def test_keys_go_into_the_newest_version_only(alice: AsgiClient) -> None:
    old = await create(alice)
    new = await create(alice)
    answer = await alice.put(f"{BASE}/keys/{ROOM_PATH}/s?version={old}", key())
    assert answer.status == 403
    assert answer.json["errcode"] == "M_WRONG_ROOM_KEYS_VERSION"
    assert answer.json["current_version"] == new
    for version in ("9", "x", "", "-1", "１"):
        answer = await alice.put(f"{BASE}/keys/{ROOM_PATH}/s", key(), query={"version": version})
        assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
    assert (await alice.put(f"{BASE}/keys", {"rooms": {}})).json["errcode"] == "M_MISSING_PARAM"


async def test_what_is_no_key_is_refused(alice: AsgiClient) -> None:
    v = f"version={await create(alice)}"
    bad = [{}, {**key(), "is_verified": 1}, {**key(), "first_message_index": -1}, {**key(), "session_data": "x"}]
    for each in bad:
        assert (await alice.put(f"{BASE}/keys/{ROOM_PATH}/s?{v}", each)).json["errcode"] == "M_BAD_JSON"
    assert (await alice.put(f"{BASE}/keys/{ROOM_PATH}?{v}", {})).json["errcode"] == "M_BAD_JSON"
    assert (await alice.put(f"{BASE}/keys?{v}", {"rooms": []})).json["errcode"] == "M_BAD_JSON"
    assert (await alice.put(f"{BASE}/keys/{ROOM_PATH}/s?{v}", key(data="x" * 20_000))).status == 413
    assert (await alice.post(f"{BASE}/version", {"algorithm": ALGORITHM})).status == 400


async def test_one_user_does_not_see_the_backup_of_another(alice: AsgiClient) -> None:
    v = f"version={await create(alice)}"
    await alice.put(f"{BASE}/keys/{ROOM_PATH}/s?{v}", key())
    bob = AsgiClient(alice.app, token="bob")
    assert (await bob.get(f"{BASE}/version")).status == 404
    assert (await bob.get(f"{BASE}/keys?{v}")).status == 404
