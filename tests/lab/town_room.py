"""Synthetic rooms: as many members as asked for, over a heavy-tailed number of servers, every event hashed and signed by its sender's.

A room looks like one that has lived: its power levels have changed, some members have changed their profile since they joined, some have
left. It is made by `edgeserver.matrix` alone, from a seed; only the times are of now.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeserver.matrix import draft, state_resolution
from edgeserver.matrix.auth_events import StateKey, auth_types_for, select_auth_events
from edgeserver.matrix.event import Event
from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from edgeserver.matrix.signatures import SigningKey

MEMBERS_A_SERVER = 12
PROFILE_CHANGES = 0.1
DEPARTED = 0.05
POWER_LEVEL_CHANGES = 5
MODERATORS = 4

State = dict[StateKey, Event]


class Servers:
    """The names of a town and their signing keys, each derived from the seed and the name."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._keys: dict[str, SigningKey] = {}

    def key(self, name: str) -> SigningKey:
        if name not in self._keys:
            self._keys[name] = SigningKey(hashlib.sha256(f"{self._seed} {name}".encode()).digest(), "ed25519:town")
        return self._keys[name]


@dataclass
class Branch:
    """A line of events: where it stands, and the state there. New events go after `heads`, in place."""

    room: TownRoom
    state: State
    heads: list[Event] = field(default_factory=list)

    def fork(self) -> Branch:
        return Branch(self.room, self.state, list(self.heads))

    def join_branch(self, other: Branch) -> None:
        """Both branches go on as one: the next event has both as its prev events."""
        self.heads = list({event.event_id: event for event in (*self.heads, *other.heads)}.values())
        maps = [{key: event.event_id for key, event in state.items()} for state in (self.state, other.state)]
        resolved = state_resolution.resolve(self.room.rules, maps, self.room.events.get)
        self.state = {key: self.room.events[event_id] for key, event_id in resolved.items()}

    def template(self, sender: str, event_type: str, content: Mapping[str, Any], state_key: str | None = None) -> dict[str, Any]:
        """An event as it would come next, without hash and signatures."""
        ids = {key: self.state[key].event_id for key in self._cited(event_type, state_key, sender, content)}
        return draft.template(
            self.room.rules,
            room_id=self.room.room_id,
            sender=sender,
            event_type=event_type,
            state_key=state_key,
            content=content,
            prev_events=[event.event_id for event in self.heads],
            auth_events=select_auth_events(self.room.rules, event_type, state_key, sender, content, ids.get),
            depth=draft.depth_after((event.depth for event in self.heads), self.room.rules),
            origin_server_ts=self.room.now_ms(),
        )

    def _cited(self, event_type: str, state_key: str | None, sender: str, content: Mapping[str, Any]) -> list[StateKey]:
        return [key for key in auth_types_for(self.room.rules, event_type, state_key, sender, content) if key in self.state]

    def event(self, sender: str, event_type: str, content: Mapping[str, Any], state_key: str | None = None) -> Event:
        """The next event, signed by the sender's server."""
        name = domain_of(sender)
        proto = self.template(sender, event_type, content, state_key)
        made = draft.complete(proto, self.room.rules, name, self.room.servers.key(name))
        self.take(made)
        return made

    def take(self, event: Event) -> None:
        """Puts an event of whatever server at the end."""
        self.room.events[event.event_id] = event
        self.room.befores[event.event_id] = self.state
        self.heads = [event]
        if event.state_key is not None:
            self.state = {**self.state, (event.type, event.state_key): event}


class TownRoom:
    """One room. `users` are its joined members, the first of them its creator; `main` is where it stands."""

    def __init__(self, version: str, servers: Servers, names: Sequence[str], members: int, *, seed: int = 1) -> None:
        """`names`: the servers of the members; the first is home to the creator and, as the others are by chance, to most."""
        self.rules: RoomVersion = ROOM_VERSIONS[version]
        self.servers = servers
        self.events: dict[str, Event] = {}
        self.befores: dict[str, State] = {}
        self.room_id: str | None = None if self.rules.room_id_is_create_hash else f"!town{seed}m{members}:{names[0]}"
        self._random = random.Random(seed)
        self._now = int(time.time() * 1000) - 86_400_000
        self.users = self._spread(names, members)
        self.main = Branch(self, {})
        self._found(self.users[0])
        self._fill()

    def now_ms(self) -> int:
        """Some time after the last event, up to now."""
        self._now = min(self._now + self._random.randint(10, 5_000), max(self._now + 1, int(time.time() * 1000)))
        return self._now

    def _spread(self, names: Sequence[str], members: int) -> list[str]:
        """User ids: one on every server, the rest by Zipf's law."""
        homes = [*names, *self._random.choices(names, [1 / rank for rank in range(1, len(names) + 1)], k=max(0, members - len(names)))]
        return [f"@user{number}:{home}" for number, home in enumerate(homes[:members])]

    def _found(self, creator: str) -> None:
        name = domain_of(creator)
        proto = draft.template(
            self.rules,
            room_id=self.room_id,
            sender=creator,
            event_type="m.room.create",
            state_key="",
            content={"room_version": self.rules.version},
            prev_events=[],
            auth_events=[],
            depth=1,
            origin_server_ts=self.now_ms(),
        )
        create = draft.complete(proto, self.rules, name, self.servers.key(name))
        self.room_id = create.room_id
        self.main.take(create)
        self.main.event(creator, "m.room.member", self._profile(creator), creator)
        self.main.event(creator, "m.room.power_levels", self._levels(creator, []), "")
        for kind, content in (
            ("join_rules", {"join_rule": "public"}),
            ("history_visibility", {"history_visibility": "shared"}),
            ("guest_access", {"guest_access": "forbidden"}),
            ("name", {"name": f"A town of {len(self.users)}"}),
            ("topic", {"topic": "Whatever concerns the town."}),
        ):
            self.main.event(creator, f"m.room.{kind}", content, "")

    def _levels(self, creator: str, moderators: Sequence[str]) -> dict[str, Any]:
        users = dict.fromkeys(moderators, 50)
        if not self.rules.privileged_creators:
            users[creator] = 100
        events = {"m.room.name": 50, "m.room.power_levels": 100}
        return {"users": users, "users_default": 0, "events": events, "state_default": 50, "ban": 50}

    def _profile(self, user_id: str, membership: str = "join") -> dict[str, Any]:
        number = self._random.randrange(10**6)
        content = {"membership": membership, "displayname": f"{user_id[1:].partition(':')[0].capitalize()} of {number} Harbour Street"}
        return {**content, "avatar_url": f"mxc://{domain_of(user_id)}/{number:024d}"} if number % 2 else content

    def _fill(self) -> None:
        """Everybody joins; now and then the power levels change; some leave, and some who stay change their profile."""
        creator, *others = self.users
        gone = [f"@gone{number}:{domain_of(self._random.choice(self.users))}" for number in range(int(len(self.users) * DEPARTED))]
        every = max(1, len(others) // POWER_LEVEL_CHANGES)
        state = self.main.state  # grows in place: a state for each event of the past would be quadratic
        for number, user_id in enumerate([*gone, *others]):
            self._at(state, user_id, "m.room.member", self._profile(user_id), user_id)
            if number and number % every == 0:
                moderators = self.users[1 : 1 + min(number // every, MODERATORS)]
                self._at(state, creator, "m.room.power_levels", self._levels(creator, moderators), "")
        for user_id in gone:
            self._at(state, user_id, "m.room.member", {"membership": "leave"}, user_id)
        for user_id in self._random.sample(others, int(len(others) * PROFILE_CHANGES)):
            self._at(state, user_id, "m.room.member", self._profile(user_id), user_id)
        self.befores.clear()
        self.main.state = dict(state)
        self.main.event(creator, "m.room.message", {"msgtype": "m.text", "body": "Everybody is here."})
        self._founded = self.main.state

    def _at(self, state: State, sender: str, event_type: str, content: Mapping[str, Any], state_key: str) -> None:
        made = draft.complete(
            self.main.template(sender, event_type, content, state_key), self.rules, domain_of(sender), self.servers.key(domain_of(sender))
        )
        self.events[made.event_id] = made
        self.main.heads = [made]
        state[event_type, state_key] = made

    # What a resident server says of it

    def state_before(self, event_id: str) -> State:
        """The state before an event; for those that made the room what it is, the state after all of them."""
        return self.befores.get(event_id, self._founded)

    def chain_of(self, start: Iterable[Event]) -> list[Event]:
        """The auth chains of these events together."""
        found: dict[str, Event] = {}
        pending = [event_id for event in start for event_id in event.auth_events]
        while pending:
            event_id = pending.pop()
            if event_id not in found:
                found[event_id] = self.events[event_id]
                pending += found[event_id].auth_events
        return list(found.values())

    def before(self, start: Iterable[str], limit: int, stop: Iterable[str] = ()) -> list[Event]:
        """The events from `start` backwards along prev events, the newest first, not further than `stop`."""
        seen, found = set(stop), list[Event]()
        pending = [self.events[one] for one in start if one in self.events and one not in seen]
        while pending and len(found) < limit:
            pending.sort(key=lambda event: event.depth)
            event = pending.pop()
            if event.event_id not in seen:
                seen.add(event.event_id)
                found.append(event)
                pending += [self.events[one] for one in event.prev_events if one not in seen]
        return found

    def servers_in_room(self) -> list[str]:
        joined = (key[1] for key, event in self.main.state.items() if key[0] == "m.room.member" and event.content["membership"] == "join")
        return list(dict.fromkeys(domain_of(user_id) for user_id in joined))


# What goes on in a room


def talk(room: TownRoom, speakers: Sequence[str], text: Callable[[], str], chance: random.Random) -> Iterable[Event]:
    """Without end: messages, every tenth a reaction to one, and every fiftieth a change of a profile."""
    last = None
    for number in range(10**9):
        sender = chance.choice(speakers)
        if number % 50 == 49:
            content = {**room.main.state["m.room.member", sender].content, "displayname": f"{sender[1:6]} {chance.randrange(1000)}"}
            yield room.main.event(sender, "m.room.member", content, sender)
        elif number % 10 == 9 and last is not None:
            yield room.main.event(sender, "m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": last, "key": "👍"}})
        else:
            said = room.main.event(sender, "m.room.message", {"msgtype": "m.text", "body": text()})
            last = said.event_id
            yield said


def forks(room: TownRoom, text: Callable[[], str], chance: random.Random, branches: int = 2, length: int = 4) -> Iterable[Event]:
    """Without end: the room splits, its branches disagree about state, and a message joins them.

    On each branch the topic, the power levels or the join rules, and the memberships change; a ban meets what the banned did meanwhile.
    """
    creator, *others = [one for one in room.users if domain_of(one) == domain_of(room.users[0])]
    for turn in range(10**9):
        banned = chance.choice(others)
        made = []
        for number in range(branches):
            branch = room.main.fork()
            renamed = [chance.choice(others) for _ in range(length - 2)]
            yield from _disagree(branch, creator, banned, renamed, turn * branches + number)
            made.append(branch)
        room.main = made[0]
        for branch in made[1:]:
            room.main.join_branch(branch)
        yield room.main.event(creator, "m.room.message", {"msgtype": "m.text", "body": text()})
        if room.main.state["m.room.member", banned].content["membership"] != "join":
            yield room.main.event(creator, "m.room.member", {"membership": "leave"}, banned)
            yield room.main.event(banned, "m.room.member", {"membership": "join"}, banned)


def _disagree(branch: Branch, creator: str, banned: str, others: Sequence[str], turn: int) -> Iterable[Event]:
    """One branch of a fork: an event of power on every other one, then memberships and a topic."""
    if turn % 2:
        yield branch.event(creator, "m.room.member", {"membership": "ban"}, banned)
    else:
        levels = branch.state["m.room.power_levels", ""].content
        yield branch.event(creator, "m.room.power_levels", {**levels, "redact": 50 + turn % 7}, "")
        yield branch.event(banned, "m.room.member", {"membership": "join", "displayname": f"Still here {turn}"}, banned)
    yield branch.event(creator, "m.room.topic", {"topic": f"Topic {turn}"}, "")
    for number, other in enumerate(others):
        if branch.state["m.room.member", other].content["membership"] == "join":
            yield branch.event(other, "m.room.member", {"membership": "join", "displayname": f"Name {turn} {number}"}, other)
