"""Partition fuzz: whole boxes, seeded chance, and what must hold when the lines are whole again.

    .venv/bin/python -m tests.flows.partitions --seed 123           replays one seed, and with --trace tells all that happened
    .venv/bin/python -m tests.flows.partitions --seeds 0-1000           with --linked those of them that have lines

A run is a virtual hour or so in a few rooms of two to six boxes: people talk, change state and powers, ban, kick, invite, join, leave and
redact, while lines are cut and healed, requests and answers get lost, and boxes are restarted or lose their power. Then everything is
healed, everybody says something, and after that, for every room and all servers in it:

- heads and current state are the same, byte for byte, and every event that leads to them is held by all, in the same form;
- every event that a client has got a 200 for is held by its own server and is among those, unless that server is in the room no more, or
  was out of it in between;
- what a server accepted of them its members can read, each once; and nobody's sync told an event twice.

Every fifth seed has paired boxes on simulated lines that lose 5 to 30 % of their frames: either no box has internet, or one has none, or
one has a line to its gateway only, or all have internet, and some pairs a line besides. A line that is cut is seen to be gone, or only
silent; healed, it must come up again by itself.

Everything is drawn from the seed: trio's scheduler, keys (those of sessions on lines, too), names of rooms, moments of repeats. Sets of
strings iterate alike only under the same PYTHONHASHSEED, so the program starts itself anew with one.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio
from trio.testing import MockClock

from edgeserver.app.identity import write_durably
from edgeserver.matrix.canonical_json import encode
from edgeserver.matrix.signatures import encode_base64
from edgeserver.store import events, rooms, state
from edgeserver.store.database import Transaction
from edgeserver.store.events import Standing
from edgeserver.store.integrity import inspect
from edgeserver.users.accounts import DeviceWish
from tests.asgi import AsgiClient
from tests.flows.cables import Cables
from tests.flows.world import BoxInWorld, Person, World, until
from transports.exchange import Request
from transports.memory import Medium

VERSIONS = ("6", "7", "8", "9", "10", "11", "12")
CONFIG = "[limits]\nrate_limits = false\n[discovery]\nmdns = false\n"
OFFLINE = "[federation]\ninternet = false\n"
STEPS = 45
PAUSES = (0.0, 0.05, 0.5, 3.0, 20.0)
PAUSES_ON_LINES = (*PAUSES, 90.0)
"""A line that has fallen silent is noticed after a minute or so."""
QUIET_SECONDS = 4 * 3600.0
LINE_SECONDS = 2 * 3600.0
"""So soon a healed line is up: ten times the longest pause between two calls, any of which may get lost."""


@dataclass
class Talk:
    """One room, as the people of the run know it: what a 200 was given for, and by whom."""

    room_id: str
    version: str
    acknowledged: dict[str, tuple[str, float]] = field(default_factory=dict)
    """event id → name of the server, and when"""
    joined_at: dict[str, float] = field(default_factory=dict)
    """server → when a user of it last joined"""


class Fuzz:
    """One run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.folder = folder
        self.trace: list[str] = []
        self.world = World(folder, seed=seed, random_bytes=random.Random(seed + 1).randbytes)
        self.world.internet.watch = self.note_request
        self.is_linked = is_linked(seed)
        self.cables = Cables(self.note_frame)
        self.boxes: list[BoxInWorld] = []
        self.people: list[Person] = []
        self.talks: list[Talk] = []
        self.told: dict[tuple[str, str], list[str]] = {}
        self.down: set[str] = set()
        self.working: dict[str, set[trio.CancelScope]] = {}
        self.lives: dict[str, int] = {}
        self.syncing: list[Person] = []
        self.number = 0

    def note(self, *what: object) -> None:
        self.trace.append(f"{trio.current_time():.3f} " + " ".join(str(one) for one in what))

    def note_request(self, origin: str, request: Request, outcome: int | str) -> None:
        path = request.target.partition("?")[0]
        self.note("carried", origin, "→", request.authority, request.method, path, sha256(request.body).hexdigest()[:8], outcome)

    def note_frame(self, end: str, sent: bytes, arriving: bytes | None) -> None:
        self.note("frame", end, len(sent), sha256(sent).hexdigest()[:8], "is lost" if arriving is None else "arrives")

    # The run

    async def run(self) -> None:
        async with self.world, trio.open_nursery() as nursery:
            await self.open()
            self.world.internet.loss = self.chance.choice((0.0, 0.0, 0.05, 0.2))
            for _ in range(STEPS):
                await self.step(nursery)
                await trio.sleep(self.chance.choice(PAUSES_ON_LINES if self.is_linked else PAUSES))
            await trio.sleep(60)
            await self.heal()
            await self.end()
            nursery.cancel_scope.cancel()
        for box in self.boxes:
            findings = inspect(self.folder / box.name / "data" / "edgeserver.db", box.server_name).findings
            assert findings == [], (box.name, findings)

    async def open(self) -> None:
        names = [f"b{number}" for number in range(self.chance.choice((2, 3, 3, 4) if self.is_linked else (2, 3, 3, 4, 4, 6)))]
        for name in names:
            write_key(self.folder / name / "data" / "identity.key", f"{self.seed} {name}")
        offline = await self.lay_cables(names) if self.is_linked else []
        for name in names:
            config = CONFIG + (OFFLINE if name in offline else "") + self.cables.config(name)
            box = await self.world.box(name, config, self.cables.drivers(name))
            self.boxes.append(box)
            for who in ("anna", "ben")[: self.chance.choice((1, 2))]:
                user_id, session = await box.box.users.accounts.create_person(who, None, device=DeviceWish("DEVICE", None))
                assert session is not None
                self.people.append(Person(box, user_id, session.tokens.access_token))
        self.point_at_gateways()
        await self.lines_are_up()
        await self.exchange_keys()
        for _ in range(self.chance.choice((1, 1, 2))):
            founder, version = self.chance.choice(self.people), self.chance.choice(VERSIONS)
            powers = {one.user_id: 50 for one in self.people if one is not founder and self.chance.random() < 0.5}
            room_id = await founder.create_room(
                preset="public_chat", room_version=version, power_level_content_override=self.powers(founder, powers, version)
            )
            self.talks.append(Talk(room_id, version))
            for person in self.people:
                if person is not founder and self.chance.random() < 0.8:
                    await person.join(room_id, founder.box.server_name)
            self.note("founded", room_id, version)

    async def lay_cables(self, names: list[str]) -> list[str]:
        """Returns the boxes without internet: each has a line to every other one, or to its gateway. Of the others some pairs have one
        besides.
        """
        kind = self.chance.choice(("lines", "lines", "one by line", "lines besides", "a gateway"))
        offline, gateway = self.chance.sample(names, 2)
        without = {"lines": names, "lines besides": []}.get(kind, [offline])
        if kind == "a gateway":
            self.cables.gateways[offline] = gateway
        besides = {"lines": 0.0, "lines besides": 0.7}.get(kind, 0.3)
        for one, other in combinations(names, 2):
            if self.cables.gateways and offline in (one, other):
                has_line = gateway in (one, other)
            else:
                has_line = one in without or other in without or self.chance.random() < besides
            if has_line:
                medium = Medium(
                    self.chance.choice((2_400, 9_600, 38_400, 115_200)),
                    delay=self.chance.choice((0.0, 0.05, 0.5)),
                    loss=self.chance.choice((0.05, 0.1, 0.2, 0.3)),
                )
                self.cables.lay(one, other, medium, seed=self.chance.getrandbits(32))
                self.note("line", one, other, medium)
        self.note(kind, "without internet:", without, self.cables.gateways)
        await self.cables.pair({name: self.folder / name / "data" for name in names})
        return without

    def point_at_gateways(self) -> None:
        """The names of boxes behind gateways lead to these (a wildcard in DNS); to nothing, while the gateway is down."""
        for name, gateway in self.cables.gateways.items():
            if gateway in self.down:
                self.world.internet.unplug(f"{name}.test")
            else:
                self.world.internet.plug(f"{name}.test", self.world.boxes[gateway].box.app)

    async def lines_are_up(self) -> None:
        by_name = {box.name: box for box in self.boxes}
        pairs = [(by_name[one], by_name[other]) for one, other in self.cables.pairs()]

        async def all_up() -> bool:
            fronted = (by_name[gateway].box.gateway.fronts(f"{name}.test") for name, gateway in self.cables.gateways.items())
            return all(fronted) and all(
                one.server_name in other.box.peers.links() and other.server_name in one.box.peers.links() for one, other in pairs
            )

        await until(all_up, seconds=LINE_SECONDS)

    async def exchange_keys(self) -> None:
        """Every box learns the others' keys: who joins while a server is down, and knows no key of it, takes the state that its users
        have sent for forged.
        """
        for box in self.boxes:
            for other in self.boxes:
                path, headers = f"/_matrix/key/v2/query/{other.server_name}", {"host": box.server_name}
                answer = await AsgiClient(box.box.app).request("GET", path, headers=headers)
                assert answer.json["server_keys"], answer.body

    @staticmethod
    def powers(founder: Person, powers: dict[str, int], version: str) -> dict[str, Any]:
        return {"users": powers | ({} if version == "12" else {founder.user_id: 100})}

    async def step(self, nursery: trio.Nursery) -> None:
        kind = self.chance.random()
        if kind < 0.1:
            self.partition()
        elif kind < 0.15:
            await self.restart()
        elif kind < 0.2:
            person = self.chance.choice(self.people)
            nursery.start_soon(self.work, person, "sync", lambda: self.sync(person))
        else:
            person, talk = self.chance.choice(self.people), self.chance.choice(self.talks)
            action = self.chance.choice(self.ACTIONS)
            target = self.chance.choice(self.people)
            self.number += 1
            nursery.start_soon(self.work, person, action.__name__, lambda: action(self, person, talk, target, self.number))

    async def work(self, person: Person, what: str, action: Callable[[], Awaitable[object]]) -> None:
        """Something that a person does, which ends when their box does."""
        name = person.box.name
        if name in self.down:
            return
        with trio.CancelScope() as scope:
            self.working.setdefault(name, set()).add(scope)
            try:
                self.note(person.user_id, what, await action())
            finally:
                self.working[name].discard(scope)

    # Weather

    def partition(self) -> None:
        kind = self.chance.random()
        names = [box.name for box in self.boxes]
        if kind < 0.4:
            self.world.internet.heal()
            self.cables.heal()
        elif kind < 0.7:
            self.part(*self.chance.sample(names, 2))
        elif kind < 0.85:
            alone = self.chance.choice(names)
            for name in names:
                if name != alone:
                    self.part(alone, name)
        else:
            some = self.chance.sample(names, len(names) // 2)
            for one in some:
                for other in names:
                    if other not in some:
                        self.part(one, other)
        self.note("cuts", sorted(sorted(pair) for pair in self.world.internet._cut), *self.cables.standing())

    def part(self, one: str, other: str) -> None:
        """Cuts every way between two boxes; where they have a line, sometimes that alone, so that the internet is to carry on."""
        has_line = other in self.cables.ends(one)
        if has_line:
            self.cables.cut(one, other, silently=self.chance.random() < 0.5)
        if not has_line or self.chance.random() < 0.5:
            self.world.internet.cut(f"{one}.test", f"{other}.test")

    async def restart(self) -> None:
        up = [box for box in self.boxes if box.name not in self.down]
        box = self.chance.choice(self.boxes)
        if box.name in self.down:
            await self.start(box)
        elif len(up) > 1:
            self.down.add(box.name)
            killed = self.chance.random() < 0.5
            self.lives[box.name] = self.lives.get(box.name, 0) + 1
            self.note("kill" if killed else "stop", box.name)
            for scope in self.working.get(box.name, set()):
                scope.cancel()
            self.point_at_gateways()
            if killed:
                self.cables.power_off(box.name)
            await (box.kill() if killed else box.stop())
            self.point_at_gateways()
            if self.chance.random() < 0.5:
                await self.start(box)

    async def start(self, box: BoxInWorld) -> None:
        await box.start()
        self.down.discard(box.name)
        self.point_at_gateways()
        self.note("start", box.name)

    async def heal(self) -> None:
        self.note("heal")
        self.world.internet.heal()
        self.world.internet.loss = 0.0
        self.cables.heal()
        for box in self.boxes:
            if box.name in self.down:
                await self.start(box)
        await self.lines_are_up()
        await until(self.nobody_works, seconds=QUIET_SECONDS)

    async def nobody_works(self) -> bool:
        return not any(self.working.values())

    # What people do: each gives the status of the answer

    async def put(self, person: Person, talk: Talk, path: str, content: dict[str, Any]) -> int:
        life = self.lives.get(person.box.name, 0)
        answer = await person.request("PUT", f"/rooms/{quote(talk.room_id)}/{path}", content)
        if answer.status == 200 and life == self.lives.get(person.box.name, 0):  # else the answer went down with the box
            talk.acknowledged[answer.json["event_id"]] = (person.box.server_name, trio.current_time())
        return answer.status

    async def post(self, person: Person, talk: Talk, what: str, content: dict[str, Any]) -> int:
        return (await person.request("POST", f"/rooms/{quote(talk.room_id)}/{what}", content)).status

    async def say(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        content = {"msgtype": "m.text", "body": f"{number}"}
        return await self.put(person, talk, f"send/m.room.message/t{number}", content)

    async def topic(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        return await self.put(person, talk, "state/m.room.topic", {"topic": f"{number}"})

    async def power(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        path = f"/rooms/{quote(talk.room_id)}/state/m.room.power_levels"
        answer = await person.request("GET", path)
        if answer.status != 200:
            return answer.status
        content = answer.json
        content.setdefault("users", {})[target.user_id] = (0, 25, 50, 50)[number % 4]
        return await self.put(person, talk, "state/m.room.power_levels", content)

    async def join_rule(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        rule = ("public", "invite", "public")[number % 3]
        return await self.put(person, talk, "state/m.room.join_rules", {"join_rule": rule})

    async def redact(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        known = sorted(talk.acknowledged)
        if not known:
            return 0
        return await self.put(person, talk, f"redact/{quote(known[number % len(known)])}/t{number}", {})

    async def join(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        query = {"server_name": target.box.server_name}
        answer = await person.request("POST", f"/join/{quote(talk.room_id)}", query=query)
        if answer.status == 200:
            talk.joined_at[person.box.server_name] = trio.current_time()
        return answer.status

    async def leave(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        return await self.post(person, talk, "leave", {})

    async def invite(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        return await self.post(person, talk, "invite", {"user_id": target.user_id})

    async def kick(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        return await self.post(person, talk, "kick", {"user_id": target.user_id})

    async def ban(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        return await self.post(person, talk, "ban", {"user_id": target.user_id})

    async def unban(self, person: Person, talk: Talk, target: Person, number: int) -> int:
        return await self.post(person, talk, "unban", {"user_id": target.user_id})

    ACTIONS = (say, say, say, say, topic, topic, power, join_rule, redact, join, join, join, leave, invite, kick, ban, unban)

    async def sync(self, person: Person) -> str:
        """Reads on, and holds nobody's sync to have told an event twice while the person was in the room."""
        if person in self.syncing:
            return "is syncing"
        self.syncing.append(person)
        try:
            return await self.sync_once(person)
        finally:
            self.syncing.remove(person)

    async def sync_once(self, person: Person) -> str:
        query = {"timeout": "0", **({"since": person.since} if person.since else {})}
        answer = await person.request("GET", "/sync", query=query)
        assert answer.status == 200, answer.body
        person.since = answer.json["next_batch"]
        sections = answer.json.get("rooms", {})
        for room_id in sections.get("leave", {}):
            self.told.pop((person.user_id, room_id), None)
        for room_id, room in sections.get("join", {}).items():
            told = self.told.setdefault((person.user_id, room_id), [])
            told_anew = any(event.get("state_key") == person.user_id for event in room["timeline"]["events"])
            if told_anew or room["timeline"]["limited"]:  # who was away between two syncs is told of the whole room
                told.clear()
            told += [event["event_id"] for event in room["timeline"]["events"]]
            twice = sorted(one for one in set(told) if told.count(one) > 1)
            assert not twice, f"{person.user_id} was told twice of {twice} at {query.get('since')}"
        return person.since

    # The end

    async def quiet(self) -> None:
        async def nothing_waits() -> bool:
            waiting = [await box.box.ground.db.read(_outbox_rows) for box in self.boxes]
            return not any(waiting)

        await until(nothing_waits, seconds=QUIET_SECONDS)
        await trio.sleep(5)

    async def members(self, talk: Talk) -> list[Person]:
        """Those who are in the room by their own server's word."""
        found = []
        for person in self.people:
            membership = await person.box.box.ground.db.read(
                lambda tx, person=person: rooms.membership_in(tx, person.user_id, talk.room_id)
            )
            if membership is not None and membership.membership == "join":
                found.append(person)
        return found

    async def end(self) -> None:
        await self.quiet()
        for together in (True, False):
            for talk in self.talks:
                for person in await self.members(talk):
                    self.number += 1
                    status = await self.say(person, talk, person, self.number)
                    self.note(person.user_id, "says at the end", status)
                    if not together:
                        await self.quiet()
            await self.quiet()
        for talk in self.talks:
            await self.check(talk)
        for person in self.people:
            await self.sync(person)

    async def check(self, talk: Talk) -> None:
        members = await self.members(talk)
        boxes = {person.box.name: person.box for person in members}
        if not boxes:
            return
        for person in members:  # history from before a server came is fetched by who reads it
            await self.read(person, talk)
        views = {name: await box.box.ground.db.read(lambda tx: View.of(tx, talk.room_id)) for name, box in boxes.items()}
        self.leave_out_who_is_out(talk, boxes, views)
        members = [person for person in members if person.box.name in views]
        first = next(iter(views.values()))
        for name, view in views.items():
            assert view.heads == first.heads, f"heads of {talk.room_id} differ at {name}: " + str({n: v.heads for n, v in views.items()})
            assert view.current == first.current, f"state of {talk.room_id} differs at {name}: {view.state ^ first.state}"
        everything = set[str]().union(*(view.leading_to_heads for view in views.values()))
        for name, view in views.items():
            lacking = everything - view.placed.keys()
            assert not lacking, f"{name} lacks {sorted(lacking)} of {talk.room_id}"
            for event_id in everything:
                assert view.redacted_form[event_id] == first.redacted_form[event_id], (name, event_id)
                rejected = view.placed[event_id] is Standing.REJECTED
                assert rejected == (first.placed[event_id] is Standing.REJECTED), (name, event_id)
        servers = {boxes[name].server_name for name in views}
        for event_id, (server, at) in talk.acknowledged.items():
            if server in servers:
                (own,) = [view for name, view in views.items() if boxes[name].server_name == server]
                assert event_id in own.placed, f"{event_id} is lost where it was made"
                is_new = talk.joined_at.get(server, -1.0) > at  # then its heads are others' since, who may not have liked the event
                assert event_id in everything or is_new or not own.is_whole, f"{event_id} of {server} is lost"
        for person in members:
            found = await self.read(person, talk)
            assert len(found) == len(set(found)), f"{person.user_id} reads an event twice"
            view = views[person.box.name]
            readable = {one for one in everything - view.premature if view.placed[one] is Standing.ACCEPTED}
            assert readable <= set(found), f"{person.user_id} cannot read {sorted(readable - set(found))}"
        self.note("agreed", talk.room_id, sorted(boxes), sha256(first.current).hexdigest()[:16], len(everything))

    def leave_out_who_is_out(self, talk: Talk, boxes: dict[str, BoxInWorld], views: dict[str, View]) -> None:
        """Takes out servers that the others know to be in the room no more.

        Nobody sends it anything from then on. So it goes where a resolution undid the join of its last user, at others and not there,
        and where it was told of a removal and could not judge it, for what was before could not be had at that moment.
        """
        while True:
            unknown_at = {
                name: [other for other in views if boxes[name].server_name not in views[other].servers] for name in views
            }
            name = max(views, key=lambda one: (len(unknown_at[one]), one))
            if not unknown_at[name]:
                return
            views.pop(name)
            self.note("is out without knowing it", name, talk.room_id)

    async def read(self, person: Person, talk: Talk) -> list[str]:
        found: list[str] = []
        token = None
        while True:
            query = {"dir": "b", "limit": "100", **({"from": token} if token else {})}
            page = await person.ok("GET", f"/rooms/{quote(talk.room_id)}/messages", query=query)
            found += [event["event_id"] for event in page["chunk"]]
            token = page.get("end")
            if not token:
                return found


@dataclass(frozen=True)
class View:
    """What one server holds of a room."""

    heads: tuple[str, ...]
    current: bytes
    state: set[tuple[str, ...]]
    servers: set[str]
    placed: dict[str, Standing]
    redacted_form: dict[str, bytes]
    leading_to_heads: set[str]
    premature: set[str]
    """Redactions of what the server does not hold: nobody is told of them."""
    is_whole: bool
    """Whether nothing that leads to the heads is missing: it may be, if those who had it have all left the room."""

    @classmethod
    def of(cls, tx: Transaction, room_id: str) -> View:
        room = rooms.get(tx, room_id)
        assert room is not None
        assert room.snapshot is not None
        current = sorted([*key, event_id] for key, event_id in state.whole_ids(tx, room.snapshot).items())
        ids = [one for (one,) in tx.all("SELECT event_id FROM events WHERE room = ? AND before IS NOT NULL", (room.number,))]
        found = events.many(tx, ids)
        redacted = {event_id: stored.event.redacts for event_id, stored in found.items() if stored.event.redacts is not None}
        held = events.many(tx, redacted.values())
        leading: set[str] = set()
        missing = 0
        standing = [one.event for (kind, _), one in state.whole_events(tx, room.snapshot).items() if kind == "m.room.member"]
        joined = {str(one.state_key) for one in standing if one.content.get("membership") == "join"}
        pending = list(room.heads)
        while pending:
            one = pending.pop()
            missing += one not in found
            if one not in leading and one in found:
                leading.add(one)
                pending += found[one].event.prev_events
        return cls(
            tuple(sorted(room.heads)),
            encode({"state": current}),
            {tuple(one) for one in current},
            {user_id.partition(":")[2] for user_id in joined},
            {event_id: stored.standing for event_id, stored in found.items()},
            {event_id: encode(stored.event.redacted().pdu) for event_id, stored in found.items()},
            leading,
            {event_id for event_id, target in redacted.items() if target not in held},
            missing == 0,
        )


def _outbox_rows(tx: Transaction) -> int:
    row = tx.one("SELECT count(*) FROM outbox")
    return 0 if row is None else int(row[0])


def write_key(path: Path, what: str) -> None:
    path.parent.mkdir(parents=True)
    write_durably(path, encode_base64(sha256(what.encode()).digest()).encode() + b"\n")


def is_linked(seed: int) -> bool:
    return seed % 5 == 4


def run_seed(seed: int) -> list[str]:
    """One run; its trace. Raises what went wrong, with the trace as a note."""
    random.seed(seed)
    trio._core._run._r.seed(seed)  # type: ignore[attr-defined]
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[attr-defined]
    logging.disable(logging.WARNING)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        fuzz = Fuzz(Path(folder), seed)
        try:
            trio.run(fuzz.run, clock=MockClock(autojump_threshold=0))
        except BaseException as error:
            error.add_note("\n".join(fuzz.trace))
            raise
        finally:
            logging.disable(logging.NOTSET)
    return fuzz.trace


def innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.flows.partitions")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", help="a range, as 0-50: the last is not run")
    parser.add_argument("--linked", action="store_true", help="of the range, only the seeds that have lines")
    parser.add_argument("--trace", action="store_true", help="tell all that happened")
    asked = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", "tests.flows.partitions", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    first, last = (asked.seed, asked.seed + 1) if asked.seed is not None else map(int, asked.seeds.split("-"))
    seeds = [seed for seed in range(first, last) if is_linked(seed) or not asked.linked]
    failed = 0
    for seed in seeds:
        try:
            trace = run_seed(seed)
        except Exception as error:
            failed += 1
            cause = innermost(error)
            print(f"seed {seed}: {type(cause).__name__}: {cause}")
            if asked.seed is not None:
                print("".join(traceback.format_exception(cause)))
            if asked.trace:
                print("\n".join(getattr(error, "__notes__", [])))
            print(f"  replay: .venv/bin/python -m tests.flows.partitions --seed {seed} --trace", flush=True)
        else:
            if asked.trace:
                print("\n".join(trace))
    print(f"{len(seeds)} seeds, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
