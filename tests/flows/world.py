"""Several whole boxes in one process: simulated lines, a simulated internet, a virtual clock. Nothing in here is a mock: each box is what
`edgeserver serve` runs, without its listeners.

    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice = await a.person("alice")

The internet is an `Exchange` that hands requests to the application of the named box; `world.internet.cut("a", "b")` parts two of them.
"""

from __future__ import annotations

import os
import random
import shutil
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import trio

from edgeserver.app.box import Box, Wires, open_box
from edgeserver.clock import TimeSource
from edgeserver.config import Config, Server, parse
from tests.asgi import Answer, AsgiClient
from transports.exchange import Exchange, ExchangeError, LinkProfile, Request, Response, TimedOut, Unreachable
from transports.server import AsgiHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EPOCH = 1_790_000_000.0


class Internet:
    """Who reaches whom. `delay` in seconds each way; a lost request raises what a real one would."""

    def __init__(self, *, delay: float = 0.02, seed: int = 0) -> None:
        self.delay = delay
        self.loss = 0.0
        self._chance = random.Random(seed)
        self._apps: dict[str, Any] = {}
        self._cut: set[frozenset[str]] = set()
        self._last: str | None = None
        self._answering: dict[str, set[trio.CancelScope]] = {}
        self.watch: Callable[[str, Request, int | str], None] = lambda origin, request, outcome: None
        self.requests = 0
        self.targets: list[str] = []
        self.signed: list[tuple[str, str, str, bool]] = []
        """Of every request: who made it, of whom, method and path, whether it was signed."""

    def asked(self, part: str) -> int:
        """How many requests had this in their path or query."""
        return sum(part in target for target in self.targets)

    def plug(self, name: str, app: Any) -> None:
        self._apps[name] = app

    def unplug(self, name: str) -> None:
        """The box is gone from one moment to the next, with what it was answering."""
        self._apps.pop(name, None)
        for scope in self._answering.pop(name, set()):
            scope.cancel()

    def cut(self, one: str, other: str) -> None:
        self._cut.add(frozenset((one, other)))

    def cut_after(self, part: str) -> None:
        """The next request with this in its target is answered; then its two servers are parted."""
        self._last = part

    def heal(self, one: str | None = None, other: str | None = None) -> None:
        """Joins two again, or everybody."""
        if one is None or other is None:
            self._cut.clear()
        else:
            self._cut.discard(frozenset((one, other)))

    def from_(self, name: str) -> _Port:
        return _Port(self, name)

    async def carry(self, origin: str, request: Request) -> Response:
        self.requests += 1
        self.targets.append(request.target)
        is_signed = any(name.lower() == "authorization" for name, _ in request.headers)
        self.signed.append((origin, request.authority, f"{request.method} {request.target.partition('?')[0]}", is_signed))
        try:
            response = await self._carry(origin, request)
        except ExchangeError as error:
            self.watch(origin, request, type(error).__name__)
            raise
        self.watch(origin, request, response.status)
        return response

    async def _carry(self, origin: str, request: Request) -> Response:
        await trio.sleep(self.delay)
        name = request.authority
        app = self._apps.get(name)
        if app is None or frozenset((origin, name)) in self._cut or self._chance.random() < self.loss:
            raise Unreachable(f"{name} cannot be reached from {origin}")
        handler = AsgiHandler(app, LinkProfile("internet"))
        with trio.move_on_after(request.timeout) as scope:
            answering = self._answering.setdefault(name, set())
            answering.add(scope)
            try:
                response = await handler(request, trio.Event())
            finally:
                answering.discard(scope)
            if frozenset((origin, name)) in self._cut or self._chance.random() < self.loss:
                raise TimedOut("the answer was lost")
            await trio.sleep(self.delay)
            if self._last is not None and self._last in request.target:
                self.cut(origin, request.authority)
                self._last = None
            return response
        raise TimedOut("no answer in time")


@dataclass(frozen=True)
class _Port:
    internet: Internet
    name: str

    @property
    def profile(self) -> LinkProfile:
        return LinkProfile("internet")

    async def exchange(self, request: Request) -> Response:
        return await self.internet.carry(self.name, request)


PASSWORD = "correct horse battery"


@dataclass
class Person:
    """A logged-in client, speaking JSON to its box."""

    box: BoxInWorld
    user_id: str
    token: str
    since: str | None = None
    heard: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    async def request(self, method: str, path: str, json: Any = None, **options: Any) -> Answer:
        client = AsgiClient(self.box.box.app, token=self.token)
        body = {"json": {} if json is None else json} if method in ("PUT", "POST") else {}
        return await client.request(method, f"/_matrix/client/v3{path}", headers={"host": "client"}, **body, **options)

    async def ok(self, method: str, path: str, json: Any = None, **options: Any) -> Any:
        answer = await self.request(method, path, json, **options)
        assert answer.status == 200, (method, path, answer.status, answer.body)
        return answer.json

    async def create_room(self, **body: Any) -> str:
        return (await self.ok("POST", "/createRoom", body))["room_id"]

    async def say(self, room_id: str, text: str, txn: str | None = None) -> str:
        txn = txn or f"t{random.getrandbits(40):x}"
        content = {"msgtype": "m.text", "body": text}
        return (await self.ok("PUT", f"/rooms/{quote(room_id)}/send/m.room.message/{txn}", content))["event_id"]

    async def invite(self, room_id: str, user_id: str) -> None:
        await self.ok("POST", f"/rooms/{quote(room_id)}/invite", {"user_id": user_id})

    async def join(self, room_id: str, via: str | None = None) -> None:
        await self.ok("POST", f"/join/{quote(room_id)}" + (f"?server_name={via}" if via else ""))

    async def sync(self, timeout: int = 0) -> dict[str, Any]:
        query = {"timeout": str(timeout), **({"since": self.since} if self.since else {})}
        answer = await self.ok("GET", "/sync", query=query)
        self.since = answer["next_batch"]
        for room_id, room in answer.get("rooms", {}).get("join", {}).items():
            self.heard.setdefault(room_id, []).extend(room["timeline"]["events"])
        return answer

    async def texts(self, room_id: str) -> list[str]:
        """Every message of the room that the box holds, oldest first."""
        found: list[str] = []
        token = None
        while True:
            query = {"dir": "b", "limit": "100", **({"from": token} if token else {})}
            page = await self.ok("GET", f"/rooms/{quote(room_id)}/messages", query=query)
            found += [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
            token = page.get("end")
            if not token or not page["chunk"]:
                return found[::-1]

    async def state(self, room_id: str) -> dict[tuple[str, str], str]:
        events = await self.ok("GET", f"/rooms/{quote(room_id)}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}


class BoxInWorld:
    """One box, which may be stopped and opened again on the same data. `wall_offset` (s) is how far its system clock is wrong, and
    `synchronised` what its kernel says of it.
    """

    def __init__(self, world: World, name: str, config: Config, drivers: Mapping[str, Any]) -> None:
        self.world = world
        self.name = name
        self.wall_offset = 0.0
        self.synchronised = True
        self._config = config
        self._drivers = drivers
        self._scope: trio.CancelScope | None = None
        self._closed = trio.Event()
        self.box: Box

    @property
    def server_name(self) -> str:
        return self.box.identity.server_name

    async def start(self) -> None:
        await self.world.nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        self._closed = trio.Event()
        internet = self.world.internet
        source = TimeSource(lambda: EPOCH + self.wall_offset + trio.current_time(), trio.current_time, lambda: self.synchronised)
        with trio.CancelScope() as self._scope:
            port = internet.from_(self._config.server.name) if self._config.federation.internet else None
            services = self.world.services.__getitem__
            wires = Wires(port, self._drivers, source, services, inline=True, random_bytes=self.world.random_bytes)
            async with open_box(self._config, wires) as self.box:
                if self._config.federation.internet:
                    internet.plug(self.server_name, self.box.app)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    internet.unplug(self._config.server.name)
        self._closed.set()

    async def stop(self) -> None:
        assert self._scope is not None
        self._scope.cancel()
        await self._closed.wait()

    async def kill(self) -> None:
        """As a power cut: nothing is closed in order, and the disk holds what it held at this moment."""
        self.world.internet.unplug(self._config.server.name)
        disk, held = self._config.data, self._config.data.with_name("as it was")
        shutil.copytree(disk, held)
        await self.stop()
        shutil.rmtree(disk)
        held.rename(disk)

    async def person(self, name: str, password: str = PASSWORD) -> Person:
        from edgeserver.users.accounts import DeviceWish

        user_id, session = await self.box.users.accounts.create_person(name, password, device=DeviceWish(None, "test"))
        assert session is not None
        return Person(self, user_id, session.tokens.access_token)


class World:
    """The boxes of a test and what lies between them."""

    def __init__(self, folder: Path, *, seed: int = 0, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._folder = folder
        self.random_bytes = random_bytes
        self.internet = Internet(seed=seed)
        self.boxes: dict[str, BoxInWorld] = {}
        self.services: dict[str, Exchange] = {}
        """Application services, by the URLs of their registrations."""
        self._stack = AsyncExitStack()
        self.nursery: trio.Nursery

    async def __aenter__(self) -> World:
        self.nursery = await self._stack.enter_async_context(trio.open_nursery())
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self.nursery.cancel_scope.cancel()
        await self._stack.aclose()

    async def box(
        self, name: str, text: str = "", drivers: Mapping[str, Any] | None = None, *, server_name: str | None = None
    ) -> BoxInWorld:
        """Opens a box. Its server name is `<name>.test` unless given; `text` is further configuration (TOML)."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        config = parse(text, folder)
        if not config.server.name and server_name != "":
            server = Server(name=server_name or f"{name}.test", suffix=config.server.suffix, data=config.server.data)
            config = replace(config, server=server, folder=folder)
        made = self.boxes[name] = BoxInWorld(self, name, config, drivers or {})
        await made.start()
        return made


async def until(condition: Any, *, seconds: float = 600.0, step: float = 0.5) -> None:
    """Waits on the virtual clock until an async condition holds. The pauses grow with the time waited, so that what takes long, or never
    comes, does not take long in real time.
    """
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not await condition():
            await trio.sleep(max(step, (trio.current_time() - began) / 50))
