"""The OpenAPI of the client-server API, as `tests/data/bundle_openapi.py` makes it, by operation: `GET /_matrix/client/v3/sync`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "data" / "client_server_openapi.json"
DOCUMENT: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
}
MAY_BE_EMPTY = "{stateKey}"

_BY_LENGTH: dict[tuple[str, int], list[tuple[list[str], str]]] = {}
for _name in sorted(OPERATIONS, key=lambda name: name.count("{")):
    _method, _path = _name.split(" ", 1)
    _BY_LENGTH.setdefault((_method, _path.count("/")), []).append((_path.split("/"), _name))


def operation_of(method: str, path: str) -> str | None:
    """The operation that a path (without its query) belongs to: that with the fewest parameters. `/r0/` counts as `/v3/`."""
    segments = path.replace("/r0/", "/v3/", 1).split("/")
    if len(segments) == 8 and segments[6] == "state":  # …/state/{eventType} is the same with an empty state key
        segments.append("")
    for template, name in _BY_LENGTH.get(("GET" if method == "HEAD" else method, len(segments) - 1), ()):
        if all(_is(part, segment) for part, segment in zip(template, segments, strict=True)):
            return name
    return None


def _is(part: str, segment: str) -> bool:
    return part == segment or (part.startswith("{") and (segment != "" or part == MAY_BE_EMPTY))


def json_schema(carrier: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of the JSON that a response or a request body carries."""
    schema: dict[str, Any] | None = carrier.get("content", {}).get("application/json", {}).get("schema")
    return schema


def served(routes: Iterable[Any]) -> set[str]:
    """The operations that have a route (see `endpoint.Route`)."""
    plain = {(method, _unnamed(route.path)) for route in routes for method in route.methods}
    return {name for name in OPERATIONS if (name.split(" ", 1)[0], _unnamed(name.split(" ", 1)[1])) in plain}


def _unnamed(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
