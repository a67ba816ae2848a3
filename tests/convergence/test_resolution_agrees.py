"""State resolution: what it gives depends on the states alone, and a second implementation gives the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeserver.matrix.room_versions import StateResolution
from edgeserver.matrix.state_resolution import resolve, resolve_conflict
from tests.convergence.graphs import STEPS, VERSIONS, Graph, State, grow
from tests.convergence.naive_resolution import NaiveResolution

SHORT = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
LONG = settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
GRAPHS = (
    st.sampled_from(VERSIONS),
    st.lists(STEPS, min_size=4, max_size=24),
    st.lists(st.integers(0, 30), min_size=2, max_size=4),
    st.randoms(),
)


def check(version: str, steps: list[object], chosen: list[int], chance: random.Random) -> None:
    """States after some of a graph's events resolve alike in any order, however told, and as the specification's words say."""
    graph = grow(version, steps)  # type: ignore[arg-type]
    ids = list(graph.events)
    states = [graph.after[ids[-1 - number % len(ids)]] for number in chosen]
    meant = graph.resolve(states)
    if all(state == states[0] for state in states):
        assert meant == states[0]
        return
    naive = NaiveResolution(graph.events, graph.rejected, version="2.1" if is_newer(graph) else "2")
    assert naive.resolve(states) == meant  # a state named twice makes no difference
    for _ in range(3):
        shuffled = [dict(chance.sample(list(state.items()), len(state))) for state in chance.sample(states, len(states))]
        known = dict(chance.sample(list(graph.events.items()), len(graph.events)))
        assert resolve(graph.rules, shuffled, known.get, rejected=graph.rejected) == meant
    assert apart(graph, states) == meant


def is_newer(graph: Graph) -> bool:
    return graph.rules.state_resolution is StateResolution.V2_1


def apart(graph: Graph, states: list[State]) -> State:
    """As a server does that knows where the states differ."""
    keys = {key for state in states for key in state}
    same = {key: states[0][key] for key in keys if len({state.get(key) for state in states}) == 1}
    naive = NaiveResolution(graph.events, graph.rejected, version="2")
    below = set[str]().union(*(naive.chain(event_id) for event_id in same.values()))
    parts = [{key: event_id for key, event_id in state.items() if key not in same} for state in states]
    edges = {event_id: event.auth_events for event_id, event in graph.events.items()}
    outcome = resolve_conflict(
        graph.rules,
        parts,
        same,
        graph.events.get,
        rejected=graph.rejected,
        auth_edges=edges.__getitem__,
        unconflicted_chain=lambda wanted: wanted & below,
    )
    return same | outcome


@SHORT
@given(*GRAPHS)
def test_both_implementations_agree_whatever_the_order(version, steps, chosen, chance) -> None:
    check(version, steps, chosen, chance)


@pytest.mark.full
@LONG
@given(*GRAPHS)
def test_both_implementations_agree_on_thousands_of_graphs(version, steps, chosen, chance) -> None:
    check(version, steps, chosen, chance)
