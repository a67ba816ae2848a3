"""Sets in the graph that `auth_events` links form: auth chains, their difference, the conflicted state subgraph.

Spec: rooms/v12, "State resolution", definitions. Every walk is iterative and visits an event once, however deep the
graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    AuthEdges = Callable[[str], Iterable[str]]


def auth_chain(event_ids: Iterable[str], auth_edges: AuthEdges) -> set[str]:
    """The union of the auth chains of these events: what their `auth_events` lead to.

    `auth_edges` gives the ids in an event's `auth_events`, none for an event that is not known. An event of the start
    is part of the result only if another one leads to it.
    """
    chain: set[str] = set()
    pending = list(event_ids)
    while pending:
        for auth_id in auth_edges(pending.pop()):
            if auth_id not in chain:
                chain.add(auth_id)
                pending.append(auth_id)
    return chain


def auth_difference(conflicted: Sequence[Iterable[str]], unconflicted: Iterable[str], auth_edges: AuthEdges) -> set[str]:
    """The events that are in the auth chain of some of the states, but not of all.

    `conflicted` has for each state the events of its own, `unconflicted` is what all states share. The shared part can
    only take events away from the difference, so its chain is walked only if there is any, and only until none is
    left.
    """
    chains = [auth_chain(events, auth_edges) for events in conflicted]
    if not chains:
        return set()
    difference = chains[0].union(*chains[1:]) - chains[0].intersection(*chains[1:])
    seen: set[str] = set()
    pending = list(unconflicted)
    while pending and difference:
        for auth_id in auth_edges(pending.pop()):
            if auth_id not in seen:
                seen.add(auth_id)
                difference.discard(auth_id)
                pending.append(auth_id)
    return difference


def conflicted_subgraph(conflicted: Iterable[str], auth_edges: AuthEdges) -> set[str]:
    """The events on any path of `auth_events` links from one of these to another, both ends included (MSC4297)."""
    ends = set(conflicted)
    # Every event below an end, with the events of this set that cite it …
    cited_by: dict[str, list[str]] = {end: [] for end in ends}
    pending = list(ends)
    while pending:
        event_id = pending.pop()
        for auth_id in auth_edges(event_id):
            if auth_id not in cited_by:
                cited_by[auth_id] = []
                pending.append(auth_id)
            cited_by[auth_id].append(event_id)
    # … and of those, the ones above an end.
    subgraph = set(ends)
    pending = list(ends)
    while pending:
        for above in cited_by[pending.pop()]:
            if above not in subgraph:
                subgraph.add(above)
                pending.append(above)
    return subgraph
