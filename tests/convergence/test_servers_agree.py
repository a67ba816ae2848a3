"""Servers that have been given the same events agree.

The property, for any graph of events (`graphs.py`), any room version from 6 on, and any order of delivery with duplicates, losses that are
made good later, questions that go unanswered, and restarts. Once every server has been given every event:

1. every event is held, with the verdict accepted or rejected and the state before it that the specification's words say (the naive model);
2. a server's heads are the accepted events that no accepted event comes after, and its current state is what those resolve to;
3. what a server's own user then says has that state before it on every other server, too;
4. once an event cites the heads of all, it is the one head of each, and their current states are the same byte for byte; memberships,
   servers and everything else in the database that follows from the state are in keeping with it.

Soft failure is left to each server: it depends on what the server knew when the event came. It decides what is a head (2), and neither a
verdict nor a state before an event (1).
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeserver.matrix.errors import MatrixError
from edgeserver.matrix.verdicts import Accepted, Dropped, Rejected
from edgeserver.store.integrity import inspect
from tests.convergence.graphs import ALICE, BOB, CAROL, STEPS, VERSIONS, Graph, Step, grow
from tests.convergence.servers import Server, running

SHORT = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
LONG = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
GIVEN = (st.sampled_from(VERSIONS), st.lists(STEPS, min_size=3, max_size=24), st.integers(0, 2**32))

SPEAKERS = {"s1": ALICE, "s2": BOB, "s3": CAROL}


async def story(folder: Path, version: str, steps: list[Step], seed: int) -> None:
    chance = random.Random(seed)
    graph = grow(version, steps)
    servers = [Server(folder, name, graph, chance, chance.choice((0, 0.2, 0.6))) for name in SPEAKERS]
    async with running(servers):
        for server in servers:
            await server.found()
        told = list(graph.events)[len(graph.setup) :]
        await tell_in_order(servers[0], told, chance)
        for server in servers[1:]:
            await tell_in_disorder(server, told, chance)
        for server in servers:
            await server.check_events()
            await server.check_room()
        await everybody_speaks(servers, graph)
        await bring_together(servers, graph)
    for server in servers:
        assert inspect(server.path, server.name).findings == []


async def tell_in_order(server: Server, told: list[str], chance: random.Random) -> None:
    """In runs that are written at once."""
    left = list(told)
    while left:
        size = chance.choice((1, 3, 10, 50))
        run, left = left[:size], left[size:]
        verdicts = await server.give_all(run)
        assert [isinstance(verdict, Rejected) for verdict in verdicts] == [one in server.graph.rejected for one in run]


async def tell_in_disorder(server: Server, told: list[str], chance: random.Random) -> None:
    """Twice through: what is lost the first time, or could not be taken, comes again, and once more what came already."""
    spread = chance.choice((0, 3, 100))
    order = sorted(range(len(told)), key=lambda index: index + chance.uniform(0, spread))
    for index in order:
        if chance.random() < 0.7:
            await server.give(told[index])
        if chance.random() < 0.05:
            await server.restart()
    server.library.failing = 0
    for event_id in chance.sample(told, len(told)) if chance.random() < 0.5 else told:
        verdict = await server.give(event_id)
        assert not isinstance(verdict, Dropped), verdict


async def everybody_speaks(servers: list[Server], graph: Graph) -> None:
    """Each server's own user says something after the heads that the server has, and all others take it in."""
    said: list[str] = []
    for server in servers:
        try:
            event_id = await server.house.say(graph.room_id, SPEAKERS[server.name], "hello")
        except MatrixError:
            continue
        await server.adopt(event_id)
        assert event_id not in graph.rejected
        said.append(event_id)
    for server in servers:
        for event_id in said:
            assert not isinstance(await server.give(event_id), Dropped | Rejected)
        await server.check_events()
        await server.check_room()


async def bring_together(servers: list[Server], graph: Graph) -> None:
    while True:
        heads = sorted(set[str]().union(*[await server.heads() for server in servers]))
        event_id = graph.send("m.room.message", ALICE, {"body": "we are one"}, after=heads[:10])
        for server in servers:
            assert isinstance(await server.give(event_id), Accepted)
        if len(heads) <= 10:
            break
    assert [await server.heads() for server in servers] == [{event_id}] * len(servers)
    assert await servers[0].current() == graph.after[event_id]
    assert len({await server.current_bytes() for server in servers}) == 1


def check(version: str, steps: list[Step], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(story, Path(folder), version, steps, seed)


@SHORT
@given(*GIVEN)
def test_servers_agree_whatever_the_order(version, steps, seed) -> None:
    check(version, steps, seed)


@pytest.mark.full
@LONG
@given(*GIVEN)
def test_servers_agree_on_thousands_of_graphs(version, steps, seed) -> None:
    check(version, steps, seed)
