"""Taking in over federation: `python -m tests.bench.ingest [--quick] [--only PREFIX] [--silent SHARE]`.

At the other end is a town (`tests.lab.town`): a real HTTPS server with generated rooms, whose members are spread over one server for
twelve of them, by Zipf's law. Its transactions are made and signed before the clock runs. Synapse gets the very same events as the box, in
turns with it. A join is done by a fresh box each time, which knows no keys.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edgeserver.config import Federation
from edgeserver.matrix.event import Event
from edgeserver.matrix.identifiers import domain_of
from tests.bench.load import Connection, Refused
from tests.bench.push import Pusher
from tests.bench.report import Report, options, say
from tests.bench.servers import Server
from tests.lab.ca import Authority
from tests.lab.programs import LabError
from tests.lab.synapse import unavailable
from tests.lab.town import Town
from tests.lab.town_room import MEMBERS_A_SERVER, TownRoom, forks, talk

CLIENT = "/_matrix/client/v3"
VERSIONS = ("12", "11")
BUSY, FORKED = 20, 200
"""Members of the room where people talk, and of the room that splits."""
SETTLING = 60.0
"""Seconds that a box has to be whole after a join: to know all members and to have told all servers of its message."""
PARTIAL = "partial_joins" in {option.name for option in dataclasses.fields(Federation)}


@dataclass
class Bench:
    report: Report
    folder: Path
    authority: Authority
    town: Town
    silent: float

    def server(self, kind: str, label: str, federating: str = "") -> Server:
        """A fresh homeserver that believes the town's certificate. The town is Synapse's notary, for it resolves no `.localhost`."""
        notary = {"server_name": self.town.name, "accept_keys_insecurely": True}
        synapse = {"trusted_key_servers": [notary]}
        return Server(kind, self.folder / label, federating=federating, authority=self.authority, synapse=synapse)

    def room(self, members: int, version: str, seed: int) -> TownRoom:
        """Whose first server is the town itself."""
        others = range(1, max(1, round(members / MEMBERS_A_SERVER)))
        names = [self.town.name, *(self.town.name_of(number) for number in others)]
        self.town.silent |= set(names[len(names) - round(len(others) * self.silent) :])
        return self.town.add(TownRoom(version, self.town.servers, names, members, seed=seed))


def join(connection: Connection, token: str, room: TownRoom, via: str) -> None:
    """A user joins through the town; returns with the answer."""
    connection.call("POST", f"{CLIENT}/join/{quote(str(room.room_id))}?via={via}&server_name={via}", {}, token)


# Events


class Pushed:
    """A room of the town, the homeservers that have joined it, and what is pushed at them."""

    def __init__(self, bench: Bench, label: str, kinds: Sequence[str], members: int, running: ExitStack) -> None:
        self.bench = bench
        self.room = bench.room(members, VERSIONS[0], bench.report.random.randrange(10**6))
        self.pushers: dict[str, Pusher] = {}
        self.servers: dict[str, Server] = {}
        self.tokens: dict[str, tuple[Connection, str]] = {}
        for kind in kinds:
            server = self.servers[kind] = running.enter_context(bench.server(kind, f"{label}-{kind}"))
            connection = running.enter_context(Connection(server.url))
            _, token = server.register(connection)
            join(connection, token, self.room, bench.town.name)
            self.tokens[kind] = connection, token
            for earlier in self.pushers.values():
                earlier.push(earlier.prepare(self.room.main.heads))
            pusher = self.pushers[kind] = running.enter_context(Pusher(server, bench.town.name, bench.town.servers.key(bench.town.name)))
            pusher.wait_until_whole()

    def speakers(self) -> list[str]:
        return [user_id for user_id in self.room.users if domain_of(user_id) == self.bench.town.name]

    def rates(self, events: Iterable[Event], count: int, runs: int) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Events a second of each kind for each run of so many events, and CPU milliseconds an event."""
        found: dict[str, list[float]] = {kind: [] for kind in self.pushers}
        cpu: dict[str, float] = dict.fromkeys(self.pushers, 0.0)
        made = iter(events)
        for run in range(runs + 1):  # the first warms up
            stretch = list(itertools.islice(made, count if run else 2 * len(self.pushers)))
            for kind, pusher in self.pushers.items():
                transactions, before = pusher.prepare(stretch), self.servers[kind].cpu()
                seconds = pusher.push(transactions)
                if run:
                    found[kind].append(len(stretch) / seconds)
                    cpu[kind] += (self.servers[kind].cpu() - before) / (count * runs) * 1000
            self._check(stretch[-1])
        return found, cpu

    def _check(self, last: Event) -> None:
        """The last event can be read by every user who joined. Raises `Refused`."""
        for connection, token in self.tokens.values():
            connection.call("GET", f"{CLIENT}/rooms/{quote(str(self.room.room_id))}/event/{quote(last.event_id)}", token=token)

    def state(self, kind: str) -> dict[tuple[str, str], str]:
        """The current state as that homeserver tells it to its user: event ids."""
        connection, token = self.tokens[kind]
        found = connection.call("GET", f"{CLIENT}/rooms/{quote(str(self.room.room_id))}/state", token=token)
        return {(event["type"], event["state_key"]): event["event_id"] for event in found}


def pdus(bench: Bench) -> None:
    """PDUs a second, and how many times Synapse's rate that is."""
    report = bench.report
    metric, ratio = "ingest.pdus", "ingest.pdus.vs_synapse"
    if not report.wants(metric, ratio):
        return
    say("pdus")
    why = unavailable()
    with ExitStack() as running:
        pushed = Pushed(bench, "pdus", ["edgeserver"] if why else ["edgeserver", "synapse"], BUSY, running)
        said = talk(pushed.room, pushed.speakers(), report.texts(), random.Random(report.random.random()))
        found, cpu = pushed.rates(said, report.runs(1500, 600), report.runs(7, 3))
        costs = ", ".join(f"{kind} {cost:.2f} ms" for kind, cost in cpu.items())
        note = f"one room of {BUSY}, transactions of 50, one after the other; CPU a PDU: {costs}"
        report.median(metric, found["edgeserver"], "1/s", note)
        if why:
            report.missing("x", why, ratio)
            return
        ratios = [ours / theirs for ours, theirs in zip(found["edgeserver"], found["synapse"], strict=True)]
        report.median(ratio, ratios, "x", f"the same events, run by run; Synapse {statistics.median(found['synapse']):.4g} 1/s")


def state_resolution(bench: Bench) -> None:
    """Events a second where the room splits and heals all the time."""
    report = bench.report
    metric = "ingest.state_resolution"
    if not report.wants(metric):
        return
    say("state resolution")
    with ExitStack() as running:
        kinds = ["edgeserver"] if unavailable() else ["edgeserver", "synapse"]
        pushed = Pushed(bench, "forks", kinds, FORKED, running)
        split = forks(pushed.room, report.texts(), random.Random(report.random.random()))
        found, cpu = pushed.rates(split, report.runs(480, 240), report.runs(5, 3))
        states = [pushed.state(kind) for kind in kinds]
        note = f"a room of {FORKED}; each twelfth event joins two branches that disagree; CPU an event: {cpu['edgeserver']:.2f} ms"
        if len(states) > 1:
            agreed = "the same state in the end" if states[0] == states[1] else "ANOTHER STATE in the end"
            note += f"; Synapse {statistics.median(found['synapse']):.4g} 1/s, {agreed}"
        report.median(metric, found["edgeserver"], "1/s", note)


# Joins


@dataclass(frozen=True)
class Joined:
    """One join: seconds until its answer and until a message was sent, until all members were known; bytes by then; MB."""

    answered: float
    sent: float
    whole: float
    told: str
    bytes: int
    peak_rss: float


def one_join(bench: Bench, label: str, members: int, version: str, federating: str = "") -> Joined:
    """A fresh box joins and says something. Raises `Refused` if it does not come to know all members."""
    room = bench.room(members, version, bench.report.random.randrange(10**6))
    town = bench.town
    town.heard.clear()
    with bench.server("edgeserver", label, federating) as server, Connection(server.url, timeout=600) as connection:
        _, token = server.register(connection)
        time.sleep(1)  # its start is not what is measured
        before, began = town.wire_bytes(), time.perf_counter()
        join(connection, token, room, town.name)
        answered = time.perf_counter() - began
        time.sleep(0.1)  # what was sent is acknowledged
        carried = town.wire_bytes() - before
        paused = time.perf_counter()
        connection.exchange(server.message(token, str(room.room_id), "Good morning, town."))
        sent = answered + time.perf_counter() - paused
        whole = _members_known(connection, token, room, town) - began
        told = _told(town, room)
        return Joined(answered, sent, whole, told, carried, server.peak_rss())


def _members_known(connection: Connection, token: str, room: TownRoom, town: Town) -> float:
    """When the box knew every member; but those of silent servers, whose keys nobody tells."""
    deadline = time.perf_counter() + SETTLING
    expected = {key[1] for key, event in room.main.state.items() if key[0] == "m.room.member" and event.content["membership"] == "join"}
    while True:
        known = set(connection.call("GET", f"{CLIENT}/rooms/{quote(str(room.room_id))}/joined_members", token=token)["joined"])
        if known == expected or (town.silent and known >= {one for one in expected if domain_of(one) not in town.silent}):
            return time.perf_counter()
        if time.perf_counter() > deadline:
            raise Refused(f"the box knows {len(known)} of {len(expected)} members after {SETTLING:.0f} s")
        time.sleep(0.2)


def _told(town: Town, room: TownRoom) -> str:
    """Waits until the message has reached every server of the room; tells how far it came."""
    began = time.perf_counter()
    wanted = {domain_of(user_id) for user_id in room.users} - town.silent
    while wanted - town.heard and time.perf_counter() - began < SETTLING:
        time.sleep(0.1)
    return f"{len(wanted & town.heard)} of {len(wanted)} servers had the message {time.perf_counter() - began:.1f} s later"


def small_joins(bench: Bench) -> None:
    """Joins of rooms of 20 and of 1,000, whole."""
    report = bench.report
    for members, runs in ((20, report.runs(7, 3)), (1000, report.runs(5, 3))):
        metric = f"join.full.s.m{members}"
        if report.wants(metric, *(["join.bytes.m1000"] if members == 1000 else [])):
            found = _some_joins(bench, members, runs)
            report.median(metric, [one.sent for one in found], "s", _asked(members))
            if members == 1000:
                note = "TCP payload in both directions until the join is answered, TLS and all requests for keys with it"
                report.median("join.bytes.m1000", [one.bytes for one in found], "B", note)


def large_joins(bench: Bench) -> None:
    """Joins of a room of 10,000, whole and in part."""
    report = bench.report
    whole, partial, peak = "join.full.s.m10000", "join.partial.s.m10000", "join.peak_rss.m10000"
    peaks: list[tuple[str, Joined]] = []
    if report.wants(whole, peak):
        found = _some_joins(bench, 10_000, report.runs(3, 1))
        report.median(whole, [one.sent for one in found], "s", _asked(10_000))
        peaks += [("full", one) for one in found]
    if report.wants(partial, peak) and PARTIAL:
        found = _some_joins(bench, 10_000, report.runs(3, 1), partial=True)
        known = statistics.median(one.whole for one in found)
        note = f"until the join is answered and a message sent; all members were known after {known:.1f} s"
        report.median(partial, [one.sent for one in found], "s", note)
        peaks += [("partial", one) for one in found]
    elif report.wants(partial):
        report.missing("s", "this box joins rooms whole only", partial)
    if peaks:
        note = "the highest, until all members are known; " + "; ".join(f"{mode} {one.peak_rss:.0f}: {one.told}" for mode, one in peaks)
        report.line(peak, max(one.peak_rss for _, one in peaks), "MB", n=len(peaks), note=note)


def _some_joins(bench: Bench, members: int, runs: int, *, partial: bool = False) -> list[Joined]:
    say(f"joins, {members} members" + (", in part" if partial else ""))
    mode = f"partial_joins = {str(partial).lower()}" if PARTIAL else ""
    return [one_join(bench, f"join{members}-{partial}-{run}", members, VERSIONS[run % 2], mode) for run in range(runs)]


def _asked(members: int) -> str:
    return f"until the join is answered and a message sent; {max(1, round(members / MEMBERS_A_SERVER))} servers asked for their keys"


PARTS: tuple[tuple[Callable[[Bench], None], dict[str, str]], ...] = (
    (pdus, {"ingest.pdus": "1/s", "ingest.pdus.vs_synapse": "x"}),
    (state_resolution, {"ingest.state_resolution": "1/s"}),
    (small_joins, {"join.full.s.m20": "s", "join.full.s.m1000": "s", "join.bytes.m1000": "B"}),
    (large_joins, {"join.full.s.m10000": "s", "join.partial.s.m10000": "s", "join.peak_rss.m10000": "MB"}),
)
"""What is measured together, and what is told as not measured when it fails."""


def main() -> None:
    chosen = options(
        (__doc__ or "").splitlines()[0],
        lambda parser: parser.add_argument(
            "--silent", type=float, default=0.0, metavar="SHARE", help="of a room's servers that take connections and never answer"
        ),
    )
    report = Report(chosen)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        authority = Authority(Path(folder) / "ca")
        with Town(authority, seed=chosen.seed) as town:
            bench = Bench(report, Path(folder), authority, town, chosen.silent)
            for part, unmeasured in PARTS:
                try:
                    part(bench)
                except (Refused, LabError, OSError) as error:
                    for metric in unmeasured.keys() - report.told:
                        report.missing(unmeasured[metric], f"failed: {error}", metric)


if __name__ == "__main__":
    main()
