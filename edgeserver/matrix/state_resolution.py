"""State resolution: one state out of several, the same on every server.

Spec: rooms/v2 to v11 (version 2 of the algorithm) and rooms/v12 (version 2.1, MSC4297), "State resolution"; rooms/v1
has its own file, `state_resolution_v1`.
"""

from __future__ import annotations

import heapq
import math
from collections import ChainMap
from typing import TYPE_CHECKING, cast

from edgeserver.matrix.auth import check
from edgeserver.matrix.auth_chains import auth_difference, conflicted_subgraph
from edgeserver.matrix.auth_events import CREATE, POWER_LEVELS, auth_types_of
from edgeserver.matrix.power_levels import PowerLevels
from edgeserver.matrix.room_versions import StateResolution
from edgeserver.matrix.verdicts import Accepted

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, MutableMapping, Sequence

    from edgeserver.matrix.auth_events import StateKey
    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion

    Fetch = Callable[[str], Event | None]
    StateMap = Mapping[StateKey, str]


def resolve(
    rules: RoomVersion,
    state_maps: Sequence[StateMap],
    fetch: Fetch,
    *,
    rejected: Container[str] = (),
    auth_edges: Callable[[str], Iterable[str]] | None = None,
) -> dict[StateKey, str]:
    """Resolve states, each a map of type and state key to an event id, into one. Their order does not matter.

    `fetch` gives an event by its id; each id is asked for once. An event that is not known, None, counts as absent, and
    so does what only it cites. `rejected` are ids that are not used to authorise others; it is asked about an id only
    after `fetch` was. `auth_edges` gives the ids in an event's `auth_events`, where the caller knows those cheaper than
    the whole event: with a conflict in the auth chains, those of the whole unconflicted state may be walked.
    """
    if not state_maps:
        return {}
    if all(state == state_maps[0] for state in state_maps[1:]):
        return dict(state_maps[0])
    if rules.state_resolution is StateResolution.V1:
        from edgeserver.matrix.state_resolution_v1 import resolve_v1  # few rooms are left of this version

        return resolve_v1(state_maps, fetch)
    unconflicted, conflicted = separate(state_maps)
    return unconflicted | _Resolution(rules, unconflicted, conflicted, fetch, rejected, auth_edges, None).resolve()


def resolve_conflict(
    rules: RoomVersion,
    conflicted: Sequence[StateMap],
    unconflicted: StateMap,
    fetch: Fetch,
    *,
    rejected: Container[str] = (),
    auth_edges: Callable[[str], Iterable[str]],
    unconflicted_chain: Callable[[set[str]], set[str]],
) -> dict[StateKey, str]:
    """`resolve` for who knows already where the states differ: what the conflicted keys resolve to.

    `conflicted` has each state's part under those keys. Of `unconflicted` single keys are looked up, so that it need not
    be in memory; `unconflicted_chain` gives those of some ids that are in the auth chain of any of its events. Not for
    room versions whose resolution is version 1.
    """
    sets = [set(state.values()) for state in conflicted]
    return _Resolution(rules, unconflicted, sets, fetch, rejected, auth_edges, unconflicted_chain).resolve()


def separate(state_maps: Sequence[StateMap]) -> tuple[dict[StateKey, str], list[set[str]]]:
    """The unconflicted state map, and for each state the events of its part of the conflicted state set.

    A key is unconflicted if every state has it, with the same event.
    """
    first, *others = state_maps
    unconflicted = {key: event_id for key, event_id in first.items() if all(m.get(key) == event_id for m in others)}
    return unconflicted, [{event_id for key, event_id in m.items() if key not in unconflicted} for m in state_maps]


class _Resolution:
    """One run of the algorithm, with the events it has looked up."""

    def __init__(
        self,
        rules: RoomVersion,
        unconflicted: StateMap,
        conflicted: Sequence[set[str]],
        fetch: Fetch,
        rejected: Container[str],
        auth_edges: Callable[[str], Iterable[str]] | None,
        unconflicted_chain: Callable[[set[str]], set[str]] | None,
    ) -> None:
        self._rules = rules
        self._fetch = fetch
        self._rejected = rejected
        self._auth_edges = self._edges_of_event if auth_edges is None else auth_edges
        self._unconflicted_chain = self._walk_unconflicted if unconflicted_chain is None else unconflicted_chain
        self._known: dict[str, Event | None] = {}
        self._levels: dict[tuple[Event | None, Event | None], PowerLevels] = {}
        self._unconflicted, self._conflicted = unconflicted, conflicted

    def resolve(self) -> dict[StateKey, str]:
        """The algorithm's five steps; what it gives for the conflicted keys."""
        full = self._full_conflicted_set()
        create = self._create_named_by_room(full)
        # Step 1: the power events and what authorises them, in reverse topological power ordering
        power_events = self._power_events(full)
        ordered = self._reverse_topological_power_order(power_events, create)
        # Step 2: iterative auth checks, from the unconflicted state map (v2) or from nothing (v2.1)
        from_nothing = self._rules.state_resolution is StateResolution.V2_1
        decided: dict[StateKey, str] = {}
        state = decided if from_nothing else ChainMap(decided, cast("dict[StateKey, str]", self._unconflicted))
        self._iterative_auth_checks(ordered, state, create)
        # Step 3: the remaining events in mainline ordering
        remaining = [event for event_id, event in full.items() if event_id not in power_events]
        ordered = self._mainline_order(remaining, state.get(POWER_LEVELS))
        # Step 4: iterative auth checks on those
        self._iterative_auth_checks(ordered, state, create)
        # Step 5: the unconflicted state stands
        return {key: event_id for key, event_id in decided.items() if key not in self._unconflicted}

    def _event(self, event_id: str) -> Event | None:
        try:
            return self._known[event_id]
        except KeyError:
            event = self._known[event_id] = self._fetch(event_id)
            return event

    def _edges_of_event(self, event_id: str) -> Iterable[str]:
        event = self._event(event_id)
        return () if event is None else event.auth_events

    def _walk_unconflicted(self, wanted: set[str]) -> set[str]:
        """Those of the wanted ids that are in the auth chain of the unconflicted state."""
        found, seen = set[str](), set[str]()
        pending = list(self._unconflicted.values())
        while pending and found != wanted:
            fresh = set(self._auth_edges(pending.pop())) - seen
            seen |= fresh
            found |= fresh & wanted
            pending += fresh
        return found

    def _full_conflicted_set(self) -> dict[str, Event]:
        conflicted = set().union(*self._conflicted)
        difference = auth_difference(self._conflicted, (), self._auth_edges)
        if difference:  # else the chain of what all states share, which can only take away from it, is of no interest
            difference -= self._unconflicted_chain(difference)
        full = conflicted | difference
        if self._rules.state_resolution is StateResolution.V2_1:
            full |= conflicted_subgraph(conflicted, self._auth_edges)
        found = ((event_id, self._event(event_id)) for event_id in full)
        return {event_id: event for event_id, event in found if event is not None and event.is_state}

    def _create_named_by_room(self, events: Mapping[str, Event]) -> Event | None:
        """The create event of a room that is named after it (v12), which no event cites; None in versions before."""
        if not self._rules.room_id_is_create_hash:
            return None
        room_ids = {event.room_id for event in events.values()}
        return self._event("$" + room_ids.pop()[1:]) if len(room_ids) == 1 else None

    def _power_events(self, full: Mapping[str, Event]) -> dict[str, Event]:
        """The power events of the full conflicted set, and the events of it that authorise them.

        Those are found along links inside the set alone, as servers do who share rooms with us. A path that leaves the
        set and comes back adds no event of the auth difference; that it might add one of the conflicted state set is a
        case in which the spec's text and its implementations part, and rooms must not.
        """
        chosen: dict[str, Event] = {}
        pending = [event for event in full.values() if _is_power_event(event)]
        while pending:
            event = pending.pop()
            if event.event_id not in chosen:
                chosen[event.event_id] = event
                pending += [full[auth_id] for auth_id in event.auth_events if auth_id in full]
        return chosen

    def _reverse_topological_power_order(self, events: Mapping[str, Event], create: Event | None) -> list[Event]:
        """The lexicographically smallest topological ordering, earliest event first: Kahn's algorithm with a heap.

        A cycle, which only ids chosen by their senders can form (v1 and v2 event ids), is left out.
        """
        waiting_for = {event_id: {a for a in event.auth_events if a in events} for event_id, event in events.items()}
        cited_by: dict[str, list[str]] = {event_id: [] for event_id in events}
        for event_id, auth_ids in waiting_for.items():
            for auth_id in auth_ids:
                cited_by[auth_id].append(event_id)
        candidates = [self._power_order_key(events[i], create) for i, auth_ids in waiting_for.items() if not auth_ids]
        heapq.heapify(candidates)
        ordered = []
        while candidates:
            event_id = heapq.heappop(candidates)[2]
            ordered.append(events[event_id])
            for above in cited_by[event_id]:
                waiting_for[above].discard(event_id)
                if not waiting_for[above]:
                    heapq.heappush(candidates, self._power_order_key(events[above], create))
        return ordered

    def _power_order_key(self, event: Event, create: Event | None) -> tuple[float, int, str]:
        return -self._sender_level(event, create), event.origin_server_ts, event.event_id

    def _sender_level(self, event: Event, create: Event | None) -> float:
        """The sender's level by the power levels that the event itself cites."""
        cited = self._cited(event)
        create, power_levels = create or cited.get(CREATE), cited.get(POWER_LEVELS)
        key = (create, power_levels)
        if key not in self._levels:
            self._levels[key] = PowerLevels(self._rules, create, power_levels)
        return self._levels[key].user(event.sender)

    def _cited(self, event: Event) -> dict[StateKey, Event]:
        """The event's auth events by type and state key."""
        found = (self._event(auth_id) for auth_id in event.auth_events)
        return {(e.type, e.state_key): e for e in found if e is not None and e.state_key is not None}

    def _iterative_auth_checks(self, ordered: Iterable[Event], state: MutableMapping[StateKey, str], create: Event | None) -> None:
        """Add to `state` each event, in order, that it allows.

        Where the state has no event that an auth rule asks for, the one that the event cites stands in, if not
        rejected.
        """
        for event in ordered:
            cited = self._cited(event)
            auth_state = {key: e for key, e in cited.items() if e.event_id not in self._rejected}
            for key in auth_types_of(event):
                if key in state and (current := self._event(state[key])) is not None:
                    auth_state[key] = current
            if event.state_key is not None and isinstance(check(event, auth_state, create=create), Accepted):
                state[event.type, event.state_key] = event.event_id

    def _mainline_order(self, events: Iterable[Event], power_levels: str | None) -> list[Event]:
        """The events by the place in the mainline of `power_levels` that they are based on, the oldest first."""
        mainline: dict[str | None, float] = {None: math.inf}
        while power_levels not in mainline:
            mainline[power_levels] = len(mainline) - 1
            power_levels = self._power_levels_before(power_levels)
        keys = [(-self._mainline_position(e.event_id, mainline), e.origin_server_ts, e.event_id, e) for e in events]
        return [key[3] for key in sorted(keys, key=lambda key: key[:3])]

    def _mainline_position(self, event_id: str, positions: dict[str | None, float]) -> float:
        """The position of the nearest power levels event below that is part of the mainline, infinity if none is.

        `positions` also keeps what was found for the power levels events on the way. No event that is asked for is a
        power levels event: those are power events, and ordered before.
        """
        passed = []
        current = self._power_levels_before(event_id)
        while current not in positions:
            positions[current] = math.inf  # ends a cycle, should there be one
            passed.append(current)
            current = self._power_levels_before(current)
        for between in passed:
            positions[between] = positions[current]
        return positions[current]

    def _power_levels_before(self, event_id: str | None) -> str | None:
        event = None if event_id is None else self._event(event_id)
        for auth_id in () if event is None else event.auth_events:
            cited = self._event(auth_id)
            if cited is not None and (cited.type, cited.state_key) == POWER_LEVELS:
                return auth_id
        return None


def _is_power_event(event: Event) -> bool:
    if event.type in ("m.room.power_levels", "m.room.join_rules"):
        return True
    return event.type == "m.room.member" and event.content.get("membership") in ("leave", "ban") and event.sender != event.state_key
