"""A homeserver over HTTP as an `Exchange`: its name is looked up anew after each failure, for a laptop moves between networks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import orjson
import trio

from transports.exchange import Request, Unreachable
from transports.http import HttpPool, Plaintext, Route, VerifiedName

if TYPE_CHECKING:
    from transports.exchange import LinkProfile, Response

WELL_KNOWN: Final = "/.well-known/matrix/client"
_WELL_KNOWN_BYTES: Final = 65_536


class AddressError(Exception):
    """What was given is no address of a server; one sentence."""


class ServerExchange:
    """The server at `url`, such as `http://127.0.0.1:8008` or `https://matrix.example.org/base`. Raises `AddressError`."""

    def __init__(self, pool: HttpPool, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise AddressError(f"{url!r} is no address of a server ({error}).") from error
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not url.isascii():
            raise AddressError(f"{url!r} is no address of a server, such as http://192.168.1.20:8008 or https://matrix.example.org.")
        self._pool = pool
        self._base = parts.path.rstrip("/")
        self._host, self._port = host, port or (443 if parts.scheme == "https" else 80)
        self._shown = parts.netloc.rpartition("@")[2]
        self._tls = VerifiedName(host) if parts.scheme == "https" else Plaintext()
        self._route: Route | None = None

    @property
    def profile(self) -> LinkProfile:
        return self._pool.peer(Route(self._shown, (), self._port, self._tls)).profile

    async def exchange(self, request: Request) -> Response:
        """Raises `ExchangeError`; any status is a response."""
        route = self._route or await self._look_up()
        self._route = None
        response = await self._pool.exchange(replace(request, target=self._base + request.target), route, allow_plaintext=True)
        self._route = route
        return response

    async def _look_up(self) -> Route:
        try:
            found = await trio.socket.getaddrinfo(self._host, self._port, type=trio.socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"the address of {self._host} is not known") from error
        addresses = tuple(dict.fromkeys(str(address[4][0]) for address in found))
        return Route(self._shown, addresses, self._port, self._tls)


async def url_of(pool: HttpPool, server: str) -> str:
    """The URL for clients of what a person calls the server: a URL is one already, a server name is asked.

    Spec: client-server API, "Well-known URIs". Raises `AddressError` and `ExchangeError`.
    """
    if "://" in server:
        return server.rstrip("/")
    request = Request("GET", WELL_KNOWN, timeout=30.0, max_response=_WELL_KNOWN_BYTES)
    response = await ServerExchange(pool, f"https://{server}").exchange(request)
    if response.status != 200:
        return f"https://{server}"
    try:
        told = orjson.loads(response.body)["m.homeserver"]["base_url"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise AddressError(f"{server} does not say where its Matrix server is; give the server's address with https://.") from error
    if not isinstance(told, str) or not told.startswith("https://"):
        raise AddressError(f"{server} names an address that is not safe to use; give the server's address with https://.")
    ServerExchange(pool, told)
    return told.rstrip("/")
