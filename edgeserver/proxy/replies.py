"""Answers that the proxy gives itself, and requests and answers stripped of what only an HTTP connection needs.

Spec: client-server API, "Standard error response" and "Web Browser Clients" (CORS: the box spares these headers on thin
lines, browsers want them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from transports.exchange import Headers, Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.matrix.errors import MatrixError

CORS: Final = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, POST, PUT, DELETE, OPTIONS"),
    ("access-control-allow-headers", "X-Requested-With, Content-Type, Authorization"),
    ("access-control-max-age", "86400"),
)
_CARRIED: Final = frozenset(("authorization", "content-type"))
_OF_THE_CONNECTION: Final = frozenset(
    ("connection", "content-length", "date", "keep-alive", "server", "te", "trailer", "transfer-encoding", "upgrade")
)


def json_response(content: Any, status: int = 200) -> Response:
    return Response(status, (("content-type", "application/json"),), orjson.dumps(content))


def kept_response(body: bytes) -> Response:
    """JSON that is known here."""
    return Response(200, (("content-type", "application/json"),), body)


def error_response(error: MatrixError) -> Response:
    return json_response(error.as_json(), error.status)


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body; None if it is anything else."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def request_headers(raw: Iterable[tuple[bytes, bytes]], *, has_body: bool) -> Headers:
    """The headers worth carrying."""
    named = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw)
    return tuple((name, value) for name, value in named if name in _CARRIED and (has_body or name != "content-type"))


def response_headers(response: Response, *, cors: bool = True) -> list[tuple[bytes, bytes]]:
    """What the HTTP client gets: the box's headers and, but for the proxy's own page, CORS."""
    kept = [
        (name, value)
        for name, value in response.headers
        if name.lower() not in _OF_THE_CONNECTION and not name.lower().startswith("access-control-")
    ]
    kept += [("content-length", str(len(response.body))), *(CORS if cors else ())]
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in kept]
