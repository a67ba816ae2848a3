"""The sender: order, limits, retries, back-off, and waking up with a returning route."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import orjson
import trio

from edgeserver import wakeups as topics
from edgeserver.federation.errors import PeerError, PeerUnreachable
from edgeserver.federation.transaction import transaction_id
from edgeserver.store import outbox
from edgeserver.store.database import Transaction
from tests.federation.rig import servers
from tests.federation.sending import Bench, Line
from transports.exchange import LinkProfile


async def test_rows_go_out_in_order_within_the_limits_and_are_deleted(
    bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await bench.queue(*range(230), to=("a.test", "b.test"))
    nursery.start_soon(bench.sender.run)
    await trio.sleep(1)
    assert bench.calls.edus("a.test") == bench.calls.edus("b.test") == list(range(230))
    assert [len(sent["edus"]) for _, name, _, sent in bench.calls.sent if name == "a.test"] == [100, 100, 30]
    assert await bench.left() == 0
    await bench.queue(1000)
    await trio.sleep(1)
    assert bench.calls.edus("a.test")[-1] == 1000


async def test_a_failed_batch_is_repeated_with_its_id_and_without_what_came_since(
    bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await bench.queue(1, 2)
    bench.calls.fail = lambda server: PeerUnreachable(server, "gone")
    nursery.start_soon(bench.sender.run)
    await trio.sleep(1)
    await bench.queue(3)
    bench.calls.fail = lambda server: None
    await trio.sleep(10)
    (_, _, first, one), (_, _, second, two), (_, _, third, three) = bench.calls.sent
    assert (first, one["edus"]) == (second, two["edus"])
    assert third != first
    assert [edu["content"]["n"] for edu in three["edus"]] == [3]


async def test_pauses_double_up_to_an_hour(bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    await bench.queue(1)
    bench.calls.fail = lambda server: PeerUnreachable(server, "gone")
    nursery.start_soon(bench.sender.run)
    await trio.sleep(6 * 3600)
    times = [at for at, *_ in bench.calls.sent]
    pauses = [round(later - earlier) for earlier, later in pairwise(times)]
    assert pauses[:4] == [2, 4, 8, 16]
    assert pauses[-1] == 3600


async def test_a_peer_that_asks_for_a_pause_gets_it(bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    await bench.queue(1)
    bench.calls.fail = lambda server: PeerError(server, 429, "M_LIMIT_EXCEEDED", "", retry_after_ms=90_000)
    nursery.start_soon(bench.sender.run)
    await trio.sleep(100)
    assert [round(at) for at, *_ in bench.calls.sent] == [0, 90]


async def test_back_off_outlives_a_restart_and_ends_when_the_peer_is_heard(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    await bench.queue(1)
    bench.calls.fail = lambda server: PeerUnreachable(server, "gone")
    with trio.move_on_after(600):
        await bench.sender.run()
    tried = len(bench.calls.sent)
    first_id = bench.calls.sent[0][2]
    bench.calls.fail = lambda server: None
    async with trio.open_nursery() as nursery:
        again = bench.new_sender()
        nursery.start_soon(again.run)
        await trio.sleep(1)
        assert len(bench.calls.sent) == tried
        again.heard_from("b.test")
        again.heard_from("a.test")
        await trio.sleep(1)
        assert len(bench.calls.sent) == tried + 1
        assert bench.calls.sent[-1][2] == first_id
        assert await bench.left() == 0
        nursery.cancel_scope.cancel()


async def test_a_returning_route_sends_at_once_and_pokes_the_neighbours(
    bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await bench.queue(1)
    bench.neighbours = ["c.test", "us.test"]
    bench.calls.fail = lambda server: PeerUnreachable(server, "gone")
    nursery.start_soon(bench.sender.run)
    await trio.sleep(3600)
    bench.calls.fail = lambda server: None
    bench.calls.sent.clear()
    before = trio.current_time()
    bench.peers.internet_changed(False)
    bench.peers.internet_changed(True)
    await trio.sleep(1)
    assert {(server, len(sent["edus"])) for _, server, _, sent in bench.calls.sent} == {("a.test", 1), ("c.test", 0)}
    assert all(at - before < 0.1 for at, *_ in bench.calls.sent)
    assert await bench.db.read(outbox.failing) == []


async def test_one_dead_peer_does_not_hold_up_the_others(
    bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    bench.calls.fail = lambda server: PeerUnreachable(server, "gone") if server == "a.test" else None
    nursery.start_soon(bench.sender.run)
    for number in range(5):
        await bench.queue(number, to=("a.test", "b.test"))
        await trio.sleep(1)
    assert bench.calls.edus("b.test") == list(range(5))


async def test_an_edu_that_no_request_can_hold_is_passed_over(
    bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await bench.db.write(lambda tx: outbox.queue_edu(tx, ["a.test"], "m.test", {"n": 1.5}))
    await bench.queue(2)
    nursery.start_soon(bench.sender.run)
    await trio.sleep(1)
    assert bench.calls.edus("a.test") == [2]
    assert await bench.left() == 0


async def test_who_is_typing_does_not_go_over_a_thin_line_nor_wait_for_another(
    bench: Bench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    thin = Line()
    thin.profile = LinkProfile("line", bit_rate=9600)
    bench.peers.link_up("a.test", thin, gateway=False)

    def queue(tx: Transaction) -> None:
        for number in range(3):
            outbox.queue_edu(tx, ["a.test", "b.test"], "m.typing", {"n": number}, key=f"room{number} user")
        tx.on_commit(lambda: bench.wakeups.notify([topics.OUTBOX]))

    nursery.start_soon(bench.sender.run)
    await bench.db.write(queue)
    await trio.sleep(5)
    assert bench.calls.sent[0][1] == "b.test"
    assert bench.calls.edus("a.test") == []
    assert bench.calls.edus("b.test") == [0, 1, 2]
    assert await bench.left() == 0
    await bench.db.write(queue)
    await bench.queue(7)
    await trio.sleep(5)
    assert bench.calls.edus("a.test") == [7]
    assert await bench.left() == 0


def test_a_transaction_id_names_its_rows() -> None:
    rows = [outbox.Pending(number, None, None, {"edu_type": "t", "content": {}}) for number in (1, 2, 3)]
    assert transaction_id("a", "b", rows, 1) == transaction_id("a", "b", rows, 2)
    assert transaction_id("a", "b", rows, 1) != transaction_id("a", "b", rows[:2], 1)
    assert transaction_id("a", "b", [], 1) != transaction_id("a", "b", [], 2)


async def test_a_backlog_of_one_room_is_paced_for_peers_that_answer_before_they_work(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with servers("a.test", "b.test") as (a, b), trio.open_nursery() as nursery:
        room = await a.room("@alice:a.test")
        await b.members.join("@bob:b.test", room, ["a.test"])
        for number in range(120):
            await a.say(room, "@alice:a.test", str(number))
        a.web.requests.clear()
        a.web.times.clear()
        nursery.start_soon(a.sender.run)
        await trio.sleep(60)
        sent = [orjson.loads(request.body)["pdus"] for request in a.web.requests if "/send/" in request.target]
        times = [at for at, request in zip(a.web.times, a.web.requests, strict=True) if "/send/" in request.target]
        assert [len(pdus) for pdus in sent][:2] == [50, 50]
        assert (await b.bodies(room))[-1] == "119"
        assert all(later - earlier > 1 for earlier, later in pairwise(times))
        nursery.cancel_scope.cancel()


async def test_small_batches_of_one_room_are_paced_as_large_ones_are(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with servers("a.test", "b.test") as (a, b), trio.open_nursery() as nursery:
        room = await a.room("@alice:a.test")
        await b.members.join("@bob:b.test", room, ["a.test"])
        for number in range(48):
            await a.say(room, "@alice:a.test", f"{number} " + "long " * 12_000)  # eight of them make a transaction
        a.web.requests.clear()
        a.web.times.clear()
        nursery.start_soon(a.sender.run)
        await trio.sleep(60)
        found = zip(a.web.times, a.web.requests, strict=True)
        sent = [(at, len(orjson.loads(one.body)["pdus"])) for at, one in found if "/send/" in one.target]
        assert sum(count for _, count in sent) == 48
        assert sent[0][1] < 10
        assert sent[-1][0] - sent[0][0] > 0.5
        nursery.cancel_scope.cancel()
