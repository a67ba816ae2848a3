"""What other servers tell of spaces: whatever they say, it is cut to shape, kept for a while, and costs no more than so many requests."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from edgeserver.matrix import errors
from edgeserver.rooms import hierarchy
from edgeserver.rooms.event_source import SourceFailed
from edgeserver.rooms.hierarchy import Hierarchy, RoomSummaries
from edgeserver.rooms.read_summary import read_summary
from edgeserver.rooms.remote_summaries import KEPT, Budget, RemoteSummaries, read_answer
from edgeserver.rooms.space_children import in_order
from tests.rooms.house import ALICE, House


def room(room_id: str, **more: Any) -> dict[str, Any]:
    return {"room_id": room_id, "num_joined_members": 1, "world_readable": False, "guest_can_join": False, "join_rule": "public", **more}


def child(room_id: str, *via: str, **content: Any) -> dict[str, Any]:
    made = {"via": list(via) or ["evil"], **content}
    return {"type": "m.space.child", "state_key": room_id, "sender": "@x:evil", "content": made, "origin_server_ts": 1}


class Teller:
    """A `SummarySource`. `answer(room_id)` makes what every server says; None: they fail."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    async def hierarchy(self, server: str, room_id: str, *, suggested_only: bool) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        self.asked.append((server, room_id))
        found = self.answer(room_id)
        if found is None:
            raise SourceFailed("no")
        return found


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


def endless(room_id: str) -> dict[str, Any]:
    """A space whose every child is a space with ten more."""
    number = int(room_id[1:].partition(":")[0])
    below = [child(f"!{number * 10 + each}:evil") for each in range(1, 11)]
    return {"room": room(room_id, room_type="m.space", children_state=below), "children": [], "inaccessible_children": []}


def walking(house: House, teller: Teller) -> Hierarchy:
    remote = RemoteSummaries(teller, "one", Clock())
    tokens = iter(range(10**6))
    return Hierarchy(house.db, remote, lambda: f"t{next(tokens)}")


async def test_a_tree_without_end_costs_so_many_requests_a_page_and_ends(one: House) -> None:
    teller = Teller(endless)
    walk = walking(one, teller)
    page = await walk.page(ALICE, "!1:evil", via=["evil"])
    seen, pages = [each["room_id"] for each in page["rooms"]], 1
    assert len(teller.asked) == hierarchy.REQUESTS
    while "next_batch" in page:
        before = len(teller.asked)
        page = await walk.page(ALICE, "!1:evil", since=page["next_batch"])
        assert len(teller.asked) - before <= hierarchy.REQUESTS
        seen += [each["room_id"] for each in page["rooms"]]
        pages += 1
    assert len(seen) == len(set(seen)) <= hierarchy.MAX_ROOMS
    assert pages <= hierarchy.MAX_ROOMS // hierarchy.REQUESTS + 2


async def test_the_room_that_spends_the_last_request_is_not_left_out(one: House) -> None:
    """The server that tells of the space knows nothing of its children, so that the page's last request is spent on the way to one."""
    below = [child(f"!{number}:evil", f"home{number}") for number in range(2 * hierarchy.REQUESTS)]
    space = {"room": room("!s:evil", room_type="m.space", children_state=below), "children": [], "inaccessible_children": []}

    class Half(Teller):
        async def hierarchy(self, server: str, room_id: str, *, suggested_only: bool) -> dict[str, Any]:
            found = await super().hierarchy(server, room_id, suggested_only=suggested_only)
            if (server == "evil") != (room_id == "!s:evil"):
                raise SourceFailed("no")
            return found

    def answer(room_id: str) -> dict[str, Any]:
        return space if room_id == "!s:evil" else {"room": room(room_id), "children": [], "inaccessible_children": []}

    walk = walking(one, Half(answer))
    page = await walk.page(ALICE, "!s:evil", via=["evil"])
    found = [each["room_id"] for each in page["rooms"]]
    while "next_batch" in page:
        page = await walk.page(ALICE, "!s:evil", since=page["next_batch"])
        found += [each["room_id"] for each in page["rooms"]]
    assert sorted(found) == sorted(["!s:evil", *(f"!{number}:evil" for number in range(2 * hierarchy.REQUESTS))])


async def test_the_slowest_of_servers_end_a_page_but_not_the_walk(one: House, autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Teller):
        async def hierarchy(self, server: str, room_id: str, *, suggested_only: bool) -> dict[str, Any]:
            await trio.sleep(20)
            return await super().hierarchy(server, room_id, suggested_only=suggested_only)

    walk = walking(one, Slow(endless))
    began = trio.current_time()
    page = await walk.page(ALICE, "!1:evil", via=["evil"])
    assert trio.current_time() - began <= 2 * hierarchy.SECONDS
    assert len((await walk.page(ALICE, "!1:evil", since=page["next_batch"]))["rooms"]) == 2


async def test_a_server_that_never_answers_is_waited_for_a_minute(one: House, autojump_clock: trio.testing.MockClock) -> None:
    class Silent(Teller):
        async def hierarchy(self, server: str, room_id: str, *, suggested_only: bool) -> dict[str, Any]:
            await trio.sleep_forever()
            raise AssertionError

    with pytest.raises(errors.NotFound):
        await RoomSummaries(one.db, RemoteSummaries(Silent(None), "one", Clock())).summary(ALICE, "!1:evil", ["evil"])
    assert trio.current_time() <= 61


async def test_answers_are_kept_for_five_minutes_and_failures_for_one() -> None:
    clock, teller = Clock(), Teller(endless)
    remote = RemoteSummaries(teller, "one", clock)

    async def asked() -> int:
        before = len(teller.asked)
        await remote.ask("!1:evil", ["one", "not a name", "evil"], Budget(9), suggested_only=False)
        return len(teller.asked) - before

    assert [await asked(), await asked()] == [1, 0]
    clock.now += 300_000
    teller.answer = lambda room_id: None
    assert [await asked(), await asked()] == [1, 0]
    clock.now += 60_000
    assert await asked() == 1
    for number in range(3 * KEPT):
        await remote.ask(f"!{number}:evil", ["evil"], Budget(1), suggested_only=False)
    assert len(remote._kept) == KEPT


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (7, None),
        ({}, None),
        ({"room_id": 7}, None),
        ({"room_id": "nonsense"}, None),
        ({"room_id": "!r:x"}, {"num_joined_members": 0}),
        (room("!r:x", num_joined_members=-1), {"num_joined_members": 0, "join_rule": "public"}),
        (room("!r:x", num_joined_members=True), {"num_joined_members": 0, "join_rule": "public"}),
        (room("!r:x", name=7, topic=["x"], avatar_url="http://x/y", canonical_alias="x", room_type={}), {"join_rule": "public"}),
        (room("!r:x", name="n" * 10_000, room_type="t" * 300), {"join_rule": "public", "name": "n" * 8192}),
        (room("!r:x", allowed_room_ids=["!a:x", 7, "b"]), {"join_rule": "public", "allowed_room_ids": ["!a:x"]}),
        (room("!r:x", world_readable="yes", more=1, avatar_url="mxc://x/y"), {"join_rule": "public", "avatar_url": "mxc://x/y"}),
    ],
)
def test_a_summary_is_cut_to_its_shape(told: Any, kept: dict[str, Any] | None) -> None:
    plain = {"room_id": "!r:x", "num_joined_members": 1, "world_readable": False, "guest_can_join": False}
    assert read_summary(told) == (None if kept is None else {**plain, **kept})


def test_an_answer_about_another_room_or_about_rooms_that_are_no_children_is_not_believed() -> None:
    space = room("!s:evil", room_type="m.space", children_state=[child("!a:evil"), "x", {}, child("nonsense"), child("!b:evil")])
    answer = {"room": space, "children": [room("!a:evil"), room("!bank:x"), 7], "inaccessible_children": ["!b:evil", "!bank:x", 7]}
    told = read_answer("evil", "!s:evil", answer)
    assert told is not None
    assert (set(told.summaries), told.inaccessible) == ({"!a:evil"}, {"!b:evil"})
    assert read_answer("evil", "!other:evil", answer) is None
    plain = {**answer, "room": {**space, "room_type": "x"}}
    told = read_answer("evil", "!s:evil", plain)
    assert told is not None
    assert told.children == ()  # only spaces have children
    odd = {"room": {**space, "children_state": {}}, "children": [], "inaccessible_children": {}}
    assert read_answer("evil", "!s:evil", odd) is not None


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ({"via": ["x"], "order": "a", "other": 1}, {"via": ["x"], "order": "a", "other": 1}),
        ({"via": []}, None),
        ({"via": [7]}, None),
        ({"via": ["y" * 300]}, None),
        ({"via": "x"}, None),
        ({}, None),
        ({"via": ["x"], "suggested": True, "fat": "f" * 5000}, {"via": ["x"], "suggested": True}),
        ({"via": ["x", 7, "y" * 300] + ["z"] * 30, "order": "o" * 5000}, {"via": ["x"] + ["z"] * 9}),
    ],
)
def test_what_makes_a_room_a_child_and_how_its_event_is_shown(content: dict[str, Any], shown: dict[str, Any] | None) -> None:
    event = {**child("!c:x"), "content": content}
    assert [one.shown["content"] for one in in_order([event], suggested_only=False)] == ([] if shown is None else [shown])


def test_children_come_by_order_then_time_then_id() -> None:
    def placed(room_id: str, at: int, **content: Any) -> dict[str, Any]:
        return {**child(room_id, **content), "origin_server_ts": at}

    told = [
        placed("!6:x", 3),
        placed("!5:x", 2),
        placed("!4:x", 2),
        placed("!7:x", 9, order="o" * 51),
        placed("!8:x", 10, order=7),
        placed("!9:x", 11, order=""),
        placed("!3:x", 8, order="~"),
        placed("!2:x", 9, order="B"),
        placed("!1:x", 8, order="B"),
        placed("!0:x", 8, order=" "),
    ]
    assert [one.room_id for one in in_order(told, suggested_only=False)] == [f"!{number}:x" for number in range(10)]
