"""Cost and speed of the HTTP side: `python -m tests.bench.http [--vs-synapse] [--quick] [--only PREFIX]`.

With `--vs-synapse` the same is done to a stock Synapse in turns, and each metric is printed as a ratio too, ours over theirs. "c8" means
eight connections, each of which sends its next message when the last is answered.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.load import Connection, Refused, closed_loop, request
from tests.bench.report import Report, options, percentile, say
from tests.bench.servers import Server
from tests.lab.synapse import unavailable

CONNECTIONS = (1, 8, 32)
LOADED_ROOMS, LOADED_MESSAGES = 200, 5000
CLIENT = "/_matrix/client/v3"


@dataclass
class Bench:
    """One run: the kinds of servers that take part, ours first, each in a folder of its own."""

    report: Report
    folder: Path
    kinds: Sequence[str]

    def fresh(self, part: str, *, count_syncs: bool = False) -> dict[str, Server]:
        return {kind: Server(kind, self.folder / f"{part}-{kind}", count_syncs=count_syncs) for kind in self.kinds}

    def medians(self, metric: str, found: dict[str, list[float]], unit: str, note: str | None = None) -> None:
        self.report.median(metric, found["edgeserver"], unit, note)
        self._ratio(metric, {kind: statistics.median(values) for kind, values in found.items()}, unit)

    def values(self, metric: str, found: dict[str, float], unit: str, n: int, note: str | None = None) -> None:
        self.report.line(metric, found["edgeserver"], unit, n=n, note=note)
        self._ratio(metric, found, unit)

    def missing(self, metric: str, unit: str, why: str) -> None:
        self.report.missing(unit, why, metric)
        if len(self.kinds) > 1:
            self.report.missing("x", why, f"{metric}.vs_synapse")

    def _ratio(self, metric: str, found: dict[str, float], unit: str) -> None:
        theirs = found.get("synapse")
        if theirs:
            note = f"{found['edgeserver']:.4g} against {theirs:.4g} {unit}"
            self.report.line(f"{metric}.vs_synapse", found["edgeserver"] / theirs, "x", note=note)


class Room:
    """A fresh server under load: one account, one room of its own, one connection."""

    def __init__(self, server: Server, text: Callable[[], str]) -> None:
        self.server, self._text = server, text
        self.connection = Connection(server.url)
        self.user_id, self.token = server.register(self.connection)
        self.room_id = server.create_room(self.connection, self.token)

    def messages(self) -> Iterator[bytes]:
        for _ in itertools.count():
            yield self.server.message(self.token, self.room_id, self._text())

    def send(self, count: int, connections: int = 1) -> float:
        """Sends so many; returns messages a second."""
        return closed_loop(self.server.url, connections, self.messages(), stop=lambda sent, _: sent > count - connections).rate


# Standing still


def standing_still(bench: Bench) -> None:
    """Start, memory and what it costs to do nothing."""
    report = bench.report
    names = ["http.cold_start", "http.rss_idle", "http.idle_cpu_per_min", "http.idle_wakeups"]
    if not report.wants(*names):
        return
    say("standing still")
    servers = bench.fresh("still")
    starts: dict[str, list[float]] = {kind: [] for kind in servers}
    for turn in range(report.runs(8, 4)):
        for kind, server in servers.items():
            seconds = server.start()
            server.stop()
            if turn:  # the first makes keys, certificate and database
                starts[kind].append(seconds)
    bench.medians(names[0], starts, "s", "to the first answer over HTTP; data folder exists, files in the page cache")
    if not report.wants(*names[1:]):
        return
    with ExitStack() as running:
        for server in servers.values():
            running.enter_context(server)
        time.sleep(report.runs(10, 5))
        bench.values(names[1], {kind: server.rss() for kind, server in servers.items()}, "MB", 1)
        before = {kind: (server.cpu(), server.wakeups()) for kind, server in servers.items()}
        began = time.perf_counter()
        time.sleep(report.runs(60, 15))
        passed = time.perf_counter() - began
        cpu = {kind: (server.cpu() - before[kind][0]) / passed * 60_000 for kind, server in servers.items()}
        woken = {kind: server.wakeups_since(before[kind][1]) / passed for kind, server in servers.items()}
        bench.values(names[2], cpu, "ms", 1, f"over {passed:.0f} s without clients")
        bench.values(names[3], woken, "1/s", 1, f"over {passed:.0f} s without clients")


# Messages


def sending(bench: Bench) -> None:
    """Messages a second, bytes written for each, and until another's sync tells of it."""
    report = bench.report
    rates = [f"http.sends.c{count}" for count in CONNECTIONS]
    synced = ["http.send_to_sync.p50", "http.send_to_sync.p99"]
    if not report.wants(*rates, "http.written_per_message", *synced):
        return
    say("sending")
    with ExitStack() as running:
        rooms = {kind: Room(running.enter_context(server), report.texts()) for kind, server in bench.fresh("send").items()}
        for room in rooms.values():
            room.send(50)
        for metric, connections in zip(rates, CONNECTIONS, strict=True):
            if report.wants(metric):
                _rates(bench, metric, connections, rooms)
        if report.wants("http.written_per_message"):
            _written(bench, rooms)
        if report.wants(*synced):
            delays = {kind: _delays(room, report.runs(400, 120)) for kind, room in rooms.items()}
            note = "from the PUT to the whole answer of another user's waiting sync, in a room of some thousand messages"
            for metric, share in zip(synced, (0.5, 0.99), strict=True):
                found = {kind: percentile(times, share) * 1000 for kind, times in delays.items()}
                bench.values(metric, found, "ms", len(delays["edgeserver"]), note)


def _rates(bench: Bench, metric: str, connections: int, rooms: dict[str, Room]) -> None:
    found: dict[str, list[float]] = {kind: [] for kind in rooms}
    cpu: dict[str, float] = dict.fromkeys(rooms, 0.0)
    sent: dict[str, int] = dict.fromkeys(rooms, 0)
    for _ in range(bench.report.runs(7, 3)):
        for kind, room in rooms.items():
            began = room.server.cpu()
            count = (600 if bench.report.quick else 1500) // (1 if kind == "edgeserver" else 6)
            found[kind].append(room.send(count, connections))
            cpu[kind] += room.server.cpu() - began
            sent[kind] += count
    costs = ", ".join(f"{kind} {cpu[kind] / sent[kind] * 1000:.2f} ms" for kind in rooms)
    bench.medians(metric, found, "1/s", f"CPU a message: {costs}")


def _written(bench: Bench, rooms: dict[str, Room]) -> None:
    found: dict[str, list[float]] = {kind: [] for kind in rooms}
    for _ in range(bench.report.runs(7, 3)):
        for kind, room in rooms.items():
            began, count = room.server.written(), 300 if kind == "edgeserver" else 60
            room.send(count)
            found[kind].append((room.server.written() - began) / count)
    bench.medians("http.written_per_message", found, "B", "one connection")


def _delays(room: Room, count: int) -> list[float]:
    """Seconds from a PUT to the end of the answer of another user's long poll."""
    server, found = room.server, []
    with Connection(server.url) as waiting:
        user_id, token = server.register(waiting)
        room.connection.call("POST", f"{CLIENT}/rooms/{room.room_id}/invite", {"user_id": user_id}, room.token)
        waiting.call("POST", f"{CLIENT}/join/{room.room_id}", {}, token)
        since = waiting.call("GET", f"{CLIENT}/sync", token=token)["next_batch"]
        for data in itertools.islice(room.messages(), count):
            since = _caught_up(waiting, token, since)
            waiting.begin(request("GET", f"{CLIENT}/sync?timeout=30000&since={since}", token=token))
            time.sleep(0.02)  # until it waits
            began = time.perf_counter()
            room.connection.begin(data)
            status, _ = waiting.finish()
            found.append(time.perf_counter() - began)
            room.connection.finish()
            if status != 200:
                raise Refused(f"sync: {status}")
    return found


def _caught_up(connection: Connection, token: str, since: str) -> str:
    """A sync token after which nothing has happened yet."""
    while True:
        answer = connection.call("GET", f"{CLIENT}/sync?timeout=0&since={since}", token=token)
        if answer["next_batch"] == since or not answer.get("rooms", {}).get("join"):
            return str(answer["next_batch"])
        since = answer["next_batch"]


def syncs(bench: Bench) -> None:
    """fsyncs a message, counted by strace."""
    report = bench.report
    names = {1: "http.fsyncs_per_message.c1", 32: "http.fsyncs_per_message.c32"}
    if not report.wants(*names.values()):
        return
    say("fsyncs")
    with ExitStack() as running:
        rooms = {
            kind: Room(running.enter_context(server), report.texts()) for kind, server in bench.fresh("fsync", count_syncs=True).items()
        }
        for connections, metric in names.items():
            found: dict[str, list[float]] = {kind: [] for kind in rooms}
            for _ in range(report.runs(5, 3)):
                for kind, room in rooms.items():
                    began, count = room.server.syncs(), 640 if kind == "edgeserver" else 128
                    room.send(count, connections)
                    found[kind].append((room.server.syncs() - began) / count)
            bench.medians(metric, found, "1", "counted by strace -f -e trace=fsync,fdatasync")


# Single calls


def single_calls(bench: Bench) -> None:
    """Milliseconds of calls that are made now and then."""
    report = bench.report
    names = ["http.register", "http.create_room", "http.join", "http.search", "http.keys_claim"]
    if not report.wants(*names):
        return
    say("single calls")
    with ExitStack() as running:
        rooms = {kind: Room(running.enter_context(server), report.texts()) for kind, server in bench.fresh("calls").items()}
        runs = report.runs(40, 12)
        parts = (_register, _create, _join, _search, _claim)
        units = dict(zip(names, parts, strict=True))
        for metric, part in units.items():
            if not report.wants(metric):
                continue
            found: dict[str, list[float]] = {}
            try:
                for kind, room in rooms.items():
                    found[kind] = [seconds * 1000 for seconds in part(room, runs)]
            except Refused as refused:
                bench.missing(metric, "ms", f"{kind} does not do it: {refused}")
                continue
            bench.medians(metric, found, "ms")


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _register(room: Room, runs: int) -> list[float]:
    return [_timed(lambda: room.server.register(room.connection)) for _ in range(runs)]


def _create(room: Room, runs: int) -> list[float]:
    return [_timed(lambda: room.server.create_room(room.connection, room.token)) for _ in range(runs)]


def _join(room: Room, runs: int) -> list[float]:
    made = [room.server.create_room(room.connection, room.token, preset="public_chat") for _ in range(runs)]
    with Connection(room.server.url) as other:
        _, token = room.server.register(other)
        return [_timed(partial(other.call, "POST", f"{CLIENT}/join/{room_id}", {}, token)) for room_id in made]


def _search(room: Room, runs: int) -> list[float]:
    room.send(500)
    body = {"search_categories": {"room_events": {"search_term": "harbour"}}}
    return [_timed(lambda: room.connection.call("POST", f"{CLIENT}/search", body, room.token)) for _ in range(runs)]


def _claim(room: Room, runs: int) -> list[float]:
    """One one-time key of another user's device, each time."""
    with Connection(room.server.url) as other:
        user_id, token = room.server.register(other)
        device_id = other.call("GET", f"{CLIENT}/account/whoami", token=token)["device_id"]
        signature = {user_id: {f"ed25519:{device_id}": "A" * 86}}
        keys = {f"signed_curve25519:{number:06d}": {"key": f"{number:043d}", "signatures": signature} for number in range(runs)}
        other.call("POST", f"{CLIENT}/keys/upload", {"one_time_keys": keys}, token)
        body = {"one_time_keys": {user_id: {device_id: "signed_curve25519"}}}
        return [_timed(lambda: room.connection.call("POST", f"{CLIENT}/keys/claim", body, room.token)) for _ in range(runs)]


# Loaded


def loaded(bench: Bench) -> None:
    """Memory once there are rooms and messages."""
    if not bench.report.wants("http.rss_loaded"):
        return
    say("rss loaded")
    found: dict[str, float] = {}
    for kind, server in bench.fresh("loaded").items():
        with server:
            room = Room(server, bench.report.texts())
            made = [server.create_room(room.connection, room.token) for _ in range(LOADED_ROOMS)]
            requests = (server.message(room.token, room_id, "The road is open again.") for room_id in itertools.cycle(made))
            closed_loop(server.url, 4, requests, stop=lambda sent, _: sent > LOADED_MESSAGES - 4)
            room.connection.call("GET", f"{CLIENT}/sync", token=room.token)
            time.sleep(1)
            found[kind] = server.rss()
    bench.values("http.rss_loaded", found, "MB", 1, f"{LOADED_ROOMS} rooms, {LOADED_MESSAGES} messages, one first sync of all")


def main() -> None:
    chosen = options(
        (__doc__ or "").splitlines()[0],
        lambda parser: parser.add_argument("--vs-synapse", action="store_true", help="measure a stock Synapse too and print ratios"),
    )
    if chosen.vs_synapse and (why := unavailable()):
        raise SystemExit(why)
    report = Report(chosen)
    kinds = ["edgeserver", "synapse"] if chosen.vs_synapse else ["edgeserver"]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(report, Path(folder), kinds)
        for part in (standing_still, sending, syncs, single_calls, loaded):
            part(bench)


if __name__ == "__main__":
    main()
