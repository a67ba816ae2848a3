"""Sliding sync where answers are composed at the same time: reads run on several threads and cannot be interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from edgeserver.store.database import Database, Transaction
from edgeserver.sync.sliding import connections, deployed
from edgeserver.sync.sliding.connections import LIVE, Changes, Connections
from edgeserver.sync.sliding.engine import SlidingSync
from edgeserver.sync.sliding.room_list import RoomLists
from tests.sync.world import ALICE, BOB, open_world

Result = TypeVar("Result")
BODY = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 5, "required_state": []}}}


class SlowDatabase:
    """A database whose reads, while `slow`, are over only at `go`, like those of a busy thread."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.slow = False
        self.go = trio.Event()

    async def read(self, function: Callable[[Transaction], Result]) -> Result:
        held = self.slow
        found: Result = await self._db.read(function)
        if held:
            with trio.CancelScope(shield=True):
                await self.go.wait()
        return found

    async def write(self, function: Callable[[Transaction], Result]) -> Result:
        return await self._db.write(function)


async def _told(engine: SlidingSync, pos: str | None) -> tuple[str, list[str]]:
    answer = deployed.write(await engine.sync(deployed.read(ALICE, "PHONE", pos, 0, BODY)))
    texts = [event["content"].get("body") for room in answer.get("rooms", {}).values() for event in room["timeline"]]
    return answer["pos"], [text for text in texts if text]


async def test_a_request_that_was_given_up_does_not_undo_what_the_newer_one_was_told(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        room = await world.room(ALICE, BOB)
        db: Any = SlowDatabase(world.db)
        engine = SlidingSync(db, world.wakeups, world.typing, world.now_ms, lambda _: 0)
        first, _ = await _told(engine, None)
        await world.say(room, BOB, "one")
        async with trio.open_nursery() as nursery:
            db.slow = True
            nursery.start_soon(_told, engine, first)
            await trio.testing.wait_all_tasks_blocked()
            db.slow = False
            await world.say(room, BOB, "two")
            second, texts = await _told(engine, first)
            assert texts == ["one", "two"]
            db.go.set()
        await world.say(room, BOB, "three")
        assert (await _told(engine, second))[1] == ["three"]


def test_what_a_reader_holds_of_a_connection_does_not_change_under_it() -> None:
    known = Connections()
    connection = known.enter("@a:b", "D", "c", None)
    pos, before = connection.offer(Changes(7, receipts={1: 7})), connection.told
    assert known.enter("@a:b", "D", "c", pos).told.receipts == {1: 7}
    assert before.receipts == {}


def test_connections_are_bounded_and_the_one_used_longest_ago_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    known = Connections()
    given = {user: known.enter(user, "D", "c", None).offer(Changes(1)) for user in ("@a:b", "@b:b", "@c:b", "@d:b")}
    with pytest.raises(connections.errors.UnknownPos):
        known.enter("@a:b", "D", "c", given["@a:b"])
    for user in ("@b:b", "@c:b", "@d:b"):
        known.enter(user, "D", "c", given[user])


async def test_what_an_answer_adds_does_not_grow_with_the_rooms_in_sight(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        rooms = [await world.room(ALICE, BOB) for _ in range(3)]
        engine = SlidingSync(world.db, world.wakeups, world.typing, world.now_ms, lambda _: 0)
        body = {**BODY, "extensions": {name: {"enabled": True} for name in ("account_data", "receipts", "typing")}}
        pos = (await engine.sync(deployed.read(ALICE, "PHONE", None, 0, body))).pos
        await world.say(rooms[0], BOB, "one")
        pos = (await engine.sync(deployed.read(ALICE, "PHONE", pos, 0, body))).pos
        [connection] = engine.connections._open.values()
        assert connection._offered is not None
        assert (len(connection._offered.rooms), connection._offered.receipts, connection._offered.data) == (1, {}, {})
        assert set(connection.told.receipts.values()) == set(connection.told.data.values()) == {LIVE}


async def test_a_reader_that_is_behind_does_not_put_its_older_list_in_place_of_a_newer(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        older = await world.room(ALICE, BOB)
        lists = RoomLists()
        was = await world.db.read(lambda tx: lists.of(tx, ALICE))
        newer = await world.room(ALICE, BOB)
        now = await world.db.read(lambda tx: lists.of(tx, ALICE))
        assert ([room.room_id for room in was.rooms], [room.room_id for room in now.rooms]) == ([older], [newer, older])

        def behind(tx: Transaction) -> None:
            tx.position = was.position
            lists.of(tx, ALICE)

        await world.db.read(behind)
        assert await world.db.read(lambda tx: lists.of(tx, ALICE)) is now
