"""The order of events that came together: by what they cite, never by the depths that they state."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from edgeserver.matrix.event import Event


def ids_in_order(cites: Mapping[str, Collection[str]]) -> list[str]:
    """The ids, each after those of them that it cites; beside each other, in the order given.

    What is part of a circle, which only chosen ids (room versions 1 and 2) can make, or cites what is, is left out.
    """
    place = {event_id: index for index, event_id in enumerate(cites)}
    waits: dict[str, int] = {}
    followers: dict[str, list[str]] = {}
    for event_id, cited in cites.items():
        before = {one for one in cited if one in cites}
        waits[event_id] = len(before)
        for one in before:
            followers.setdefault(one, []).append(event_id)
    ready = [(place[event_id], event_id) for event_id, count in waits.items() if not count]
    heapify(ready)
    ordered: list[str] = []
    while ready:
        event_id = heappop(ready)[1]
        ordered.append(event_id)
        for follower in followers.get(event_id, ()):
            waits[follower] -= 1
            if not waits[follower]:
                heappush(ready, (place[follower], follower))
    return ordered


def in_order(found: Mapping[str, Event], cites: Callable[[Event], Collection[str]] | None = None) -> list[Event]:
    """The events, each after those of them that it names as its prev events, or that `cites` gives: see `ids_in_order`.

    What that leaves out comes last.
    """
    cited = {event_id: event.prev_events if cites is None else cites(event) for event_id, event in found.items()}
    ordered = dict.fromkeys(ids_in_order(cited))
    return [found[event_id] for event_id in (*ordered, *(one for one in found if one not in ordered))]


def least_depths(ordered: Sequence[Event]) -> dict[str, int]:
    """For each event one more than the greatest depth of those of them before it; what it states, where none is among them."""
    depths: dict[str, int] = {}
    for event in ordered:
        before = [depths[prev] for prev in event.prev_events if prev in depths]
        depths[event.event_id] = max(before) + 1 if before else event.depth
    return depths
