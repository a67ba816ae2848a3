"""Whose device lists changed, for clients; what other servers are told; what they tell us."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edgeserver.store import device_keys, device_lists, devices, outbox
from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.users.device_keys import DeviceKeys
from edgeserver.users.device_lists import DeviceLists, follows
from edgeserver.users.remote_keys import KeysUnavailable
from edgeserver.wakeups import OUTBOX, Listener, Wakeups
from tests.users.room_story import RoomStory

ALICE, BOB, CAROL, ZOE = "@alice:test", "@bob:test", "@carol:test", "@zoe:far"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "store.db", inline=True) as database:
        yield database


def identity(user_id: str, device_id: str, key: str = "k") -> dict[str, Any]:
    return {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"ed25519:{device_id}": key},
        "signatures": {user_id: {f"ed25519:{device_id}": "s"}},
    }


async def changed(db: Database, user_id: str, since: int) -> tuple[list[str], list[str]]:
    return await db.read(lambda tx: device_lists.changed(tx, user_id, since, db.position))


async def encrypted_room(db: Database, *members: str, room_id: str = "!r:test", encrypted: bool = True) -> RoomStory:
    def work(tx: Transaction) -> RoomStory:
        room = RoomStory(tx, room_id, encrypted=encrypted)
        room.join(tx, *members)
        return room

    return await db.write(work)


async def queued(db: Database, server_name: str = "far") -> list[dict[str, Any]]:
    def work(tx: Transaction) -> list[dict[str, Any]]:
        found = outbox.destination(tx, server_name)
        return [] if found is None else [each.edu for each in outbox.pending(tx, found.number) if each.edu]

    return await db.read(work)


# For clients


async def test_a_change_is_told_to_those_who_share_an_encrypted_room_and_to_oneself(db: Database) -> None:
    await encrypted_room(db, ALICE, BOB)
    await encrypted_room(db, ALICE, CAROL, room_id="!plain:test", encrypted=False)
    before = db.position
    for user_id in (ALICE, BOB, CAROL):
        await db.write(lambda tx, user_id=user_id: device_lists.note_change(tx, user_id))
    assert await changed(db, ALICE, before) == ([ALICE, BOB], [])
    assert await changed(db, CAROL, before) == ([CAROL], [])
    assert await changed(db, ALICE, db.position) == ([], [])


async def test_who_joins_an_encrypted_room_is_told_of_all_members_and_they_of_the_newcomer(db: Database) -> None:
    room = await encrypted_room(db, ALICE, BOB)
    before = db.position
    await db.write(lambda tx: room.join(tx, CAROL))
    assert await changed(db, CAROL, before) == ([ALICE, BOB], [])
    assert await changed(db, ALICE, before) == ([CAROL], [])


async def test_a_new_display_name_is_no_new_member(db: Database) -> None:
    room = await encrypted_room(db, ALICE, BOB)
    before = db.position
    await db.write(lambda tx: room.member(tx, ALICE, "join", displayname="Alice"))
    await db.write(lambda tx: room.member(tx, ALICE, "join", displayname="Alice B."))
    assert await changed(db, BOB, before) == ([], [])
    assert await changed(db, ALICE, before) == ([], [])


async def test_who_joined_and_renamed_in_one_go_is_new_all_the_same(db: Database) -> None:
    room = await encrypted_room(db, ALICE)
    before = db.position
    await db.write(lambda tx: room.join(tx, BOB))
    await db.write(lambda tx: room.member(tx, BOB, "join", displayname="Bob"))
    assert await changed(db, ALICE, before) == ([BOB], [])


async def test_who_left_and_came_back_in_one_go_counts_as_new(db: Database) -> None:
    room = await encrypted_room(db, ALICE, ZOE)
    before = db.position
    await db.write(lambda tx: room.leave(tx, ZOE))
    await db.write(lambda tx: room.join(tx, ZOE))
    assert await changed(db, ALICE, before) == ([ZOE], [])


async def test_a_second_shared_room_is_no_news(db: Database) -> None:
    await encrypted_room(db, ALICE, BOB)
    before = db.position
    await encrypted_room(db, ALICE, BOB, CAROL, room_id="!second:test")
    assert await changed(db, ALICE, before) == ([CAROL], [])


async def test_left_names_those_with_whom_no_encrypted_room_is_shared_any_more(db: Database) -> None:
    room = await encrypted_room(db, ALICE, BOB, CAROL)
    await encrypted_room(db, ALICE, CAROL, room_id="!second:test")
    before = db.position
    await db.write(lambda tx: room.leave(tx, ALICE))
    assert await changed(db, ALICE, before) == ([], [BOB])
    assert await changed(db, BOB, before) == ([], [ALICE])
    assert await changed(db, CAROL, before) == ([], [])


async def test_a_room_joined_and_left_between_two_syncs_leaves_no_trace(db: Database) -> None:
    room = await encrypted_room(db, BOB)
    before = db.position
    await db.write(lambda tx: room.join(tx, ALICE))
    await db.write(lambda tx: room.leave(tx, ALICE))
    assert await changed(db, ALICE, before) == ([], [])


async def test_encryption_switched_on_makes_the_members_known_to_each_other(db: Database) -> None:
    room = await encrypted_room(db, ALICE, BOB, encrypted=False)
    before = db.position
    await db.write(lambda tx: room.encrypt(tx))
    assert await changed(db, ALICE, before) == ([BOB], [])


async def test_what_only_one_user_sees_is_told_to_that_user_alone(db: Database) -> None:
    await encrypted_room(db, ALICE, BOB)
    before = db.position
    await db.write(lambda tx: device_lists.note_private_change(tx, ALICE, BOB))
    assert await changed(db, ALICE, before) == ([BOB], [])
    assert await changed(db, BOB, before) == ([], [])


# To other servers


async def test_updates_to_other_servers_form_a_chain(db: Database) -> None:
    lists = DeviceLists(db, "test", Wakeups())
    await encrypted_room(db, ALICE, ZOE)

    def upload(tx: Transaction) -> None:
        device_keys.set_device_keys(tx, ALICE, "A", identity(ALICE, "A"))
        lists.device_changed(tx, ALICE, "A")

    await db.write(upload)
    await db.write(lambda tx: lists.cross_signing_changed(tx, ALICE))
    await db.write(lambda tx: lists.devices_deleted(tx, ALICE, ["A", "unknown"]))
    first, keys, last = await queued(db)
    assert first["content"]["keys"] == identity(ALICE, "A")
    assert first["content"]["prev_id"] == []
    assert keys == {"edu_type": "m.signing_key_update", "content": {"user_id": ALICE}}
    assert last["content"]["deleted"] is True
    assert last["content"]["prev_id"] == [first["content"]["stream_id"]]
    assert (await lists.for_server(ALICE))["stream_id"] == last["content"]["stream_id"]


async def test_whoever_joins_is_made_known_to_servers_that_are_new_to_them(db: Database) -> None:
    lists = DeviceLists(db, "test", Wakeups())
    await db.write(lambda tx: devices.ensure(tx, ALICE, "A", "phone"))
    room = await encrypted_room(db, ZOE)

    def join(tx: Transaction) -> None:
        number = room.member(tx, ALICE, "join")
        lists.membership_changed(tx, room.room, room.event(tx, number), number)

    await db.write(join)
    await db.write(join)
    [edu] = await queued(db)
    assert edu["content"]["user_id"] == ALICE
    assert edu["content"]["prev_id"] == []
    assert "device_display_name" not in edu["content"]


async def woken(listener: Listener) -> bool:
    with trio.move_on_after(1) as scope:
        await listener.wait()
    return not scope.cancelled_caught


async def test_local_users_who_share_a_room_and_the_sender_are_woken_after_the_commit(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    wakeups = Wakeups()
    lists = DeviceLists(db, "test", wakeups)
    await encrypted_room(db, ALICE, BOB, ZOE)
    with wakeups.listening(BOB) as bob, wakeups.listening(CAROL) as carol, wakeups.listening(OUTBOX) as sender:
        await db.write(lambda tx: lists.device_changed(tx, ALICE, "A"))
        assert await woken(bob)
        assert await woken(sender)
        assert not await woken(carol)


# From other servers


class FarKeys:
    """The server `far`: what it says of its users, and what it was asked."""

    def __init__(self) -> None:
        self.devices: dict[str, dict[str, dict[str, Any]]] = {ZOE: {"Z": identity(ZOE, "Z")}}
        self.stream_id = 10
        self.asked: list[str] = []
        self.down = False
        self.meanwhile: Any = None

    async def query_keys(self, server: str, device_keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        self._ask(f"query {sorted(device_keys)}")
        return {"device_keys": {user: devices for user, devices in self.devices.items() if user in device_keys}}

    async def claim_keys(self, server: str, one_time_keys: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        self._ask("claim")
        return {
            user: {device: {f"{algorithm}:1": {"key": "k"}} for device, algorithm in devices.items()}
            for user, devices in {**one_time_keys, "@mallory:far": {"M": "x"}}.items()
        }

    async def user_devices(self, server: str, user_id: str) -> dict[str, Any]:
        self._ask(f"devices {user_id}")
        if self.meanwhile is not None:
            await self.meanwhile()
        listed = [{"device_id": d, "keys": k, "device_display_name": "far"} for d, k in self.devices[user_id].items()]
        return {"user_id": user_id, "stream_id": self.stream_id, "devices": listed}

    def _ask(self, what: str) -> None:
        if self.down:
            raise KeysUnavailable("down")
        self.asked.append(what)


def services(db: Database, far: FarKeys) -> tuple[DeviceLists, DeviceKeys]:
    wakeups = Wakeups()
    lists = DeviceLists(db, "test", wakeups)
    return lists, DeviceKeys(db, "test", wakeups, lists, far)


def update(stream_id: int, previous: list[int], **more: Any) -> dict[str, Any]:
    return {"user_id": ZOE, "device_id": "Z2", "stream_id": stream_id, "prev_id": previous, **more}


async def test_a_remote_list_is_asked_for_once_and_then_follows_updates(db: Database) -> None:
    far = FarKeys()
    lists, keys = services(db, far)
    await encrypted_room(db, ALICE, ZOE)
    for _ in range(2):
        answer = await keys.query(ALICE, {ZOE: []})
        assert set(answer["device_keys"][ZOE]) == {"Z"}
        assert answer["device_keys"][ZOE]["Z"]["unsigned"] == {"device_display_name": "far"}
    before = db.position
    await lists.receive_update(ZOE, update(12, [10], keys=identity(ZOE, "Z2")))
    assert await changed(db, ALICE, before) == ([ZOE], [])
    assert set((await keys.query(ALICE, {ZOE: []}))["device_keys"][ZOE]) == {"Z", "Z2"}
    await lists.receive_update(ZOE, update(13, [12], deleted=True))
    assert set((await keys.query(ALICE, {ZOE: []}))["device_keys"][ZOE]) == {"Z"}
    assert far.asked == [f"devices {ZOE}"]


async def test_a_repeated_update_is_no_news(db: Database) -> None:
    lists, keys = services(db, FarKeys())
    await encrypted_room(db, ALICE, ZOE)
    await keys.query(ALICE, {ZOE: []})
    before = db.position
    await lists.receive_update(ZOE, update(10, [], keys=identity(ZOE, "Z2")))
    assert await changed(db, ALICE, before) == ([], [])


async def test_a_gap_in_the_updates_asks_for_the_whole_list_again(db: Database) -> None:
    far = FarKeys()
    lists, keys = services(db, far)
    await encrypted_room(db, ALICE, ZOE)
    await keys.query(ALICE, {ZOE: []})
    far.devices[ZOE] = {"Z3": identity(ZOE, "Z3")}
    far.stream_id = 20
    await lists.receive_update(ZOE, update(20, [19], keys=identity(ZOE, "Z2")))
    assert set((await keys.query(ALICE, {ZOE: []}))["device_keys"][ZOE]) == {"Z3"}
    assert len(far.asked) == 2


async def test_an_update_during_the_query_makes_the_next_one_ask_again(db: Database) -> None:
    far = FarKeys()
    lists, keys = services(db, far)
    await encrypted_room(db, ALICE, ZOE)
    far.meanwhile = lambda: lists.receive_update(ZOE, update(11, [10]))
    await keys.query(ALICE, {ZOE: []})
    far.meanwhile = None
    await keys.query(ALICE, {ZOE: []})
    await keys.query(ALICE, {ZOE: []})
    assert len(far.asked) == 2


async def test_many_lists_of_one_server_are_asked_for_at_once_and_held(db: Database) -> None:
    far = FarKeys()
    yan = "@yan:far"
    far.devices[yan] = {"Y": identity(yan, "Y"), "lie": identity(ZOE, "lie")}
    _, keys = services(db, far)
    await encrypted_room(db, ALICE, ZOE, yan)
    for _ in range(2):
        answer = await keys.query(ALICE, {ZOE: [], yan: []})
        assert {user: set(found) for user, found in answer["device_keys"].items()} == {ZOE: {"Z"}, yan: {"Y"}}
    assert len(far.asked) == 1


async def test_lists_of_strangers_are_not_held(db: Database) -> None:
    far = FarKeys()
    _, keys = services(db, far)
    for _ in range(2):
        assert set((await keys.query(ALICE, {ZOE: ["Z"]}))["device_keys"][ZOE]) == {"Z"}
    assert len(far.asked) == 2


async def test_a_server_that_is_down_is_named_and_what_is_held_is_given(db: Database) -> None:
    far = FarKeys()
    lists, keys = services(db, far)
    await encrypted_room(db, ALICE, ZOE)
    await keys.query(ALICE, {ZOE: []})
    await lists.receive_update(ZOE, update(20, [19]))
    far.down = True
    answer = await keys.query(ALICE, {ZOE: []})
    assert set(answer["failures"]) == {"far"}
    assert set(answer["device_keys"][ZOE]) == {"Z"}


async def test_a_list_is_dropped_when_no_room_is_shared_any_more(db: Database) -> None:
    lists, keys = services(db, FarKeys())
    room = await encrypted_room(db, ALICE, ZOE)
    await keys.query(ALICE, {ZOE: []})

    def leave(tx: Transaction) -> None:
        number = room.member(tx, ALICE, "leave")
        lists.membership_changed(tx, room.room, room.event(tx, number), number)
        assert device_lists.remote_list(tx, ZOE) is None
        assert device_keys.device_ids(tx, ZOE) == []

    await db.write(leave)


async def test_new_signing_keys_of_a_remote_user_are_taken(db: Database) -> None:
    lists, keys = services(db, FarKeys())
    await encrypted_room(db, ALICE, ZOE)
    await keys.query(ALICE, {ZOE: []})
    master = {"user_id": ZOE, "usage": ["master"], "keys": {"ed25519:pub": "pub"}}
    before = db.position
    await lists.receive_signing_keys(ZOE, {"user_id": ZOE, "master_key": master, "self_signing_key": {"usage": 3}})
    assert (await keys.query(ALICE, {ZOE: []}))["master_keys"] == {ZOE: master}
    assert await changed(db, ALICE, before) == ([ZOE], [])


async def test_a_claim_takes_from_a_remote_server_only_what_was_asked(db: Database) -> None:
    _, keys = services(db, FarKeys())
    answer = await keys.claim({ZOE: {"Z": "signed_curve25519"}})
    assert answer == {
        "one_time_keys": {ZOE: {"Z": {"signed_curve25519:1": {"key": "k"}}}},
        "failures": {},
    }


def test_an_update_follows_if_all_that_it_builds_on_is_known() -> None:
    assert follows(5, 6, [5])
    assert follows(5, 6, [3, 5])
    assert not follows(5, 7, [6])
    assert not follows(5, 6, [])
    assert not follows(5, 6, None)
    assert not follows(None, 2, [1])
    assert not follows(5, 6, [True, "5"])
    assert not follows(5, 4, [3])


async def test_ids_that_run_backwards_make_the_next_query_ask_again(db: Database) -> None:
    far = FarKeys()
    lists, keys = services(db, far)
    await encrypted_room(db, ALICE, ZOE)
    await keys.query(ALICE, {ZOE: []})
    far.stream_id = 3  # the far server is an older copy of itself
    far.devices[ZOE] = {"Z2": identity(ZOE, "Z2")}
    before = db.position
    await lists.receive_update(ZOE, update(3, [2], keys=identity(ZOE, "Z2")))
    assert await changed(db, ALICE, before) == ([ZOE], [])
    assert set((await keys.query(ALICE, {ZOE: []}))["device_keys"][ZOE]) == {"Z2"}
    await lists.receive_update(ZOE, update(4, [3], deleted=True))
    assert (await keys.query(ALICE, {ZOE: []}))["device_keys"][ZOE] == {}
    assert len(far.asked) == 2


async def test_a_lost_update_is_healed_by_the_next_one(db: Database) -> None:
    far = FarKeys()
    lists, keys = services(db, far)
    await encrypted_room(db, ALICE, ZOE)
    await keys.query(ALICE, {ZOE: []})
    far.devices[ZOE] = {"Z2": identity(ZOE, "Z2"), "Z3": identity(ZOE, "Z3")}
    far.stream_id = 12
    await lists.receive_update(ZOE, {**update(12, [11], keys=identity(ZOE, "Z3")), "device_id": "Z3"})  # 11, which brought Z2, is lost
    for _ in range(2):
        assert set((await keys.query(ALICE, {ZOE: []}))["device_keys"][ZOE]) == {"Z2", "Z3"}
    assert len(far.asked) == 2


async def test_many_queries_for_a_list_ask_for_it_once(db: Database, autojump_clock: trio.testing.MockClock) -> None:
    far = FarKeys()
    _, keys = services(db, far)
    await encrypted_room(db, ALICE, BOB, ZOE)
    answers = []

    async def slowly() -> None:
        await trio.sleep(3)

    far.meanwhile = slowly

    async def ask(viewer: str) -> None:
        answers.append((await keys.query(viewer, {ZOE: []}))["device_keys"][ZOE])

    async with trio.open_nursery() as nursery:
        for viewer in (ALICE, BOB, ALICE, BOB):
            nursery.start_soon(ask, viewer)
    assert [set(one) for one in answers] == [{"Z"}] * 4
    assert far.asked == [f"devices {ZOE}"]


async def test_a_new_master_key_alone_takes_the_old_self_signing_key_away(db: Database) -> None:
    far = FarKeys()
    lists, keys = services(db, far)
    await encrypted_room(db, ALICE, ZOE)
    await keys.query(ALICE, {ZOE: []})

    def key(usage: str, public: str) -> dict[str, Any]:
        return {"user_id": ZOE, "usage": [usage], "keys": {f"ed25519:{public}": public}}

    both = {"user_id": ZOE, "master_key": key("master", "m1"), "self_signing_key": key("self_signing", "s1")}
    await lists.receive_signing_keys(ZOE, both)
    assert (await keys.query(ALICE, {ZOE: []}))["self_signing_keys"] == {ZOE: both["self_signing_key"]}
    await lists.receive_signing_keys(ZOE, {"user_id": ZOE, "master_key": key("master", "m2")})
    far.down = True
    answer = await keys.query(ALICE, {ZOE: []})
    assert answer["master_keys"] == {ZOE: key("master", "m2")}
    assert "self_signing_keys" not in answer
    assert set(answer["failures"]) == {"far"}


async def test_who_comes_back_to_the_only_shared_room_is_asked_about_again(db: Database) -> None:
    far = FarKeys()
    lists, keys = services(db, far)
    room = await encrypted_room(db, ALICE, ZOE)
    await keys.query(ALICE, {ZOE: []})

    def come_back(tx: Transaction) -> None:
        room.leave(tx, ZOE)  # by a resolution, say, which no hook hears of
        number = room.member(tx, ZOE, "join")
        lists.membership_changed(tx, room.room, room.event(tx, number), number)

    await db.write(come_back)
    await keys.query(ALICE, {ZOE: []})
    assert len(far.asked) == 2


async def test_new_signing_keys_replace_those_that_still_wait_for_a_server(db: Database) -> None:
    lists = DeviceLists(db, "test", Wakeups())
    await encrypted_room(db, ALICE, BOB, ZOE)
    for user_id in (ALICE, BOB, ALICE):
        await db.write(lambda tx, user_id=user_id: lists.cross_signing_changed(tx, user_id))
    assert [edu["content"]["user_id"] for edu in await queued(db)] == [BOB, ALICE]
