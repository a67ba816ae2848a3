"""Profiles, account data, push rules, filters, pushers, presence, OpenID."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edgeserver.matrix import canonical_json, errors, push_rules
from edgeserver.matrix.errors import MatrixError
from edgeserver.store import account_data as table
from edgeserver.store.database import Transaction
from edgeserver.users.profiles import Profiles
from edgeserver.users.pushers import MAX_PUSHERS
from tests.users.places import Place

ALICE, BOB = "@alice:test", "@bob:test"
ROOM = "!room:test"


async def test_profile_fields_are_set_told_and_deleted(place: Place) -> None:
    await place.accounts.create_person("alice", "correct horse")
    await place.profiles.set_field(ALICE, "displayname", "Alice")
    await place.profiles.set_field(ALICE, "displayname", "Alice")
    await place.profiles.set_field(ALICE, "org.example.any", {"deep": [1.5, None]})
    assert await place.profiles.get(ALICE) == {"displayname": "Alice", "org.example.any": {"deep": [1.5, None]}}
    assert await place.profiles.field(ALICE, "displayname") == {"displayname": "Alice"}
    await place.profiles.delete_field(ALICE, "displayname")
    with pytest.raises(errors.NotFound):
        await place.profiles.field(ALICE, "displayname")
    assert place.heard == [("profile", ALICE)] * 2


@pytest.mark.parametrize(
    ("field", "value", "errcode"),
    [
        ("displayname", 1, "M_INVALID_PARAM"),
        ("displayname", "x" * 257, "M_INVALID_PARAM"),
        ("avatar_url", "https://example.org/a.png", "M_INVALID_PARAM"),
        ("Nope", "x", "M_INVALID_PARAM"),
        ("a." + "x" * 300, "x", "M_KEY_TOO_LARGE"),
        ("org.example.big", "x" * 70_000, "M_PROFILE_TOO_LARGE"),
    ],
)
async def test_profile_fields_that_cannot_be(place: Place, field: str, value: Any, errcode: str) -> None:
    with pytest.raises(MatrixError) as caught:
        await place.profiles.set_field(ALICE, field, value)
    assert caught.value.errcode == errcode


async def test_profiles_of_other_servers_are_asked_for(place: Place) -> None:
    async def remote(user_id: str, field: str | None) -> dict[str, Any]:
        return {"displayname": f"{user_id} {field}"}

    profiles = Profiles(place.db, "test", remote_profile=remote)
    assert await profiles.field("@bob:elsewhere", "displayname") == {"displayname": "@bob:elsewhere displayname"}
    with pytest.raises(errors.NotFound):
        await place.profiles.get("@bob:elsewhere")
    with pytest.raises(errors.InvalidParam):
        await profiles.get("bob")


async def test_the_directory_finds_people_by_name_without_regard_to_case(place: Place) -> None:
    for name, display in (("alice", "Alice"), ("bob", "Ünlü"), ("carol", None)):
        await place.accounts.create_person(name, "correct horse", displayname=display)
    found, limited = await place.profiles.search(ALICE, "üNL", 10)
    assert found == [{"user_id": "@bob:test", "display_name": "Ünlü"}]
    assert not limited
    found, limited = await place.profiles.search(ALICE, "test", 1)
    assert (len(found), limited) == (1, True)
    assert (await place.profiles.search(ALICE, "alice", 10))[0] == []


async def test_guests_are_not_in_the_directory(place: Place) -> None:
    await place.accounts.create_person("bob", "correct horse")
    await place.db.write(lambda tx: tx.execute("UPDATE accounts SET guest = 1 WHERE user_id = '@bob:test'") and None)
    assert await place.profiles.search(ALICE, "bob", 10) == ([], False)


async def test_people_in_a_common_room_are_found_and_seen_and_others_are_not(place: Place) -> None:
    await place.accounts.create_person("alice", "correct horse")

    def join(tx: Transaction, user_id: str, room: int, name: str) -> None:
        pdu = canonical_json.encode({"content": {"membership": "join", "displayname": name, "avatar_url": 7}})
        event = tx.insert("INSERT INTO events (event_id, room, depth, tie, pdu) VALUES (?, ?, 1, 0, ?)", (f"${user_id}{room}", room, pdu))
        tx.execute(
            "INSERT INTO memberships (user_id, room, membership, event, stream, local) VALUES (?, ?, 'join', ?, ?, ?)",
            (user_id, room, event, tx.stream(), user_id.endswith(":test")),
        )

    def fill(tx: Transaction) -> None:
        for number, published in ((1, 0), (2, 0), (3, 1)):
            tx.execute("INSERT INTO rooms (room, room_id, version, published) VALUES (?, ?, '12', ?)", (number, f"!{number}", published))
        join(tx, ALICE, 1, "Alice")
        join(tx, "@near:else", 1, "Jo Near")
        join(tx, "@hidden:else", 2, "Jo Hidden")
        join(tx, "@public:else", 3, "Jo Public")

    await place.db.write(fill)
    found, _ = await place.profiles.search(ALICE, "jo", 10)
    assert found == [
        {"user_id": "@near:else", "display_name": "Jo Near"},
        {"user_id": "@public:else", "display_name": "Jo Public"},
    ]
    assert await place.profiles.shares_a_room(ALICE, "@near:else")
    assert not await place.profiles.shares_a_room(ALICE, "@public:else")


async def test_account_data_takes_a_position_and_wakes_only_when_it_changes(place: Place) -> None:
    with place.wakeups.listening(ALICE) as listener:
        before = place.db.position
        await place.account_data.put(ALICE, "", "m.direct", {"@bob:test": [ROOM]})
        await listener.wait()
        position = place.db.position
        assert position == before + 1
        await place.account_data.put(ALICE, "", "m.direct", {"@bob:test": [ROOM]})
        assert place.db.position == position
    items = await place.db.read(lambda tx: table.changed(tx, ALICE, before, position))
    assert [item.type for item in items if item.stream] == ["m.direct"]
    assert await place.account_data.get(ALICE, "", "m.direct") == {"@bob:test": [ROOM]}
    with pytest.raises(errors.NotFound):
        await place.account_data.get(ALICE, ROOM, "m.direct")


@pytest.mark.parametrize("kind", ["m.fully_read", "m.push_rules"])
async def test_what_the_server_controls_cannot_be_set(place: Place, kind: str) -> None:
    with pytest.raises(MatrixError) as caught:
        await place.account_data.put(ALICE, "", kind, {})
    assert (caught.value.status, caught.value.errcode) == (405, "M_BAD_JSON")


async def test_tags_are_room_account_data(place: Place) -> None:
    await place.account_data.set_tag(ALICE, ROOM, "m.favourite", {"order": 0.25})
    await place.account_data.set_tag(ALICE, ROOM, "u.work", {})
    await place.account_data.delete_tag(ALICE, ROOM, "u.work")
    await place.account_data.delete_tag(ALICE, ROOM, "u.work")
    assert await place.account_data.get(ALICE, ROOM, "m.tag") == {"tags": {"m.favourite": {"order": 0.25}}}
    for order in ("1", True):
        with pytest.raises(errors.InvalidParam):
            await place.account_data.set_tag(ALICE, ROOM, "u.x", {"order": order})


async def test_push_rules_are_whole_when_read_and_small_when_stored(place: Place) -> None:
    defaults = await place.account_data.get(ALICE, "", "m.push_rules")
    items = await place.db.read(lambda tx: table.changed(tx, ALICE, 0, 100))
    assert [(item.type, item.content) for item in items] == [("m.push_rules", defaults)]
    await place.account_data.change_ruleset(ALICE, lambda rules: push_rules.set_enabled(rules, "override", ".m.rule.master", True))
    rules = await place.account_data.ruleset(ALICE)
    assert push_rules.find_rule(rules, "override", ".m.rule.master")["enabled"]
    (item,) = await place.db.read(lambda tx: table.changed(tx, ALICE, 0, place.db.position))
    assert item.content == {"global": rules}
    (row,) = await place.db.read(lambda tx: tx.all("SELECT length(content) FROM account_data"))
    assert row[0] < 200


async def test_equal_filters_of_a_user_are_stored_once(place: Place) -> None:
    first = await place.filters.define(ALICE, {"room": {"timeline": {"limit": 10}}})
    assert await place.filters.define(ALICE, {"room": {"timeline": {"limit": 10}}}) == first
    assert await place.filters.define(ALICE, {}) != first
    assert await place.filters.get(ALICE, first) == {"room": {"timeline": {"limit": 10}}}
    for unknown in ("9", "x", "99999999999999999999", "@a"):
        with pytest.raises(errors.NotFound):
            await place.filters.get(ALICE, unknown)


@pytest.mark.parametrize(
    "definition",
    [
        {"room": []},
        {"room": {"timeline": {"limit": "10"}}},
        {"room": {"rooms": ["not a room"]}},
        {"presence": {"senders": ["not_at_sign"]}},
        {"event_format": "other"},
        {"event_fields": [1]},
        {"room": {"state": {"types": "m.room.message"}}},
    ],
)
async def test_what_is_no_filter_is_refused(place: Place, definition: dict[str, Any]) -> None:
    with pytest.raises(errors.BadJson):
        await place.filters.define(ALICE, definition)


def pusher(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Phone",
        "lang": "en", "data": {"url": "https://push.example/_matrix/push/v1/notify", "format": "event_id_only"}, **changes,
    }  # fmt: skip


async def test_any_device_switches_a_pusher_and_it_stays_with_the_device_that_set_it_first(place: Place) -> None:
    await place.pushers.set(ALICE, "PHONE", pusher(), append=False)
    await place.pushers.set(ALICE, "DESK", pusher(**{"org.matrix.msc3881.enabled": False}), append=False)
    [shown] = await place.pushers.list(ALICE)
    assert (shown["org.matrix.msc3881.enabled"], shown["org.matrix.msc3881.device_id"]) == (False, "PHONE")
    await place.devices.delete(ALICE, ["DESK"])
    assert len(await place.pushers.list(ALICE)) == 1
    await place.devices.delete(ALICE, ["PHONE"])
    assert await place.pushers.list(ALICE) == []


async def test_a_user_has_room_for_so_many_pushers(place: Place) -> None:
    for number in range(MAX_PUSHERS):
        await place.pushers.set(ALICE, None, pusher(pushkey=str(number)), append=False)
    with pytest.raises(errors.InvalidParam):
        await place.pushers.set(ALICE, None, pusher(pushkey="one more"), append=False)
    await place.pushers.set(ALICE, None, pusher(pushkey="0", lang="de"), append=False)
    assert len(await place.pushers.list(ALICE)) == MAX_PUSHERS


async def test_a_pusher_belongs_to_one_user_unless_it_is_appended_and_goes_with_its_device(place: Place) -> None:
    await place.pushers.set(ALICE, "PHONE", pusher(), append=False)
    await place.pushers.set("@bob:test", "TABLET", pusher(), append=True)
    assert len(await place.pushers.list(ALICE)) == 1
    await place.pushers.set("@bob:test", "TABLET", pusher(lang="de"), append=False)
    assert await place.pushers.list(ALICE) == []
    shown = {"org.matrix.msc3881.enabled": True, "org.matrix.msc3881.device_id": "TABLET"}
    assert await place.pushers.list("@bob:test") == [{**pusher(lang="de"), **shown}]
    await place.devices.delete("@bob:test", ["TABLET"])
    assert await place.pushers.list("@bob:test") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "email"}, {"app_id": "x" * 65}, {"data": {}}, {"data": {"url": "https://push.example/other"}},
        {"data": {"url": "ftp://push.example/_matrix/push/v1/notify"}}, {"lang": 1}, {"data": {"url": "http://[::1"}},
        {"data": {"url": "https://push.example:99999/_matrix/push/v1/notify"}}, {"org.matrix.msc3881.enabled": "yes"},
        {"data": {"url": "https://me@push.example/_matrix/push/v1/notify"}}, {"data": {"url": "https://püsh.example/_matrix/push/v1/notify"}},
    ],
)  # fmt: skip
async def test_pushers_that_cannot_be(place: Place, changes: dict[str, Any]) -> None:
    with pytest.raises(MatrixError):
        await place.pushers.set(ALICE, None, pusher(**changes), append=False)


async def test_presence_is_what_was_said_last(place: Place, autojump_clock: MockClock) -> None:
    assert place.presence.get(ALICE) == {"presence": "offline"}
    place.presence.set(ALICE, "A", "online", "here")
    await trio.sleep(5)
    assert place.presence.get(ALICE) == {
        "presence": "online", "status_msg": "here", "last_active_ago": 5000, "currently_active": True,
    }  # fmt: skip
    for state in ("away", None, []):
        with pytest.raises(errors.InvalidParam):
            place.presence.set(ALICE, "A", state)


async def test_an_openid_token_tells_who_it_is_for_an_hour(place: Place) -> None:
    await place.accounts.create_person("alice", "correct horse")
    answer = place.openid.issue(ALICE)
    assert await place.openid.user_of(answer["access_token"]) == ALICE
    place.clock.now += answer["expires_in"] * 1000
    assert await place.openid.user_of(answer["access_token"]) is None


async def test_an_openid_token_is_void_while_the_account_is_locked_and_after_its_end(place: Place) -> None:
    await place.accounts.create_person("alice", "correct horse")
    token = place.openid.issue(ALICE)["access_token"]
    for locked, owner in ((True, None), (False, ALICE)):
        await place.accounts.set_locked(ALICE, locked)
        assert await place.openid.user_of(token) == owner
    await place.accounts.deactivate(ALICE)
    assert await place.openid.user_of(token) is None


async def test_nobody_pushes_out_the_openid_tokens_of_others(place: Place) -> None:
    for name in ("alice", "bob"):
        await place.accounts.create_person(name, "correct horse")
    hers = place.openid.issue(ALICE)["access_token"]
    his = [place.openid.issue(BOB)["access_token"] for _ in range(2000)]
    assert [await place.openid.user_of(token) for token in (hers, his[0], his[-1])] == [ALICE, None, BOB]
