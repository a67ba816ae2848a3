"""State resolution a second time: versions 2 and 2.1 as the specification words them, with no thought for speed.

Spec: rooms/v2 and rooms/v12, "State resolution". Shares nothing with `edgeserver.matrix.state_resolution` but the authorization rules.
"Enlarge X by the events from P's auth chain which also belong to the full conflicted set" is read as implementations do, who share
rooms with us: along links inside that set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edgeserver.matrix.auth import check
from edgeserver.matrix.auth_events import select_auth_events
from edgeserver.matrix.event import Event
from edgeserver.matrix.verdicts import Accepted

StateMap = Mapping[tuple[str, str], str]
POWER = ("m.room.power_levels", "")
CREATE = ("m.room.create", "")


class NaiveResolution:
    """`events` are all events there are; `rejected` those among them that authorise nobody."""

    def __init__(self, events: Mapping[str, Event], rejected: Iterable[str], *, version: str) -> None:
        assert version in ("2", "2.1")
        self.events = events
        self.rejected = set(rejected)
        self.version = version

    def resolve(self, states: Sequence[StateMap]) -> dict[tuple[str, str], str]:
        keys = {key for state in states for key in state}
        unconflicted = {key: states[0][key] for key in keys if len({state.get(key) for state in states}) == 1}
        conflicted = {state[key] for state in states for key in state if key not in unconflicted}
        full = conflicted | self.auth_difference(states)
        if self.version == "2.1":
            full |= self.subgraph(conflicted)
        power = self.power_set(full)
        state = dict(unconflicted) if self.version == "2" else {}
        self.iterate(self.power_ordering(power), state)
        self.iterate(self.mainline_ordering(full - power, state.get(POWER)), state)
        return {**state, **unconflicted}

    def chain(self, event_id: str) -> set[str]:
        """Everything below."""
        found: set[str] = set()
        level = set(self.events[event_id].auth_events)
        while level:
            found |= level
            level = {cited for one in level for cited in self.events[one].auth_events} - found
        return found

    def auth_difference(self, states: Sequence[StateMap]) -> set[str]:
        chains = [set().union(*(self.chain(event_id) for event_id in state.values())) for state in states]
        return set.union(*chains) - set.intersection(*chains)

    def subgraph(self, conflicted: set[str]) -> set[str]:
        """Every event that one of the set leads to and that leads to one of the set."""
        below = {one: self.chain(one) for one in conflicted}
        between = {event_id for chain in below.values() for event_id in chain if self.chain(event_id) & conflicted}
        return conflicted | between

    def power_set(self, full: set[str]) -> set[str]:
        chosen = {event_id for event_id in full if self.is_power_event(self.events[event_id])}
        while True:
            more = {cited for one in chosen for cited in self.events[one].auth_events if cited in full} - chosen
            if not more:
                return chosen
            chosen |= more

    def is_power_event(self, event: Event) -> bool:
        if event.type in ("m.room.power_levels", "m.room.join_rules"):
            return True
        return (
            event.type == "m.room.member"
            and event.content.get("membership") in ("leave", "ban")
            and event.sender != event.state_key
        )

    def sender_level(self, event: Event) -> float:
        cited = {(self.events[one].type, self.events[one].state_key): self.events[one] for one in event.auth_events}
        rules = event.rules
        if rules.room_id_is_create_hash:
            create = self.events["$" + event.room_id[1:]]
        elif CREATE in cited:
            create = cited[CREATE]
        else:
            create = None
        levels = cited[POWER].content if POWER in cited else None
        creators = () if create is None else (create.sender, *create.content.get("additional_creators", ()))
        if rules.privileged_creators and event.sender in creators:
            return float("inf")
        if levels is None:
            creator = None if create is None else create.content.get("creator", create.sender)
            return 100 if event.sender == creator else 0
        return levels.get("users", {}).get(event.sender, levels.get("users_default", 0))

    def power_ordering(self, chosen: set[str]) -> list[str]:
        """Again and again the smallest of those whose cited events have all been taken."""
        ordered: list[str] = []
        left = set(chosen)
        while left:
            free = [one for one in left if not set(self.events[one].auth_events) & left]
            taken = min(free, key=lambda one: (-self.sender_level(self.events[one]), self.events[one].origin_server_ts, one))
            ordered.append(taken)
            left.remove(taken)
        return ordered

    def levels_below(self, event_id: str) -> str | None:
        for cited in self.events[event_id].auth_events:
            if (self.events[cited].type, self.events[cited].state_key) == POWER:
                return cited
        return None

    def mainline_ordering(self, remaining: set[str], levels: str | None) -> list[str]:
        mainline: list[str] = []
        while levels is not None:
            mainline.append(levels)
            levels = self.levels_below(levels)

        def position(event_id: str) -> float:
            at: str | None = self.levels_below(event_id)
            while at is not None and at not in mainline:
                at = self.levels_below(at)
            return float("inf") if at is None else mainline.index(at)

        return sorted(remaining, key=lambda one: (-position(one), self.events[one].origin_server_ts, one))

    def iterate(self, ordered: Sequence[str], state: dict[tuple[str, str], str]) -> None:
        for event_id in ordered:
            event = self.events[event_id]
            known = {
                (self.events[one].type, self.events[one].state_key or ""): self.events[one]
                for one in event.auth_events
                if one not in self.rejected
            }
            for one in select_auth_events(event.rules, event.type, event.state_key, event.sender, event.content, state.get):
                known[self.events[one].type, self.events[one].state_key or ""] = self.events[one]
            create = self.events["$" + event.room_id[1:]] if event.rules.room_id_is_create_hash else None
            if event.state_key is not None and isinstance(check(event, known, create=create), Accepted):
                state[event.type, event.state_key] = event_id
