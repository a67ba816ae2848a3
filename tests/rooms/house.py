"""Servers for tests of rooms: everything of `edgeserver.rooms` wired as `app.py` wires it, and a street of them that can be cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edgeserver.matrix import errors
from edgeserver.matrix.draft import complete, countersign
from edgeserver.matrix.event import Event
from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.signatures import SigningKey
from edgeserver.matrix.verdicts import Accepted, Dropped, Unready, Verdict
from edgeserver.rooms.completing import Completer
from edgeserver.rooms.create import NewRoom, RoomCreator
from edgeserver.rooms.directory import Directory, PublicRooms
from edgeserver.rooms.event_source import SourceFailed
from edgeserver.rooms.history import History
from edgeserver.rooms.importing import GivenRoom, Importer
from edgeserver.rooms.membership import Memberships
from edgeserver.rooms.outliers import OutlierIntake
from edgeserver.rooms.persist import PersistedEvent, Persister
from edgeserver.rooms.placing import Placer, Task
from edgeserver.rooms.receive import Receiver
from edgeserver.rooms.remote_state import RemoteState
from edgeserver.rooms.send import Composer
from edgeserver.rooms.upgrade import RoomUpgrader
from edgeserver.store import events, rooms, state
from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.store.events import StoredEvent
from edgeserver.wakeups import Wakeups

ALICE = "@alice:one"
BOB = "@bob:one"
CAROL = "@carol:two"
DAVE = "@dave:three"


class Street:
    """The servers that know each other. `down` are the names of those that cannot be reached."""

    def __init__(self) -> None:
        self.houses: dict[str, House] = {}
        self.down: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    def reach(self, server: str, what: str) -> House:
        self.asked.append((server, what))
        if server in self.down or server not in self.houses:
            raise SourceFailed(f"{server} is down")
        return self.houses[server]


class House:
    """One server. Its clock ticks a millisecond at each look."""

    def __init__(self, db: Database, name: str, street: Street) -> None:
        self.db, self.name, self.street = db, name, street
        self.key = SigningKey(name.encode().ljust(32, b"."), "ed25519:1")
        self.ticks = 1_000_000
        self.profiles: dict[str, dict[str, Any]] = {}
        self.written: list[PersistedEvent] = []
        self.wakeups = Wakeups()
        self.persister = Persister(name, self.wakeups, [lambda tx, written: self.written.append(written)])
        self.composer = Composer(db, self.persister, name, self.key, self.now_ms)
        self.placer = Placer(db, self.persister)
        self.outliers = OutlierIntake(db, self.persister, self)
        self.importer = Importer(db, self.persister, self.outliers, self.wakeups)
        self.remote_state = RemoteState(db, Source(street), self.outliers)
        self.completer = Completer(db, self.persister, self.remote_state, self.wakeups, name, at_once=True)
        self.omits_members = False
        self.forged: set[str] = set()
        self.keyless: set[str] = set()
        """Servers whose keys cannot be had."""
        self.receiver = Receiver(db, self.placer, Source(street), self, self.remote_state)
        self.history = History(db, self.receiver, self.placer, Source(street), name)
        self.memberships = Memberships(
            db, self.composer, self.placer, self.importer, Neighbours(self), name, lambda tx, user: self.profiles.get(user, {})
        )
        self.rooms_made = 0
        self.creator = RoomCreator(
            db, self.composer, self.persister, name, self.key, self.now_ms, self.new_localpart,
            lambda tx, user: self.profiles.get(user, {}),
        )  # fmt: skip
        self.upgrader = RoomUpgrader(db, self.composer, self.creator, lambda tx, user: self.profiles.get(user, {}))
        self.directory = Directory(db, name, Neighbours(self))
        self.public_rooms = PublicRooms(db, name, Neighbours(self))
        street.houses[name] = self

    def now_ms(self) -> int:
        self.ticks += 1
        return self.ticks

    def new_localpart(self) -> str:
        self.rooms_made += 1
        return f"room{self.rooms_made}"

    async def verify(
        self, found: Sequence[Event], *, told_by: str | None = None, witnesses: Sequence[str] = (), in_bulk: bool = False
    ) -> list[Dropped | None]:
        """See `rooms.verifying.Verifier`."""
        return [self._fault(event) for event in found]

    def _fault(self, event: Event) -> Dropped | None:
        if domain_of(event.sender) in self.keyless:
            return Unready("no key")
        return Dropped("forged") if event.event_id in self.forged else None

    # Doing things in one line

    async def room(self, creator: str = ALICE, **new: Any) -> str:
        return await self.creator.create(creator, NewRoom(**{"preset": "public_chat", **new}))

    async def say(self, room_id: str, sender: str, body: str) -> str:
        return await self.composer.send(room_id, sender, "m.room.message", {"msgtype": "m.text", "body": body})

    async def set(self, room_id: str, sender: str, event_type: str, content: Mapping[str, Any], state_key: str = "") -> str:
        return await self.composer.send(room_id, sender, event_type, content, state_key=state_key)

    async def get(self, event_id: str) -> StoredEvent:
        stored = await self.db.read(lambda tx: events.get(tx, event_id))
        assert stored is not None
        return stored

    async def state(self, room_id: str) -> dict[tuple[str, str], StoredEvent]:
        def read(tx: Transaction) -> dict[tuple[str, str], StoredEvent]:
            room = rooms.get(tx, room_id)
            assert room is not None
            assert room.snapshot is not None
            return state.whole_events(tx, room.snapshot)

        return await self.db.read(read)

    async def state_before(self, stored: StoredEvent) -> dict[tuple[str, str], str]:
        """The ids of the state before an event."""
        assert stored.before is not None
        return await self.db.read(lambda tx: state.whole_ids(tx, stored.before))

    async def heads(self, room_id: str) -> tuple[str, ...]:
        room = await self.db.read(lambda tx: rooms.get(tx, room_id))
        assert room is not None
        return room.heads

    async def membership(self, room_id: str, user_id: str) -> str | None:
        found = await self.db.read(lambda tx: rooms.membership_in(tx, user_id, room_id))
        return None if found is None else found.membership

    async def bodies(self, user_id: str, room_id: str, *, limit: int = 1000) -> list[str]:
        """What the user reads when paging back over all history, oldest first: bodies of messages, types of other events."""
        page = await self.history.page(user_id, room_id, None, None, limit, backwards=True)
        return [str(one.event.content.get("body", one.event.type)) for one in reversed(page.chunk)]

    async def tell(self, other: House, *event_ids: str) -> list[Verdict]:
        """Hands events to another server, in this order."""
        return [await other.receiver.receive(self.name, (await self.get(event_id)).event.pdu) for event_id in event_ids]


class Source:
    """`EventSource` that reads the other server's store."""

    def __init__(self, street: Street) -> None:
        self._street = street

    async def missing_events(
        self, server: str, room_id: str, earliest: Sequence[str], latest: Sequence[str], limit: int, min_depth: int
    ) -> list[dict[str, Any]]:
        def read(tx: Transaction) -> list[dict[str, Any]]:
            found: dict[str, Event] = {}
            edge = [prev for one in events.many(tx, latest).values() for prev in one.event.prev_events]
            while edge and len(found) < limit:
                event_id = edge.pop(0)
                stored = events.get(tx, event_id)
                if event_id not in earliest and event_id not in found and stored is not None:
                    found[event_id] = stored.event
                    edge += stored.event.prev_events
            return [event.pdu for event in found.values()]

        return await self._street.reach(server, "missing_events").db.read(read)

    async def event(self, server: str, event_id: str) -> dict[str, Any]:
        stored = await self._street.reach(server, "event").db.read(lambda tx: events.get(tx, event_id))
        if stored is None:
            raise SourceFailed("no such event")
        return stored.event.pdu

    async def state_ids(self, server: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]:
        pdus, chain = await self._state(server, event_id, "state_ids")
        return [event.event_id for event in pdus], [event.event_id for event in chain]

    async def state(self, server: str, room_id: str, event_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        pdus, chain = await self._state(server, event_id, "state")
        return [event.pdu for event in pdus], [event.pdu for event in chain]

    async def _state(self, server: str, event_id: str, what: str) -> tuple[list[Event], list[Event]]:
        def read(tx: Transaction) -> tuple[list[Event], list[Event]]:
            stored = events.get(tx, event_id)
            if stored is None or stored.before is None:
                raise SourceFailed("no such event")
            pdus = [one.event for one in state.whole_events(tx, stored.before).values()]
            return pdus, auth_chain(tx, pdus)

        return await self._street.reach(server, what).db.read(read)

    async def event_auth(self, server: str, room_id: str, event_id: str) -> list[dict[str, Any]]:
        def read(tx: Transaction) -> list[dict[str, Any]]:
            stored = events.get(tx, event_id)
            if stored is None:
                raise SourceFailed("no such event")
            return [event.pdu for event in auth_chain(tx, [stored.event])]

        return await self._street.reach(server, "event_auth").db.read(read)

    async def backfill(self, server: str, room_id: str, from_ids: Sequence[str], limit: int) -> list[dict[str, Any]]:
        def read(tx: Transaction) -> list[dict[str, Any]]:
            found: dict[str, Event] = {}
            edge = list(from_ids)
            while edge and len(found) < limit:
                stored = events.get(tx, edge.pop(0))
                if stored is not None and stored.event.event_id not in found and not stored.is_outlier:
                    found[stored.event.event_id] = stored.event
                    edge += stored.event.prev_events
            return [event.pdu for event in found.values()]

        return await self._street.reach(server, "backfill").db.read(read)


def auth_chain(tx: Transaction, found: Iterable[Event]) -> list[Event]:
    chain: dict[str, Event] = {}
    edge = [one for event in found for one in event.auth_events]
    while edge:
        stored = events.get(tx, edge.pop())
        if stored is not None and stored.event.event_id not in chain:
            chain[stored.event.event_id] = stored.event
            edge += stored.event.auth_events
    return list(chain.values())


class Neighbours:
    """`RemoteRooms` and `RemoteDirectory` that act in the other server at once."""

    def __init__(self, house: House) -> None:
        self._house = house

    def _reach(self, servers: Iterable[str], what: str) -> House:
        for server in servers:
            try:
                return self._house.street.reach(server, what)
            except SourceFailed:
                continue
        raise errors.MatrixError(504, "M_UNKNOWN", "No server can be reached.")

    async def join(self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]) -> None:
        there = self._reach(servers, "join")
        join, placed = await self._place_there(there, user_id, room_id, content)

        def read(tx: Transaction) -> GivenRoom:
            assert placed.before is not None
            known = [one.event for one in state.whole_events(tx, placed.before).values()]
            if there.omits_members:
                known = [event for event in known if event.type != "m.room.member"]
            chain = [event.pdu for event in auth_chain(tx, [*known, join])]
            servers = tuple(rooms.servers(tx, placed.room))
            return GivenRoom(there.name, [event.pdu for event in known], chain, there.omits_members, servers)

        await self._house.importer.join(join.rules, join, await there.db.read(read))

    async def leave(self, user_id: str, room_id: str, servers: Sequence[str]) -> Event:
        left, _ = await self._place_there(self._reach(servers, "leave"), user_id, room_id, {"membership": "leave"})
        return left

    async def _place_there(
        self, there: House, user_id: str, room_id: str, content: Mapping[str, Any]
    ) -> tuple[Event, StoredEvent]:
        def draft(tx: Transaction) -> tuple[int, Event]:
            room = rooms.get(tx, room_id)
            if room is None:
                raise errors.NotFound("no such room")
            event, _ = there.composer.draft(tx, room, user_id, "m.room.member", content, state_key=user_id)
            return room.number, complete(event.pdu, room.rules, self._house.name, self._house.key)

        number, event = await there.db.read(draft)
        verdict = await there.placer.place(Task(number, event, deliver=True))
        if not isinstance(verdict, Accepted):
            raise errors.Forbidden(str(verdict))
        return event, await there.get(event.event_id)

    async def invite(self, event: Event, stripped: Sequence[Mapping[str, Any]], create: Mapping[str, Any]) -> Event:
        assert event.state_key is not None
        there = self._reach([domain_of(event.state_key)], "invite")
        signed = countersign(event, there.name, there.key)
        await there.importer.invite(event.rules, signed, stripped)
        return signed

    async def directory(self, server: str, alias: str) -> tuple[str, list[str]]:
        return await self._reach([server], "directory").directory.resolve(alias)

    async def public_rooms(self, server: str, content: Mapping[str, Any]) -> dict[str, Any]:
        there = self._reach([server], "public_rooms")
        return await there.public_rooms.page(
            limit=content.get("limit"), since=content.get("since"), filter_=content.get("filter", {})
        )


@asynccontextmanager
async def open_house(folder: Path, name: str = "one", street: Street | None = None) -> AsyncIterator[House]:
    async with open_database(folder / f"{name}.db", inline=True) as db:
        yield House(db, name, street or Street())


