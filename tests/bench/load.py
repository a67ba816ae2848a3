"""HTTP requests with as little work as possible on this side: raw keep-alive connections, as many at once as asked for.

Blocking sockets and one selector. A closed loop: each connection sends its next request when it has its answer.
"""

from __future__ import annotations

import json
import select
import selectors
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self


class Refused(Exception):
    """An answer with another status than 200; the text holds it."""


def request(method: str, path: str, body: Any = None, token: str | None = None) -> bytes:
    """An HTTP/1.1 request, ready to send."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(data)}\r\n"
    if body is not None:
        head += "Content-Type: application/json\r\n"
    if token is not None:
        head += f"Authorization: Bearer {token}\r\n"
    return head.encode() + b"\r\n" + data


class Connection:
    """One keep-alive connection with at most one request under way; `timeout` (s) is for each wait on it."""

    def __init__(self, url: str, timeout: float = 120) -> None:
        parts = urllib.parse.urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._timeout = timeout
        self._socket = self._open()
        self._received = bytearray()

    def _open(self) -> socket.socket:
        opened = socket.create_connection(self._address, timeout=self._timeout)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def fileno(self) -> int:
        return self._socket.fileno()

    def begin(self, data: bytes) -> None:
        """Sends a request; on a new connection if the server has closed this one, which was idle for too long."""
        if select.select([self._socket], [], [], 0)[0]:
            self._socket.close()
            self._socket = self._open()
        self._socket.sendall(data)

    def read(self) -> tuple[int, bytes] | None:
        """Takes what has come; status and body once the answer is whole. Blocks if nothing has come."""
        data = self._socket.recv(262144)
        if not data:
            raise Refused("the server closed the connection")
        self._received += data
        answer = _parse(self._received)
        if answer is not None:
            self._received.clear()
        return answer

    def finish(self) -> tuple[int, bytes]:
        """Waits for the answer to the request that is under way."""
        while (answer := self.read()) is None:
            pass
        return answer

    def exchange(self, data: bytes) -> tuple[int, bytes]:
        self.begin(data)
        return self.finish()

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """The JSON of the answer. Raises `Refused` when it is not a 200."""
        status, answer = self.exchange(request(method, path, body, token))
        if status != 200:
            raise Refused(f"{method} {path}: {status} {answer[:300].decode(errors='replace')}")
        return json.loads(answer)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(received: bytearray) -> tuple[int, bytes] | None:
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    status = int(head[9:12])
    body = bytes(received[end + 4 :])
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        return (status, body) if len(body) >= length else None
    if b"\r\ntransfer-encoding: chunked" in head:
        return _chunks(status, body)
    return status, b""


def _chunks(status: int, body: bytes) -> tuple[int, bytes] | None:
    whole, at = b"", 0
    while (line_end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:line_end].split(b";")[0], 16)
        start = line_end + 2
        if len(body) < start + size + 2:
            return None
        if size == 0:
            return status, whole
        whole, at = whole + body[start : start + size], start + size + 2
    return None


@dataclass(frozen=True)
class Outcome:
    """Of a closed loop: requests, the time that all took (s), and each one's time (s)."""

    count: int
    seconds: float
    times: list[float]

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def closed_loop(url: str, connections: int, requests: Iterator[bytes], *, stop: Callable[[int, float], bool]) -> Outcome:
    """Keeps `connections` requests under way until `stop(answered, seconds)`, then lets the rest finish (they count).

    Raises `Refused`.
    """
    selector = selectors.DefaultSelector()
    opened = [Connection(url) for _ in range(connections)]
    times: list[float] = []
    begun: dict[Connection, float] = {}
    began = time.perf_counter()
    try:
        for connection in opened:
            selector.register(connection, selectors.EVENT_READ, connection)
            begun[connection] = time.perf_counter()
            connection.begin(next(requests))
        while begun:
            for key, _ in selector.select(120):
                answer = key.data.read()
                if answer is None:
                    continue
                now = time.perf_counter()
                times.append(now - begun.pop(key.data))
                if answer[0] != 200:
                    raise Refused(f"{answer[0]} {answer[1][:300].decode(errors='replace')}")
                if not stop(len(times), now - began):
                    begun[key.data] = time.perf_counter()
                    key.data.begin(next(requests))
        return Outcome(len(times), time.perf_counter() - began, times)
    finally:
        selector.close()
        for connection in opened:
            connection.close()
