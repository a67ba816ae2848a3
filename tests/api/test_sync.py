"""Sync, receipts, read markers, typing and notifications over the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest

from edgeserver.api.client import notifications, read_markers, receipts, sync, typing
from edgeserver.sync.filters import FilterReader
from edgeserver.users.filters import Filters
from edgeserver.users.notifications import Notifications
from tests.asgi import AsgiClient, section_application
from tests.sync.world import ALICE, BOB, World, bodies, joined, open_world

BASE = "/_matrix/client/v3"


class Served:
    def __init__(self, world: World) -> None:
        self.world = world
        self.filters = Filters(world.db)
        self.seen: list[tuple[str, str]] = []
        routes = [
            *sync.routes(world.classic, FilterReader(self.filters), lambda *seen: self.seen.append(seen)),
            *receipts.routes(world.receipts, world.markers),
            *read_markers.routes(world.markers),
            *typing.routes(world.typing),
            *notifications.routes(Notifications(world.db)),
        ]
        app = section_application(routes, {"alice": ALICE, "bob": BOB})
        self.alice, self.bob = AsgiClient(app, token="alice"), AsgiClient(app, token="bob")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with open_world(tmp_path) as world:
        yield Served(world)


async def test_a_client_follows_a_room(served: Served) -> None:
    room = await served.world.room(ALICE, BOB)
    first = await served.alice.get(f"{BASE}/sync")
    assert first.status == 200
    await served.world.say(room, BOB, "hello")
    answer = await served.alice.get(f"{BASE}/sync", query={"since": first.json["next_batch"], "timeout": "30000"})
    assert bodies(joined(answer.json, room)) == ["hello"]
    assert served.seen == [(ALICE, "online")] * 2


async def test_filters_are_given_whole_or_by_id(served: Served) -> None:
    room = await served.world.room(ALICE, BOB)
    for number in range(3):
        await served.world.say(room, BOB, str(number))
    definition = {"room": {"timeline": {"limit": 1}}}
    stored = await served.filters.define(ALICE, definition)
    for parameter in (stored, orjson.dumps(definition).decode()):
        answer = await served.alice.get(f"{BASE}/sync", query={"filter": parameter})
        assert bodies(joined(answer.json, room)) == ["2"]


@pytest.mark.parametrize(
    "query",
    [
        {"since": "nonsense"},
        {"since": "s-4_1"},
        {"since": "s1_2_3_4"},
        {"filter": "77"},
        {"filter": "{"},
        {"filter": "{\"room\": 3}"},
        {"timeout": "soon"},
        {"full_state": "yes"},
        {"set_presence": "asleep"},
    ],
)
async def test_what_makes_no_sense_is_refused(served: Served, query: dict[str, str]) -> None:
    answer = await served.alice.get(f"{BASE}/sync", query=query)
    assert answer.status == 400
    assert answer.json["errcode"] in ("M_INVALID_PARAM", "M_BAD_JSON")


async def test_receipts_and_markers_are_set(served: Served) -> None:
    room = await served.world.room(ALICE, BOB)
    said = await served.world.say(room, ALICE, "x")
    path = f"{BASE}/rooms/{quote(room)}"
    assert (await served.bob.post(f"{path}/receipt/m.read/{quote(said)}")).json == {}
    assert (await served.bob.post(f"{path}/receipt/m.fully_read/{quote(said)}")).json == {}
    assert (await served.bob.post(f"{path}/read_markers", {"m.read.private": said})).json == {}
    for body in ({"thread_id": ""}, {"thread_id": 3}, {"thread_id": "$other"}):
        answer = await served.bob.post(f"{path}/receipt/m.read/{quote(said)}", body)
        assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")
    found = joined((await served.bob.get(f"{BASE}/sync")).json, room)
    assert found["account_data"]["events"] == [{"type": "m.fully_read", "content": {"event_id": said}}]
    assert found["unread_notifications"]["notification_count"] == 0


async def test_people_type_for_themselves_only(served: Served) -> None:
    room = await served.world.room(ALICE, BOB)
    path = f"{BASE}/rooms/{quote(room)}/typing"
    assert (await served.bob.put(f"{path}/{quote(BOB)}", {"typing": True, "timeout": 1000})).status == 200
    assert served.world.typing.in_room(room) == [BOB]
    assert (await served.bob.put(f"{path}/{quote(ALICE)}", {"typing": True})).status == 403
    assert (await served.bob.put(f"{path}/{quote(BOB)}", {"typing": "yes"})).status == 400


async def test_notifications_are_paged(served: Served) -> None:
    room = await served.world.room(ALICE, BOB)
    for number in range(3):
        await served.world.say(room, ALICE, str(number))
    first = (await served.bob.get(f"{BASE}/notifications", query={"limit": "2"})).json
    assert [one["event"]["content"]["body"] for one in first["notifications"]] == ["2", "1"]
    rest = (await served.bob.get(f"{BASE}/notifications", query={"from": first["next_token"]})).json
    assert [one["event"]["content"]["body"] for one in rest["notifications"]] == ["0"]
    assert "next_token" not in rest


async def test_notifications_that_are_highlighted_can_be_listed_by_themselves(served: Served) -> None:
    room = await served.world.room(ALICE, BOB)
    for number in range(4):
        mentioned = {"m.mentions": {"user_ids": [BOB]}} if number % 2 else {}
        await served.world.say(room, ALICE, str(number), **mentioned)
    query = {"only": "highlight", "limit": "1"}
    first = (await served.bob.get(f"{BASE}/notifications", query=query)).json
    rest = (await served.bob.get(f"{BASE}/notifications", query={**query, "from": first["next_token"]})).json
    found = [*first["notifications"], *rest["notifications"]]
    assert [one["event"]["content"]["body"] for one in found] == ["3", "1"]
    assert all({"set_tweak": "highlight"} in one["actions"] for one in found)
    for wrong in ({"from": "x"}, {"limit": "-1"}, {"limit": "many"}):
        answer = await served.bob.get(f"{BASE}/notifications", query=wrong)
        assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")
