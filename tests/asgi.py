"""A client for an ASGI application in the same process, and an application of a few routes for tests of one section.

app = section_application(routes(…), {"alice": "@alice:test"})
client = AsgiClient(app, token="alice")
answer = await client.request("PUT", "/_matrix/client/v3/…", json={…})
assert (answer.status, answer.json) == (200, {})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

import orjson
import trio

from edgeserver.api.application import Application
from edgeserver.api.authentication import AccessTokens, FixedTokens
from edgeserver.api.endpoint import Gate, Limiter
from edgeserver.users.requester import Requester
from transports.exchange import LinkProfile


@dataclass(frozen=True)
class Asked:
    """A request: `path` is percent-encoded, `query` its part behind the question mark, `body` as it was sent."""

    method: str
    path: str
    query: str
    body: bytes


@dataclass
class Answer:
    """A whole response. `headers` has lower-case names."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


observers: list[Callable[[Asked, Answer], None]] = []
"""Who sees every request and its answer; `tests/conftest.py` holds them against the specification."""


class AsgiClient:
    """Calls an ASGI application. `target` is percent-encoded and may hold a query; `query` is added to it."""

    def __init__(self, app: Any, *, token: str | None = None, link: LinkProfile | None = None, address: str = "192.0.2.1") -> None:
        self.app = app
        self.token = token
        self.link = link
        self.address = address

    async def request(
        self,
        method: str,
        target: str,
        *,
        json: Any = None,
        body: bytes | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        path, _, query_string = target.partition("?")
        if query:
            query_string = "&".join(filter(None, [query_string, urlencode(query)]))
        sent = {"host": "test", **{name.lower(): value for name, value in (headers or {}).items()}}
        if token or self.token:
            sent.setdefault("authorization", f"Bearer {token or self.token}")
        if json is not None:
            body = orjson.dumps(json)
            sent.setdefault("content-type", "application/json")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query_string.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": (self.address, 40000),
            "server": ("test", 8008),
            "extensions": {} if self.link is None else {"link": self.link},
        }
        answer = await _run(self.app, scope, body or b"")
        for observe in observers:
            observe(Asked(method, path, query_string, body or b""), answer)
        return answer

    async def get(self, target: str, **options: Any) -> Answer:
        return await self.request("GET", target, **options)

    async def put(self, target: str, json: Any = None, **options: Any) -> Answer:
        return await self.request("PUT", target, json={} if json is None else json, **options)

    async def post(self, target: str, json: Any = None, **options: Any) -> Answer:
        return await self.request("POST", target, json={} if json is None else json, **options)

    async def delete(self, target: str, **options: Any) -> Answer:
        return await self.request("DELETE", target, **options)


async def _run(app: Any, scope: dict[str, Any], body: bytes) -> Answer:
    answer = Answer()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await trio.sleep_forever()
        return messages.pop()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    return answer


def section_application(routes: Any, users: Mapping[str, str | Requester] | None = None, limiter: Limiter | None = None) -> Application:
    """An application of these routes alone, with fixed tokens: token → user id (device `DEVICE`) or a whole
    `Requester`.
    """
    requesters = {token: user if isinstance(user, Requester) else Requester(user, "DEVICE") for token, user in (users or {}).items()}
    return Application(routes, Gate(AccessTokens(FixedTokens(requesters)), limiter))
