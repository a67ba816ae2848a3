"""Why a transaction was not taken, and what follows. Pure.

::

    UNREACHABLE  no answer                                  2 s, doubling to an hour
    TROUBLE      5xx, 408, or 200 with something else than an answer      the same
    BUSY         429                                        the same, and not before the time that the peer asks for
    SHUT_OUT     401, 403, 404 …: it does not know our key, does not talk with us, or is no homeserver
                                                            a minute, doubling to an hour
    REFUSED      400, 413 …, or it has no form that can be signed: this transaction will never be taken.
                                                            The batch is divided down to what is wrong with it

A peer's answer for all four of the first is about us or about itself, not about the batch, which is kept whole.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from edgeserver.federation.errors import PeerError, PeerUnreachable
from edgeserver.matrix.canonical_json import CanonicalJSONError

if TYPE_CHECKING:
    from edgeserver.federation.errors import FederationError

FIRST_BACKOFF_MS: Final = 2_000
SHUT_OUT_DOUBLINGS: Final = 5
MAX_BACKOFF_MS: Final = 3_600_000
_SHUT_OUT: Final = frozenset((401, 403, 404, 405, 407, 410, 421, 451))


class Cause(Enum):
    UNREACHABLE = "unreachable"
    TROUBLE = "trouble"
    BUSY = "busy"
    SHUT_OUT = "shut out"
    REFUSED = "refused"


def cause_of(error: FederationError) -> Cause:
    """What kind of failure it was."""
    if isinstance(error, PeerUnreachable):
        return Cause.REFUSED if isinstance(error.__cause__, CanonicalJSONError) else Cause.UNREACHABLE
    if not isinstance(error, PeerError):
        return Cause.TROUBLE
    if error.status == 429:
        return Cause.BUSY
    if error.status in _SHUT_OUT:
        return Cause.SHUT_OUT
    return Cause.REFUSED if 400 <= error.status < 500 and not error.is_passing else Cause.TROUBLE


def pause_after(error: FederationError, attempts: int, chance: float) -> int:
    """Milliseconds until the next try, after `attempts` failures before this one; `chance` in [0, 1) takes off a quarter at most."""
    doublings = attempts + (SHUT_OUT_DOUBLINGS if cause_of(error) is Cause.SHUT_OUT else 0)
    pause = int(min(FIRST_BACKOFF_MS << min(doublings, 16), MAX_BACKOFF_MS) * (0.75 + chance / 4))
    asked = error.retry_after_ms if isinstance(error, PeerError) else None
    return min(max(pause, asked or 0), MAX_BACKOFF_MS)
