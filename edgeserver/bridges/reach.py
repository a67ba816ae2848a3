"""Where an application service is: the URL of its registration, in the clear or with TLS.

The operator has written the URL, so it may lead anywhere: to this machine, as nearly all do, to the local network, to a container's name.
Its host is asked of the system's resolver each time that a connection is made, since containers move.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from transports.exchange import LinkProfile, Unreachable
from transports.http import Plaintext, Route, VerifiedName

if TYPE_CHECKING:
    from transports.exchange import Request, Response
    from transports.http import HttpPool


class UrlExchange:
    """The `Exchange` to the server of a URL. The pool must allow plain HTTP."""

    def __init__(self, pool: HttpPool, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._pool = pool
        self._host = parts.hostname
        self._is_plain = parts.scheme == "http"
        self._port = parts.port or (80 if self._is_plain else 443)
        self._authority = parts.netloc

    @property
    def profile(self) -> LinkProfile:
        return LinkProfile("http")

    async def exchange(self, request: Request) -> Response:
        """Raises ExchangeError; the request's timeout covers the look-up of the host too."""
        with trio.move_on_after(request.timeout):
            addresses = await self._addresses()
            tls = Plaintext() if self._is_plain else VerifiedName(self._host)
            return await self._pool.exchange(request, Route(self._authority, addresses, self._port, tls))
        raise Unreachable(f"{self._host} was not found within {request.timeout:g} s")

    async def _addresses(self) -> tuple[str, ...]:
        try:
            found = await trio.socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"{self._host} has no address: {error}") from error
        return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
