"""A server of two and more people, in one file on a virtual clock, and what its parts are for tests of what clients see."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from edgeserver.matrix.event import Event
from edgeserver.matrix.signatures import SigningKey
from edgeserver.rooms.create import RoomCreator, parse
from edgeserver.rooms.importing import Importer
from edgeserver.rooms.membership import Memberships
from edgeserver.rooms.outliers import OutlierIntake
from edgeserver.rooms.persist import Persister
from edgeserver.rooms.placing import Placer
from edgeserver.rooms.send import Composer
from edgeserver.store import events, rooms
from edgeserver.store.database import Database, open_database
from edgeserver.sync.classic import ClassicSync, SyncRequest
from edgeserver.sync.filters import SyncFilter
from edgeserver.sync.since import parse as parse_since
from edgeserver.users.account_data import AccountData
from edgeserver.users.ephemeral import Typing
from edgeserver.users.push import UnreadCounts
from edgeserver.users.read_markers import ReadMarkers
from edgeserver.users.receipts import Receipts
from edgeserver.wakeups import Wakeups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

SERVER = "a.example"
ALICE, BOB, CAROL = "@alice:a.example", "@bob:a.example", "@carol:a.example"
START_MS = 1_700_000_000_000


class NoRemoteRooms:
    """A world without other servers."""

    async def join(self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]) -> None:
        raise AssertionError("nobody joins through another server here")

    async def leave(self, user_id: str, room_id: str, servers: Sequence[str]) -> Event:
        raise AssertionError("nobody declines through another server here")

    async def invite(self, event: Event, stripped: Sequence[Any], create: Mapping[str, Any]) -> Event:
        raise AssertionError("nobody of another server is invited here")


class NoKeys:
    """A world without other servers' signatures."""

    async def verify(self, events: Sequence[Event]) -> list[str | None]:
        raise AssertionError("nothing of another server is verified here")


class World:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.now = START_MS
        self.wakeups = Wakeups()
        self.counts = UnreadCounts(SERVER)
        persister = Persister(SERVER, self.wakeups, [self.counts.persisted])
        key = SigningKey(b"1" * 32, "ed25519:1")
        self.persister = persister
        self.composer = Composer(db, persister, SERVER, key, self.now_ms)
        self._localparts = iter(f"room{number}" for number in range(10_000))
        self.creator = RoomCreator(
            db, self.composer, persister, SERVER, key, self.now_ms, lambda: next(self._localparts), self._profile
        )
        placer = Placer(db, persister)
        self.importer = Importer(db, persister, OutlierIntake(db, persister, NoKeys()), self.wakeups)
        self.memberships = Memberships(
            db, self.composer, placer, self.importer, NoRemoteRooms(), SERVER, self._profile
        )
        self.account_data = AccountData(db, self.wakeups)
        self.typing = Typing(db, self.wakeups, SERVER, 2**40)
        self.receipts = Receipts(db, self.wakeups, self.counts, SERVER, self.now_ms)
        self.markers = ReadMarkers(db, self.wakeups, self.receipts)
        self.classic = ClassicSync(db, self.wakeups, self.typing, self.now_ms)
        self.names: dict[str, str] = {}

    def restart(self, start: int) -> None:
        """What is kept in memory alone is gone. `start`: of the versions of who types."""
        self.typing = Typing(self.db, self.wakeups, SERVER, start)
        self.classic = ClassicSync(self.db, self.wakeups, self.typing, self.now_ms)

    def now_ms(self) -> int:
        self.now += 1
        return self.now

    def _profile(self, _tx: Any, user_id: str) -> dict[str, Any]:
        return {"displayname": self.names.get(user_id, user_id[1:].partition(":")[0])}

    async def room(self, creator: str = ALICE, *members: str, **options: Any) -> str:
        """A public room (unless `options`, the body of createRoom, says otherwise) that the members have joined."""
        body = {"preset": "public_chat", "room_version": "11", **options}
        room_id = await self.creator.create(creator, parse(body, SERVER))
        for member in members:
            await self.memberships.join(member, room_id)
        return room_id

    async def say(self, room_id: str, sender: str, body: str, **content: Any) -> str:
        return await self.composer.send(room_id, sender, "m.room.message", {"msgtype": "m.text", "body": body, **content})

    async def compose(self, room_id: str, sender: str, event_type: str, content: dict[str, Any]) -> str:
        """Sends what local users may not send, but those of other servers may."""

        def write(tx: Any) -> str:
            room = rooms.get(tx, room_id)
            assert room is not None
            return self.composer.compose(tx, room, sender, event_type, content).event.event_id

        return await self.db.write(write)

    async def sync(
        self, user_id: str, since: str | dict[str, Any] | None = None, wanted: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        """`since` may be the answer before."""
        token = since["next_batch"] if isinstance(since, dict) else since
        request = SyncRequest(
            user_id,
            options.pop("device_id", "DEVICE"),
            None if token is None else parse_since(token),
            SyncFilter.of(wanted or {}),
            **options,
        )
        return await self.classic.sync(request)

    async def number(self, room_id: str) -> int:
        room = await self.db.read(lambda tx: rooms.get(tx, room_id))
        assert room is not None
        return room.number

    async def event(self, event_id: str) -> events.StoredEvent:
        stored = await self.db.read(lambda tx: events.get(tx, event_id))
        assert stored is not None
        return stored


@asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[World]:
    async with open_database(folder / "world.db", inline=True) as db:
        yield World(db)


def bodies(section: dict[str, Any]) -> list[str]:
    """The texts of the messages in a room's timeline."""
    return [one["content"]["body"] for one in section["timeline"]["events"] if one["type"] == "m.room.message"]


def joined(answer: dict[str, Any], room_id: str) -> dict[str, Any]:
    found: dict[str, Any] = answer["rooms"]["join"][room_id]
    return found


def state_of(section: dict[str, Any], name: str = "state") -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["type"], one["state_key"]): one for one in section[name]["events"]}


def known(section: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The state that a client ends with: `state`, and the timeline's state events after it."""
    changed = {(one["type"], one["state_key"]): one for one in section["timeline"]["events"] if "state_key" in one}
    return {**state_of(section), **changed}
