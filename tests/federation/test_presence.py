"""Which servers are told who is there, over which ways, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio
import trio.testing
from trio.testing import MockClock

from edgeserver.federation import presence as module
from edgeserver.federation.errors import PeerUnreachable
from edgeserver.federation.peers import Via, Way
from edgeserver.federation.presence import PresenceSender
from edgeserver.store.database import Transaction
from edgeserver.wakeups import PRESENCE
from tests.federation.sending import Bench, Recorder
from transports.exchange import LinkProfile, Request, Response


class Wire:
    """A way that is there, as fast as it says."""

    def __init__(self, bit_rate: int | None) -> None:
        self.profile = LinkProfile("wire", bit_rate)

    async def exchange(self, request: Request) -> Response:
        raise NotImplementedError


class People:
    def __init__(self) -> None:
        self.untold: dict[str, dict[str, Any]] = {}

    def take_untold(self) -> Mapping[str, Mapping[str, Any]]:
        untold, self.untold = self.untold, {}
        return untold


async def with_people(bench: Bench, users: int, servers: tuple[str, ...]) -> list[str]:
    """Users of ours in one room with these servers."""
    names = [f"@u{number}:us.test" for number in range(users)]

    def write(tx: Transaction) -> None:
        room = tx.insert("INSERT INTO rooms (room_id, version) VALUES ('!r:us.test', '11')")
        event = tx.insert("INSERT INTO events (event_id, room, depth, tie, pdu) VALUES ('$e', ?, 1, 0, '{}')", (room,))
        for name in names:
            tx.execute("INSERT INTO memberships VALUES (?, ?, 'join', ?, 1, 1, 0, NULL)", (name, room, event))
        for server in servers:
            tx.execute("INSERT INTO room_servers VALUES (?, ?, 1)", (room, server))

    await bench.db.write(write)
    return names


async def tell(bench: Bench, people: People, names: list[str]) -> None:
    people.untold = {name: {"user_id": name, "presence": "online"} for name in names}
    bench.wakeups.notify([PRESENCE])
    await trio.sleep(module.GATHER_S + 1)


async def test_only_servers_that_share_a_room_and_have_a_broad_way_are_told(bench: Bench, autojump_clock: MockClock) -> None:
    ways = {"broad.test": [Way(Via.LINK, Wire(None))], "radio.test": [Way(Via.LINK, Wire(2400)), Way(Via.INTERNET, Wire(None))]}
    calls, people = Recorder(), People()
    sender = PresenceSender(
        bench.db, bench.wakeups, calls, people,
        server_name="us.test", now_ms=lambda: 5, ways_to=lambda server: ways.get(server, []),
    )  # fmt: skip
    names = await with_people(bench, 101, ("us.test", "broad.test", "radio.test", "gone.test"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.testing.wait_all_tasks_blocked()
        await tell(bench, people, names)
        [(_, server, first, transaction)] = calls.sent
        assert (server, transaction["origin"], transaction["pdus"]) == ("broad.test", "us.test", [])
        assert [len(edu["content"]["push"]) for edu in transaction["edus"]] == [100, 1]
        await tell(bench, people, names[:1])
        assert calls.sent[1][2] != first
        assert await bench.left() == 0
        await tell(bench, people, ["@stranger:us.test"])
        assert len(calls.sent) == 2
        nursery.cancel_scope.cancel()


async def test_who_cannot_be_told_is_left_alone_for_ten_minutes(bench: Bench, autojump_clock: MockClock) -> None:
    calls, people = Recorder(), People()
    calls.fail = lambda server: PeerUnreachable(server, "down") if server == "down.test" else None
    calls.hanging.add("hung.test")
    sender = PresenceSender(
        bench.db, bench.wakeups, calls, people,
        server_name="us.test", now_ms=lambda: 5, ways_to=lambda server: [Way(Via.INTERNET, Wire(None))],
    )  # fmt: skip
    names = await with_people(bench, 1, ("down.test", "hung.test", "up.test"))

    def told() -> list[str]:
        return sorted(server for _, server, _, _ in calls.sent)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.testing.wait_all_tasks_blocked()
        await tell(bench, people, names)
        await trio.sleep(module.SEND_S)
        assert told() == ["down.test", "hung.test", "up.test"]
        calls.under_way.clear()
        await tell(bench, people, names)
        assert told() == ["down.test", "hung.test", "up.test", "up.test"]
        await trio.sleep(module.QUIET_S)
        await tell(bench, people, names)
        assert told()[:4] == ["down.test", "down.test", "hung.test", "hung.test"]
        nursery.cancel_scope.cancel()


async def test_a_slow_server_keeps_nobody_else_waiting_and_is_told_the_newest_next(bench: Bench, autojump_clock: MockClock) -> None:
    calls, people = Recorder(), People()
    calls.slow.add("slow.test")
    sender = PresenceSender(
        bench.db, bench.wakeups, calls, people,
        server_name="us.test", now_ms=lambda: 5, ways_to=lambda server: [Way(Via.INTERNET, Wire(None))],
    )  # fmt: skip
    names = await with_people(bench, 2, ("slow.test", "up.test"))

    def told(server: str) -> list[list[str]]:
        sent = [transaction["edus"] for _, name, _, transaction in calls.sent if name == server]
        return [[f"{one['user_id'][:3]} {one['status_msg']}" for one in edus[0]["content"]["push"]] for edus in sent]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.testing.wait_all_tasks_blocked()
        for number, who in enumerate((names, names[:1], names[:1])):
            people.untold = {name: {"user_id": name, "status_msg": str(number)} for name in who}
            bench.wakeups.notify([PRESENCE])
            await trio.sleep(module.GATHER_S + 1)
        assert told("up.test") == [["@u0 0", "@u1 0"], ["@u0 1"], ["@u0 2"]]
        assert told("slow.test") == [["@u0 0", "@u1 0"]]
        await trio.sleep(20)
        assert told("slow.test")[1:] == [["@u0 2"]]
        nursery.cancel_scope.cancel()
