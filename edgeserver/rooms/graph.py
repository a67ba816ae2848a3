"""The order of events that came together: by what they name as their prev events, never by the depths that they state."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.matrix.event import Event


def in_order(found: Mapping[str, Event]) -> list[Event]:
    """The events, each after those of them that it names before it; beside each other, in the order given.

    Those of a circle, which only chosen ids (room versions 1 and 2) can make, come last.
    """
    place = {event_id: index for index, event_id in enumerate(found)}
    waits = {event_id: {prev for prev in event.prev_events if prev in found} for event_id, event in found.items()}
    followers: dict[str, list[str]] = {}
    for event_id, prevs in waits.items():
        for prev in prevs:
            followers.setdefault(prev, []).append(event_id)
    ready = [(place[event_id], event_id) for event_id, prevs in waits.items() if not prevs]
    heapify(ready)
    ordered: list[Event] = []
    while ready:
        event_id = heappop(ready)[1]
        ordered.append(found[event_id])
        for follower in followers.get(event_id, ()):
            waits[follower].discard(event_id)
            if not waits[follower]:
                heappush(ready, (place[follower], follower))
    return ordered + [event for event_id, event in found.items() if waits[event_id]]


def least_depths(ordered: Sequence[Event]) -> dict[str, int]:
    """For each event one more than the greatest depth of those of them before it; what it states, where none is among them."""
    depths: dict[str, int] = {}
    for event in ordered:
        before = [depths[prev] for prev in event.prev_events if prev in depths]
        depths[event.event_id] = max(before) + 1 if before else event.depth
    return depths
