"""/keys/…: uploading, querying, claiming and cross-signing, as clients see it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgeserver.api.client import keys as section
from edgeserver.api.user_interactive import UserInteractive
from edgeserver.matrix import errors
from edgeserver.matrix.signatures import SigningKey, encode_base64, sign_json
from edgeserver.store import device_keys, devices
from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.users.cross_signing import CrossSigning
from edgeserver.users.device_keys import DeviceKeys
from edgeserver.users.device_lists import DeviceLists
from edgeserver.users.requester import Requester
from edgeserver.wakeups import Wakeups
from tests.asgi import Answer, AsgiClient, section_application
from tests.users.room_story import RoomStory

ALICE, BOB = "@alice:test", "@bob:test"
BASE = "/_matrix/client/v3/keys"


async def password(auth: dict[str, Any], user_id: str | None) -> None:
    if auth.get("password") != "right":
        raise errors.Forbidden


class Site:
    """Alice with her device A and Bob with his device B, in an encrypted room."""

    def __init__(self, db: Database) -> None:
        self.db = db
        wakeups = Wakeups()
        self.lists = DeviceLists(db, "test", wakeups)
        self.keys = DeviceKeys(db, "test", wakeups, self.lists)
        cross_signing = CrossSigning(db, "test", self.lists, self.keys)
        interactive = UserInteractive(lambda: 0, {"m.login.password": password})
        users = {"alice": Requester(ALICE, "A"), "bob": Requester(BOB, "B"), "service": Requester(ALICE)}
        self.app = section_application(section.routes(self.keys, self.lists, cross_signing, interactive), users)

    def client(self, token: str) -> AsgiClient:
        return AsgiClient(self.app, token=token)

    async def post(self, token: str, path: str, json: Any) -> Answer:
        return await self.client(token).post(f"{BASE}/{path}", json)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_database(tmp_path / "store.db", inline=True) as db:

        def people(tx: Transaction) -> None:
            devices.ensure(tx, ALICE, "A", "Alice's phone")
            devices.ensure(tx, BOB, "B", None)
            RoomStory(tx, "!r:test").join(tx, ALICE, BOB)

        await db.write(people)
        yield Site(db)


def signing_key(name: str) -> tuple[SigningKey, str]:
    seed = hashlib.sha256(name.encode()).digest()
    public = encode_base64(SigningKey(seed, "ed25519:x").verify_key)
    return SigningKey(seed, f"ed25519:{public}"), public


def device(user_id: str, device_id: str) -> tuple[dict[str, Any], SigningKey]:
    key = SigningKey(device_id.encode().ljust(32, b"-"), f"ed25519:{device_id}")
    identity = {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"ed25519:{device_id}": encode_base64(key.verify_key)},
    }
    return sign_json(identity, user_id, key), key


def cross_signing(user_id: str, generation: str = "1") -> tuple[dict[str, Any], dict[str, SigningKey]]:
    body, keys = {}, {}
    for usage in ("master", "self_signing", "user_signing"):
        keys[usage], public = signing_key(f"{user_id}{usage}{generation}")
        key = {"user_id": user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}
        body[f"{usage}_key"] = key if usage == "master" else sign_json(key, user_id, keys["master"])
    return body, keys


def one_time(*names: str) -> dict[str, Any]:
    return {f"signed_curve25519:{name}": {"key": name, "signatures": {}} for name in names}


# Device keys


async def test_device_keys_are_given_to_whoever_asks_with_the_devices_name(site: Site) -> None:
    identity, _ = device(ALICE, "A")
    answer = await site.post("alice", "upload", {"device_keys": identity})
    assert (answer.status, answer.json) == (200, {"one_time_key_counts": {"signed_curve25519": 0}})
    answer = await site.post("bob", "query", {"device_keys": {ALICE: [], "@nobody:test": []}})
    named = {**identity, "unsigned": {"device_display_name": "Alice's phone"}}
    assert answer.json == {"device_keys": {ALICE: {"A": named}}, "failures": {}}
    answer = await site.post("bob", "query", {"device_keys": {ALICE: ["other"]}})
    assert answer.json["device_keys"] == {ALICE: {}}


async def test_other_servers_are_not_told_names(site: Site) -> None:
    identity, _ = device(ALICE, "A")
    await site.post("alice", "upload", {"device_keys": identity})
    answer = await site.keys.query_for_server({ALICE: [], "@zoe:far": []})
    assert answer == {"device_keys": {ALICE: {"A": {**identity, "unsigned": {}}}}}


@pytest.mark.parametrize(
    "body",
    [
        {"device_keys": device(BOB, "A")[0]},
        {"device_keys": device(ALICE, "B")[0]},
        {"device_keys": {"user_id": ALICE, "device_id": "A"}},
        {"device_keys": []},
        {"one_time_keys": {"nocolon": "x"}},
        {"one_time_keys": {"a:b": 3}},
        {"one_time_keys": {"a:b": {"key": "k"}}},
        {"one_time_keys": {"a:b": "x" * 20_000}},
        {"fallback_keys": {"a:1": "x", "a:2": "x"}},
    ],
)
async def test_what_is_not_a_key_of_this_device_is_refused(site: Site, body: dict[str, Any]) -> None:
    answer = await site.post("alice", "upload", body)
    assert 400 <= answer.status < 500
    assert answer.json["errcode"] in {"M_INVALID_PARAM", "M_BAD_JSON", "M_TOO_LARGE"}


async def test_a_session_without_a_device_has_no_keys(site: Site) -> None:
    assert (await site.post("service", "upload", {})).status == 400


async def test_malformed_queries_are_refused(site: Site) -> None:
    for body in ({}, {"device_keys": []}, {"device_keys": {ALICE: {}}}, {"device_keys": {"alice": []}}):
        assert (await site.post("bob", "query", body)).json["errcode"] == "M_BAD_JSON"
    for body in ({}, {"one_time_keys": {ALICE: []}}, {"one_time_keys": {ALICE: {"A": 1}}}):
        assert (await site.post("bob", "claim", body)).json["errcode"] == "M_BAD_JSON"


# One-time keys


async def test_one_time_keys_go_out_once_each_in_the_order_of_their_upload(site: Site) -> None:
    for names in ("z", "a"):
        await site.post("alice", "upload", {"one_time_keys": one_time(names)})
    claim = {"one_time_keys": {ALICE: {"A": "signed_curve25519"}, BOB: {"B": "signed_curve25519"}}}
    for name in ("z", "a"):
        answer = await site.post("bob", "claim", claim)
        assert answer.json == {"one_time_keys": {ALICE: {"A": one_time(name)}}, "failures": {}}
    assert (await site.post("bob", "claim", claim)).json["one_time_keys"] == {}


async def test_the_same_one_time_key_once_more_is_one_key_even_after_its_claim(site: Site) -> None:
    for _ in range(2):
        answer = await site.post("alice", "upload", {"one_time_keys": one_time("k")})
        assert answer.json == {"one_time_key_counts": {"signed_curve25519": 1}}
    await site.keys.claim_for_server({ALICE: {"A": "signed_curve25519"}})
    answer = await site.post("alice", "upload", {"one_time_keys": one_time("k")})
    assert answer.json == {"one_time_key_counts": {"signed_curve25519": 0}}


async def test_another_key_under_the_id_of_a_waiting_one_is_refused_and_nothing_of_the_upload_kept(site: Site) -> None:
    await site.post("alice", "upload", {"one_time_keys": one_time("k")})
    other = {**one_time("new"), "signed_curve25519:k": {"key": "other", "signatures": {}}}
    answer = await site.post("alice", "upload", {"one_time_keys": other})
    assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")
    answer = await site.post("alice", "upload", {})
    assert answer.json == {"one_time_key_counts": {"signed_curve25519": 1}}


async def test_the_fallback_key_serves_when_no_other_is_left_and_is_then_known_as_used(site: Site) -> None:
    async def unused() -> list[str]:
        return await site.db.read(lambda tx: device_keys.unused_fallback_key_types(tx, ALICE, "A"))

    fallback = {"signed_curve25519:f": {"key": "f", "fallback": True, "signatures": {}}}
    await site.post("alice", "upload", {"one_time_keys": one_time("k"), "fallback_keys": fallback})
    claim = {"one_time_keys": {ALICE: {"A": "signed_curve25519"}}}
    await site.post("bob", "claim", claim)
    assert await unused() == ["signed_curve25519"]
    before = site.db.position
    for _ in range(2):
        assert (await site.post("bob", "claim", claim)).json["one_time_keys"] == {ALICE: {"A": fallback}}
    assert await unused() == []
    assert await site.db.read(lambda tx: device_keys.claims_since(tx, ALICE, "A", before))
    await site.post("alice", "upload", {"fallback_keys": fallback})
    assert await unused() == []
    await site.post("alice", "upload", {"fallback_keys": {"signed_curve25519:g": "g"}})
    assert await unused() == ["signed_curve25519"]


async def test_claimed_keys_are_not_remembered_for_ever(site: Site) -> None:
    names = [f"k{n}" for n in range(device_keys.KEPT_CLAIMED + 20)]
    await site.post("alice", "upload", {"one_time_keys": one_time(*names)})
    for _ in names:
        await site.keys.claim_for_server({ALICE: {"A": "signed_curve25519"}})
    rows = await site.db.read(lambda tx: tx.one("SELECT count(*) FROM one_time_keys"))
    assert rows == (device_keys.KEPT_CLAIMED,)


# Changes


@pytest.mark.provokes("GET /_matrix/client/v3/keys/changes")
async def test_key_changes_are_told_since_a_token(site: Site) -> None:
    before = site.db.position
    await site.post("alice", "upload", {"device_keys": device(ALICE, "A")[0]})
    bob = site.client("bob")
    assert (await bob.get(f"{BASE}/changes?from=s{before}_0&to=s{site.db.position}_3")).json == {"changed": [ALICE], "left": []}
    await site.post("alice", "upload", {"device_keys": device(ALICE, "A")[0]})
    now = await bob.get(f"{BASE}/changes", query={"from": f"s{site.db.position}_7_1"})
    assert now.json == {"changed": [], "left": []}
    assert (await bob.get(f"{BASE}/changes")).json["errcode"] == "M_MISSING_PARAM"
    assert (await bob.get(f"{BASE}/changes?from=never")).json["errcode"] == "M_INVALID_PARAM"


async def test_a_deleted_device_is_gone_from_answers(site: Site) -> None:
    await site.post("alice", "upload", {"device_keys": device(ALICE, "A")[0], "one_time_keys": one_time("k")})
    before = site.db.position
    await site.db.write(lambda tx: site.lists.devices_deleted(tx, ALICE, ["A"]))
    assert (await site.post("bob", "query", {"device_keys": {ALICE: []}})).json["device_keys"] == {ALICE: {}}
    claim = {"one_time_keys": {ALICE: {"A": "signed_curve25519"}}}
    assert (await site.post("bob", "claim", claim)).json["one_time_keys"] == {}
    assert (await site.lists.changes(BOB, before))["changed"] == [ALICE]


# Cross-signing


async def test_the_first_keys_need_no_password_and_neither_do_the_same_again(site: Site) -> None:
    body, _ = cross_signing(ALICE)
    for _ in range(2):
        assert (await site.post("alice", "device_signing/upload", body)).json == {}
    answer = await site.post("alice", "query", {"device_keys": {ALICE: []}})
    assert answer.json["master_keys"] == {ALICE: body["master_key"]}
    assert answer.json["self_signing_keys"] == {ALICE: body["self_signing_key"]}
    assert answer.json["user_signing_keys"] == {ALICE: body["user_signing_key"]}
    answer = await site.post("bob", "query", {"device_keys": {ALICE: []}})
    assert "user_signing_keys" not in answer.json


async def test_other_keys_need_a_password(site: Site) -> None:
    await site.post("alice", "device_signing/upload", cross_signing(ALICE)[0])
    body, _ = cross_signing(ALICE, "2")
    answer = await site.post("alice", "device_signing/upload", body)
    assert answer.status == 401
    auth = {"type": "m.login.password", "session": answer.json["session"], "password": "right"}
    assert (await site.post("alice", "device_signing/upload", {"auth": auth})).status == 200
    answer = await site.post("alice", "query", {"device_keys": {ALICE: []}})
    assert answer.json["master_keys"] == {ALICE: body["master_key"]}


async def test_a_new_master_key_alone_takes_the_others_away(site: Site) -> None:
    await site.post("alice", "device_signing/upload", cross_signing(ALICE)[0])
    body = {"master_key": cross_signing(ALICE, "2")[0]["master_key"]}
    session = (await site.post("alice", "device_signing/upload", body)).json["session"]
    body["auth"] = {"type": "m.login.password", "session": session, "password": "right"}
    assert (await site.post("alice", "device_signing/upload", body)).status == 200
    answer = await site.post("alice", "query", {"device_keys": {ALICE: []}})
    assert "self_signing_keys" not in answer.json


async def test_keys_that_do_not_hold_together_are_refused(site: Site) -> None:
    async def upload(**changes: Any) -> tuple[int, str]:
        body = {name: key for name, key in {**good, **changes}.items() if key is not None}
        answer = await site.post("alice", "device_signing/upload", body)
        return answer.status, answer.json["errcode"]

    good, _ = cross_signing(ALICE)
    forged = {**good["self_signing_key"], "signatures": {ALICE: {}}}
    assert await upload(self_signing_key=forged) == (400, "M_INVALID_SIGNATURE")
    assert await upload(master_key=None) == (400, "M_MISSING_PARAM")
    assert await upload(master_key={**good["master_key"], "user_id": BOB}) == (400, "M_INVALID_PARAM")
    assert await upload(master_key={**good["master_key"], "usage": ["self_signing"]}) == (400, "M_INVALID_PARAM")
    [public] = good["master_key"]["keys"].values()
    await site.db.write(lambda tx: devices.ensure(tx, ALICE, public, None))
    assert await upload() == (403, "M_FORBIDDEN")


async def test_signatures_are_seen_by_those_whom_they_concern(site: Site) -> None:
    identity, device_key = device(ALICE, "A")
    await site.post("alice", "upload", {"device_keys": identity})
    alices, alice_keys = cross_signing(ALICE)
    bobs, bob_keys = cross_signing(BOB)
    await site.post("alice", "device_signing/upload", alices)
    await site.post("bob", "device_signing/upload", bobs)
    [alice_master] = alices["master_key"]["keys"].values()
    before = site.db.position

    bare = {**identity, "signatures": {}}
    own = {"A": sign_json(bare, ALICE, alice_keys["self_signing"])}
    own[alice_master] = sign_json(alices["master_key"], ALICE, device_key)
    assert (await site.post("alice", "signatures/upload", {ALICE: own})).json == {"failures": {}}
    assert (await site.lists.changes(BOB, before))["changed"] == [ALICE]
    before = site.db.position
    trust = {ALICE: {alice_master: sign_json(alices["master_key"], BOB, bob_keys["user_signing"])}}
    assert (await site.post("bob", "signatures/upload", trust)).json == {"failures": {}}
    assert (await site.lists.changes(BOB, before))["changed"] == [ALICE]
    assert (await site.lists.changes(ALICE, before))["changed"] == []

    seen = (await site.post("bob", "query", {"device_keys": {ALICE: []}})).json
    assert set(seen["device_keys"][ALICE]["A"]["signatures"][ALICE]) == {"ed25519:A", alice_keys["self_signing"].key_id}
    assert set(seen["master_keys"][ALICE]["signatures"]) == {ALICE, BOB}
    seen = (await site.post("alice", "query", {"device_keys": {ALICE: []}})).json
    assert set(seen["master_keys"][ALICE]["signatures"]) == {ALICE}


@pytest.mark.provokes("POST /_matrix/client/v3/keys/signatures/upload")
async def test_signatures_that_are_wrong_fail_one_by_one(site: Site) -> None:
    identity, _ = device(ALICE, "A")
    await site.post("alice", "upload", {"device_keys": identity})
    alices, keys = cross_signing(ALICE)
    await site.post("alice", "device_signing/upload", alices)
    wrong = sign_json({**identity, "signatures": {}}, ALICE, keys["self_signing"])
    wrong["signatures"][ALICE][keys["self_signing"].key_id] = "AAAA"
    changed = sign_json({**identity, "algorithms": ["none"]}, ALICE, keys["self_signing"])
    for signed, errcode in ((wrong, "M_INVALID_SIGNATURE"), (changed, "M_INVALID_PARAM"), (7, "M_INVALID_PARAM")):
        answer = await site.post("alice", "signatures/upload", {ALICE: {"A": signed, "unknown": wrong}, BOB: {"B": wrong}})
        failures = answer.json["failures"]
        assert failures[ALICE]["A"]["errcode"] == errcode
        assert failures[ALICE]["unknown"]["errcode"] == "M_NOT_FOUND"
        assert failures[BOB]["B"]["errcode"] == "M_NOT_FOUND"
    assert (await site.post("alice", "signatures/upload", {ALICE: []})).status == 400
