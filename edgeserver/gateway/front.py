"""The gateway in front of this box's own application: requests for fronted names go to their link, a fronted box's requests go out.

Only server-server paths are carried (`/_matrix/federation/`, `/_matrix/key/`); method, target and body go through unchanged, and so does
the author's Authorization header, so signatures hold end to end. A request is answered 200 only when the box at the far end has answered;
while it is away the answer is 504, but its keys are served from the last response that it gave, so that its signatures can be verified.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import canonical_json, server_names
from edgeserver.matrix.errors import Forbidden, TooLarge, Unknown
from transports.exchange import ExchangeError, Priority, Request, Response
from transports.exchange import TooLarge as LineTooLarge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from edgeserver.gateway.routes import GatewayRoutes
    from edgeserver.matrix.errors import MatrixError
    from transports.exchange import Exchange, LinkProfile

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

CARRIED = ("/_matrix/federation/", "/_matrix/key/")
KEY_PATH = "/_matrix/key/v2/server"
MAX_BODY = 8 * 1024 * 1024
TIMEOUT = 300.0
_PASSED_ON = ("authorization", "content-type", "accept")


class GatewayFront:
    """An ASGI application around another. `outward` is how a fronted box's requests reach the internet (None: not at all)."""

    def __init__(self, app: App, server_name: str, routes: GatewayRoutes, outward: Exchange | None) -> None:
        self._app = app
        self._server_name = server_name
        self._routes = routes
        self._outward = outward

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        authority = _authority(scope) if scope["type"] == "http" else ""
        if not authority or authority == self._server_name:
            await self._app(scope, receive, send)
            return
        fronted = self._routes.fronts(authority)
        peer = _link_peer(scope)
        if not fronted and (peer is None or not server_names.is_valid(authority)):
            await self._app(scope, receive, send)  # a host name or address that means us
            return
        await _answer(send, await self._carry(scope, receive, authority, peer, fronted=fronted))

    async def _carry(self, scope: Scope, receive: Receive, authority: str, peer: str | None, *, fronted: bool) -> Response:
        path = _raw_path(scope)
        if not path.startswith(CARRIED):
            return _error(Forbidden("A gateway carries server-to-server requests only."))
        if not fronted and (peer is None or not self._routes.may_use(peer)):
            return _error(Forbidden("This box is not your gateway."))
        body = await _body(receive)
        if body is None:
            return _error(TooLarge("The request is larger than this gateway carries."))
        query = scope.get("query_string", b"").decode("latin-1")
        headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name.decode("latin-1").lower() in _PASSED_ON
        )
        target = f"{path}?{query}" if query else path
        request = Request(scope["method"], target, authority, headers, body, Priority.MESSAGE, TIMEOUT)
        return await (self._inward(request) if fronted else self._outwards(request))

    async def _inward(self, request: Request) -> Response:
        exchange = self._routes.exchange_to(request.authority)
        is_keys = request.method == "GET" and request.target.split("?")[0].rstrip("/") == KEY_PATH
        known = self._routes.key_response(request.authority) if is_keys else None
        if known is not None and (exchange is None or exchange.profile.is_thin):
            return Response(200, (("content-type", "application/json"),), known)
        if exchange is None:
            return _error(Unknown(f"{request.authority} is away; its gateway cannot reach it now.", status=504))
        response = await self._through(exchange, request)
        if is_keys and response.status == 200:
            await self._routes.remember_key_response(request.authority, response.body)
        return response

    async def _outwards(self, request: Request) -> Response:
        if self._outward is None:
            return _error(Unknown("This gateway has no way to the internet.", status=502))
        return await self._through(self._outward, request)

    async def _through(self, exchange: Exchange, request: Request) -> Response:
        try:
            response = await exchange.exchange(request)
        except LineTooLarge as error:
            return _error(TooLarge(f"The request is larger than the line carries: {error}."))
        except ExchangeError as error:
            log.info("could not carry %s %s to %s: %s", request.method, request.target, request.authority, error)
            return _error(Unknown(f"{request.authority} did not answer: {error}.", status=504))
        kept = tuple((name, value) for name, value in response.headers if name.lower() in ("content-type", "retry-after"))
        return replace(response, headers=kept)


def _authority(scope: Scope) -> str:
    """The server name that the request is for: the Host header, without a port that is only the listener's."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "").lower()
    parsed = server_names.parse(host)
    if parsed is None:
        return ""
    return host if parsed.port is None or parsed.port not in (443, 8448) else host.rsplit(":", 1)[0]


def _link_peer(scope: Scope) -> str | None:
    profile: LinkProfile | None = (scope.get("extensions") or {}).get("link")
    return None if profile is None else profile.peer


def _raw_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    return scope["path"] if raw is None else raw.decode("ascii").split("?")[0]


async def _body(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _answer(send: Send, response: Response) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


def _error(error: MatrixError) -> Response:
    body = canonical_json.encode(error.as_json())
    return Response(error.status, (("content-type", "application/json"),), body)
