"""Whole servers in one process, joined by an exchange in memory: the federation of tests.

async with servers("a.test", "b.test") as (a, b): …
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from edgeserver.api.application import Application
from edgeserver.api.authentication import AccessTokens, FixedTokens
from edgeserver.api.endpoint import Gate
from edgeserver.api.server import events as events_api
from edgeserver.api.server import keys as keys_api
from edgeserver.api.server import membership as membership_api
from edgeserver.api.server import transactions as transactions_api
from edgeserver.api.server.authentication import ServerGuard
from edgeserver.federation.calls import Calls
from edgeserver.federation.client import FederationClient
from edgeserver.federation.edus import EduHandlers, Edus
from edgeserver.federation.history import History
from edgeserver.federation.inbound import Inbound
from edgeserver.federation.invites import Invites
from edgeserver.federation.joins import RemoteRooms
from edgeserver.federation.key_fetch import KeyFetcher
from edgeserver.federation.keyring import Keyring
from edgeserver.federation.notary import Notary
from edgeserver.federation.peer_keys import PeerKeyRoutes
from edgeserver.federation.peers import Peers
from edgeserver.federation.resident import Resident
from edgeserver.federation.sender import Sender
from edgeserver.federation.source import FederationSource
from edgeserver.matrix.signatures import SigningKey
from edgeserver.rooms.create import RoomCreator, parse
from edgeserver.rooms.importing import Importer
from edgeserver.rooms.late import LateEvents
from edgeserver.rooms.membership import Memberships
from edgeserver.rooms.outliers import OutlierIntake
from edgeserver.rooms.persist import Persister
from edgeserver.rooms.placing import Placer
from edgeserver.rooms.receive import Receiver
from edgeserver.rooms.remote_state import RemoteState
from edgeserver.rooms.send import Composer
from edgeserver.rooms.turns import Turns
from edgeserver.store import rooms, state
from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.wakeups import Wakeups
from transports.exchange import LinkProfile, Request, Response, Unreachable
from transports.server import AsgiHandler

EPOCH_MS = 1_700_000_000_000


class Web:
    """An internet in memory: carries a request to the server that its authority names. Names in `cut` are out of
    reach.
    """

    def __init__(self) -> None:
        self.servers: dict[str, AsgiHandler] = {}
        self.cut: set[str] = set()
        self.log: list[tuple[str, str, str]] = []
        self.requests: list[Request] = []
        self.times: list[float] = []

    @property
    def profile(self) -> LinkProfile:
        return LinkProfile("memory")

    async def exchange(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        handler = self.servers.get(request.authority)
        if handler is None or request.authority in self.cut:
            raise Unreachable(f"{request.authority} is not there")
        self.log.append((request.authority, request.method, request.target.partition("?")[0]))
        self.requests.append(request)
        self.times.append(trio.current_time())
        return await handler(request, trio.Event())

    def paths(self, authority: str) -> list[str]:
        """What a server was asked, without its prefix."""
        return [path.removeprefix("/_matrix/federation/") for name, _, path in self.log if name == authority]


class Server:
    """One homeserver without clients."""

    def __init__(self, name: str, db: Database, web: Web) -> None:
        self.name, self.db, self.web = name, db, web
        self.clock_trusted = True
        self.offset_ms = 0
        self._numbers = count(1)
        self.key = SigningKey(name.encode().ljust(32, b".")[:32], "ed25519:1")
        self.wakeups = Wakeups()
        self.peers = Peers(name, web, internet_up=True)
        self.client = FederationClient(name, self.key, self.peers)
        self.calls = Calls(self.client)
        fetcher = KeyFetcher(PeerKeyRoutes(self.peers))
        self.keyring = Keyring(db, fetcher, server_name=name, key=self.key, now_ms=self.now_ms, clock_trusted=lambda: self.clock_trusted)
        self._rooms()
        self.edus: list[tuple[str, Any]] = []
        self._federation()
        web.servers[name] = AsgiHandler(self.app, LinkProfile("memory"))

    def now_ms(self) -> int:
        return EPOCH_MS + self.offset_ms + int(trio.current_time() * 1000) % 1_000_000_000

    def _rooms(self) -> None:
        self.persister = Persister(self.name, self.wakeups)
        self.placer = Placer(self.db, self.persister)
        self.composer = Composer(self.db, self.persister, self.name, self.key, self.now_ms)
        outliers = OutlierIntake(self.db, self.persister, self.keyring)
        self.importer = Importer(self.db, self.persister, outliers, self.wakeups)
        source = FederationSource(self.calls)
        self.receiver = Receiver(self.db, self.placer, source, self.keyring, RemoteState(self.db, source, outliers))

    def _federation(self) -> None:
        joining = Turns()
        self.remote = RemoteRooms(
            self.db,
            self.calls,
            self.keyring,
            self.importer,
            self.receiver,
            server_name=self.name,
            key=self.key,
            now_ms=self.now_ms,
            joining=joining,
            partial=False,
        )
        self.members = Memberships(self.db, self.composer, self.placer, self.importer, self.remote, self.name, lambda tx, user: {})
        self.sender = Sender(
            self.db,
            self.wakeups,
            self.calls,
            server_name=self.name,
            now_ms=self.now_ms,
            random=random.Random(1).random,
            neighbours=lambda tx: [],
            ways_to=self.peers.ways_to,
        )
        self.peers.on_return(self.sender.route_returned)
        resident = Resident(self.db, self.composer, self.placer, self.receiver, server_name=self.name, key=self.key)
        self.invites = Invites(self.db, self.importer, self.receiver, self._may_invite, server_name=self.name, key=self.key)
        handlers = EduHandlers(typing=self._typing, receipts=self._receipts, direct_to_device=self._to_device)
        self.late = LateEvents(self.db, self.receiver, FederationSource(self.calls), self.name, self.now_ms)
        edus = Edus(self.db, handlers)
        self.inbound = Inbound(self.db, self.receiver, edus, self.invites, self.late, joining=joining, now_ms=self.now_ms)
        guard = ServerGuard(self.name, self.keyring.key, self.sender.heard_from)
        notary = Notary(self.db, self.keyring, server_name=self.name, now_ms=self.now_ms)
        routes = [
            *keys_api.routes(self.keyring, notary, self.now_ms),
            *transactions_api.routes(guard, self.inbound),
            *membership_api.routes(guard, resident, self.invites),
            *events_api.routes(guard, History(self.db), self.name, self.now_ms),
        ]
        self.app = Application(routes, Gate(AccessTokens(FixedTokens({}))))

    async def _may_invite(self, sender: str, target: str) -> None:
        await trio.lowlevel.checkpoint()

    async def _typing(self, *told: Any) -> None:
        self.edus.append(("typing", told))

    async def _receipts(self, found: Iterable[Any]) -> None:
        self.edus.append(("receipts", list(found)))

    async def _to_device(self, *told: Any) -> None:
        self.edus.append(("to_device", told))

    # What tests do and see

    async def room(self, creator: str, **body: Any) -> str:
        creating = RoomCreator(
            self.db,
            self.composer,
            self.persister,
            self.name,
            self.key,
            self.now_ms,
            lambda: f"room{next(self._numbers)}",
            lambda tx, user: {},
        )
        return await creating.create(creator, parse({"preset": "public_chat", **body}, self.name))

    async def say(self, room_id: str, user: str, text: str) -> str:
        return await self.composer.send(room_id, user, "m.room.message", {"msgtype": "m.text", "body": text})

    async def membership(self, room_id: str, user: str) -> str | None:
        found = await self.db.read(lambda tx: rooms.membership_in(tx, user, room_id))
        return None if found is None else found.membership

    async def bodies(self, room_id: str) -> list[str]:
        """The texts of the room's timeline, oldest first."""

        def read(tx: Transaction) -> list[str]:
            from edgeserver.store import events

            room = rooms.get(tx, room_id)
            assert room is not None
            found = events.timeline_since(tx, room.number, -(2**40), 2**60, 1000)
            return [one.event.content["body"] for one in found if one.event.type == "m.room.message"]

        return await self.db.read(read)

    async def state_ids(self, room_id: str) -> dict[tuple[str, str], str]:
        def read(tx: Transaction) -> dict[tuple[str, str], str]:
            room = rooms.get(tx, room_id)
            assert room is not None
            assert room.snapshot is not None
            return state.whole_ids(tx, room.snapshot)

        return await self.db.read(read)


@asynccontextmanager
async def servers(*names: str, web: Web | None = None) -> AsyncIterator[list[Server]]:
    """Servers of these names on one web; their senders are not running."""
    web = web or Web()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        found = []
        for index, name in enumerate(names):
            db = await stack.enter_async_context(open_database(folder / f"{index}.db", inline=True))
            found.append(Server(name, db, web))
        yield found
