"""What time it is, on a box that may not know.

A Raspberry Pi has no clock that survives a power cut, and the system's idea of the time may be decades off or jump when somebody sets it.
So: time runs with the monotonic clock from a starting point; it never starts before the `floor`, the last time that an earlier run is
known to have reached; the system's clock is followed only while it is synchronised (the kernel says so); and a paired peer that knows
better (`learn`) is believed as long as we do not. `trusted` tells whether anybody vouched for it: until then no event is refused because
of a key's validity, and nothing expires for good.

Times are integer milliseconds since the Unix epoch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

NEVER_BEFORE_MS = 1_767_225_600_000
"""2026-01-01: no box is older than its release."""
NEVER_AFTER_MS = 4_102_444_800_000
"""2100-01-01: who says so is mistaken."""
JUMP_MS = 2_000
"""A system clock that moves by more than this against the monotonic one has been set, not slewed."""


@dataclass(frozen=True, slots=True)
class TimeSource:
    """Where time comes from: the system's wall clock (s), a monotonic clock (s), and whether the wall clock is synchronised."""

    wall: Callable[[], float]
    monotonic: Callable[[], float]
    synchronised: Callable[[], bool]


class Clock:
    """The box's time. Within one run `now_ms` runs backwards only where somebody who knows sets it back by more than a minute."""

    def __init__(self, source: TimeSource, floor_ms: int = 0) -> None:
        self._source = source
        self._started = source.monotonic()
        wall_ms = int(source.wall() * 1000)
        floor_ms = max(floor_ms, NEVER_BEFORE_MS) if floor_ms < NEVER_AFTER_MS else NEVER_BEFORE_MS
        self._base_ms = max(wall_ms, floor_ms) if wall_ms < NEVER_AFTER_MS else floor_ms
        self._last_ms = self._base_ms
        self._learnt = False
        if wall_ms < floor_ms:
            log.warning("the system clock is behind what this box has already seen: going on from there until somebody knows better")

    @property
    def trusted(self) -> bool:
        """Whether the kernel's synchronisation or a paired peer vouches for the time."""
        return self._learnt or self._source.synchronised()

    def now_ms(self) -> int:
        elapsed_ms = int((self._source.monotonic() - self._started) * 1000)
        now = self._base_ms + elapsed_ms
        if self._source.synchronised():
            wall_ms = int(self._source.wall() * 1000)
            if abs(wall_ms - now) > JUMP_MS and NEVER_BEFORE_MS <= wall_ms < NEVER_AFTER_MS:
                self._base_ms += wall_ms - now
                log.warning("the clock was set by %.1f s", (wall_ms - now) / 1000)
                now = wall_ms
        # Within a run, order matters more than the hour: a clock set back stands still until time has caught up, for at most a minute.
        if self._last_ms - 60_000 < now < self._last_ms:
            now = self._last_ms
        self._last_ms = now
        return now

    def learn(self, peer: str, peer_ms: int) -> None:
        """A paired peer that trusts its own time tells it. Believed while nothing nearer vouches for ours."""
        if self._source.synchronised() or not NEVER_BEFORE_MS <= peer_ms < NEVER_AFTER_MS:
            return
        difference = peer_ms - self.now_ms()
        if abs(difference) > JUMP_MS or not self._learnt:
            self._base_ms += difference
            self._last_ms = min(self._last_ms, peer_ms)
            log.info("took the time from %s: %+.1f s", peer, difference / 1000)
        self._learnt = True


def system_time() -> TimeSource:
    """The time of this machine. Synchronised is what adjtimex(2) says: its state is not TIME_ERROR and STA_UNSYNC is not set."""
    import time

    return TimeSource(time.time, time.monotonic, _Synchronised(time.monotonic))


class _Synchronised:
    """Asks the kernel, at most once in ten seconds."""

    STA_UNSYNC = 0x0040

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._asked: float | None = None
        self._answer = False

    def __call__(self) -> bool:
        now = self._monotonic()
        if self._asked is None or now - self._asked > 10:
            self._asked = now
            self._answer = self._ask()
        return self._answer

    def _ask(self) -> bool:
        import ctypes

        try:
            libc = ctypes.CDLL(None, use_errno=True)
            buffer = (ctypes.c_long * 64)()  # struct timex: 208 bytes on LP64, less on 32 bits; modes = 0 only reads
            state = libc.adjtimex(buffer)
        except (OSError, AttributeError):
            return False
        status = ctypes.c_int.from_buffer(buffer, 5 * ctypes.sizeof(ctypes.c_long)).value  # after modes and four longs
        return bool(state >= 0 and state != 5 and not status & self.STA_UNSYNC)
