"""Floods from peers: memory stays where it was, the log does not overflow, and what is lawful is taken quickly."""

from __future__ import annotations

import gc
import logging
import time
import tracemalloc
from typing import Any

import pytest

from edgeserver.federation import lookups
from edgeserver.rooms.seldom import Seldom
from tests.faults.stranger import V1, Stranger, targets
from tests.faults.test_bad_peers import visited
from tests.federation.rig import servers
from tests.federation.test_inbound import pdus_of

MIB = 1 << 20


@pytest.mark.alone
async def test_a_flood_of_everything_leaves_memory_as_it_was(tmp_path, caplog, autojump_clock):
    caplog.set_level(logging.WARNING)
    async with visited(tmp_path) as (_world, _, alice, room_id, stranger, joined):
        base = stranger.message(room_id, [joined.event_id], joined.depth + 1, "x").pdu
        huge = {**base, "content": {"body": "x" * 60_000}}

        def flood(round_: int) -> list[tuple[list[Any], list[Any]]]:
            forged = [{**huge, "depth": index, "origin_server_ts": round_} for index in range(50)]
            names = [f"s{round_}-{index}.invented.test" for index in range(50)]
            invented = [{**base, "sender": f"@x:{name}", "signatures": {name: {"ed25519:e": "A" * 86}}} for name in names]
            elsewhere = [{**base, "room_id": f"!r{round_}-{index}:evil.test"} for index in range(50)]
            gaps = [stranger.message(room_id, [f"${round_:040}{index:03}"], 9, "gap").pdu for index in range(5)]
            typing = {"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": stranger.user_id, "typing": True}}
            receipt = {"m.read": {stranger.user_id: {"event_ids": ["$x"], "data": {"ts": 1}}}}
            receipts = {f"!r{round_}-{index}:x": receipt for index in range(900)}
            edus = [typing] * 50 + [{"edu_type": "m.receipt", "content": receipts}] * 2
            return [(forged, edus), (invented, []), (elsewhere, []), (gaps, [])]

        async def rounds(first: int, many: int) -> None:
            for number in range(first, first + many):
                for pdus, edus in flood(number):
                    await stranger.transaction("a.test", pdus, edus)
                stranger.asked.clear()
            gc.collect()

        tracemalloc.start()
        try:
            await rounds(0, 4)  # caches fill up to their bounds
            before = tracemalloc.get_traced_memory()[0]
            await rounds(4, 8)
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert after - before < 2 * MIB
        assert caplog.records == []
        await alice.say(room_id, "still here")
        assert await alice.texts(room_id) == ["still here"]


async def test_requests_in_many_made_up_names_are_looked_up_within_bounds(tmp_path, autojump_clock):
    async with visited(tmp_path) as (world, _, _, _, _, _):
        tried = targets(world)
        for number in range(int(lookups.OF_UNPROVEN.burst) + 200):
            nobody = Stranger(world, f"n{number}.nobody.test")
            nobody.vanish()
            status, _ = await nobody.ask("a.test", "GET", f"{V1}/query/profile?user_id=%40alice%3Aa.test")
            assert status == 401
        asked = sum(name.endswith(".nobody.test") for name in tried)
        assert lookups.OF_UNPROVEN.burst <= asked < lookups.OF_UNPROVEN.burst + 100


async def test_lookups_are_given_back_in_time(autojump_clock):
    import trio

    tally = lookups.Lookups()
    assert sum(tally.take("evil.test") for _ in range(500)) == lookups.OF_TELLER.burst
    await trio.sleep(100)
    assert sum(tally.take("evil.test") for _ in range(500)) == 100 * lookups.OF_TELLER.per_second
    assert sum(tally.take(f"{number}.test") for number in range(2 * lookups.MAX_TELLERS)) <= lookups.OF_ALL.burst
    assert tally.take(lookups.UNPROVEN)


async def test_a_line_that_repeats_is_logged_once_a_minute(caplog, autojump_clock):
    import trio

    caplog.set_level(logging.INFO)
    log = Seldom(logging.getLogger("flood"))
    for _ in range(100):
        log.say("evil.test", "%s again", "evil.test")
        log.say("other.test", "%s again", "other.test")
    await trio.sleep(61)
    log.say("evil.test", "%s again", "evil.test")
    assert [record.getMessage() for record in caplog.records] == [
        "evil.test again",
        "other.test again",
        "evil.test again (99 more like it)",
    ]


async def arrive(many: int) -> tuple[float, float]:
    """(PDUs a second, commits a transaction) of `many` messages that arrive fifty at a time."""
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test")
        await b.members.join("@bob:b.test", room, ["a.test"])
        pdus = await pdus_of(b, [await b.say(room, "@bob:b.test", f"{number}") for number in range(many)])
        commits, began = a.db.commits, time.perf_counter()
        for start in range(0, many, 50):
            answer = await a.inbound.transaction("b.test", f"t{start}", {"pdus": pdus[start : start + 50], "edus": []})
            assert list(answer["pdus"].values()) == [{}] * 50
        taken = time.perf_counter() - began
        assert await a.bodies(room) == [f"{number}" for number in range(many)]
        return many / taken, (a.db.commits - commits) / (many / 50)


async def test_a_transaction_of_fifty_events_costs_two_commits():
    _, commits = await arrive(100)
    assert commits <= 2.5  # the first also brings a key


@pytest.mark.alone
async def test_five_hundred_events_a_second_are_taken_in():
    rate, _ = await arrive(1000)
    assert rate > 500, f"{rate:.0f} PDU/s"
