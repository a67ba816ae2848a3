"""The one ASGI application: finds the endpoint, puts the gate into its scope, and speaks CORS on every path.

Spec: client-server API, "Web Browser Clients" (CORS; what uploads in parts need beside it) and "Common error codes"
(M_UNRECOGNIZED: 404 for an unknown path, 405 for a known path with another method).

Paths are matched segment by segment on the bytes as they were sent, and each parameter is percent-decoded by itself: a
room alias or a state key may hold an encoded slash. The work grows with the length of the path and not with the number
of routes.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from edgeserver.api.responses import error_response
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.responses import Response

    from edgeserver.api.endpoint import Gate, Message, Receive, Route, Scope, Send

_PARAMETER = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(:path)?\}")

WEBSOCKET = "WEBSOCKET"
"""Stands for the method in routes of WebSockets."""

CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE, OPTIONS"),
    (
        b"access-control-allow-headers",
        b"X-Requested-With, Content-Type, Authorization, Upload-Complete, Upload-Length, Upload-Offset",
    ),
]


class _Node:
    """One segment of the tree of paths. `ends` maps a method to its route and the names of its parameters."""

    __slots__ = ("ends", "literal", "parameter", "rest")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.rest: _Node | None = None
        self.ends: dict[str, tuple[Route, tuple[str, ...]]] = {}

    def add(self, route: Route) -> None:
        """Raises ValueError if the path and method are taken."""
        node, names = self, []
        for segment in route.path.split("/")[1:]:
            parameter = _PARAMETER.fullmatch(segment)
            if parameter is None:
                node = node.literal.setdefault(segment, _Node())
                continue
            names.append(parameter[1])
            if parameter[2] == ":path":
                node.rest = node.rest or _Node()
                node = node.rest
            else:
                node.parameter = node.parameter or _Node()
                node = node.parameter
        for method in route.methods:
            if method in node.ends:
                raise ValueError(f"{method} {route.path} is there twice")
            node.ends[method] = (route, tuple(names))

    def find(self, segments: list[str], start: int, values: tuple[str, ...], method: str) -> tuple[_Node, tuple[str, ...]] | None:
        """The node of a path and the raw values of its parameters; literal segments go before parameters, and a node
        that knows the method before one that does not.
        """
        if start == len(segments):
            return (self, values) if self.ends else None
        segment, other = segments[start], None
        child = self.literal.get(segment)
        if child is not None:
            other = child.find(segments, start + 1, values, method)
            if other is not None and method in other[0].ends:
                return other
        if self.parameter is not None and segment:
            found = self.parameter.find(segments, start + 1, (*values, segment), method)
            if found is not None and (other is None or method in found[0].ends):
                return found
        if other is None and self.rest is not None:
            return self.rest, (*values, "/".join(segments[start:]))
        return other


class Application:
    """ASGI over the given routes (made by `endpoint.endpoint`). Raises ValueError if two claim the same path and
    method.
    """

    def __init__(self, routes: Iterable[Route], gate: Gate) -> None:
        self._gate = gate
        self._root = _Node()
        self.routes = tuple(routes)
        for route in self.routes:
            self._root.add(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, _with_cors(scope, send))
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await self._websocket(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Routes whose method is `WEBSOCKET`; what is none of them is not let in (ASGI: a close before the accept is a 403)."""
        scope["method"] = WEBSOCKET
        found: tuple[Route, dict[str, str]] | Response | None = None
        with suppress(UnicodeDecodeError):
            found = self._route(scope)
        if isinstance(found, tuple):
            route, scope["path_params"] = found
            scope["gate"] = self._gate
            await route.app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            found = self._route(scope)
        except UnicodeDecodeError:
            found = error_response(errors.InvalidParam("The path is not UTF-8."))
        if isinstance(found, tuple):
            route, parameters = found
            scope["path_params"] = parameters
            scope["gate"] = self._gate
            await route.app(scope, receive, send)
        else:
            await found(scope, receive, send)

    def _route(self, scope: Scope) -> tuple[Route, dict[str, str]] | Response:
        raw: bytes | None = scope.get("raw_path")
        segments = (scope["path"] if raw is None else raw.decode("ascii")).split("/")[1:]
        found = self._root.find(segments, 0, (), scope["method"])
        if found is None:
            return error_response(errors.Unrecognized())
        node, values = found
        end = node.ends.get(scope["method"])
        if end is None:
            return error_response(errors.Unrecognized(status=405), {"Allow": ", ".join(sorted(node.ends))})
        route, names = end
        if raw is not None:
            values = tuple(unquote(value, errors="strict") for value in values)
        return route, dict(zip(names, values, strict=True))


def _with_cors(scope: Scope, send: Send) -> Send:
    """Adds the CORS headers, but not on a thin line: no browser is at its other end, and its bytes are dear."""
    link: Any = (scope.get("extensions") or {}).get("link")
    if link is not None and link.is_thin:
        return send

    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *CORS]
        await send(message)

    return send_with_cors


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
