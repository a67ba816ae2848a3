"""The sender when peers hang, refuse, shut us out, or are away for weeks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from edgeserver.federation.errors import BadAnswer, FederationError, PeerError, PeerUnreachable
from edgeserver.federation.setbacks import Cause, cause_of, pause_after
from edgeserver.federation.transaction import with_receipts_merged
from edgeserver.matrix import canonical_json
from edgeserver.store import outbox
from edgeserver.store.database import Transaction
from tests.federation.sending import Bench

Clock = trio.testing.MockClock
HOUR = 3600


def numbers_in(transaction: Mapping[str, Any]) -> list[int]:
    return [edu["content"]["n"] for edu in transaction["edus"]]


# Fairness


@pytest.mark.parametrize("dead", [16, 36])
async def test_peers_that_hang_do_not_hold_up_one_that_answers(
    bench: Bench, nursery: trio.Nursery, autojump_clock: Clock, dead: int
) -> None:
    gone = [f"dead{number}.test" for number in range(dead)]
    bench.calls.hanging.update(gone)
    await bench.queue(1, to=tuple(gone))
    nursery.start_soon(bench.sender.run)
    await trio.sleep(0.1)
    await bench.queue(2, to=("a.test",))
    await trio.sleep(5)
    assert bench.calls.numbers("a.test") == [2]
    for number in range(3, 30):  # and so it stays, while they are tried again and again
        await bench.queue(number, to=("a.test", *gone))
        await trio.sleep(60)
        assert bench.calls.numbers("a.test")[-1] == number


async def test_hanging_peers_have_so_many_requests_under_way_and_no_more(
    bench: Bench, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    gone = [f"dead{number}.test" for number in range(200)]
    bench.calls.hanging.update(gone)
    await bench.queue(1, to=tuple(gone))
    nursery.start_soon(bench.sender.run)
    for _ in range(150):
        await trio.sleep(7)
        assert len(bench.calls.under_way) <= 40
    assert {server for _, server, *_ in bench.calls.sent} == set(gone)


async def test_a_long_backlog_of_one_destination_does_not_starve_others(
    bench: Bench, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    busy = [f"busy{number}.test" for number in range(20)]
    await bench.queue(*range(1500), to=tuple(busy))
    nursery.start_soon(bench.sender.run)
    await trio.sleep(0.02)
    await bench.queue(9999, to=("a.test",))
    await trio.sleep(0.1)
    assert bench.calls.numbers("a.test") == [9999]
    assert len(bench.calls.numbers("busy0.test")) < 1500
    await trio.sleep(10)
    assert all(bench.calls.numbers(name) == list(range(1500)) for name in busy)


# Refusals


async def test_a_row_that_a_peer_never_takes_is_passed_over_and_all_others_arrive_once_and_in_order(
    bench: Bench, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    await bench.queue(*range(130))
    bench.calls.refuse = lambda sent: 400 if 77 in numbers_in(sent) else None
    nursery.start_soon(bench.sender.run)
    await trio.sleep(60)
    assert bench.calls.numbers("a.test") == [number for number in range(130) if number != 77]
    assert await bench.left() == 0
    assert len(bench.calls.sent) < 30
    assert await bench.db.read(outbox.failing) == []


async def test_a_peer_that_refuses_even_nothing_is_left_alone_and_nothing_is_passed_over(
    bench: Bench, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    await bench.queue(*range(30))
    bench.calls.refuse = lambda sent: 400
    nursery.start_soon(bench.sender.run)
    await trio.sleep(24 * HOUR)
    assert len(bench.calls.sent) < 150
    bench.calls.refuse = lambda sent: None
    bench.sender.heard_from("a.test")
    await trio.sleep(10)
    assert bench.calls.numbers("a.test") == list(range(30))


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_who_shuts_us_out_is_asked_seldom_and_gets_the_same_batch_when_it_lets_us_in(
    bench: Bench, nursery: trio.Nursery, autojump_clock: Clock, status: int
) -> None:
    await bench.queue(1, 2)
    bench.calls.refuse = lambda sent: status
    nursery.start_soon(bench.sender.run)
    await trio.sleep(150)
    times = [at for at, *_ in bench.calls.sent]
    assert [later - earlier > 45 for earlier, later in pairwise(times)] == [True]
    bench.calls.refuse = lambda sent: None
    await trio.sleep(HOUR)
    assert bench.calls.numbers("a.test") == [1, 2]
    assert len({txn_id for _, _, txn_id, _ in bench.calls.sent}) == 1


def test_causes_and_their_pauses() -> None:
    def answered(status: int, after: int | None = None) -> FederationError:
        return PeerError("a", status, "M_UNKNOWN", "", retry_after_ms=after)

    unsigned = PeerUnreachable("a", "no form")
    unsigned.__cause__ = canonical_json.CanonicalJSONError("float")
    assert cause_of(unsigned) is Cause.REFUSED
    assert cause_of(PeerUnreachable("a", "gone")) is Cause.UNREACHABLE
    assert {cause_of(answered(status)) for status in (500, 502, 503, 504, 408)} == {Cause.TROUBLE}
    assert cause_of(BadAnswer("a", "a captive portal")) is Cause.TROUBLE
    assert {cause_of(answered(status)) for status in (401, 403, 404, 405)} == {Cause.SHUT_OUT}
    assert {cause_of(answered(status)) for status in (400, 413, 422)} == {Cause.REFUSED}
    assert [pause_after(answered(502), attempts, 0.999999) // 1000 for attempts in (0, 1, 5, 30, 10**6)] == [1, 3, 63, 3599, 3599]
    assert pause_after(answered(429, 50_000), 0, 0.0) == 50_000
    assert pause_after(answered(429, 10**12), 0, 0.0) == 3_600_000
    assert pause_after(answered(403), 0, 0.0) == 48_000


# Coming back


async def test_who_comes_back_to_the_network_sends_one_signed_request_to_each_peer(
    bench: Bench, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    bench.neighbours = [f"n{number}.test" for number in range(30)]
    bench.calls.fail = lambda server: PeerUnreachable(server, "we are offline")
    await bench.queue(1, to=("n1.test", "stranger.test"))
    nursery.start_soon(bench.sender.run)
    bench.peers.internet_changed(False)
    await trio.sleep(HOUR)
    bench.calls.fail = lambda server: None
    bench.calls.sent.clear()
    bench.peers.internet_changed(True)
    await trio.sleep(30)
    assert sorted(server for _, server, *_ in bench.calls.sent) == sorted([*bench.neighbours, "stranger.test"])
    assert {server for _, server, _, sent in bench.calls.sent if sent["edus"]} == {"n1.test", "stranger.test"}


async def test_peers_that_were_there_until_lately_hear_of_us_first(bench: Bench, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    old = [f"a{number}.test" for number in range(100)]
    bench.calls.hanging.update(old)
    await bench.queue(1, to=tuple(old))
    nursery.start_soon(bench.sender.run)
    await trio.sleep(5 * HOUR)
    lately = [f"z{number}.test" for number in range(50)]
    bench.calls.fail = lambda server: PeerUnreachable(server, "we are offline")
    await bench.queue(2, to=tuple(lately))
    await trio.sleep(2 * HOUR)
    bench.calls.fail = lambda server: None
    bench.peers.internet_changed(False)
    bench.peers.internet_changed(True)
    await trio.sleep(100)
    assert all(bench.calls.numbers(name) == [2] for name in lately)


async def test_a_peer_that_is_heard_of_is_not_kept_waiting_by_those_that_hang(
    bench: Bench, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    gone = [f"dead{number}.test" for number in range(100)]
    bench.calls.hanging.update([*gone, "back.test"])
    await bench.queue(1, to=("back.test",))
    nursery.start_soon(bench.sender.run)
    await trio.sleep(10 * HOUR)
    await bench.queue(1, to=tuple(gone))
    await trio.sleep(1)
    bench.peers.internet_changed(False)
    bench.peers.internet_changed(True)  # everybody is tried at once
    await trio.sleep(100)
    assert len(bench.calls.under_way) == 40
    bench.calls.hanging.discard("back.test")
    bench.sender.heard_from("back.test")
    await trio.sleep(90)  # the next slot that is free
    assert bench.calls.numbers("back.test") == [1]


# Away for long


async def test_what_tells_of_a_moment_is_not_kept_for_a_peer_that_is_away(
    bench: Bench, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    def write(tx: Transaction) -> None:
        outbox.queue_edu(tx, ["a.test"], "m.typing", {"n": "typing"}, key="room alice")
        outbox.queue_edu(tx, ["a.test"], "m.receipt", {"!r": {"m.read": {"@a:us.test": {"event_ids": ["$e"]}}}}, key="room alice")

    await bench.db.write(write)
    bench.calls.fail = lambda server: PeerUnreachable(server, "gone")
    nursery.start_soon(bench.sender.run)
    await trio.sleep(1)
    bench.calls.fail = lambda server: None
    await trio.sleep(10)
    [(_, _, taken)] = bench.calls.taken
    assert [edu["edu_type"] for edu in taken["edus"]] == ["m.receipt"]
    assert await bench.left() == 0


async def test_what_waits_for_a_peer_that_is_away_for_weeks_is_bounded(bench: Bench) -> None:
    def write(tx: Transaction) -> dict[str, int]:
        number = outbox.destination_number(tx, "a.test")
        for index in range(outbox.KEPT_EDUS + 50):
            outbox.queue_edu(tx, ["a.test"], "m.direct_to_device", {"n": index})
        for index in range(outbox.KEPT_UPDATES + 50):
            outbox.queue_edu(tx, ["a.test"], "m.device_list_update", {"user_id": f"@u{index % 3}:us.test", "n": index})
        outbox.trim(tx, number)
        kept = [row.edu for row in outbox.pending(tx, number, edus=10_000) if row.edu is not None]
        messages = [edu["content"]["n"] for edu in kept if edu["edu_type"] == "m.direct_to_device"]
        assert messages == list(range(50, outbox.KEPT_EDUS + 50))
        return {edu["content"]["user_id"]: edu["content"]["n"] for edu in kept if edu["edu_type"] == "m.device_list_update"}

    newest = outbox.KEPT_UPDATES + 49
    assert sorted((await bench.db.write(write)).values()) == [newest - 2, newest - 1, newest]


# Receipts


def receipt(room: str, user: str, event_id: str, thread: str | None = None) -> dict[str, Any]:
    data = {"ts": 1} | ({} if thread is None else {"thread_id": thread})
    return {"edu_type": "m.receipt", "content": {room: {"m.read": {user: {"data": data, "event_ids": [event_id]}}}}}


def test_receipts_share_edus_and_one_user_has_one_for_each_thread() -> None:
    other = {"edu_type": "m.typing", "content": {}}
    edus = [receipt("!r", "@a:x", "$1"), other, receipt("!r", "@a:x", "$2", "$t"), receipt("!r", "@b:x", "$3"), receipt("!s", "@a:x", "$4")]
    first, between, second = with_receipts_merged(edus)
    assert between == other
    assert first["content"] == {
        "!r": {"m.read": {"@a:x": {"data": {"ts": 1}, "event_ids": ["$1"]}, "@b:x": {"data": {"ts": 1}, "event_ids": ["$3"]}}},
        "!s": {"m.read": {"@a:x": {"data": {"ts": 1}, "event_ids": ["$4"]}}},
    }
    assert second["content"] == {"!r": {"m.read": {"@a:x": {"data": {"ts": 1, "thread_id": "$t"}, "event_ids": ["$2"]}}}}
