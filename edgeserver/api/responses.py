"""Answers: JSON, and errors as the spec's standard error response.

Spec: client-server API, "Standard error response": `{"errcode": …, "error": …}` with a status that the error states
itself.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from edgeserver.matrix import canonical_json
from edgeserver.matrix.errors import LimitExceeded, MatrixError, Unknown
from edgeserver.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

_DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS))


class JsonResponse(Response):
    """A JSON body (keys in the order given)."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        try:
            return orjson.dumps(content)
        except TypeError:  # an event of an old room may hold an integer of more than 64 bits
            return canonical_json.encode_loose(content)


def error_response(error: MatrixError, headers: Mapping[str, str] | None = None) -> Response:
    """The standard error response; a rate limit also says when to come back (RFC 9110, Retry-After, in seconds)."""
    response = JsonResponse(error.as_json(), status_code=error.status, headers=headers)
    if isinstance(error, LimitExceeded):
        response.headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return response


def response_to(error: Exception, doing: str) -> Response:
    """What a client is told of any exception: its own words if it is a `MatrixError` (alone in an exception group,
    too), else M_UNKNOWN, with the traceback in the log under the name `doing`.
    """
    inner: BaseException = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    if isinstance(inner, MatrixError):
        return error_response(inner)
    if isinstance(inner, StoreError) or (isinstance(inner, OSError) and inner.errno in _DISK_ERRORS):
        log.error("%s failed: %s", doing, inner)
        return error_response(Unknown("The server could not store or read it: its disk is full or failing."))
    log.error("%s failed", doing, exc_info=error)
    return error_response(Unknown("Internal server error."))
