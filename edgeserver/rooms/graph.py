"""The order of events that were fetched together: by what they name as their prev events, never by the depths that they state."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.matrix.event import Event


def in_order(found: Mapping[str, Event]) -> list[Event]:
    """The events, each after those of them that it names before it; beside each other, by stated depth and id.

    Those of a circle, which only chosen ids (room versions 1 and 2) can make, come last.
    """
    waits = {event_id: {prev for prev in event.prev_events if prev in found and prev != event_id} for event_id, event in found.items()}
    followers: dict[str, list[str]] = {}
    for event_id, prevs in waits.items():
        for prev in prevs:
            followers.setdefault(prev, []).append(event_id)
    ready = [(found[event_id].depth, event_id) for event_id, prevs in waits.items() if not prevs]
    heapify(ready)
    ordered: list[Event] = []
    while ready:
        event_id = heappop(ready)[1]
        ordered.append(found[event_id])
        for follower in followers.get(event_id, ()):
            waits[follower].discard(event_id)
            if not waits[follower]:
                heappush(ready, (found[follower].depth, follower))
    if len(ordered) < len(found):
        done = {event.event_id for event in ordered}
        circle = [event for event_id, event in found.items() if event_id not in done]
        ordered += sorted(circle, key=lambda event: (event.depth, event.event_id))
    return ordered


def least_depths(ordered: Sequence[Event]) -> dict[str, int]:
    """For each event one more than the greatest depth of those of them before it; what it states, where none is among them."""
    depths: dict[str, int] = {}
    for event in ordered:
        before = [depths[prev] for prev in event.prev_events if prev in depths]
        depths[event.event_id] = max(before) + 1 if before else event.depth
    return depths
