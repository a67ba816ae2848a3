"""Reports of events, rooms and users: who may make them, what they tell about, and how many are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from edgeserver.api.client import create_room, report, room_events, room_membership
from edgeserver.api.ratelimit import RATES, RateLimiter
from edgeserver.rooms.reports import MAX_REASON, Reports
from edgeserver.store import reports as table
from tests.api.rooms_house import USERS, Client, open_place
from tests.asgi import section_application
from tests.rooms.house import ALICE, BOB, House


@dataclass
class Place:
    house: House
    reports: Reports
    app: Any

    def client(self, token: str) -> Client:
        return Client(self.app, token=token)

    async def kept(self, kind: str) -> list[tuple[str, str, str]]:
        """(who, target, reason) of all reports of a kind."""
        wanted = table.Wanted(kind)
        found, _ = await self.house.db.read(lambda tx: table.page(tx, wanted, 0, 100, newest_first=False))
        return [(one.user_id, one.target, one.reason) for one in found]


def _build(house: House, reports: Reports, limiter: RateLimiter | None = None) -> Place:
    routes = [
        *report.routes(reports),
        *create_room.routes(house.creator, house.memberships, house.name),
        *room_events.routes(house.db, house.composer, house.memberships, house.directory),
        *room_membership.routes(house.db, house.memberships, house.directory),
    ]
    return Place(house, reports, section_application(routes, USERS, limiter))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield _build(opened.house, Reports(opened.house.db, opened.house.now_ms))


async def test_an_event_is_reported_by_who_is_in_its_room(place: Place) -> None:
    alice, bob = place.client("alice"), place.client("bob")
    room_id = await alice.create()
    event_id = await alice.say(room_id, "spam")
    assert await alice.ok("POST", "rooms", room_id, "report", event_id, json={"reason": "spam"}) == {}
    assert await alice.ok("POST", "rooms", room_id, "report", event_id, json={}) == {}
    assert await place.kept(table.EVENT) == [(ALICE, event_id, "")]  # the later report takes the place of the earlier
    for room, event in ((room_id, event_id), (room_id, "$nothing"), ("!nowhere:one", event_id)):
        assert await bob.refused("POST", "rooms", room, "report", event, json={"reason": "x"}) == (404, "M_NOT_FOUND")
    other = await alice.create()
    assert await alice.refused("POST", "rooms", other, "report", event_id, json={"reason": "x"}) == (404, "M_NOT_FOUND")


async def test_what_was_said_before_one_could_see_it_cannot_be_reported(place: Place) -> None:
    alice, bob = place.client("alice"), place.client("bob")
    joined = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await alice.create(initial_state=[joined], preset="public_chat")
    event_id = await alice.say(room_id, "before")
    await bob.ok("POST", "rooms", room_id, "join", json={})
    assert await bob.refused("POST", "rooms", room_id, "report", event_id, json={"reason": "x"}) == (404, "M_NOT_FOUND")


async def test_a_room_is_reported_by_who_can_know_of_it(place: Place) -> None:
    alice, bob = place.client("alice"), place.client("bob")
    secret, public, invited = await alice.create(), await alice.create(preset="public_chat"), await alice.create(invite=[BOB])
    assert await bob.refused("POST", "rooms", secret, "report", json={"reason": "x"}) == (404, "M_NOT_FOUND")
    assert await bob.refused("POST", "rooms", "!nowhere:one", "report", json={"reason": "x"}) == (404, "M_NOT_FOUND")
    await bob.ok("POST", "rooms", public, "report", json={"reason": "p"})
    await bob.ok("POST", "rooms", invited, "report", json={"reason": ""})
    assert await place.kept(table.ROOM) == [(BOB, public, "p"), (BOB, invited, "")]


async def test_whether_a_user_exists_is_not_told_by_a_report(place: Place) -> None:
    alice, bob = place.client("alice"), place.client("bob")
    await alice.create(invite=[BOB])
    for target in (BOB, "@nobody:one", "@nobody:two", "no user id"):
        assert await alice.ok("POST", "users", target, "report", json={"reason": "x"}) == {}
    assert await place.kept(table.USER) == [(ALICE, BOB, "x")]
    assert await bob.ok("POST", "users", ALICE, "report", json={"reason": ""}) == {}


async def test_a_report_that_is_none_is_refused(place: Place) -> None:
    alice = place.client("alice")
    room_id = await alice.create()
    for path in (("rooms", room_id, "report"), ("users", BOB, "report")):
        assert await alice.refused("POST", *path, json={}) == (400, "M_MISSING_PARAM")
        assert await alice.refused("POST", *path, json={"reason": 1}) == (400, "M_BAD_JSON")
        assert await alice.refused("POST", *path, json={"reason": "x" * (MAX_REASON + 1)}) == (400, "M_INVALID_PARAM")
    event_id = await alice.say(room_id, "x")
    assert await alice.refused("POST", "rooms", room_id, "report", event_id, json={"reason": 1}) == (400, "M_BAD_JSON")


async def test_nobody_files_more_reports_than_can_be_kept(tmp_path: Path) -> None:
    async with open_place(tmp_path) as opened:
        house = opened.house
        place = _build(house, Reports(house.db, house.now_ms, at_most=2, in_all=3))
        alice, bob, carol = (place.client(name) for name in ("alice", "bob", "carol"))
        room_ids = [await alice.create(preset="public_chat") for _ in range(3)]
        for room_id in room_ids[:2]:
            await alice.ok("POST", "rooms", room_id, "report", json={"reason": "x"})
        assert await alice.refused("POST", "rooms", room_ids[2], "report", json={"reason": "x"}) == (429, "M_LIMIT_EXCEEDED")
        await alice.ok("POST", "rooms", room_ids[0], "report", json={"reason": "again"})
        await bob.ok("POST", "rooms", room_ids[0], "report", json={"reason": "x"})
        assert await carol.refused("POST", "rooms", room_ids[0], "report", json={"reason": "x"}) == (429, "M_LIMIT_EXCEEDED")


async def test_reports_come_at_a_limited_rate(tmp_path: Path) -> None:
    async with open_place(tmp_path) as opened:
        house = opened.house
        place = _build(house, Reports(house.db, house.now_ms), RateLimiter(lambda: 0))
        alice = place.client("alice")
        for _ in range(RATES["report"].burst):
            await alice.ok("POST", "users", BOB, "report", json={"reason": "x"})
        answer = await alice.call("POST", "users", BOB, "report", json={"reason": "x"})
        assert (answer.status, answer.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert answer.headers["retry-after"] == "21"


async def test_a_room_id_in_the_path_may_be_anything(place: Place) -> None:
    answer = await place.client("alice").request(
        "POST", f"/_matrix/client/v3/rooms/{quote('!' + 'x' * 300)}/report", json={"reason": "x"}
    )
    assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
