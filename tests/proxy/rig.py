"""A proxy in this process, a line in memory, and at its far end a small stand-in for a box that writes down what it was asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import orjson
import trio

from edgeserver.paired.line import Line
from edgeserver.paired.state import State
from edgeserver.proxy.application import ProxyApplication
from edgeserver.proxy.media import Policy
from transports.client import Multiplexer
from transports.exchange import Request, Response
from transports.identity import Identity, client_identity
from transports.link.connection import Link
from transports.link.pairing import Paired
from transports.memory import Medium, MemoryCable

PROXY, BOX = Identity(b"p" * 32), Identity(b"x" * 32)
V3 = "/_matrix/client/v3"


async def until(holds: Callable[[], bool], seconds: float = 3600.0) -> None:
    """Returns when it holds; looks often."""
    with trio.fail_after(seconds):
        while True:
            if holds():
                return
            await trio.sleep(0.05)


class Answer:
    """What the HTTP client got."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.at = 0.0

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class HttpClient:
    """Calls the proxy as an HTTP server would. `patience`: seconds until it hangs up."""

    def __init__(self, app: Any, token: str = "T") -> None:
        self.app, self.token = app, token

    async def __call__(
        self, method: str, target: str, json: Any = None, *, patience: float = float("inf"), headers: dict[str, str] | None = None
    ) -> Answer | None:
        """None after hanging up."""
        path, _, query = target.partition("?")
        sent = {"host": "localhost:8008", "user-agent": "test", **(headers or {})}
        if self.token:
            sent.setdefault("authorization", f"Bearer {self.token}")
        body = b"" if json is None else json if isinstance(json, bytes) else orjson.dumps(json)
        if body:
            sent.setdefault("content-type", "application/json")
            sent["content-length"] = str(len(body))
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
        answer = Answer()
        read = False
        hang_up_at = trio.current_time() + patience

        async def receive() -> dict[str, Any]:
            nonlocal read
            if read:
                await trio.sleep_until(hang_up_at)
                return {"type": "http.disconnect"}
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            else:
                answer.body += message["body"]

        await self.app(scope, receive, send)
        answer.at = trio.current_time()
        return answer if answer.status else None


class StandIn:
    """A box of a few endpoints. `asked` has every request in order of arrival."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.events: dict[tuple[str, str], str] = {}
        self.order: list[str] = []
        self.news = trio.Event()
        self.next_batch = "s1"
        self.beside: dict[str, Any] = {}
        self.refuses: tuple[int, str] | None = None
        self.held_keys = 50
        self.open_polls = 0
        self.rate_limits = 0
        self.hangs = trio.Event()
        self.hangs.set()

    def count(self, method: str, part: str) -> int:
        return sum(each.method == method and part in each.target for each in self.asked)

    async def __call__(self, request: Request, gone: trio.Event) -> Response:
        self.asked.append(request)
        path = request.target.partition("?")[0]
        last = path.rpartition("/")[2]
        if request.method == "PUT" and "/send/" in path:
            return self._sent(request, last)
        if path.endswith("/sync") and self.refuses is not None:
            return _json({"errcode": self.refuses[1]}, self.refuses[0])
        if path.endswith("/sync"):
            return await self._sync(request, gone)
        if path.endswith(("/slow", "/createRoom")):
            await self.hangs.wait()
            return _json({"room_id": f"!{len(self.asked)}:box"})
        if path.endswith("/login") and request.method == "POST":
            return _json({"user_id": "@a:box", "access_token": "T", "device_id": "D", "well_known": {"m.homeserver": {"base_url": "https://box"}}})
        if path.endswith("/filter"):
            return _json({"filter_id": "1"})
        if path.endswith("/whoami"):
            return _json({"user_id": "@a:box"})
        if path.endswith("/keys/upload"):
            return _json({"one_time_key_counts": {"signed_curve25519": self.held_keys}})
        if last == "versions":
            return _json({"versions": ["v1.11"]})
        if last == "config":
            return _json({"m.upload.size": 50_000_000})
        return _json({"path": request.target})

    def _sent(self, request: Request, transaction: str) -> Response:
        if self.rate_limits:
            self.rate_limits -= 1
            return _json({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 3000}, 429)
        key = (request.header("authorization") or "", request.target)
        if key not in self.events:
            self.events[key] = f"$event{len(self.events)}"
            self.order.append(transaction)
        return _json({"event_id": self.events[key]})

    async def _sync(self, request: Request, gone: trio.Event) -> Response:
        """Classic, or sliding with the same positions under another name."""
        asked = dict(parse_qsl(request.target.partition("?")[2]))
        position = asked.get("since" if request.method == "GET" else "pos")
        if position == self.next_batch and asked.get("timeout", "0") != "0":
            self.open_polls += 1
            try:
                with trio.move_on_after(int(asked["timeout"]) / 1000):
                    async with trio.open_nursery() as nursery:
                        for event in (self.news, gone):
                            nursery.start_soon(_end_after, event, nursery.cancel_scope)
            finally:
                self.open_polls -= 1
        counts = {"device_one_time_keys_count": {"signed_curve25519": 50}}
        told = {"!r:box": {"at": self.next_batch}} if position != self.next_batch else {}
        if request.method == "GET":
            return _json({"next_batch": self.next_batch, **counts, "rooms": {"join": told}, **self.beside})
        after = self.next_batch if told else f"{self.next_batch}."
        return _json({"pos": after, "lists": {"all": {"count": 1}}, "rooms": told, "extensions": {"e2ee": counts, **self.beside}})

    def tell(self, next_batch: str, **beside: Any) -> None:
        """News for the open polls."""
        self.next_batch, self.beside = next_batch, beside
        news, self.news = self.news, trio.Event()
        news.set()


class Doorkeeper(StandIn):
    """One that knows its people by their tokens; who logs in is told a new one, and one to refresh it by."""

    def __init__(self, **users: str) -> None:
        super().__init__()
        self.users = {"T": "@a:box", "T2": "@a:box", "U": "@b:box", **users}

    async def __call__(self, request: Request, gone: trio.Event) -> Response:
        path = request.target.partition("?")[0]
        token = (request.header("authorization") or "").removeprefix("Bearer ")
        if path.endswith(("/login", "/refresh")) and request.method == "POST":
            self.asked.append(request)
            fresh = f"new{len(self.asked)}"
            self.users[fresh] = "@a:box"
            told = {"access_token": fresh, "refresh_token": f"R{fresh}", "expires_in_ms": 60_000}
            return _json(told if path.endswith("/refresh") else told | {"user_id": "@a:box", "device_id": "D"})
        if token not in self.users:
            self.asked.append(request)
            return _json({"errcode": "M_UNKNOWN_TOKEN", "error": "No."}, 401)
        if path.endswith("/whoami"):
            self.asked.append(request)
            return _json({"user_id": self.users[token]})
        if path.endswith("/logout"):
            del self.users[token]
        return await super().__call__(request, gone)


async def at_once(holds: Callable[[], bool]) -> None:
    """Returns when it holds, which no virtual second may be needed for: only work in threads."""
    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up
        await trio.lowlevel.checkpoint()  # a virtual clock stands still while a task is ready


async def _end_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _json(content: Any, status: int = 200) -> Response:
    return Response(status, (("content-type", "application/json"),), orjson.dumps(content))


class FarEnd:
    """The box's end of the line. `stop` and `start` are a power cut and its end."""

    def __init__(self, nursery: trio.Nursery, driver: Any, handler: Any) -> None:
        self._nursery, self._driver, self.handler = nursery, driver, handler
        self.link: Link | None = None
        self._scope = trio.CancelScope()

    def start(self) -> None:
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._run, self._scope)

    def stop(self) -> None:
        self._scope.cancel()

    async def _run(self, scope: trio.CancelScope) -> None:
        def known(key: bytes) -> str | None:
            return client_identity(key) if key == PROXY.public_key else None

        with scope:
            self.link = link = Link(self._driver, BOX, known)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                async for connection in link.connections():
                    nursery.start_soon(Multiplexer(connection).run, self.handler)


class Rig:
    """`client` speaks to `app`, which speaks over `line` to `box`."""

    def __init__(self, app: ProxyApplication, line: Line, link: Link, box: StandIn, far: FarEnd) -> None:
        self.app, self.line, self.link, self.box, self.far = app, line, link, box, far
        self.client = HttpClient(app)

    async def up(self) -> None:
        while not self.line.is_up:
            await self.line.change()

    async def down(self) -> None:
        while self.line.is_up:
            await self.line.change()

    async def held(self, count: int) -> None:
        """Waits until that many messages are held."""
        await until(lambda: self.app.outbox.held >= count)


@asynccontextmanager
async def proxied(tmp_path: Any, near: Any, far: Any, handler: Any = None, policy: Policy = Policy.NONE):
    """A running proxy on the driver `near`; the far end on the driver `far` is there but not started."""
    box = handler or StandIn()
    link = Link(near, PROXY, lambda key: "box.example" if key == BOX.public_key else None, peer_key=BOX.public_key, redial_cap=60)
    line = Line(link, "box.example")
    app = ProxyApplication(line, State(tmp_path / "proxy.json", PROXY, Paired("box.example", BOX.public_key)), policy, inline=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run)
        nursery.start_soon(line.run)
        yield Rig(app, line, link, box, FarEnd(nursery, far, box))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def rig_in_memory(
    tmp_path: Any, medium: Medium | None = None, *, box: StandIn | None = None, plugged: bool = True, policy: Policy = Policy.NONE
):
    """The same over a cable in memory, with the far end running; `rig.cable` may be unplugged. `box`: one that has lived before."""
    cable = MemoryCable(medium or Medium(9600), seed=1)
    if not plugged:
        cable.unplug()
    async with proxied(tmp_path, cable.a, cable.b, box, policy) as rig:
        rig.cable = cable
        rig.far.start()
        yield rig
