"""The other end's requests become calls of an ASGI application (ASGI 3.0, HTTP scope 2.4).

The scope is that of any HTTP request; `extensions["link"]` holds the `LinkProfile`, so that an endpoint may fit its
answer to the line, and `client` is None unless the wire knows an address. The application's answer is collected whole: a
link carries whole messages.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol
from urllib.parse import unquote

import trio

from transports.exchange import LinkProfile, Request, Response, TooLarge

log = logging.getLogger(__name__)

MAX_RESPONSE = 8 * 1024 * 1024
"""Bytes of a response's body that are collected."""

Scope = MutableMapping[str, Any]
AsgiReceive = Callable[[], Awaitable[MutableMapping[str, Any]]]
AsgiSend = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, AsgiReceive, AsgiSend], Awaitable[None]]

_INTERNAL_ERROR = Response(
    500,
    (("content-type", "application/json"),),
    json.dumps({"errcode": "M_UNKNOWN", "error": "Internal server error"}).encode(),
)


class RequestSource(Protocol):
    """Where requests come from: `transports.client.Multiplexer`."""

    @property
    def profile(self) -> LinkProfile: ...

    async def run(
        self,
        handler: AsgiHandler,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None: ...


async def serve(
    source: RequestSource,
    app: AsgiApp,
    *,
    max_response: int = MAX_RESPONSE,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answers the other end's requests with `app` until the link is down."""
    handler = AsgiHandler(app, source.profile, max_response=max_response)
    await source.run(handler, task_status=task_status)


class AsgiHandler:
    """Carries out one request at a time of any number at once."""

    def __init__(
        self, app: AsgiApp, profile: LinkProfile, *, max_response: int = MAX_RESPONSE, client: tuple[str, int] | None = None
    ) -> None:
        """`client` is the address of the other end, where it has one."""
        self._app = app
        self._profile = profile
        self._max_response = max_response
        self._client = client

    async def __call__(self, request: Request, gone: trio.Event) -> Response:
        """The application's answer; 500 if it fails. `gone` becomes `http.disconnect`. Raises TooLarge on an answer
        beyond the bound."""
        return await self._carry_out(request, _scope(request, self._profile, self._client), _Call(request.body, gone, self._max_response))

    async def _carry_out(self, request: Request, scope: Scope, call: _Call) -> Response:
        try:
            await self._app(scope, call.receive, call.send)
        except Exception as error:
            if call.room < 0:
                raise TooLarge("the answer is larger than this link carries") from error
            if not call.gone.is_set():
                log.exception("%s %s failed", request.method, request.target.partition("?")[0])
            return _INTERNAL_ERROR
        if call.status is None or not call.complete.is_set():
            if not call.gone.is_set():
                log.error("%s %s was not answered", request.method, request.target.partition("?")[0])
            return _INTERNAL_ERROR
        return Response(call.status, call.headers, b"".join(call.body))


def _scope(request: Request, profile: LinkProfile, client: tuple[str, int] | None) -> Scope:
    path, _, query = request.target.partition("?")
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]
    if request.authority:
        headers.insert(0, (b"host", request.authority.encode()))
    extensions: dict[str, object] = {"link": profile}
    headers.append((b"content-length", str(len(request.body)).encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": client,
        "server": None,
        "extensions": extensions,
    }


class _Call:
    """The ASGI side of one request."""

    def __init__(self, body: bytes, gone: trio.Event, max_response: int) -> None:
        self._unread: bytes | None = body
        self.gone = gone
        self.room = max_response
        self.status: int | None = None
        self.headers: tuple[tuple[str, str], ...] = ()
        self.body: list[bytes] = []
        self.complete = trio.Event()

    async def receive(self) -> MutableMapping[str, Any]:
        if self._unread is not None:
            body, self._unread = self._unread, None
            return {"type": "http.request", "body": body, "more_body": False}
        # No checkpoint once it is known: applications ask "is anybody there?" from within a cancelled scope.
        if not (self.gone.is_set() or self.complete.is_set()):
            async with trio.open_nursery() as nursery:
                for event in (self.gone, self.complete):
                    nursery.start_soon(_cancel_after, event, nursery.cancel_scope)
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self.gone.is_set():
            raise OSError("nobody waits for this answer")
        kind = message["type"]
        if kind == "http.response.start" and self.status is None:
            self.status = message["status"]
            self.headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in message.get("headers", ()))
        elif kind == "http.response.body" and self.status is not None and not self.complete.is_set():
            self._collect(message.get("body", b""))
            if not message.get("more_body", False):
                self.complete.set()
        else:
            raise RuntimeError(f"{kind} out of turn")

    def _collect(self, chunk: bytes) -> None:
        self.room -= len(chunk)
        if self.room < 0:
            raise TooLarge("the answer is larger than this link carries")
        if chunk:
            self.body.append(bytes(chunk))


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
