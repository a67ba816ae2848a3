"""The deprecated event stream and initial syncs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from trio.testing import MockClock

from edgeserver.api.client import old_sync
from edgeserver.rooms.client_view import Viewer
from edgeserver.store import departures
from edgeserver.sync import old_stream
from edgeserver.sync.old_stream import OldStream
from edgeserver.users.requester import Requester
from tests.asgi import AsgiClient, section_application
from tests.sync.world import ALICE, BOB, CAROL, World, open_world

BASE = "/_matrix/client/v3"
WORLD_READABLE = [{"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}]


class Served:
    def __init__(self, world: World) -> None:
        self.world = world

        async def at_once(room_id: str) -> None:
            pass

        routes = old_sync.routes(OldStream(world.db, world.wakeups, world.typing), world.now_ms, at_once)
        users = {"alice": ALICE, "bob": BOB, "carol": CAROL, "guest": Requester("@1:a.example", "G", is_guest=True)}
        self._app = section_application(routes, users)

    async def get(self, who: str, path: str, **query: str) -> Any:
        answer = await AsgiClient(self._app, token=who).get(BASE + path, query=query)
        assert answer.status == 200, (path, answer.status, answer.body)
        return answer.json

    async def refused(self, who: str, path: str, **query: str) -> tuple[int, str]:
        answer = await AsgiClient(self._app, token=who).get(BASE + path, query=query)
        return answer.status, answer.json["errcode"]


@asynccontextmanager
async def serve(folder: Path) -> AsyncIterator[Served]:
    async with open_world(folder) as world:
        yield Served(world)


def texts(chunk: list[dict[str, Any]]) -> list[str]:
    return [one["content"].get("body", one["type"]) for one in chunk]


async def test_who_listens_hears_each_event_once_from_where_they_began(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serve(tmp_path) as served:
        room_id = await served.world.room(ALICE, BOB)
        begun = await served.get("alice", "/initialSync", limit="2")
        [room] = begun["rooms"]
        assert (room["membership"], room["visibility"], texts(room["messages"]["chunk"])) == (
            "join", "private", ["m.room.guest_access", "m.room.member"],
        )  # fmt: skip
        assert {one["type"] for one in room["state"]} >= {"m.room.create", "m.room.power_levels"}
        await served.world.say(room_id, BOB, "one")
        await served.world.say(room_id, BOB, "two")
        heard = await served.get("alice", "/events", timeout="0", **{"from": begun["end"]})
        assert texts(heard["chunk"]) == ["one", "two"]
        assert {one["room_id"] for one in heard["chunk"]} == {room_id}
        assert heard["start"] == begun["end"]
        began = trio.current_time()
        again = await served.get("alice", "/events", timeout="3000", **{"from": heard["end"]})
        assert again["chunk"] == []
        assert trio.current_time() - began == pytest.approx(3)


async def test_a_waiting_listener_is_woken_by_messages_typing_receipts_and_invites(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serve(tmp_path) as served, trio.open_nursery() as nursery:
        room_id = await served.world.room(ALICE, BOB)
        token = (await served.get("alice", "/events", timeout="0"))["end"]
        said = ""

        async def say() -> None:
            nonlocal said
            await trio.sleep(10)
            said = await served.world.say(room_id, BOB, "woken")

        nursery.start_soon(say)
        heard = await served.get("alice", "/events", timeout="30000", **{"from": token})
        assert texts(heard["chunk"]) == ["woken"]
        await served.world.typing.set(BOB, room_id, True)
        heard = await served.get("alice", "/events", **{"from": heard["end"]})
        assert heard["chunk"] == [{"type": "m.typing", "room_id": room_id, "content": {"user_ids": [BOB]}}]
        await served.world.receipts.send(BOB, room_id, "m.read", said)
        heard = await served.get("alice", "/events", **{"from": heard["end"]})
        assert [(one["type"], one["room_id"]) for one in heard["chunk"]] == [("m.receipt", room_id)]
        other = await served.world.room(BOB, preset="private_chat")
        await served.world.memberships.invite(BOB, other, ALICE)
        heard = await served.get("alice", "/events", **{"from": heard["end"]})
        assert [(one["type"], one["content"]["membership"]) for one in heard["chunk"]] == [("m.room.member", "invite")]
        begun = await served.get("alice", "/initialSync")
        assert {room["room_id"]: room["membership"] for room in begun["rooms"]} == {room_id: "join", other: "invite"}


async def test_more_than_a_chunk_comes_in_several_and_hidden_events_hold_nothing_up(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_stream, "MAX_CHUNK", 3)
    async with serve(tmp_path) as served:
        room_id = await served.world.room(ALICE, initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}])  # fmt: skip
        token = (await served.get("bob", "/events", timeout="0"))["end"]
        for number in range(8):
            await served.world.say(room_id, ALICE, f"hidden {number}")
        await served.world.memberships.join(BOB, room_id)
        for number in range(4):
            await served.world.say(room_id, ALICE, f"{number}")
        seen: list[str] = []
        while len(seen) < 5:
            heard = await served.get("bob", "/events", **{"from": token})
            token = heard["end"]
            seen += texts(heard["chunk"])
        assert seen == ["m.room.member", "0", "1", "2", "3"]


async def test_what_happens_elsewhere_meanwhile_makes_nobody_read_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_world(tmp_path) as world:
        elsewhere = await world.room(CAROL)

        class Busy:
            """A database where something is written during each of the first reads."""

            reads = 0

            @property
            def position(self) -> int:
                return world.db.position

            async def read(self, function: Any) -> Any:
                found = await world.db.read(function)
                self.reads += 1
                if self.reads <= 10:
                    await world.say(elsewhere, CAROL, "nothing to others")
                return found

        busy: Any = Busy()
        heard = await OldStream(busy, world.wakeups, world.typing).listen(Viewer(ALICE, "D", world.now_ms()), None, 1000)
        assert (heard["chunk"], busy.reads) == ([], 1)


async def test_who_has_left_hears_of_it_and_of_nothing_after(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serve(tmp_path) as served:
        room_id = await served.world.room(ALICE, BOB)
        token = (await served.get("bob", "/events", timeout="0"))["end"]
        await served.world.memberships.leave(BOB, room_id)
        await served.world.say(room_id, ALICE, "after")
        heard = await served.get("bob", "/events", **{"from": token})
        assert [one["content"].get("membership") for one in heard["chunk"]] == ["leave"]
        assert (await served.get("bob", "/initialSync"))["rooms"] == []
        [room] = (await served.get("bob", "/initialSync", archived="true"))["rooms"]
        assert room["membership"] == "leave"
        assert texts(room["messages"]["chunk"])[-1] == "m.room.member"
        alone = await served.get("bob", f"/rooms/{quote(room_id)}/initialSync", limit="1")
        assert (alone["membership"], len(alone["messages"]["chunk"])) == ("leave", 1)


async def test_a_member_listens_to_one_room_of_theirs(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serve(tmp_path) as served:
        room_id, other = await served.world.room(ALICE, BOB), await served.world.room(ALICE, BOB)
        token = (await served.get("alice", "/events", room_id=room_id, timeout="1"))["end"]
        await served.world.say(other, BOB, "elsewhere")
        await served.world.say(room_id, BOB, "here")
        heard = await served.get("alice", "/events", room_id=room_id, **{"from": token})
        assert texts(heard["chunk"]) == ["here"]


async def test_a_world_readable_room_is_peeked_into_by_users_and_guests(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serve(tmp_path) as served, trio.open_nursery() as nursery:
        room_id = await served.world.room(ALICE, initial_state=WORLD_READABLE)
        shut = await served.world.room(ALICE)
        await served.world.say(room_id, ALICE, "before")
        for who, newest in (("carol", "before"), ("guest", "live")):
            shown = await served.get(who, f"/rooms/{quote(room_id)}/initialSync", limit="1")
            assert texts(shown["messages"]["chunk"]) == [newest]
            assert "membership" not in shown

            async def say() -> None:
                await trio.sleep(5)
                await served.world.say(room_id, ALICE, "live")

            nursery.start_soon(say)
            heard = await served.get(who, "/events", room_id=room_id, timeout="30000")
            assert texts(heard["chunk"]) == ["live"]
            assert await served.refused(who, "/events", room_id=shut) == (403, "M_FORBIDDEN")
            assert await served.refused(who, f"/rooms/{quote(shut)}/initialSync") == (403, "M_FORBIDDEN")
        assert (await served.get("guest", "/events", timeout="0"))["chunk"] == []
        assert await served.refused("guest", "/initialSync") == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_one_event_is_given_to_who_may_see_it(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        room_id = await served.world.room(ALICE)
        event_id = await served.world.say(room_id, ALICE, "mine")
        shown = await served.get("alice", f"/events/{quote(event_id)}")
        assert (shown["content"]["body"], shown["room_id"]) == ("mine", room_id)
        assert await served.refused("bob", f"/events/{quote(event_id)}") == (404, "M_NOT_FOUND")
        assert await served.refused("alice", "/events/$none") == (404, "M_NOT_FOUND")


async def test_who_came_later_is_given_the_events_of_the_erased_redacted(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        world = served.world
        room_id = await world.room(ALICE, CAROL, preset="public_chat")
        start = str(world.db.position)
        event_id = await world.say(room_id, ALICE, "1 Main Street")
        await world.db.write(lambda tx: departures.erase(tx, ALICE, tx.stream()))
        await world.memberships.join(BOB, room_id)
        for who, content in (("bob", {}), ("carol", {"msgtype": "m.text", "body": "1 Main Street"})):
            assert (await served.get(who, f"/events/{quote(event_id)}"))["content"] == content
            chunk = (await served.get(who, "/events", **{"from": f"s{start}", "timeout": "0"}))["chunk"]
            assert [one["content"] for one in chunk if one.get("event_id") == event_id] == [content]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/events", {"from": "x"}),
        ("/events", {"timeout": "soon"}),
        ("/events", {"timeout": "-1"}),
        ("/initialSync", {"limit": "x"}),
        ("/initialSync", {"archived": "yes"}),
        ("/rooms/!x:y/initialSync", {"limit": "-1"}),
    ],
)
async def test_what_cannot_be_asked_is_refused(tmp_path: Path, path: str, query: dict[str, str]) -> None:
    async with serve(tmp_path) as served:
        assert await served.refused("alice", path, **query) == (400, "M_INVALID_PARAM")
