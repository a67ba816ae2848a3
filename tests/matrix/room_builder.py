"""Rooms for tests: events that cite what the spec says they cite, with readable ids and no signatures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgeserver.matrix.auth import check
from edgeserver.matrix.auth_events import CREATE, StateKey, select_auth_events
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import DEFAULT, RoomVersion
from edgeserver.matrix.state_resolution import resolve
from edgeserver.matrix.verdicts import Accepted, Verdict

ALICE = "@alice:one.example"
BOB = "@bob:one.example"
CAROL = "@carol:two.example"
DAVE = "@dave:two.example"

State = dict[StateKey, str]


def make_event(
    event_type: str,
    sender: str,
    content: dict[str, Any] | None = None,
    *,
    event_id: str,
    room_id: str | None = "!room:one.example",
    state_key: str | None = None,
    prev_events: tuple[str, ...] = (),
    auth_events: tuple[str, ...] = (),
    origin_server_ts: int = 0,
    depth: int = 1,
    rules: RoomVersion = DEFAULT,
    **more: Any,
) -> Event:
    pdu: dict[str, Any] = {
        "type": event_type,
        "sender": sender,
        "content": content or {},
        "origin_server_ts": origin_server_ts,
        "depth": depth,
        "prev_events": list(prev_events),
        "auth_events": list(auth_events),
        **more,
    }
    if rules.event_format.value == "v1":
        pdu["prev_events"] = [[ref, {}] for ref in prev_events]
        pdu["auth_events"] = [[ref, {}] for ref in auth_events]
    if room_id is not None:
        pdu["room_id"] = room_id
    if state_key is not None:
        pdu["state_key"] = state_key
    return Event.from_pdu(pdu, rules, event_id=event_id)


@dataclass
class Room:
    """A room of one version. `send` adds an event after the newest, or after those named; every state is kept."""

    rules: RoomVersion = DEFAULT
    creator: str = ALICE
    create_content: dict[str, Any] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    newest: str = ""
    clock: int = 0

    def __post_init__(self) -> None:
        content = {"room_version": self.rules.version, **self.create_content}
        if not self.rules.implicit_room_creator:
            content.setdefault("creator", self.creator)
        by_hash = self.rules.room_id_is_create_hash
        self.create = make_event(
            "m.room.create",
            self.creator,
            content,
            event_id="$create:one.example",
            room_id=None if by_hash else "!create:one.example",
            state_key="",
            rules=self.rules,
        )
        self.room_id = self.create.room_id
        self.events[self.create.event_id] = self.create
        self.states[self.create.event_id] = {CREATE: self.create.event_id}
        self.newest = self.create.event_id

    @property
    def state(self) -> State:
        return self.states[self.newest]

    def draft(
        self,
        event_type: str,
        sender: str,
        content: dict[str, Any] | None = None,
        *,
        state_key: str | None = None,
        after: tuple[str, ...] = (),
        ts: int | None = None,
        **more: Any,
    ) -> Event:
        after = after or (self.newest,)
        state = self.state_after(after)
        self.clock += 1
        auth_events = select_auth_events(self.rules, event_type, state_key, sender, content or {}, state.get)
        return make_event(
            event_type,
            sender,
            content,
            event_id=f"${self.clock:04}-{event_type}:one.example",
            room_id=self.room_id,
            state_key=state_key,
            prev_events=after,
            auth_events=tuple(auth_events),
            origin_server_ts=self.clock if ts is None else ts,
            depth=1 + max(self.events[event_id].depth for event_id in after),
            rules=self.rules,
            **more,
        )

    def state_after(self, event_ids: tuple[str, ...]) -> State:
        return resolve(self.rules, [self.states[event_id] for event_id in event_ids], self.events.get)

    def judge(self, event: Event) -> Verdict:
        state = self.state_after(event.prev_events)
        return check(event, {key: self.events[event_id] for key, event_id in state.items()})

    def add(self, event: Event) -> Verdict:
        verdict = self.judge(event)
        state = self.state_after(event.prev_events)
        self.events[event.event_id] = event
        if isinstance(verdict, Accepted) and event.state_key is not None:
            state[event.type, event.state_key] = event.event_id
        self.states[event.event_id] = state
        self.newest = event.event_id
        return verdict

    def send(self, *args: Any, **kwargs: Any) -> str:
        """Send an event that must be allowed; its id."""
        event = self.draft(*args, **kwargs)
        verdict = self.add(event)
        assert isinstance(verdict, Accepted), verdict
        return event.event_id

    def member(self, user: str, membership: str = "join", *, by: str | None = None, **kwargs: Any) -> str:
        content = {"membership": membership, **kwargs.pop("content", {})}
        return self.send("m.room.member", by or user, content, state_key=user, **kwargs)

    def levels(self, sender: str = ALICE, *, after: tuple[str, ...] = (), **content: Any) -> str:
        return self.send("m.room.power_levels", sender, content, state_key="", after=after)

    def join_rule(self, rule: str, sender: str = ALICE, **kwargs: Any) -> str:
        return self.send("m.room.join_rules", sender, {"join_rule": rule}, state_key="", **kwargs)


def public_room(rules: RoomVersion = DEFAULT, *members: str, users: dict[str, int] | None = None) -> Room:
    """A room that anybody may join, with power levels: the creator and these members are in it."""
    room = Room(rules)
    room.member(ALICE)
    levels = dict(users or {})
    if not rules.privileged_creators:
        levels[ALICE] = 100
    room.levels(users=levels)
    room.join_rule("public")
    for user in members:
        room.member(user)
    return room
