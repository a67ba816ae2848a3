"""State resolution: what any implementation must hold, whatever the room went through."""

from __future__ import annotations

import hashlib
import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix.auth_chains import auth_chain, auth_difference, conflicted_subgraph
from edgeserver.matrix.room_versions import ROOM_VERSIONS, V1, V2, V11, V12, RoomVersion
from edgeserver.matrix.state_resolution import resolve, separate
from tests.matrix.room_builder import ALICE, BOB, CAROL, DAVE, Room, public_room

USERS = [ALICE, BOB, CAROL, DAVE]
POWER = ("m.room.power_levels", "")
TOPIC = ("m.room.topic", "")
NAME = ("m.room.name", "")


def member(user: str) -> tuple[str, str]:
    return "m.room.member", user


@st.composite
def forked_rooms(draw: st.DrawFn) -> tuple[Room, list[str]]:
    """A room in which everybody tries things after events of their choice, allowed or not; and a few of its events."""
    rules = draw(st.sampled_from(list(ROOM_VERSIONS.values())))
    room = public_room(rules, BOB, CAROL, users={BOB: 50, CAROL: 50})
    ids = [room.newest]
    for _ in range(draw(st.integers(3, 14))):
        after = tuple(draw(st.lists(st.sampled_from(ids[-6:]), min_size=1, max_size=2, unique=True)))
        sender, target = draw(st.sampled_from(USERS)), draw(st.sampled_from(USERS))
        kind = draw(st.sampled_from(["member", "member", "levels", "rule", "topic"]))
        event_type, state_key, content = f"m.room.{kind}", "", {}
        if kind == "member":
            state_key = target
            content = {"membership": draw(st.sampled_from(["join", "leave", "ban", "invite"]))}
        elif kind == "levels":
            event_type = "m.room.power_levels"
            users = {user: draw(st.sampled_from([0, 50, 100])) for user in USERS[1:]}
            content = {"users": users if rules.privileged_creators else {ALICE: 100, **users}}
        elif kind == "rule":
            event_type = "m.room.join_rules"
            content = {"join_rule": draw(st.sampled_from(["invite", "public"]))}
        event = room.draft(event_type, sender, content, state_key=state_key, after=after, ts=draw(st.integers(0, 5)))
        room.add(event)
        ids.append(event.event_id)
    return room, draw(st.lists(st.sampled_from(ids), min_size=2, max_size=4, unique=True))


@settings(max_examples=120, deadline=None)
@given(forked_rooms(), st.randoms(use_true_random=False))
def test_the_result_does_not_depend_on_any_order(forked: tuple[Room, list[str]], shuffled: random.Random) -> None:
    room, ends = forked
    states = [room.states[event_id] for event_id in ends]
    resolved = resolve(room.rules, states, room.events.get)
    for order in itertools.islice(itertools.permutations(states), 6):
        entries = [list(state.items()) for state in order]
        for one in entries:
            shuffled.shuffle(one)
        assert resolve(room.rules, [dict(one) for one in entries], room.events.get) == resolved


@settings(max_examples=80, deadline=None)
@given(forked_rooms())
def test_the_result_is_made_of_the_room_and_keeps_what_all_agree_on(forked: tuple[Room, list[str]]) -> None:
    room, ends = forked
    states = [room.states[event_id] for event_id in ends]
    asked: list[str] = []

    def fetch(event_id: str) -> Any:
        asked.append(event_id)
        return room.events.get(event_id)

    resolved = resolve(room.rules, states, fetch)
    if room.rules is not V1:
        assert len(asked) == len(set(asked))
        assert separate(states)[0].items() <= resolved.items()
    for key, event_id in resolved.items():
        event = room.events[event_id]
        assert (event.type, event.state_key) == key
    assert resolve(room.rules, [resolved, resolved], room.events.get) == resolved
    assert resolve(room.rules, [*states, states[0]], room.events.get) == resolved

    def edges(event_id: str) -> tuple[str, ...]:
        return room.events[event_id].auth_events

    assert resolve(room.rules, states, room.events.get, auth_edges=edges) == resolved


def test_no_state_and_one_state_resolve_to_themselves() -> None:
    assert resolve(V12, [], {}.get) == {}
    assert resolve(V12, [{TOPIC: "$t"}], {}.get) == {TOPIC: "$t"}
    assert resolve(V12, [{TOPIC: "$t"}, {TOPIC: "$t"}], {}.get) == {TOPIC: "$t"}


@pytest.mark.parametrize("rules", [V2, V11, V12], ids=lambda rules: f"v{rules.version}")
def test_a_ban_outdoes_what_the_banned_did_meanwhile(rules: RoomVersion) -> None:
    room = public_room(rules, BOB, users={BOB: 50})
    fork = (room.newest,)
    ban = room.member(BOB, "ban", by=ALICE, after=fork, ts=1000)
    topic = room.send("m.room.topic", BOB, {"topic": "mine"}, state_key="", after=fork, ts=1)
    resolved = room.state_after((ban, topic))
    assert resolved[member(BOB)] == ban
    assert TOPIC not in resolved


@pytest.mark.parametrize("rules", [V2, V11, V12], ids=lambda rules: f"v{rules.version}")
def test_the_later_of_two_topics_stands_unless_an_older_level_speaks_for_it(rules: RoomVersion) -> None:
    room = public_room(rules, BOB, users={BOB: 50})
    fork = (room.newest,)
    early = room.send("m.room.topic", BOB, {"topic": "1"}, state_key="", after=fork, ts=5000)
    late = room.send("m.room.topic", ALICE, {"topic": "2"}, state_key="", after=fork, ts=5001)
    assert room.state_after((early, late))[TOPIC] == late
    above = {} if rules.privileged_creators else {ALICE: 100}
    levels = room.levels(users={**above, BOB: 50, CAROL: 1}, after=(early,))
    newer = room.send("m.room.topic", BOB, {"topic": "3"}, state_key="", after=(levels,), ts=2)
    assert room.state_after((newer, late))[TOPIC] == newer


def test_an_event_that_is_not_known_counts_as_absent() -> None:
    room = public_room(V12, BOB, users={BOB: 50})
    fork = (room.newest,)
    one = room.send("m.room.topic", BOB, {"topic": "1"}, state_key="", after=fork)
    two = room.send("m.room.name", ALICE, {"name": "2"}, state_key="", after=fork)
    lost = {event_id: event for event_id, event in room.events.items() if event_id != one}
    resolved = resolve(V12, [room.states[one], room.states[two]], lost.get)
    assert resolved[NAME] == two
    assert TOPIC not in resolved


def test_a_rejected_event_authorises_nobody() -> None:
    room = public_room(V11, BOB, users={BOB: 50})
    fork = (room.newest,)
    join = room.member(CAROL, after=fork)
    leave = room.member(CAROL, "leave", after=(join,))
    topic = room.send("m.room.name", ALICE, {"name": "x"}, state_key="", after=fork)
    states = [room.states[leave], room.states[topic]]
    assert resolve(V11, states, room.events.get)[member(CAROL)] == leave
    # With the join itself out of the picture, nothing says that Carol was ever in.
    alone = [{**room.states[fork[0]], member(CAROL): leave}, room.states[topic]]
    events = {**room.events}
    del events[join]
    assert member(CAROL) not in resolve(V11, alone, events.get)
    edges = {event_id: tuple(a for a in e.auth_events if a != join) for event_id, e in room.events.items()}
    assert member(CAROL) not in resolve(V11, alone, room.events.get, rejected={join}, auth_edges=edges.__getitem__)


def test_the_first_version_follows_the_deepest_branch_that_is_allowed() -> None:
    room = public_room(V1, BOB, users={BOB: 50})
    fork = (room.newest,)
    short = room.send("m.room.topic", ALICE, {"topic": "1"}, state_key="", after=fork)
    long = room.send("m.room.topic", BOB, {"topic": "2"}, state_key="", after=fork)
    for n in range(3):
        long = room.send("m.room.topic", BOB, {"topic": f"2{n}"}, state_key="", after=(long,))
    assert room.state_after((short, long))[TOPIC] == long
    banned = room.member(BOB, "ban", by=ALICE, after=(short,))
    assert room.state_after((banned, long))[TOPIC] == short


def in_a_fork(room: Room, event_type: str, contents: list[dict[str, Any]], *, state_key: str = "", sender: str = ALICE) -> list[str]:
    """Events of one depth under one key, each on a branch of its own; the lowest SHA-1 of their ids first."""
    fork = (room.newest,)
    ids = [room.send(event_type, sender, content, state_key=state_key, after=fork) for content in contents]
    return sorted(ids, key=lambda event_id: hashlib.sha1(event_id.encode()).hexdigest())


def test_in_the_first_version_the_sha1_of_the_ids_breaks_ties() -> None:
    """The lowest stands of events that decide nothing; of those that authorise others each replaces the one of the next higher."""
    room = public_room(V1, BOB)
    topics = in_a_fork(room, "m.room.topic", [{"topic": str(n)} for n in range(6)])
    assert room.state_after(topics)[TOPIC] == topics[0]
    rules = in_a_fork(room, "m.room.join_rules", [{"join_rule": "public", "n": n} for n in range(6)])
    assert room.state_after(rules)["m.room.join_rules", ""] == rules[0]
    # A level that takes away its sender's power to change levels is the last that is followed.
    last = [{"users": {ALICE: 100 if n != 3 else 10}, "n": n} for n in range(6)]
    levels = in_a_fork(room, "m.room.power_levels", last)
    (demotion,) = [one for one in levels if room.events[one].content["n"] == 3]
    assert room.state_after(levels)[POWER] == demotion


def test_in_the_first_version_only_the_rooms_own_power_levels_are_resolved_before_others() -> None:
    """Levels under another key are like a topic: the lowest SHA-1 that is allowed stands, whatever is not allowed between."""

    def fork(by_bob: int | None) -> tuple[Room, list[str]]:
        room = public_room(V1, BOB, users={ALICE: 100, BOB: 100})
        after = (room.newest,)
        senders = [BOB if n == by_bob else ALICE for n in range(5)]
        both = {"users": {ALICE: 100, BOB: 100}}
        ids = [room.send("m.room.power_levels", sender, both, state_key="x", after=after) for sender in senders]
        demoted = room.send("m.room.power_levels", BOB, {"users": {ALICE: 100, BOB: 0}}, state_key="", after=after)
        return room, [*ids, demoted]

    ids = fork(None)[1][:5]
    first, *_, between, last = sorted(range(5), key=lambda n: hashlib.sha1(ids[n].encode()).digest())
    room, ends = fork(between)
    resolved = room.state_after(tuple(ends))
    assert resolved[POWER] == ends[-1]
    assert resolved["m.room.power_levels", "x"] == ids[first] != ids[last]


# The graph of auth events


GRAPH = {"a": "bc", "b": "d", "c": "d", "d": "e", "e": "", "x": "d", "y": "e", "z": "ab"}


def edges(event_id: str) -> str:
    return GRAPH.get(event_id, "")


def test_an_auth_chain_is_everything_below() -> None:
    assert auth_chain("a", edges) == set("bcde")
    assert auth_chain("xb", edges) == set("de")
    assert auth_chain("e?", edges) == set()


def test_the_auth_difference_leaves_out_what_all_states_rest_on() -> None:
    assert auth_difference(["a", "x"], "", edges) == set("bc")
    assert auth_difference(["a", "y"], "", edges) == set("bcd")
    assert auth_difference(["a", "y"], "x", edges) == set("bc")
    assert auth_difference(["a", ""], "z", edges) == set()
    assert auth_difference([], "", edges) == set()


def test_the_conflicted_subgraph_is_what_lies_between() -> None:
    assert conflicted_subgraph("ad", edges) == set("abcd")
    assert conflicted_subgraph("xy", edges) == set("xy")
    assert conflicted_subgraph("ze", edges) == set("zabcde")
    assert conflicted_subgraph("", edges) == set()


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=31), st.data())
def test_walks_agree_with_the_definitions(graph: list[list[int]], data: st.DataObject) -> None:
    below = {str(i): [str(j) for j in cited if j < i] for i, cited in enumerate(graph)}
    nodes = st.lists(st.sampled_from(sorted(below)), max_size=4)
    states, shared = data.draw(st.lists(nodes, min_size=1, max_size=3)), data.draw(nodes)

    def walk(event_id: str) -> list[str]:
        return below[event_id]

    chains = [auth_chain([*state, *shared], walk) for state in states]
    assert auth_difference(states, shared, walk) == set.union(*chains) - set.intersection(*chains)
    ends = set(shared)
    reach = {node: auth_chain([node], walk) | {node} for node in below}
    between = {n for n in below if any(n in reach[end] for end in ends) and reach[n] & ends}
    assert conflicted_subgraph(ends, walk) == between


@pytest.mark.parametrize("rules", [V11, V12], ids=lambda rules: f"v{rules.version}")
def test_a_chain_of_thousands_of_power_levels_is_resolved(rules: RoomVersion) -> None:
    room = public_room(rules, BOB, users={BOB: 50})
    ends = []
    above = {} if rules.privileged_creators else {ALICE: 100}
    fork = room.newest
    for side in range(2):
        newest = fork
        for n in range(1500):
            newest = room.levels(users={**above, BOB: 50, CAROL: (2 * n + side) % 100}, after=(newest,))
        ends.append(room.send("m.room.topic", ALICE, {"topic": str(side)}, state_key="", after=(newest,)))
    resolved = room.state_after(tuple(ends))
    assert resolved[POWER] in {room.states[end][POWER] for end in ends}
    assert resolved[TOPIC] in ends
