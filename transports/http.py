"""An `Exchange` over HTTP/1.1 and TLS, through httpcore.

httpcore keys its pool by the URL's origin and knows nothing of who was authenticated, so here the origin *is* what is
authenticated: the name that the certificate must carry, the key that it must hold, or a host spoken to in the clear.
The network backend maps such an origin to the addresses of the current route and makes the one kind of TLS handshake
that belongs to it. A connection is therefore never used for a peer that it was not checked for. The HTTP Host is a
header of its own and may be any server name that is delegated to that endpoint.
"""

from __future__ import annotations

import base64
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpcore
import trio

from transports import self_signed
from transports.exchange import (
    ExchangeError,
    Interrupted,
    LinkProfile,
    Request,
    Response,
    TimedOut,
    TooLarge,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from types import TracebackType

MAX_RESPONSE = 64 * 1024 * 1024
"""Bytes of a response's body, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class VerifiedName:
    """TLS with a certificate for `name` (a DNS name or an address) from an authority that we trust."""

    name: str


@dataclass(frozen=True, slots=True)
class PinnedKey:
    """TLS with any certificate whose ed25519 key is these 32 bytes; `name` is sent as SNI."""

    key: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class Plaintext:
    """No TLS at all: for tests and for lines that are private by themselves."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a peer is and how it proves itself.

    `host` is the HTTP Host of requests that name no authority; `addresses` are IP addresses, tried in order.
    """

    host: str
    addresses: tuple[str, ...]
    port: int
    tls: VerifiedName | PinnedKey | Plaintext


class HttpPool:
    """Keep-alive connections to many peers; an async context manager that closes them.

    `ca_file` is a PEM file of authorities trusted besides the system's; `allow_address` says of an IP address whether
    it may be connected to (to keep strangers from making us ask our own network). Times are in seconds, sizes in
    bytes. Redirects are not followed.
    """

    def __init__(
        self,
        *,
        ca_file: str | None = None,
        allow_plaintext: bool = False,
        allow_address: Callable[[str], bool] | None = None,
        max_connections: int = 64,
        keepalive: float = 90.0,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        max_response: int = MAX_RESPONSE,
    ) -> None:
        self._allow_plaintext = allow_plaintext
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._max_response = max_response
        self._backend = _RoutedBackend(ca_file, allow_address)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # never used: the backend chooses by route
            max_connections=max_connections,
            max_keepalive_connections=max_connections // 2,
            keepalive_expiry=keepalive,
            network_backend=self._backend,
        )

    async def __aenter__(self) -> HttpPool:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with trio.CancelScope(shield=True):
            await self._pool.aclose()

    async def exchange(
        self, request: Request, route: Route, *, max_response: int | None = None, allow_plaintext: bool = False
    ) -> Response:
        """Carries one request along a route. Raises ExchangeError; any status is a response. `allow_plaintext` vouches for this route."""
        if isinstance(route.tls, Plaintext) and not (self._allow_plaintext or allow_plaintext):
            raise Unreachable(f"{route.host} would be spoken to without TLS")
        most = self._max_response if max_response is None else max_response
        if request.max_response is not None:
            most = min(most, request.max_response)
        progress = _Progress()
        with self._backend.routed(route) as origin, trio.move_on_after(request.timeout):
            try:
                return await self._carry(self._wire_request(request, route, origin, progress), most)
            except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
                raise progress.error(error) from error
            except (httpcore.UnsupportedProtocol, ValueError) as error:
                raise Unreachable(f"not a request that HTTP can carry: {error}") from error
        raise progress.error(httpcore.ReadTimeout(f"no answer within {request.timeout:g} s"))

    def peer(self, route: Route) -> HttpExchange:
        """The `Exchange` that always takes this route."""
        return HttpExchange(self, route)

    def _wire_request(self, request: Request, route: Route, origin: str, progress: _Progress) -> httpcore.Request:
        plain = isinstance(route.tls, Plaintext)
        url = httpcore.URL(
            scheme=b"http" if plain else b"https",
            host=origin.encode("ascii"),
            port=route.port,
            target=request.target.encode("ascii"),
        )
        own = {"host", "content-length", "transfer-encoding", "connection"}
        headers = [(b"Host", (request.authority or route.host).encode("ascii"))]
        headers += [(k.encode("latin-1"), v.encode("latin-1")) for k, v in request.headers if k.lower() not in own]
        if request.body or request.method in ("PUT", "POST"):
            headers.append((b"Content-Length", str(len(request.body)).encode()))
        timeouts = {
            "connect": self._connect_timeout,
            "pool": self._connect_timeout,
            "read": min(self._read_timeout, request.timeout),
            "write": self._read_timeout,
        }
        extensions = {"timeout": timeouts, "trace": progress.trace}
        return httpcore.Request(request.method, url, headers=headers, content=request.body, extensions=extensions)

    async def _carry(self, request: httpcore.Request, max_response: int) -> Response:
        response = await self._pool.handle_async_request(request)
        try:
            body = await _whole_body(response, max_response)
        finally:
            with trio.CancelScope(shield=True):
                await response.aclose()
        headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers)
        return Response(response.status, headers, body)


async def _whole_body(response: httpcore.Response, limit: int) -> bytes:
    chunks: list[bytes] = []
    room = limit
    try:
        async for chunk in response.aiter_stream():
            room -= len(chunk)
            if room >= 0:
                chunks.append(chunk)
            else:
                # Close and read on, which fails: a loop left halfway leaves httpcore's generators to the collector.
                await response.aclose()
    except (httpcore.NetworkError, httpcore.ProtocolError):
        if room >= 0:
            raise
    if room < 0:
        raise TooLarge("the response is larger than allowed")
    return b"".join(chunks)


class HttpExchange:
    """One peer behind an `HttpPool`."""

    def __init__(self, pool: HttpPool, route: Route) -> None:
        self._pool = pool
        self._route = route

    @property
    def profile(self) -> LinkProfile:
        return LinkProfile("http", peer=None if isinstance(self._route.tls, Plaintext) else self._route.host)

    async def exchange(self, request: Request) -> Response:
        """See `HttpPool.exchange`."""
        return await self._pool.exchange(request, self._route)


class _Progress:
    """Whether any byte of the request may have left, as httpcore's trace tells it."""

    def __init__(self) -> None:
        self.left = False

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith("send_request_headers.started"):
            self.left = True

    def error(self, cause: Exception) -> ExchangeError:
        reason = str(cause) or type(cause).__name__
        if not self.left or isinstance(cause, httpcore.LocalProtocolError):
            return Unreachable(reason)
        return TimedOut(reason) if isinstance(cause, httpcore.TimeoutException) else Interrupted(reason)


@dataclass
class _ActiveRoute:
    route: Route
    users: int = 0


class _RoutedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses of the route that is registered for an origin."""

    def __init__(self, ca_file: str | None, allow_address: Callable[[str], bool] | None) -> None:
        self._ca_file = ca_file
        self._allow_address = allow_address
        self._active: dict[tuple[str, int], _ActiveRoute] = {}
        self._tcp = httpcore.TrioBackend()
        self._verifying: ssl.SSLContext | None = None
        self._unverified: ssl.SSLContext | None = None

    @contextmanager
    def routed(self, route: Route) -> Iterator[str]:
        """The origin's host for this route, known to the backend while the context lasts."""
        key = (_origin(route), route.port)
        active = self._active.setdefault(key, _ActiveRoute(route))
        active.route = route
        active.users += 1
        try:
            yield key[0]
        finally:
            active.users -= 1
            if active.users == 0:
                del self._active[key]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        route = self._active[(host, port)].route
        allow = self._allow_address
        addresses = [address for address in route.addresses if allow is None or allow(address)]
        refused: Exception = httpcore.ConnectError(f"no address of {route.host} may be connected to")
        for address in addresses:
            try:
                stream = await self._tcp.connect_tcp(address, port, timeout=timeout)
                return _RoutedStream(stream, route.tls, self._handshake)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                refused = error
        raise refused

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("no route leads to a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def _handshake(
        self, stream: httpcore.AsyncNetworkStream, tls: VerifiedName | PinnedKey | Plaintext, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        if isinstance(tls, VerifiedName):
            return await stream.start_tls(self._verifying_context(), tls.name, timeout)
        if not isinstance(tls, PinnedKey):
            raise httpcore.ConnectError("TLS on a plain route")
        secured = await stream.start_tls(self._unverified_context(), tls.name or None, timeout)
        certificate = secured.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            key = self_signed.public_key(certificate or b"")
        except self_signed.CertificateError as error:
            await secured.aclose()
            raise httpcore.ConnectError(f"the peer's certificate is {error}") from error
        if key != tls.key:
            await secured.aclose()
            raise httpcore.ConnectError("the peer's certificate holds another key")
        return secured

    def _verifying_context(self) -> ssl.SSLContext:
        if self._verifying is None:
            self._verifying = ssl.create_default_context()
            self._verifying.minimum_version = ssl.TLSVersion.TLSv1_2
            self._verifying.set_alpn_protocols(["http/1.1"])
            if self._ca_file is not None:
                self._verifying.load_verify_locations(self._ca_file)
        return self._verifying

    def _unverified_context(self) -> ssl.SSLContext:
        if self._unverified is None:
            self._unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._unverified.minimum_version = ssl.TLSVersion.TLSv1_2
            self._unverified.set_alpn_protocols(["http/1.1"])
            self._unverified.check_hostname = False
            self._unverified.verify_mode = ssl.CERT_NONE
        return self._unverified


def _origin(route: Route) -> str:
    """What is authenticated, as the host of an origin. With a slash in it, the others can be no host name."""
    if isinstance(route.tls, VerifiedName):
        return route.tls.name.lower()
    if isinstance(route.tls, PinnedKey):
        return "key/" + base64.b32encode(route.tls.key).decode("ascii")
    return "plain/" + route.host.lower()


class _RoutedStream(httpcore.AsyncNetworkStream):
    """A TCP stream whose TLS handshake is the route's, whatever the pool asks for."""

    def __init__(
        self,
        stream: httpcore.AsyncNetworkStream,
        tls: VerifiedName | PinnedKey | Plaintext,
        handshake: Callable[
            [httpcore.AsyncNetworkStream, VerifiedName | PinnedKey | Plaintext, float | None],
            Awaitable[httpcore.AsyncNetworkStream],
        ],
    ) -> None:
        self._stream = stream
        self._tls = tls
        self._handshake = handshake

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._handshake(self._stream, self._tls, timeout)
        except BaseException:
            # httpcore forgets a stream whose handshake is cancelled.
            with trio.CancelScope(shield=True):
                await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
