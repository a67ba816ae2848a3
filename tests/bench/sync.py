"""Cost of sync for accounts with many rooms: `python -m tests.bench.sync [--vs-synapse] [--quick] [--only PREFIX]`.

An account has 20, 1,000 or 5,000 rooms, most with a few members and some with very many. Our database is written by the program's own
write path without HTTP (`tests.bench.rooms`). Ratios are of other accounts, alike on both servers: made through the API, with fewer rooms
of one member; `note` says how many.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.load import Connection, Refused, request
from tests.bench.report import Report, options, say
from tests.bench.rooms import furnish
from tests.bench.servers import Server
from tests.lab.synapse import unavailable

CLIENT = "/_matrix/client/v3"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
SIZES = (20, 1000, 5000)
THEIR_ROOMS = 200
POLLS = 500
SCREEN = {
    "conn_id": "room-list",
    "lists": {
        "all_rooms": {
            "ranges": [[0, 19]],
            "timeline_limit": 1,
            "required_state": [
                ["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"],
                ["m.room.topic", ""], ["m.room.avatar", ""], ["m.room.canonical_alias", ""], ["m.room.power_levels", ""],
                ["m.room.join_rules", ""], ["m.room.tombstone", ""], ["m.room.create", ""], ["m.room.history_visibility", ""],
            ],
            "filters": {"not_room_types": ["m.space"]},
        }
    },
    "extensions": {"account_data": {"enabled": True}, "receipts": {"enabled": True}, "typing": {"enabled": True}},
}  # fmt: skip
"""What matrix-rust-sdk asks for its room list when it starts."""


@dataclass
class Account:
    """Somebody with many rooms on a running server; `busy` is the room that they made last."""

    server: Server
    connection: Connection
    user_id: str
    token: str
    busy: str

    def poll(self, pos: str | None = None, body: Any = SCREEN, timeout: int = 0) -> bytes:
        """A sliding sync request."""
        query = f"?timeout={timeout}" + ("" if pos is None else f"&pos={pos}")
        return request("POST", SLIDING + query, body, self.token)

    def timed(self, data: bytes) -> tuple[float, bytes]:
        """Milliseconds until the whole answer, and its body. Raises `Refused`."""
        began = time.perf_counter()
        status, body = self.connection.exchange(data)
        if status != 200:
            raise Refused(f"{status} {body[:300].decode(errors='replace')}")
        return (time.perf_counter() - began) * 1000, body


@dataclass
class Bench:
    report: Report
    folder: Path
    vs_synapse: bool

    def ours(self, running: ExitStack, rooms: int) -> Account:
        server = Server("edgeserver", self.folder / f"ours{rooms}-{time.monotonic_ns()}")
        with server, Connection(server.url) as connection:
            user_id, token = server.register(connection, "alice")
        busy = furnish(server.database, server.name, user_id, rooms, self.report.random)
        running.enter_context(server)
        return Account(server, running.enter_context(Connection(server.url)), user_id, token, busy)

    def by_api(self, running: ExitStack, kind: str, rooms: int) -> Account:
        server = running.enter_context(Server(kind, self.folder / f"{kind}{rooms}-{time.monotonic_ns()}"))
        connection = running.enter_context(Connection(server.url))
        user_id, token = server.register(connection, "alice")
        busy = ""
        for number in range(rooms):
            busy = server.create_room(connection, token, name=f"Room {number}")
            connection.exchange(server.message(token, busy, "The road is open again."))
        return Account(server, connection, user_id, token, busy)


def first_screen(bench: Bench) -> None:
    """The first answer with twenty rooms, and a poll after one message; at each size."""
    report = bench.report
    for rooms in SIZES:
        names = [f"sync.first20.ms.rooms{rooms}"]
        if rooms == 1000:
            names += ["sync.first20.bytes.rooms1000", "sync.incremental.ms", "sync.classic_initial.ms.rooms1000"]
            names += ["sync.classic_initial.bytes.rooms1000"]
        if not report.wants(*names):
            continue
        say(f"{rooms} rooms")
        with ExitStack() as running:
            ours = bench.ours(running, rooms)
            fewer = min(rooms, 40 if report.quick else THEIR_ROOMS)
            kinds = ("edgeserver", "synapse") if bench.vs_synapse else ()
            alike = [bench.by_api(running, kind, fewer) for kind in kinds]
            _compare(bench, names[0], "ms", ours, alike, fewer, _first, note="the first is with nothing read yet: see max")
            if rooms == 1000:
                _compare(bench, names[1], "B", ours, alike, fewer, _first_bytes, note="JSON, not compressed")
                _compare(bench, names[2], "ms", ours, alike, fewer, _incremental, note="a poll after one message in one room")
                _compare(bench, names[3], "ms", ours, alike, fewer, _classic, note="lazy members, ten events a room")
                _compare(bench, names[4], "B", ours, alike, fewer, _classic_bytes, note="JSON, not compressed")


def _compare(
    bench: Bench, metric: str, unit: str, ours: Account, alike: list[Account], fewer: int,
    measure: Callable[[Account, int], list[float]], *, note: str,
) -> None:  # fmt: skip
    if not bench.report.wants(metric):
        return
    runs = bench.report.runs(15, 5)
    found = measure(ours, runs)
    bench.report.median(metric, found, unit, note)
    if alike:
        middle, other = (statistics.median(measure(account, runs)) for account in alike)
        told = f"{middle:.4g} against {other:.4g} {unit}; both with {fewer} rooms of one member"
        bench.report.line(f"{metric}.vs_synapse", middle / other, "x", note=told)


def _first(account: Account, runs: int) -> list[float]:
    return [account.timed(account.poll())[0] for _ in range(runs)]


def _first_bytes(account: Account, runs: int) -> list[float]:
    return [float(len(account.timed(account.poll())[1])) for _ in range(min(3, runs))]


def _incremental(account: Account, runs: int) -> list[float]:
    found = []
    pos = json.loads(account.timed(account.poll())[1])["pos"]
    for _ in range(runs * 4):
        account.connection.exchange(account.server.message(account.token, account.busy, "Coming."))
        passed, body = account.timed(account.poll(pos))
        answer = json.loads(body)
        pos = answer["pos"]
        if list(answer["rooms"]) != [account.busy]:
            raise Refused(f"a poll after one message told of {list(answer['rooms'])}")
        found.append(passed)
    return found


_FILTER = "%7B%22room%22:%7B%22state%22:%7B%22lazy_load_members%22:true%7D,%22timeline%22:%7B%22limit%22:10%7D%7D%7D"


def _classic(account: Account, runs: int) -> list[float]:
    ask = request("GET", f"{CLIENT}/sync?filter={_FILTER}", token=account.token)
    return [account.timed(ask)[0] for _ in range(max(2, runs // 3))]


def _classic_bytes(account: Account, _: int) -> list[float]:
    return [float(len(account.timed(request("GET", f"{CLIENT}/sync?filter={_FILTER}", token=account.token))[1]))]


def waiting(bench: Bench) -> None:
    """Five hundred devices that wait: the memory of each, and the CPU time to wake one of them."""
    report = bench.report
    memory, cpu = "sync.idle_poll_rss", "sync.wake_one_of_500.cpu"
    if not report.wants(memory, cpu):
        return
    say("waiting")
    found: dict[str, tuple[float, float]] = {}
    for kind in ["edgeserver", "synapse"] if bench.vs_synapse else ["edgeserver"]:
        with Server(kind, bench.folder / f"waiting-{kind}") as server:
            found[kind] = _waiting(server, report.runs(60, 20))
    for metric, unit, which in ((memory, "kB", 0), (cpu, "ms", 1)):
        note = "classic long polls of 500 devices, HTTP/1.1 connections included"
        report.line(metric, found["edgeserver"][which], unit, n=POLLS, note=note)
        if "synapse" in found:
            ours, theirs = found["edgeserver"][which], found["synapse"][which]
            report.line(f"{metric}.vs_synapse", ours / theirs, "x", note=f"{ours:.4g} against {theirs:.4g} {unit}")


def _waiting(server: Server, runs: int) -> tuple[float, float]:
    """kB of resident memory for each waiting poll, and CPU milliseconds to send one message that wakes one of them."""
    with ExitStack() as running:
        sender = running.enter_context(Connection(server.url))
        _, token = server.register(sender, "sender")
        polls = []
        woken, other = server.register(sender, "woken")
        room = server.create_room(sender, token, invite=[woken], preset="public_chat")
        sender.call("POST", f"{CLIENT}/join/{room}", {}, other)
        _, idle = server.register(sender, "idle")
        for _ in range(20):
            sender.call("GET", f"{CLIENT}/sync", token=idle)
        since = sender.call("GET", f"{CLIENT}/sync", token=idle)["next_batch"]
        time.sleep(0.5)
        before = server.rss()
        for _ in range(POLLS):
            connection = running.enter_context(Connection(server.url))
            connection.begin(request("GET", f"{CLIENT}/sync?timeout=120000&since={since}", token=idle))
            polls.append(connection)
        time.sleep(3)
        each = (server.rss() - before) * 1000 / POLLS
        waiting = running.enter_context(Connection(server.url))
        position = waiting.call("GET", f"{CLIENT}/sync", token=other)["next_batch"]
        used = server.cpu()
        for number in range(runs):
            waiting.begin(request("GET", f"{CLIENT}/sync?timeout=30000&since={position}", token=other))
            time.sleep(0.02)
            sender.exchange(server.message(token, room, f"Wake {number}"))
            status, body = waiting.finish()
            if status != 200:
                raise Refused(f"sync: {status}")
            position = json.loads(body)["next_batch"]
        return each, (server.cpu() - used) / runs * 1000


def main() -> None:
    chosen = options(
        (__doc__ or "").splitlines()[0],
        lambda parser: parser.add_argument("--vs-synapse", action="store_true", help="measure a stock Synapse too and print ratios"),
    )
    if chosen.vs_synapse and (why := unavailable()):
        raise SystemExit(why)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Report(chosen), Path(folder), chosen.vs_synapse)
        for part in (first_screen, waiting):
            part(bench)


if __name__ == "__main__":
    main()
