"""State resolution as the first room version had it.

Spec: rooms/v1, "State resolution". It can reset a room's state, which is why every later version has another.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from typing import TYPE_CHECKING

from edgeserver.matrix.auth import check
from edgeserver.matrix.auth_events import POWER_LEVELS, auth_types_of
from edgeserver.matrix.verdicts import Accepted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.matrix.auth_events import StateKey
    from edgeserver.matrix.event import Event

_AUTH_PASSES: tuple[Callable[[StateKey], bool], ...] = (
    lambda key: key == POWER_LEVELS,
    lambda key: key[0] == "m.room.join_rules",
    lambda key: key[0] == "m.room.member",
)
"""The conflicts that are resolved before all others, in this order. Power levels are those under the empty state key alone:
so Synapse has it, which nearly every room of this version has in it; the spec does not say.
"""


def resolve_v1(state_maps: Sequence[Mapping[StateKey, str]], fetch: Callable[[str], Event | None]) -> dict[StateKey, str]:
    """Resolve states, each a map of type and state key to an event id, into one.

    `fetch` gives an event by its id, None for one that is not known, which counts as absent.
    """
    candidates: dict[StateKey, set[str]] = {}
    for state in state_maps:
        for key, event_id in state.items():
            candidates.setdefault(key, set()).add(event_id)
    resolved = {key: next(iter(ids)) for key, ids in candidates.items() if len(ids) == 1}
    conflicts = {key: _oldest_first(ids, fetch) for key, ids in candidates.items() if len(ids) > 1}
    for belongs in _AUTH_PASSES:
        one_pass = [key for key, events in conflicts.items() if belongs(key) and events]
        resolved.update({key: _resolve_auth_event(key, conflicts.pop(key), resolved, fetch) for key in one_pass})
    others = {key: _resolve_other(events, resolved, fetch) for key, events in conflicts.items() if events}
    return resolved | others


def _oldest_first(event_ids: set[str], fetch: Callable[[str], Event | None]) -> list[Event]:
    """By ascending depth, then descending SHA-1 of the id."""
    events = [event for event_id in event_ids if (event := fetch(event_id)) is not None]
    return sorted(events, key=lambda e: (-e.depth, hashlib.sha1(e.event_id.encode()).digest()), reverse=True)


def _resolve_auth_event(key: StateKey, events: list[Event], resolved: dict[StateKey, str], fetch: Callable[[str], Event | None]) -> str:
    """Follow the events from the oldest on, up to the first that its predecessors do not allow."""
    chosen = events[0].event_id
    for event in events[1:]:
        if not _is_allowed(event, ChainMap({key: chosen}, resolved), fetch):
            break
        chosen = event.event_id
    return chosen


def _resolve_other(events: list[Event], resolved: Mapping[StateKey, str], fetch: Callable[[str], Event | None]) -> str:
    """The newest event that is allowed; the oldest if none is, which the spec leaves open."""
    allowed = (event for event in reversed(events) if _is_allowed(event, resolved, fetch))
    return next(allowed, events[0]).event_id


def _is_allowed(event: Event, state: Mapping[StateKey, str], fetch: Callable[[str], Event | None]) -> bool:
    found = ((key, fetch(state[key])) for key in auth_types_of(event) if key in state)
    return isinstance(check(event, {key: e for key, e in found if e is not None}), Accepted)
