"""Rooms as event graphs, with what every server must make of them.

`grow` makes a graph out of plain numbers, so that hypothesis can draw and shrink it: forks, conflicting state of every kind that the
authorization rules look at, events of senders who may not send them, events that cite too old or too few auth events, and dates and
depths that are not true. `Graph` judges each event by the specification's words, with the naive resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from edgeserver.matrix import auth
from edgeserver.matrix.auth_events import select_auth_events
from edgeserver.matrix.draft import complete, template
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion, StateResolution
from edgeserver.matrix.signatures import SigningKey
from edgeserver.matrix.verdicts import Accepted
from tests.convergence.naive_resolution import NaiveResolution

SERVERS = ("s1", "s2", "s3")
ALICE, BOB, CAROL = "@alice:s1", "@bob:s2", "@carol:s3"
DAVE, ERIN, FRANK = "@dave:s1", "@erin:s2", "@frank:s3"
PEOPLE = (ALICE, BOB, CAROL, DAVE, ERIN, FRANK)
VERSIONS = ("6", "7", "8", "9", "10", "11", "12")
KEYS = {server: SigningKey(server.encode().ljust(32, b"."), "ed25519:1") for server in SERVERS}
EPOCH = 1_790_000_000_000

State = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Step:
    """One event to make, as numbers: who, what, about whom, after which events, when, and how honestly."""

    kind: int
    sender: int
    target: int
    value: int
    parents: tuple[int, ...]
    ts: int
    lie: int


STEPS = st.builds(
    Step,
    kind=st.integers(0, 99),
    sender=st.integers(0, 5),
    target=st.integers(0, 5),
    value=st.integers(0, 9),
    parents=st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    ts=st.integers(-50, 50),
    lie=st.integers(0, 19),
)


@dataclass
class Graph:
    """The events of a room, oldest first, with the state before each and whether it is rejected."""

    rules: RoomVersion
    events: dict[str, Event] = field(default_factory=dict)
    before: dict[str, State] = field(default_factory=dict)
    after: dict[str, State] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    clock: int = 0
    room_id: str = "!room:s1"
    setup: list[str] = field(default_factory=list)
    """The events that every server begins with."""

    def resolve(self, states: list[State]) -> State:
        distinct = [state for index, state in enumerate(states) if state not in states[:index]]
        if len(distinct) < 2:
            return dict(distinct[0]) if distinct else {}
        version = "2.1" if self.rules.state_resolution is StateResolution.V2_1 else "2"
        return NaiveResolution(self.events, self.rejected, version=version).resolve(distinct)

    def state_after(self, event_ids: list[str]) -> State:
        return self.resolve([self.after[event_id] for event_id in event_ids])

    def make(
        self,
        event_type: str,
        sender: str,
        content: dict[str, Any],
        *,
        after: list[str],
        state_key: str | None = None,
        redacts: str | None = None,
        ts: int = 0,
        lie: int = 0,
    ) -> Event:
        """An event after those; `lie` 1 to 4: an unlikely depth, too few auth events, an older one instead of one, no use of the date."""
        self.clock += 1
        state = self.state_after(after)
        cited = select_auth_events(self.rules, event_type, state_key, sender, content, state.get)
        depth = 1 + max((self.events[one].depth for one in after), default=0)
        if lie == 1:
            depth = (depth * 7919) % 1000
        if lie == 2 and cited:
            cited.pop(self.clock % len(cited))
        if lie == 3 and cited:
            cited = self._with_an_older_one(cited)
        proto = template(
            self.rules,
            room_id=None if event_type == "m.room.create" and self.rules.room_id_is_create_hash else self.room_id,
            sender=sender,
            event_type=event_type,
            content=content,
            state_key=state_key,
            redacts=redacts,
            prev_events=after,
            auth_events=cited,
            depth=depth,
            origin_server_ts=EPOCH + self.clock * 10 + ts * 7,
        )
        server = sender.partition(":")[2]
        return complete(proto, self.rules, server, KEYS[server])

    def _with_an_older_one(self, cited: list[str]) -> list[str]:
        """One of the cited events replaced by one of the same key that it leads to."""
        for index, one in enumerate(cited):
            key = (self.events[one].type, self.events[one].state_key)
            older = [e for e in self._ancestors(one) if (e.type, e.state_key) == key and e.event_id not in self.rejected]
            if older:
                return [*cited[:index], older[self.clock % len(older)].event_id, *cited[index + 1 :]]
        return cited

    def _ancestors(self, event_id: str) -> list[Event]:
        found: dict[str, Event] = {}
        pending = list(self.events[event_id].prev_events)
        while pending:
            one = pending.pop()
            if one not in found:
                found[one] = self.events[one]
                pending += self.events[one].prev_events
        return list(found.values())

    def add(self, event: Event) -> str:
        """Judges the event (checks 4 and 5) and notes the state before and after it."""
        event_id = event.event_id
        before = self.state_after(list(event.prev_events))
        self.events[event_id] = event
        self.before[event_id] = before
        if not self._is_allowed(event, before):
            self.rejected.add(event_id)
        takes_effect = event.state_key is not None and event_id not in self.rejected
        self.after[event_id] = before | ({(event.type, event.state_key or ""): event_id} if takes_effect else {})
        return event_id

    def _is_allowed(self, event: Event, before: State) -> bool:
        create = self.events["$" + event.room_id[1:]] if self.rules.room_id_is_create_hash else None
        cited = [self.events[one] for one in event.auth_events]
        verdict = auth.check_by_auth_events(event, cited, rejected=self.rejected, create=create)
        if not isinstance(verdict, Accepted):
            return False
        return isinstance(auth.check(event, {key: self.events[one] for key, one in before.items()}), Accepted)

    def send(self, *args: Any, **more: Any) -> str:
        return self.add(self.make(*args, **more))

    def heads(self, soft_failed: set[str]) -> set[str]:
        """The accepted events that no accepted event comes after, also through those that are not."""
        passed: set[str] = set()
        for event_id, event in self.events.items():
            if event_id not in self.rejected and event_id not in soft_failed:
                pending = list(event.prev_events)
                while pending:
                    one = pending.pop()
                    if one in self.rejected or one in soft_failed:
                        pending += self.events[one].prev_events
                    passed.add(one)
        return {one for one in self.events if one not in passed | self.rejected | soft_failed}


def founded(version: str) -> Graph:
    """A room that Alice, Bob and Carol, of three servers, are in."""
    graph = Graph(ROOM_VERSIONS[version])
    rules = graph.rules
    content = {"room_version": version} | ({} if rules.implicit_room_creator else {"creator": ALICE})
    if rules.room_id_is_create_hash:
        create = graph.make("m.room.create", ALICE, content, after=[], state_key="")
        graph.room_id = create.room_id
        newest = graph.add(create)
    else:
        newest = graph.send("m.room.create", ALICE, content, after=[], state_key="")
    graph.setup.append(newest)
    users = {BOB: 50, CAROL: 50} | ({} if rules.privileged_creators else {ALICE: 100})
    for event_type, sender, state_key, content in (
        ("m.room.member", ALICE, ALICE, {"membership": "join"}),
        ("m.room.power_levels", ALICE, "", {"users": users, "events": {"m.room.topic": 25}}),
        ("m.room.join_rules", ALICE, "", {"join_rule": "public"}),
        ("m.room.history_visibility", ALICE, "", {"history_visibility": "shared"}),
        ("m.room.member", BOB, BOB, {"membership": "join"}),
        ("m.room.member", CAROL, CAROL, {"membership": "join"}),
    ):
        newest = graph.send(event_type, sender, content, after=[newest], state_key=state_key)
        graph.setup.append(newest)
    assert not graph.rejected
    return graph


def grow(version: str, steps: list[Step]) -> Graph:
    """The founded room with an event for each step. Alice neither leaves nor loses her power, so that she can end it."""
    graph = founded(version)
    for step in steps:
        graph.add(_event_of(graph, step))
    return graph


def _event_of(graph: Graph, step: Step) -> Event:
    """The event that a step stands for. Parents are counted from the newest event back."""
    ids = list(graph.events)[len(graph.setup) - 1 :]
    after = list(dict.fromkeys(ids[-1 - (number % len(ids))] for number in step.parents))
    after = [one for one in after if one not in graph.rejected or step.lie == 5] or ids[:1]
    sender, target = PEOPLE[step.sender], PEOPLE[step.target]
    is_own_membership = 55 <= step.kind < 60 or 80 <= step.kind < 90
    if step.lie != 6 and not is_own_membership:
        joined = _joined(graph, after)
        sender = joined[step.sender % len(joined)]
    sender, event_type, state_key, content, redacts = _meant(graph, step, sender, target, after)
    return graph.make(event_type, sender, content, after=after, state_key=state_key, redacts=redacts, ts=step.ts, lie=step.lie)


def _joined(graph: Graph, after: list[str]) -> list[str]:
    state = graph.state_after(after)
    standing = {key[1]: graph.events[one].content["membership"] for key, one in state.items() if key[0] == "m.room.member"}
    return sorted((user for user, membership in standing.items() if membership == "join"), key=PEOPLE.index)


def _meant(
    graph: Graph, step: Step, sender: str, target: str, after: list[str]
) -> tuple[str, str, str | None, dict[str, Any], str | None]:
    """Sender, type, state key, content, and what it redacts."""
    kind, value = step.kind, step.value
    if kind < 15:
        return sender, "m.room.message", None, {"body": f"{value}"}, None
    if kind < 25:
        return sender, "m.room.topic", "", {"topic": f"{value}"}, None
    if kind < 30:
        return sender, "m.room.history_visibility", "", {"history_visibility": ("shared", "joined", "invited")[value % 3]}, None
    if kind < 40:
        return sender, "m.room.join_rules", "", _join_rule(value), None
    if kind < 55:
        return sender, "m.room.power_levels", "", _levels(graph, after, sender, target, value), None
    if kind < 90:
        membership = ("join", "leave", "ban", "invite", "leave", "join", "knock")[(kind - 55) // 5]
        if membership in ("join", "knock") or (membership == "leave" and value < 4):
            sender = target = sender if sender != ALICE else DAVE  # nor does she join anew, which a join rule might not let her
        if target == ALICE:
            target = DAVE
        content: dict[str, Any] = {"membership": membership}
        if membership == "join" and value > 6:
            content["join_authorised_via_users_server"] = (ALICE, BOB, CAROL)[value % 3]
        return sender, "m.room.member", target, content, None
    state = graph.state_after(after)
    keys = (("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", target))
    recent = list(graph.events)[-1 - value % len(graph.events)]
    redacted = state.get(keys[value % 3], recent) if value < 7 else recent
    return sender, "m.room.redaction", None, {}, redacted


def _join_rule(value: int) -> dict[str, Any]:
    rule = ("public", "invite", "knock", "restricted", "public", "invite", "private", "knock_restricted", "public", "invite")[value]
    allow = [{"type": "m.room_membership", "room_id": "!other:s1"}]
    return {"join_rule": rule} | ({"allow": allow} if "restricted" in rule else {})


def _levels(graph: Graph, after: list[str], sender: str, target: str, value: int) -> dict[str, Any]:
    """The levels that stand there, with one change."""
    state = graph.state_after(after)
    standing = state.get(("m.room.power_levels", ""))
    content = dict(graph.events[standing].content) if standing is not None else {}
    if value < 6:
        if target != ALICE:
            content["users"] = {**content.get("users", {}), target: (0, 25, 50, 50, 75, 100)[value]}
        return content
    name = ("invite", "ban", "kick", "redact")[value - 6]
    return {**content, name: (0, 50, 60)[graph.clock % 3], "notifications": {"room": (50, 40)[graph.clock % 2]}}
