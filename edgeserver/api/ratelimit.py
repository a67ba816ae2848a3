"""Rate limits: a token bucket for each kind of request and whoever makes it. Spec: client-server API, "Rate limiting".

The limits are there to keep one client from starving a small machine, not to police people: ordinary use never meets
them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from edgeserver.matrix.errors import LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUCKETS: Final = 4096


class Rate(NamedTuple):
    """So many requests a second in the long run, and so many at once."""

    per_second: float
    burst: int


OTHER: Final = "other"
RATES: Final[Mapping[str, Rate]] = {
    "login": Rate(0.2, 10),
    "login_account": Rate(0.05, 10),
    "registration": Rate(0.05, 5),
    "message": Rate(10, 100),
    "join": Rate(0.5, 20),
    "invite": Rate(0.5, 20),
    "create_room": Rate(0.1, 10),
    "account": Rate(5, 50),
    "keys": Rate(5, 100),
    "media": Rate(5, 50),
    "search": Rate(1, 10),
    "sync": Rate(20, 100),
    "federation": Rate(50, 200),
    "push_gateway": Rate(20, 200),
    "topics": Rate(5, 60),
    "onbind": Rate(0.1, 10),
    OTHER: Rate(10, 100),
}


class RateLimiter:
    """Counts requests by category and key (a user id or an address). Switched off, it lets everything through.

    It remembers the 4,096 buckets used last: what falls out starts full again.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        *,
        rates: Mapping[str, Rate] = RATES,
        enabled: bool = True,
        buckets: int = BUCKETS,
    ) -> None:
        self._now_ms = now_ms
        self._rates = rates
        self._enabled = enabled
        self._limit = buckets
        self._buckets: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def check(self, category: str, key: str) -> None:
        """Takes one from the bucket. Raises M_LIMIT_EXCEEDED with the time until there is one again."""
        if not self._enabled:
            return
        rate = self._rates.get(category) or self._rates[OTHER]
        now = self._now_ms()
        left, since = self._buckets.get((category, key), (float(rate.burst), now))
        left = min(rate.burst, left + max(0, now - since) * rate.per_second / 1000)
        allowed = left >= 1
        self._buckets[category, key] = (left - 1 if allowed else left, now)
        self._buckets.move_to_end((category, key))
        if len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
        if not allowed:
            raise LimitExceeded(int((1 - left) * 1000 / rate.per_second) + 1)
