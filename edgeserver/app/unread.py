"""Connections whose other end does not read what it asked for.

The HTTP server waits for such a client as long as the kernel does, shielded from cancellation. So the kernel is told to give up
(TCP_USER_TIMEOUT, tcp(7)) where nothing has been taken for a while, and when the box stops, what is still open is shut down. Large answers
are handed over in pieces, for the server copies what it is given.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    Address = str | int
    """A port, or the path of a Unix socket."""

TAKEN_WITHIN_MS = 120_000
PIECE = 64 * 1024


def prepare(listening: Iterable[socket.socket]) -> list[Address]:
    """Limits the kernel's patience for connections that these sockets will accept; returns where they listen."""
    found: list[Address] = []
    for one in listening:
        if one.family == socket.AF_UNIX:
            found.append(one.getsockname())
            continue
        found.append(one.getsockname()[1])
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TAKEN_WITHIN_MS)
    return found


def shut_down(addresses: Collection[Address]) -> None:
    """Ends every connection that this process has accepted at these addresses; what waits in them to be written fails at once."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    _shut_down_one(int(name), addresses)


def _shut_down_one(descriptor: int, addresses: Collection[Address]) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.type != socket.SOCK_STREAM or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return
        name = connection.getsockname()
        if (name if isinstance(name, str) else name[1]) in addresses:
            connection.shutdown(socket.SHUT_RDWR)


def in_pieces(app: Any) -> Any:
    """The same ASGI application, its answers sent on in pieces."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def send_pieces(message: Any) -> None:
            body = message.get("body", b"")
            if message["type"] != "http.response.body" or len(body) <= PIECE:
                await send(message)
                return
            more, view = message.get("more_body", False), memoryview(body)
            for at in range(0, len(body), PIECE):
                await send({**message, "body": bytes(view[at : at + PIECE]), "more_body": more or at + PIECE < len(body)})

        await app(scope, receive, send_pieces if scope["type"] == "http" else send)

    return application
