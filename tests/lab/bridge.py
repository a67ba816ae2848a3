"""A small application service: an ASGI application that takes transactions and answers queries, and a client of its box.

    bridge = Bridge()
    bridge.register_in(world, "a")                      # writes irc.yaml and says how the box configures it
    a = await world.box("a", bridge.config)
    bridge.box = a

It takes each transaction once, by its id, as the specification wants of it. `down`, `status` and `hangs` make it fail; with
`mute` its answers are lost; a `legacy` one knows the older paths alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson
import trio
import yaml

from tests.asgi import Answer, AsgiClient
from transports.exchange import LinkProfile, Request, Response, TimedOut, Unreachable
from transports.server import AsgiHandler

if TYPE_CHECKING:
    from tests.flows.world import BoxInWorld, World

BASE = "/_matrix/app/v1"
Json = dict[str, Any]


async def _knows_nobody(name: str) -> bool:
    return False


@dataclass
class Bridge:
    """`registration` are further keys of its file, or others than the usual ones."""

    name: str = "irc"
    registration: Json = field(default_factory=dict)
    url: str = "http://irc.invalid:9000"
    box: BoxInWorld | None = None
    down: bool = False
    hangs: bool = False
    mute: bool = False
    legacy: bool = False
    status: int = 200
    transactions: dict[str, Json] = field(default_factory=dict)
    attempts: list[tuple[str, Json]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    user: Callable[[str], Awaitable[bool]] = _knows_nobody
    alias: Callable[[str], Awaitable[bool]] = _knows_nobody
    third_party: Json = field(default_factory=dict)

    @property
    def as_token(self) -> str:
        return f"as_{self.name}"

    @property
    def hs_token(self) -> str:
        return f"hs_{self.name}"

    @property
    def config(self) -> str:
        return f'[bridges]\nregistrations = ["{self.name}.yaml"]\n'

    def file(self) -> Json:
        return {
            "id": self.name,
            "url": self.url,
            "as_token": self.as_token,
            "hs_token": self.hs_token,
            "sender_localpart": f"{self.name}bot",
            "namespaces": {
                "users": [{"regex": f"@{self.name}_.*", "exclusive": True}],
                "aliases": [{"regex": f"#{self.name}_.*", "exclusive": True}],
                "rooms": [],
            },
            **self.registration,
        }

    def write(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True, parents=True)
        (folder / f"{self.name}.yaml").write_text(yaml.safe_dump(self.file()))

    def register_in(self, world: World, name: str) -> None:
        self.write(world._folder / name)
        world.services[self.url] = self

    # As a server

    @property
    def profile(self) -> LinkProfile:
        return LinkProfile("http")

    async def exchange(self, request: Request) -> Response:
        """See `Exchange`."""
        await trio.sleep(0.005)
        if self.down:
            raise Unreachable("connection refused")
        with trio.move_on_after(request.timeout):
            answer = await AsgiHandler(self, self.profile)(request, trio.Event())
            if self.mute:
                await trio.sleep_forever()
            return answer
        raise TimedOut("no answer in time")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.lower(): value for name, value in scope["headers"]}
        status, answer = await self._answer(scope, headers, orjson.loads(body) if body else {})
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": orjson.dumps(answer)})

    async def _answer(self, scope: Any, headers: dict[bytes, bytes], body: Json) -> tuple[int, Any]:
        path = scope["path"].removeprefix(BASE)
        if (path == scope["path"]) is not self.legacy:
            return 404, {"errcode": "M_UNRECOGNIZED"}
        path = path.removeprefix("/_matrix/app/unstable")
        query = scope["query_string"].decode()
        if headers.get(b"authorization") != f"Bearer {self.hs_token}".encode():
            return 403, {"errcode": "M_FORBIDDEN"}
        if self.hangs:
            await trio.sleep_forever()
        if scope["method"] == "PUT" and path.startswith("/transactions/"):
            return self._take(path.removeprefix("/transactions/"), body)
        self.asked.append(path + (f"?{query}" if query else ""))
        if self.status != 200:
            return self.status, {"errcode": "M_UNKNOWN", "error": "out of order"}
        if path == "/ping":
            return 200, {}
        for kind, knows in (("/users/", self.user), ("/rooms/", self.alias)):
            if path.startswith(kind):
                return (200 if await knows(unquote(path.removeprefix(kind))) else 404), {}
        if path.startswith("/thirdparty/"):
            found = self.third_party.get(self.asked[-1].removeprefix("/thirdparty/"))
            return (404, {}) if found is None else (200, found)
        return 404, {}

    def _take(self, txn_id: str, body: Json) -> tuple[int, Json]:
        self.attempts.append((txn_id, body))
        if self.status != 200:
            return self.status, {"errcode": "M_UNKNOWN", "error": "out of order"}
        self.transactions.setdefault(txn_id, body)
        return 200, {}

    # What it has been told

    def told(self, key: str = "events") -> list[Json]:
        """Everything under this key of the transactions, in order."""
        return [one for body in self.transactions.values() for one in body.get(key, ())]

    @property
    def texts(self) -> list[str]:
        return [one["content"]["body"] for one in self.told() if one["type"] == "m.room.message"]

    # As a client

    async def call(self, method: str, path: str, json: Any = None, *, as_user: str | None = None, **query: str) -> Answer:
        assert self.box is not None
        client = AsgiClient(self.box.box.app, token=self.as_token)
        asked = {**query, **({"user_id": as_user} if as_user else {})}
        body = {"json": {} if json is None else json} if method in ("PUT", "POST") else {}
        target = path if path.startswith("/_matrix/") else f"/_matrix/client/v3{path}"
        return await client.request(method, target, query=asked, headers={"host": "client"}, **body)

    async def ok(self, method: str, path: str, json: Any = None, *, as_user: str | None = None, **query: str) -> Any:
        answer = await self.call(method, path, json, as_user=as_user, **query)
        assert answer.status in (200, 201), (method, path, answer.status, answer.body)
        return answer.json

    async def register(self, localpart: str) -> str:
        body = {"type": "m.login.application_service", "username": localpart, "inhibit_login": True}
        return str((await self.ok("POST", "/register", body))["user_id"])
