"""Who may use the admin API, and how its queries are read.

Synapse, "Admin API": a server administrator's access token is what lets in; others get 403 M_FORBIDDEN, who brings none 401
M_MISSING_TOKEN. A guest is nobody's administrator, nor is an application service or another server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors, identifiers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Handler, Route

BASE: Final = "/_synapse/admin"
MAX_PAGE: Final = 1000
LARGEST: Final = 2**53


def admin_endpoint(method: str, path: str, handler: Handler) -> list[Route]:
    """The routes of one operation; `path` goes on from /_synapse/admin. The handler runs for administrators only."""

    async def admitted(call: Call) -> Mapping[str, Any] | Response:
        if not call.requester.is_admin:
            raise errors.Forbidden("You are not a server admin")
        return await handler(call)

    admitted.__name__ = f"admin {getattr(handler, '__name__', 'endpoint')}"
    return endpoint(method, BASE + path, admitted)


# Parameters of the query


def number(call: Call, name: str, default: int) -> int:
    """Raises M_INVALID_PARAM for what is no number from 0 to 2^53."""
    given = call.query.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdecimal() and len(given) <= 16):
        raise errors.InvalidParam(f"Query parameter {name} must be a non-negative integer")
    return min(int(given), LARGEST)


def number_needed(call: Call, name: str) -> int:
    """Raises M_MISSING_PARAM, M_INVALID_PARAM."""
    if call.query.get(name) is None:
        raise errors.MissingParam(f"Missing integer query parameter {name}")
    return number(call, name, 0)


def page(call: Call) -> tuple[int, int]:
    """`from` (0 unless given) and `limit` (100 unless given, and never more than 1,000). Raises M_INVALID_PARAM."""
    return number(call, "from", 0), min(number(call, "limit", 100), MAX_PAGE)


def flag(call: Call, name: str, default: bool | None = None) -> bool | None:
    """`true` or `false`. Raises M_INVALID_PARAM for anything else."""
    given = call.query.get(name)
    if given is None:
        return default
    if given not in ("true", "false"):
        raise errors.InvalidParam(f"Boolean query parameter {name} must be one of ['true', 'false']")
    return given == "true"


def one_of(call: Call, name: str, allowed: Sequence[str], default: str) -> str:
    """Raises M_INVALID_PARAM."""
    given = call.query.get(name, default)
    if given not in allowed:
        raise errors.InvalidParam(f"Query parameter {name} must be one of {list(allowed)}")
    return given


def backwards(call: Call, default: str = "f") -> bool:
    """`dir`: f or b. Raises M_INVALID_PARAM."""
    return one_of(call, "dir", ("f", "b"), default) == "b"


# Users of the path


def user_id(call: Call, name: str = "user_id") -> str:
    """A user id of the path. Raises M_INVALID_PARAM."""
    found = call.path[name]
    if not identifiers.is_user_id(found):
        raise errors.InvalidParam(f"{found[:80]} is not a user id")
    return found


def local_user(call: Call, server_name: str, refusal: str = "Can only look up local users") -> str:
    """The user of the path, who must be of this server. Raises 400 M_UNKNOWN, M_INVALID_PARAM."""
    found = user_id(call)
    if identifiers.domain_of(found) != server_name:
        raise errors.Unknown(refusal, status=400)
    return found
