"""A phone: what the ntfy app does on a network. Its WebSocket is not the server's implementation, and offers compression as OkHttp does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpcore
import orjson
import trio
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri


class Line:
    """An open WebSocket. `refusal` is the status of a handshake that was turned down."""

    def __init__(self, stream: trio.SocketStream, protocol: ClientProtocol) -> None:
        self._stream, self._protocol = stream, protocol
        self._texts: list[str] = []
        self.refusal: tuple[int, bytes] | None = None
        self.pings = 0

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self._stream.send_all(data)

    async def _take(self) -> bool:
        data = await self._stream.receive_some(65536)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                if event.status_code != 101:
                    self.refusal = (event.status_code, event.body or b"")
            elif event.opcode is Opcode.TEXT:
                self._texts.append(bytes(event.data).decode())
            elif event.opcode is Opcode.PING:
                self.pings += 1
        await self._flush()
        return bool(data)

    async def shake_hands(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        while self._protocol.state.name == "CONNECTING" and self.refusal is None:
            if not await self._take():
                break

    async def next(self) -> dict[str, Any]:
        """The next message; raises EndOfChannel when the line is gone."""
        while not self._texts:
            if not await self._take():
                raise trio.EndOfChannel
        return orjson.loads(self._texts.pop(0))

    async def message(self) -> dict[str, Any]:
        """The next that is no `open`."""
        while (found := await self.next())["event"] != "message":
            pass
        return found


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Line]:
    """`url` is ws://127.0.0.1:port/…; at the end the line breaks without a word, as a phone's does that leaves the network."""
    uri = parse_uri(url)
    protocol = ClientProtocol(uri, extensions=[ClientPerMessageDeflateFactory()])
    async with await trio.open_tcp_stream(uri.host, uri.port) as stream:
        line = Line(stream, protocol)
        await line.shake_hands()
        yield line


async def ask(method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """One HTTP request; status and JSON, or the lines of JSON."""
    async with httpcore.AsyncConnectionPool() as pool:
        answer = await pool.request(method, url, headers=headers or {}, content=body)
        lines = [orjson.loads(line) for line in answer.content.splitlines()]
        is_lines = answer.headers and any(value.startswith(b"application/x-ndjson") for _, value in answer.headers)
        return answer.status, lines if is_lines else (lines[0] if lines else None)


class Stream:
    """A response that does not end, by its lines of JSON (each in a chunk of its own)."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._held = b""

    async def next(self) -> dict[str, Any]:
        while True:
            line, end, rest = self._held.partition(b"\n")
            if end:
                self._held = rest
                if line.startswith(b"{"):
                    return orjson.loads(line)
            else:
                data = await self._stream.receive_some(65536)
                if not data:
                    raise trio.EndOfChannel
                self._held += data


@asynccontextmanager
async def streaming(url: str) -> AsyncIterator[Stream]:
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    async with await trio.open_tcp_stream(name, int(port)) as stream:
        await stream.send_all(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        yield Stream(stream)
