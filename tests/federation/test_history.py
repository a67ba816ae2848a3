"""What other servers read of our rooms: what was refused is never served, what they may not see is not shown, and work is bounded."""

from __future__ import annotations

from typing import Any

import pytest

from edgeserver.federation.client import Ask
from edgeserver.federation.errors import PeerError
from edgeserver.matrix import draft
from edgeserver.matrix.verdicts import Rejected, SoftFailed
from edgeserver.store import events
from edgeserver.store.events import Standing
from tests.federation.rig import Server, servers

ALICE, BOB, CAROL = "@alice:a.test", "@bob:b.test", "@carol:c.test"
V1 = "/_matrix/federation/v1"


async def refused(server: Server, target: str) -> tuple[int, str]:
    with pytest.raises(PeerError) as failure:
        await server.client.json("a.test", Ask("GET", target))
    return failure.value.status, failure.value.errcode


async def pdu_of(server: Server, event_id: str) -> dict[str, Any]:
    stored = await server.db.read(lambda tx: events.get(tx, event_id))
    assert stored is not None
    return stored.event.pdu


async def forged(server: Server, like: str, **changes: Any) -> draft.Event:
    """An event of that server's, made like another."""
    stored = await server.db.read(lambda tx: events.get(tx, like))
    assert stored is not None
    kept = {key: value for key, value in stored.event.pdu.items() if key not in ("hashes", "signatures")}
    return draft.complete({**kept, **changes}, stored.event.rules, server.name, server.key)


async def test_a_rejected_event_is_kept_and_served_nowhere() -> None:
    async with servers("a.test", "b.test", "c.test") as (a, b, c):
        room = await a.room(ALICE, room_version="11")
        await b.members.join(BOB, room, ["a.test"])
        await c.members.join(CAROL, room, ["a.test"])
        said = await b.say(room, BOB, "good")
        topic = await forged(b, said, type="m.room.topic", state_key="", content={"topic": "bad"})
        assert isinstance(await a.receiver.receive("b.test", topic.pdu), Rejected)
        later = await a.say(room, ALICE, "later")
        stored = await a.db.read(lambda tx: events.get(tx, topic.event_id))
        assert stored is not None
        assert stored.standing is Standing.REJECTED
        at, missing = topic.event_id, (404, "M_NOT_FOUND")
        for target in (f"event/{at}", f"event_auth/{room}/{at}", f"state/{room}?event_id={at}", f"state_ids/{room}?event_id={at}"):
            assert await refused(c, f"{V1}/{target}") == missing
        ids, chain = await c.calls.state_ids("a.test", room, later)
        assert at not in {*ids, *chain}
        assert await c.calls.backfill("a.test", room, [at], 5) == []


async def test_a_soft_failed_event_is_told_when_asked_for_and_is_no_state() -> None:
    async with servers("a.test", "b.test", "c.test") as (a, b, c):
        levels = {"users": {ALICE: 100, BOB: 50}}
        room = await a.room(ALICE, room_version="11", power_level_content_override=levels)
        await b.members.join(BOB, room, ["a.test"])
        await c.members.join(CAROL, room, ["a.test"])
        await a.members.kick(ALICE, room, BOB)
        topic = await b.composer.send(room, BOB, "m.room.topic", {"topic": "after my kick"}, state_key="")
        assert isinstance(await a.receiver.receive("b.test", await pdu_of(b, topic)), SoftFailed)
        later = await a.say(room, ALICE, "later")
        ids, _ = await c.calls.state_ids("a.test", room, later)
        assert topic not in ids
        assert (await c.calls.event("a.test", topic))["content"] == {"topic": "after my kick"}


async def test_a_message_without_a_place_is_not_told() -> None:
    """Nobody can say who may see a message of which the state before it is not known."""
    async with servers("a.test", "b.test", "c.test") as (a, b, c):
        room = await a.room(ALICE, room_version="11")
        await b.members.join(BOB, room, ["a.test"])
        await c.members.join(CAROL, room, ["a.test"])
        said = await b.say(room, BOB, "somewhere")
        stored = await b.db.read(lambda tx: events.get(tx, said))
        number = (await a.db.read(lambda tx: events.many(tx, stored.event.auth_events)))[stored.event.auth_events[0]].room
        await a.placer.store_outliers(number, {said: stored.event})
        assert await refused(c, f"{V1}/event/{said}") == (404, "M_NOT_FOUND")
        assert (await c.calls.event("a.test", stored.event.auth_events[0]))["type"].startswith("m.room.")


async def test_a_server_that_the_acl_refuses_reads_nothing() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room(ALICE, room_version="11")
        await b.members.join(BOB, room, ["a.test"])
        said = await a.say(room, ALICE, "hello")
        await a.composer.send(room, ALICE, "m.room.server_acl", {"allow": ["*"], "deny": ["b.test"]}, state_key="")
        for target in (
            f"backfill/{room}?v={said}&limit=1",
            f"event/{said}",
            f"event_auth/{room}/{said}",
            f"state/{room}?event_id={said}",
            f"state_ids/{room}?event_id={said}",
            f"timestamp_to_event/{room}?ts=1&dir=f",
        ):
            assert await refused(b, f"{V1}/{target}") == (403, "M_FORBIDDEN")


async def test_missing_events_know_depth_limit_and_many_heads() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room(ALICE, room_version="11")
        await b.members.join(BOB, room, ["a.test"])
        said = [await a.say(room, ALICE, str(number)) for number in range(30)]

        async def between(earliest: list[str], limit: int, min_depth: int = 0) -> list[str]:
            pdus = await b.calls.missing_events("a.test", room, earliest, [said[-1]], limit, min_depth)
            return [pdu["content"]["body"] for pdu in pdus]

        assert await between([said[25]], 10) == ["26", "27", "28"]
        assert await between([f"$head{number}" for number in range(300)] + [said[25]], 10) == ["26", "27", "28"]
        assert len(await between([], 1000)) == 20
        depth = (await pdu_of(a, said[27]))["depth"]
        assert await between([], 10, depth) == ["27", "28"]


async def test_a_time_is_answered_by_what_the_asking_server_may_see() -> None:
    async with servers("a.test", "b.test", "c.test") as (a, b, c):
        visibility = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
        room = await a.room(ALICE, room_version="11", initial_state=[visibility])
        hidden = await a.say(room, ALICE, "hidden")
        await b.members.join(BOB, room, ["a.test"])
        shown = await a.say(room, ALICE, "shown")
        ts = (await pdu_of(a, hidden))["origin_server_ts"]
        event_id, at = await b.calls.timestamp_to_event("a.test", room, ts, backwards=False)
        assert event_id != hidden
        assert at >= ts
        last, _ = await b.calls.timestamp_to_event("a.test", room, 2**50, backwards=True)
        assert last == shown
        assert await refused(b, f"{V1}/timestamp_to_event/{room}?ts={2**50}&dir=f") == (404, "M_NOT_FOUND")
        assert await refused(b, f"{V1}/timestamp_to_event/{room}?ts=1") == (400, "M_MISSING_PARAM")
        assert await refused(b, f"{V1}/timestamp_to_event/{room}?ts=--1&dir=f") == (400, "M_INVALID_PARAM")
        assert await refused(b, f"{V1}/timestamp_to_event/{room}?ts=1&dir=up") == (400, "M_INVALID_PARAM")
        assert await refused(c, f"{V1}/timestamp_to_event/{room}?ts=1&dir=f") == (403, "M_FORBIDDEN")
