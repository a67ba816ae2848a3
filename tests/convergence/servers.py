"""Servers that are given the events of a graph, in whatever order and with whatever losses, and what each then holds."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from edgeserver.matrix.canonical_json import encode
from edgeserver.matrix.event import Event
from edgeserver.matrix.verdicts import Verdict
from edgeserver.rooms.importing import GivenRoom
from edgeserver.rooms.placing import Task
from edgeserver.rooms.receive import Receiver, SourceFailed
from edgeserver.rooms.remote_state import RemoteState
from edgeserver.store import events, rooms, state
from edgeserver.store.database import Transaction
from edgeserver.store.events import Standing, StoredEvent
from tests.convergence.graphs import Graph, State
from tests.rooms.house import House, Street, open_house


class Library:
    """An `EventSource` that has the whole graph. With a chance of `failing` a question goes unanswered; `gaps` off: it has no timeline."""

    def __init__(self, graph: Graph, chance: random.Random, failing: float) -> None:
        self.graph = graph
        self.chance = chance
        self.failing = failing

    def _maybe_fail(self) -> None:
        if self.chance.random() < self.failing:
            raise SourceFailed("the line is down")

    async def missing_events(
        self, server: str, room_id: str, earliest: Sequence[str], latest: Sequence[str], limit: int, min_depth: int
    ) -> list[dict[str, Any]]:
        self._maybe_fail()
        return self._walk(latest, set(earliest), limit)

    async def backfill(self, server: str, room_id: str, from_ids: Sequence[str], limit: int) -> list[dict[str, Any]]:
        self._maybe_fail()
        return self._walk(from_ids, set(), limit)

    def _walk(self, latest: Sequence[str], stop: set[str], limit: int) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        edge = [prev for one in latest for prev in self.graph.events[one].prev_events]
        while edge and len(found) < limit:
            one = edge.pop(0)
            if one not in stop and one not in found and self.graph.events[one].prev_events:
                found[one] = self.graph.events[one].pdu
                edge += self.graph.events[one].prev_events
        return list(found.values())

    async def event(self, server: str, event_id: str) -> dict[str, Any]:
        self._maybe_fail()
        return self.graph.events[event_id].pdu

    async def state_ids(self, server: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]:
        self._maybe_fail()
        at = list(self.graph.before[event_id].values())
        return at, self._chain(at)

    async def state(self, server: str, room_id: str, event_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        at, chain = await self.state_ids(server, room_id, event_id)
        return [self.graph.events[one].pdu for one in at], [self.graph.events[one].pdu for one in chain]

    async def event_auth(self, server: str, room_id: str, event_id: str) -> list[dict[str, Any]]:
        self._maybe_fail()
        return [self.graph.events[one].pdu for one in self._chain([event_id])]

    def _chain(self, event_ids: Sequence[str]) -> list[str]:
        found: dict[str, None] = {}
        edge = [cited for one in event_ids for cited in self.graph.events[one].auth_events]
        while edge:
            one = edge.pop()
            if one not in found:
                found[one] = None
                edge += self.graph.events[one].auth_events
        return list(found)


class Server:
    """One server of the room. `restart` closes its database and opens it again."""

    def __init__(self, folder: Path, name: str, graph: Graph, chance: random.Random, failing: float) -> None:
        self.folder, self.name, self.graph = folder, name, graph
        self.library = Library(graph, chance, failing)
        self.house: House
        self._nursery: trio.Nursery
        self._closing: trio.Event
        self._closed: trio.Event

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.db"

    async def start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        await nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        self._closing, self._closed = trio.Event(), trio.Event()
        async with open_house(self.folder, self.name, Street()) as self.house:
            self.house.receiver = Receiver(
                self.house.db, self.house.placer, self.library, self.house, RemoteState(self.house.db, self.library, self.house.outliers)
            )
            task_status.started()
            await self._closing.wait()
        self._closed.set()

    async def stop(self) -> None:
        self._closing.set()
        await self._closed.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start(self._nursery)

    async def found(self) -> None:
        """Takes the room in as it is after its founding."""
        last = self.graph.events[self.graph.setup[-1]]
        standing = [self.graph.events[one] for one in self.graph.before[last.event_id].values()]
        others = [self.graph.events[one] for one in self.graph.setup[:-1]]
        await self.house.importer.join(last.rules, last, GivenRoom("elsewhere", [e.pdu for e in standing], [e.pdu for e in others]))

    async def give(self, event_id: str) -> Verdict:
        return await self.house.receiver.receive("elsewhere", self.graph.events[event_id].pdu)

    async def give_all(self, event_ids: Sequence[str]) -> list[Verdict]:
        """A run of events whose references are held or in it."""
        number = await self.house.db.read(lambda tx: self._room(tx).number)
        return await self.house.placer.place_all([Task(number, self.graph.events[one]) for one in event_ids])

    def _room(self, tx: Transaction) -> rooms.Room:
        room = rooms.get(tx, self.graph.room_id)
        assert room is not None
        return room

    async def heads(self) -> set[str]:
        return set(await self.house.db.read(lambda tx: self._room(tx).heads))

    async def stored(self, event_id: str) -> StoredEvent | None:
        return await self.house.db.read(lambda tx: events.get(tx, event_id))

    async def soft_failed(self) -> set[str]:
        found = await self.house.db.read(lambda tx: events.many(tx, self.graph.events))
        return {one for one, stored in found.items() if stored.standing is Standing.SOFT_FAILED}

    async def current(self) -> State:
        def read(tx: Transaction) -> State:
            snapshot = self._room(tx).snapshot
            assert snapshot is not None
            return state.whole_ids(tx, snapshot)

        return await self.house.db.read(read)

    async def current_bytes(self) -> bytes:
        return encode(sorted([*key, event_id] for key, event_id in (await self.current()).items()))  # type: ignore[arg-type]

    async def check_events(self) -> None:
        """Every event is held, judged as the graph says, and has the state before it that the graph says."""

        def read(tx: Transaction) -> None:
            found = events.many(tx, self.graph.events)
            for event_id, event in self.graph.events.items():
                if event_id in self.graph.setup[:-1]:
                    continue
                stored = found.get(event_id)
                assert stored is not None, (self.name, event_id)
                assert stored.before is not None, (self.name, event_id)
                is_rejected = event_id in self.graph.rejected
                assert (stored.standing is Standing.REJECTED) == is_rejected, (self.name, event_id, event.type, is_rejected)
                assert state.whole_ids(tx, stored.before) == self.graph.before[event_id], (self.name, event_id)

        await self.house.db.read(read)

    async def check_room(self) -> None:
        """The heads are what nothing accepted comes after, and the current state is what they resolve to."""
        heads = await self.heads()
        assert heads == self.graph.heads(await self.soft_failed()), self.name
        assert await self.current() == self.graph.state_after(sorted(heads)), self.name

    async def adopt(self, event_id: str) -> Event:
        """Puts an event that this server has made into the graph."""
        stored = await self.stored(event_id)
        assert stored is not None
        self.graph.add(stored.event)
        return stored.event


@asynccontextmanager
async def running(servers: Sequence[Server]) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for server in servers:
            await server.start(nursery)
        yield
        for server in servers:
            await server.stop()
