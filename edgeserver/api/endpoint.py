"""One endpoint: from an ASGI scope to a handler's `Call`, and from what it returns or raises to a response.

A handler is `async (call: Call) -> dict | Response`. It raises `MatrixError` for whatever the client is to be told;
anything else becomes M_UNKNOWN and a traceback in the log. Before it runs, the requester has been authenticated and
the rate limit checked, by the `Gate` that `application.Application` puts into the scope.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import trio
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response

from edgeserver.api.guests import may_ask
from edgeserver.api.responses import JsonResponse, response_to
from edgeserver.matrix import canonical_json, errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, MutableMapping

    from edgeserver.users.requester import Requester
    from transports.exchange import LinkProfile

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

MAX_BODY = 1024 * 1024
"""Bytes of a JSON body that an endpoint reads unless it says otherwise."""
DISCARDED = 64 * 1024 * 1024
DISCARD_SECONDS = 10.0
_UNREAD: Final = object()


@dataclass(frozen=True, slots=True)
class Route:
    """One path and the methods that it answers. In `path`, `{roomId}` is one segment, `{rest:path}` at the end all that follows."""

    path: str
    methods: tuple[str, ...]
    app: Callable[[Scope, Receive, Send], Awaitable[None]]


class Auth(Enum):
    """Whose request an endpoint takes."""

    NONE = "none"
    OPTIONAL = "optional"
    USER = "user"


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Call:
    """One request, as a handler sees it.

    `path` holds the path's parameters, percent-decoded; `query` the query's (repeated keys: `query.getlist`); `link`
    the profile of the wire if it has one to tell. `requester` raises where the endpoint takes no user; `origin` is the
    server that a federation guard has authenticated.
    """

    __slots__ = (
        "_body",
        "_decoded",
        "_max_body",
        "_receive",
        "_requester",
        "_unread",
        "behind_proxy",
        "headers",
        "origin",
        "path",
        "query",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive, max_body: int = MAX_BODY) -> None:
        self.scope = scope
        self._receive = receive
        self._max_body = max_body
        self._body: bytes | None = None
        self._decoded: Any = _UNREAD
        self._unread = True
        self._requester: Requester | None = None
        self.behind_proxy = False
        self.origin: str | None = None
        self.headers = Headers(raw=scope["headers"])
        self.query = QueryParams(scope.get("query_string", b""))
        self.path: Mapping[str, str] = scope.get("path_params", {})

    @property
    def method(self) -> str:
        return cast("str", self.scope["method"])

    @property
    def requester(self) -> Requester:
        """Who asks. Raises M_MISSING_TOKEN when nobody has been authenticated."""
        if self._requester is None:
            raise errors.MissingToken
        return self._requester

    @property
    def requester_if_any(self) -> Requester | None:
        return self._requester

    @property
    def user_id(self) -> str:
        return self.requester.user_id

    @property
    def link(self) -> LinkProfile | None:
        """The profile of the wire that the request came by."""
        return cast("LinkProfile | None", (self.scope.get("extensions") or {}).get("link"))

    @property
    def address(self) -> str:
        """Whom a rate limit counts when there is no user: the link's peer, else the IP address."""
        link = self.link
        if link is not None and link.peer is not None:
            return link.peer
        if self.behind_proxy and (forwarded := self.headers.get("x-forwarded-for")):
            return forwarded.rpartition(",")[2].strip()[:64]
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    async def body(self) -> bytes:
        """The whole body. Raises M_TOO_LARGE beyond the endpoint's bound."""
        if self._body is None:
            self._body = b"".join([chunk async for chunk in self.chunks()])
        return self._body

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, once; for uploads. Raises M_TOO_LARGE beyond the endpoint's bound."""
        announced = self.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._max_body:
            raise errors.TooLarge
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = cast("bytes", message.get("body", b""))
            more = self._unread = message.get("more_body", False)
            size += len(chunk)
            if size > self._max_body:
                raise errors.TooLarge
            if chunk:
                yield chunk

    async def discard(self) -> None:
        """Takes in what is left of a body that is refused, within limits: a client that is cut off while it sends never sees
        the answer.
        """
        left = DISCARDED
        with trio.move_on_after(DISCARD_SECONDS):
            while self._unread and left > 0:
                message = await self._receive()
                self._unread = message["type"] == "http.request" and message.get("more_body", False)
                left -= len(message.get("body", b""))

    async def json(self, *, optional: bool = False) -> dict[str, Any]:
        """The body as a JSON object; with `optional`, no body at all is `{}`.

        Raises M_NOT_JSON if it is not JSON in UTF-8, M_BAD_JSON if it is something else than an object or nested too
        deep.
        """
        body = await self.body()
        if optional and not body.strip():
            return {}
        value = await self.decoded()
        if type(value) is not dict:
            raise errors.BadJson("The body must be a JSON object.")
        return value

    async def decoded(self) -> Any:
        """The body as any JSON value, read once: who authenticates a request may have looked at it before its handler does.

        Raises M_NOT_JSON.
        """
        if self._decoded is _UNREAD:
            try:
                self._decoded = canonical_json.decode_exact(await self.body())
            except canonical_json.CanonicalJSONError as error:
                raise errors.NotJson from error
        return self._decoded

    async def gone(self) -> None:
        """Returns when the client has gone away. The body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Call], Awaitable[Mapping[str, Any] | Response]]
Guard = Callable[[Call], Awaitable[None]]


class Limiter(Protocol):
    """What counts requests; see `ratelimit.RateLimiter`."""

    def check(self, category: str, key: str) -> None:
        """Raises M_LIMIT_EXCEEDED."""
        ...


class Authenticator(Protocol):
    """What tells whose request it is; see `authentication.AccessTokens`."""

    async def requester(self, call: Call) -> Requester | None:
        """None if the request carries no token; raises M_UNKNOWN_TOKEN if it carries a wrong one."""
        ...


@dataclass(frozen=True, slots=True)
class Gate:
    """What every endpoint of an application checks before its handler runs.

    `behind_proxy`: a reverse proxy of ours stands in front and appends the client's address to X-Forwarded-For.
    """

    authenticator: Authenticator
    limiter: Limiter | None = None
    behind_proxy: bool = False


class _Endpoint:
    """The ASGI application of one endpoint (a class instance, so that Starlette's `Route` takes it as ASGI)."""

    def __init__(
        self, handler: Handler, auth: Auth | Guard, rate: str | None, max_body: int, long_poll: bool, *, guests: bool
    ) -> None:
        self._handler = handler
        self._guests = guests
        self._auth = auth
        self._rate = rate
        self._max_body = max_body
        self._long_poll = long_poll
        self.__name__ = getattr(handler, "__name__", "endpoint")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, self._max_body)
        try:
            await self._admit(call)
            answer = await (self._poll(call) if self._long_poll else self._handler(call))
            response = answer if isinstance(answer, Response) else JsonResponse(answer)
            del answer  # a client may take its time to read
        except Disconnected:
            return
        except Exception as error:
            response = response_to(error, f"{scope['method']} {self.__name__}")
            if response.status_code == 413:
                await call.discard()
        await response(scope, receive, send)

    async def _admit(self, call: Call) -> None:
        gate: Gate | None = call.scope.get("gate")
        if gate is not None:
            call.behind_proxy = gate.behind_proxy
        if not isinstance(self._auth, Auth):
            await self._auth(call)
        elif self._auth is not Auth.NONE:
            requester = None if gate is None else await gate.authenticator.requester(call)
            if requester is not None and requester.is_guest and not self._guests:
                if self._auth is Auth.USER:
                    raise errors.GuestForbidden
                requester = None  # what anybody may ask a guest may ask too, as anybody
            elif requester is None and self._auth is Auth.USER:
                raise errors.MissingToken
            call._requester = requester
        if self._rate is not None and gate is not None and gate.limiter is not None:
            who = call.requester_if_any
            if who is None or who.appservice_id is None or who.is_rate_limited:
                gate.limiter.check(self._rate, call.address if who is None else who.user_id)

    async def _poll(self, call: Call) -> Mapping[str, Any] | Response:
        """Runs the handler until it answers or the client goes away."""
        await call.body()
        answer: Mapping[str, Any] | Response | None = None
        async with trio.open_nursery() as nursery:

            async def leave_with_the_client() -> None:
                await call.gone()
                nursery.cancel_scope.cancel()

            nursery.start_soon(leave_with_the_client)
            answer = await self._handler(call)
            nursery.cancel_scope.cancel()
        if answer is None:
            raise Disconnected
        return answer


def endpoint(
    method: str,
    path: str,
    handler: Handler,
    *,
    auth: Auth | Guard = Auth.USER,
    rate: str | None = None,
    max_body: int = MAX_BODY,
    long_poll: bool = False,
) -> list[Route]:
    """The routes of one operation of the spec. A path under /_matrix/client/v3/ (or /_matrix/media/v3/) is served
    under /r0/ too.

    `path` is as in `Route`. `auth` may be a
    guard of its own, which authenticates or raises (federation, application services). `rate` names a category of
    `ratelimit`. `max_body` is in bytes. `long_poll` cancels the handler when the client goes away. Whether guests are let in
    says `guests`.
    """
    app = _Endpoint(handler, auth, rate, max_body, long_poll, guests=may_ask(method, path))
    paths = [path]
    if path.startswith(("/_matrix/client/v3/", "/_matrix/media/v3/")):
        paths.append(path.replace("/v3/", "/r0/", 1))
    methods = (method, "HEAD") if method == "GET" else (method,)
    return [Route(each, methods, app) for each in paths]
