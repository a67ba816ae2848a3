"""Who goes next on a thin line, and how much of the air we may use.

`Schedule` is start-time fair queueing over the five priorities with steep weights: a waiting interactive message
takes nearly all of the line from a picture, yet the picture always gets its 1 in 64 and arrives. Within a priority
messages go in their order.

`DutyCycle` is the regulator's budget (EU868: 1 % or 10 % of each hour): a bucket of seconds on the air. The last
quarter is kept from history and media, so that a message still goes out after a long download.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from transports.exchange import Priority

if TYPE_CHECKING:
    from collections.abc import Collection

WEIGHTS = {
    Priority.INTERACTIVE: 64,
    Priority.MESSAGE: 24,
    Priority.RECEIPT: 8,
    Priority.HISTORY: 2,
    Priority.MEDIA: 1,
}


class Waiting(Protocol):
    """What waits for its turn; `message_id` is None for what has not begun."""

    @property
    def priority(self) -> Priority: ...

    @property
    def message_id(self) -> int | None: ...

    @property
    def wants_to_send(self) -> bool: ...


W = TypeVar("W", bound=Waiting)


class Schedule(Generic[W]):
    """Messages that still have something to send. `bytes_by_priority` counts what was charged."""

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[W]] = {priority: deque() for priority in Priority}
        self._served: dict[Priority, float] = dict.fromkeys(Priority, 0.0)
        self._clock = 0.0
        self.bytes_by_priority: dict[Priority, int] = dict.fromkeys(Priority, 0)

    def add(self, outgoing: W) -> None:
        self._wake(outgoing.priority)
        self._queues[outgoing.priority].append(outgoing)

    def again(self, outgoing: W) -> None:
        """Something of it was lost: it goes before all that wait at its priority."""
        queue = self._queues[outgoing.priority]
        if outgoing not in queue:
            self._wake(outgoing.priority)
            # Older messages first: the one that was begun first is finished first.
            at = next((i for i, other in enumerate(queue) if _order(other) > _order(outgoing)), len(queue))
            queue.insert(at, outgoing)

    def remove(self, outgoing: W) -> None:
        """It was given up; nothing of it may wait in memory behind others."""
        queue = self._queues[outgoing.priority]
        if outgoing in queue:
            queue.remove(outgoing)

    def pick(self, blocked: Collection[Priority] = ()) -> W | None:
        """Whose turn it is, those of `blocked` priorities left aside."""
        waiting = [priority for priority in Priority if priority not in blocked and self._head(priority)]
        if not waiting:
            return None
        best = min(waiting, key=lambda priority: (self._served[priority], priority))
        return self._queues[best][0]

    def next_of(self, priority: Priority) -> W | None:
        """The next message of this very priority."""
        return self._queues[priority][0] if self._head(priority) else None

    def charge(self, priority: Priority, size: int) -> None:
        """That many bytes of this priority were sent."""
        self._clock = max(self._clock, self._served[priority])
        self._served[priority] += size / WEIGHTS[priority]
        self.bytes_by_priority[priority] += size

    def _wake(self, priority: Priority) -> None:
        if not self._queues[priority]:
            self._served[priority] = max(self._served[priority], self._clock)

    def _head(self, priority: Priority) -> bool:
        queue = self._queues[priority]
        while queue and not queue[0].wants_to_send:
            queue.popleft()
        return bool(queue)


def _order(outgoing: Waiting) -> float:
    return float("inf") if outgoing.message_id is None else outgoing.message_id


class DutyCycle:
    """At most `fraction` of the time on the air, averaged over `period` seconds. `used` counts all seconds charged."""

    def __init__(self, fraction: float = 1.0, period: float = 3600.0) -> None:
        self._fraction = fraction
        self._size = fraction * period
        self._level = self._size
        self._at: float | None = None
        self.used = 0.0

    def ready_at(self, now: float, seconds: float, priority: Priority = Priority.INTERACTIVE) -> float:
        """When a transmission of that length may start (`now`, or later)."""
        if self._fraction >= 1.0:
            return now
        self._refill(now)
        reserve = self._size / 4 if priority >= Priority.HISTORY else 0.0
        missing = min(seconds, self._size - reserve) + reserve - self._level
        return now if missing <= 0 else now + missing / self._fraction

    def charge(self, now: float, seconds: float) -> None:
        self._refill(now)
        self._level -= seconds
        self.used += seconds

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._level = min(self._size, self._level + (now - self._at) * self._fraction)
        self._at = now
