"""What can go wrong between this server and a peer, by whose fault.

::

    FederationError
    ├── PeerUnreachable   no answer: no way, a broken line, a time-out; `may_be_done`: it may have been carried out
    ├── PeerError         the peer answered with an error: `status`, `errcode`, `error`, `retry_after_ms`
    └── BadAnswer         the peer answered 200, but not what the spec says
"""

from __future__ import annotations

from edgeserver.matrix.errors import MatrixError


class FederationError(Exception):
    """Something between this server and `server_name`."""

    def __init__(self, server_name: str, why: str) -> None:
        super().__init__(f"{server_name}: {why}")
        self.server_name = server_name
        self.why = why


class PeerUnreachable(FederationError):
    """No answer."""

    def __init__(self, server_name: str, why: str, *, may_be_done: bool = False) -> None:
        super().__init__(server_name, why)
        self.may_be_done = may_be_done


class PeerError(FederationError):
    """An error answer. `errcode` is M_UNKNOWN where the body tells none."""

    def __init__(self, server_name: str, status: int, errcode: str, error: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(server_name, f"{status} {errcode}: {error}")
        self.status = status
        self.errcode = errcode
        self.error = error
        self.retry_after_ms = retry_after_ms

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later: the peer's own trouble, or too many requests."""
        return self.status >= 500 or self.status in (408, 429)


class BadAnswer(FederationError):
    """A success that is not what the spec says."""


def as_matrix_error(failure: FederationError) -> MatrixError:
    """What a client is told when its request needed that peer: the peer's 4xx passed on, anything else as 502 or 504.

    M_MISSING_PARAM and M_INVALID_PARAM between servers are our fault, not the client's (spec: make_join, 400).
    """
    if isinstance(failure, PeerError) and 400 <= failure.status < 500 and failure.status != 401:
        if failure.errcode not in ("M_MISSING_PARAM", "M_INVALID_PARAM", "M_UNRECOGNIZED"):
            return MatrixError(failure.status, failure.errcode, failure.error)
        return MatrixError(502, "M_UNKNOWN", f"{failure.server_name} did not accept our request.")
    if isinstance(failure, PeerUnreachable):
        return MatrixError(504, "M_UNKNOWN", f"{failure.server_name} cannot be reached now.")
    return MatrixError(502, "M_UNKNOWN", f"{failure.server_name} failed to answer.")
