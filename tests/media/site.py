"""A web site on loopback, over real TCP, and the names that lead to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from edgeserver.federation.dns_lookup import DnsFailure


@dataclass
class Site:
    """`pages` maps a path (with its query) to (status, headers, body); `asked` has the requests' first lines and headers."""

    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    gate: trio.Event | None = None

    def page(self, path: str, body: bytes | str, kind: str = "text/html; charset=utf-8", status: int = 200, **headers: str) -> None:
        raw = body.encode() if isinstance(body, str) else body
        self.pages[path] = (status, {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}, raw)

    def url(self, path: str, host: str = "site.example", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def handle(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        data = b""
        async with stream:
            try:
                while chunk := await stream.receive_some(65536):
                    data += chunk
                    while b"\r\n\r\n" in data:
                        head, _, data = data.partition(b"\r\n\r\n")
                        await self._answer(stream, head.decode())
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _answer(self, stream: trio.SocketStream, head: str) -> None:
        path = head.split(" ")[1]
        self.asked.append(path)
        self.heads.append(head)
        if self.gate is not None:
            await self.gate.wait()
        status, headers, body = self.pages.get(path, (404, {}, b""))
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(body)}"]
        await stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


@dataclass
class Names:
    """`Dns` by a table. A name with several answers gives one after the other; the last one stays."""

    table: dict[str, list[list[str]]]
    asked: list[str] = field(default_factory=list)

    async def addresses(self, name: str) -> list[str]:
        self.asked.append(name)
        answers = self.table.get(name)
        if answers is None:
            raise DnsFailure(f"no answer from DNS for {name}")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def srv(self, name: str) -> list[Any]:
        return []


@asynccontextmanager
async def open_site() -> AsyncIterator[Site]:
    """Served at 127.0.0.1."""
    site = Site()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, site.handle, 0, host="127.0.0.1"))
        site.port = listeners[0].socket.getsockname()[1]
        yield site
        nursery.cancel_scope.cancel()
