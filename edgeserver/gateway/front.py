"""The gateway in front of this box's own application: requests for fronted names go to their link, a fronted box's requests go out.

Only server-server paths are carried (`/_matrix/federation/`, `/_matrix/key/`); method, target and body go through unchanged, and so does
the author's Authorization header, so signatures hold end to end. What is not signed is carried only where the spec asks for no
signature: at the far end of a link an unsigned request would pass for our own. A request is answered 200 only when the box at the far
end has answered; while it is away the answer is 504, but its keys are served from the last response that it gave, so that its
signatures can be verified.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from edgeserver.matrix import canonical_json, server_names, signatures
from edgeserver.matrix.errors import Forbidden, LimitExceeded, TooLarge, Unauthorized, Unknown
from transports.exchange import ExchangeError, Priority, Request, Response, Unreachable
from transports.exchange import TooLarge as LineTooLarge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    from edgeserver.gateway.routes import GatewayRoutes
    from edgeserver.matrix.errors import MatrixError
    from transports.exchange import Exchange, LinkProfile

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]
    KeyLookup = Callable[[str, str], Awaitable[bytes | None]]

log = logging.getLogger(__name__)

CARRIED = ("/_matrix/federation/", "/_matrix/key/")
KEY_PATH = "/_matrix/key/v2/server"
UNSIGNED = ("/_matrix/key/", "/_matrix/federation/v1/version", "/_matrix/federation/v1/openid/userinfo")
"""What the spec lets anybody ask without a signature."""
MAX_BODY = 8 * 1024 * 1024
MAX_UNSIGNED_BODY = 64 * 1024
MAX_UNDER_WAY = 32
"""Requests from the internet at once towards one fronted box: more would only wait for its line, in our memory."""
TIMEOUT = 300.0
_PASSED_ON = ("authorization", "content-type", "accept")


class GatewayFront:
    """An ASGI application around another.

    `ways_to(server name)` are the ways by which a fronted box's requests go on, the best first. `key(server name, key id)` finds public
    keys: what strangers send is verified here, so that a forged request costs the line nothing.
    """

    def __init__(
        self, app: App, server_name: str, routes: GatewayRoutes, ways_to: Callable[[str], Sequence[Exchange]], key: KeyLookup
    ) -> None:
        self._app = app
        self._key = key
        self._server_name = server_name
        self._routes = routes
        self._ways_to = ways_to
        self._under_way: Counter[str] = Counter()

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
        if peer is None and self._under_way[authority] >= MAX_UNDER_WAY:
            await _answer(send, _error(LimitExceeded(10_000)))
            return
        self._under_way[authority] += peer is None
        try:
            response = await self._carry(scope, receive, authority, peer, fronted=fronted)
        finally:
            self._under_way[authority] -= peer is None
            self._under_way = +self._under_way
        await _answer(send, response)

    async def _carry(self, scope: Scope, receive: Receive, authority: str, peer: str | None, *, fronted: bool) -> Response:
        path = _raw_path(scope)
        if not path.startswith(CARRIED) or {".", ".."} & set(unquote(path).split("/")):
            return _error(Forbidden("A gateway carries server-to-server requests only."))
        if not fronted and (peer is None or not self._routes.may_use(peer)):
            return _error(Forbidden("This box is not your gateway."))
        is_signed = _is_signed(scope)
        if not is_signed and not path.startswith(UNSIGNED):
            return _error(Unauthorized("The request carries no X-Matrix authorisation."))
        body = await _body(receive, MAX_BODY if is_signed else MAX_UNSIGNED_BODY)
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
        if peer is None and is_signed and not await self._is_genuine(request):
            return _error(Unauthorized("The request's signature could not be verified."))
        return await (self._inward(request) if fronted else self._outwards(request, peer))

    async def _is_genuine(self, request: Request) -> bool:
        """Whether the author that the X-Matrix header names has signed this request."""
        try:
            claim = signatures.parse_authorization(request.header("authorization") or "")
            key = await self._key(claim.origin, claim.key_id) if server_names.is_valid(claim.origin) else None
            content = canonical_json.decode_exact(request.body) if request.body else None
            if key is not None:
                signatures.verify_request(claim, request.method, request.target, request.authority, key, content)
        except (signatures.SignatureError, canonical_json.CanonicalJSONError):
            return False
        return key is not None

    async def _inward(self, request: Request) -> Response:
        exchange = self._routes.exchange_to(request.authority)
        is_keys = request.method == "GET" and request.target.split("?")[0].rstrip("/") == KEY_PATH
        known = self._routes.key_response(request.authority) if is_keys else None
        cached = None if known is None else Response(200, (("content-type", "application/json"),), known)
        is_slow = exchange is None or exchange.profile.is_thin
        if cached is not None and is_slow and self._routes.keys_are_fresh(request.authority):
            return cached
        if exchange is None:
            return cached or _error(Unknown(f"{request.authority} is away; its gateway cannot reach it now.", status=504))
        response = await self._through([exchange], request)
        if is_keys and response.status == 200:
            await self._routes.remember_key_response(request.authority, response.body)
        return cached if cached is not None and response.status == 504 else response

    async def _outwards(self, request: Request, peer: str | None) -> Response:
        ways = [way for way in self._ways_to(request.authority) if way.profile.peer is None or way.profile.peer != peer]
        if not ways:
            return _error(Unknown(f"This gateway has no way to {request.authority} now.", status=504))
        return await self._through(ways, request)

    async def _through(self, ways: Sequence[Exchange], request: Request) -> Response:
        """By the first way that takes it: the next one is tried only where nothing was delivered."""
        failure: ExchangeError = Unreachable("there is no way")
        for way in ways:
            try:
                response = await way.exchange(request)
            except (Unreachable, LineTooLarge) as error:
                failure = error
                continue
            except ExchangeError as error:
                failure = error
                break
            kept = tuple((name, value) for name, value in response.headers if name.lower() in ("content-type", "retry-after"))
            return replace(response, headers=kept)
        log.info("could not carry %s %s to %s: %s", request.method, request.target, request.authority, failure)
        if isinstance(failure, LineTooLarge):
            return _error(TooLarge(f"The request is larger than the line carries: {failure}."))
        return _error(Unknown(f"{request.authority} did not answer: {failure}.", status=504))


def _authority(scope: Scope) -> str:
    """The server name that the request is for: the Host header, without a port that is only the listener's."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"), "").lower()
    parsed = server_names.parse(host)
    if parsed is None:
        return ""
    return host if parsed.port is None or parsed.port not in (443, 8448) else host.rsplit(":", 1)[0]


def _is_signed(scope: Scope) -> bool:
    """Whether it says who its author is; that it is true is for the far end to check."""
    header = next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"authorization"), "")
    try:
        signatures.parse_authorization(header)
    except signatures.SignatureError:
        return False
    return True


def _link_peer(scope: Scope) -> str | None:
    profile: LinkProfile | None = (scope.get("extensions") or {}).get("link")
    return None if profile is None else profile.peer


def _raw_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    return scope["path"] if raw is None else raw.decode("ascii").split("?")[0]


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None if it is larger than `limit` (bytes)."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
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
