"""What the line has carried lately, over restarts of the proxy: bytes in and out for each five minutes of a day.

The file `meter.json` holds `{"slots": {"<five minutes since the epoch>": [in, out]}}`. It is written every ten minutes in which something
passed, and at the end: a power cut costs the count of ten minutes and nothing else, a quiet line costs no write.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import orjson
import trio

from edgeserver.app.blocking import Hop
from edgeserver.app.identity import write_durably

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transports.link.wire import LinkStats

log = logging.getLogger(__name__)

SLOT_SECONDS: Final = 300
HOUR: Final = 3600
DAY: Final = 86400
SAVE_SECONDS: Final = 600.0


class Meter:
    """`stats` are the line's counters, `now` gives seconds since the epoch. `inline`: see `app.blocking`."""

    def __init__(self, path: Path, stats: LinkStats, now: Callable[[], float], *, inline: bool = False) -> None:
        self._path = path
        self._hop = Hop(inline=inline)
        self._stats = stats
        self._now = now
        self._seen = (stats.bytes_in, stats.bytes_out)
        self._slots: dict[int, list[int]] = {}
        self._changed = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Counts until cancelled. A file that cannot be read or written is said in the log and no more."""
        self._slots = self._load(self._slot())
        task_status.started()
        due = trio.current_time() + SAVE_SECONDS
        try:
            while True:
                await trio.sleep(SLOT_SECONDS / 5)
                self._count()
                if self._changed and trio.current_time() >= due:
                    self._changed = False
                    await self._hop(self._save)
                    due = trio.current_time() + SAVE_SECONDS
        finally:
            self._count()
            if self._changed:
                self._save()

    def last(self, seconds: int) -> tuple[int, int]:
        """Bytes in and out of the last so many seconds, to within a slot."""
        self._count()
        first = self._slot() - seconds // SLOT_SECONDS
        found = [counts for slot, counts in self._slots.items() if slot > first]
        return sum(one[0] for one in found), sum(one[1] for one in found)

    def _slot(self) -> int:
        return int(self._now()) // SLOT_SECONDS

    def _count(self) -> None:
        seen = (self._stats.bytes_in, self._stats.bytes_out)
        if seen == self._seen:
            return
        slot = self._slot()
        counts = self._slots.setdefault(slot, [0, 0])
        counts[0] += seen[0] - self._seen[0]
        counts[1] += seen[1] - self._seen[1]
        self._seen, self._changed = seen, True
        for old in [each for each in self._slots if not slot - DAY // SLOT_SECONDS < each <= slot]:
            del self._slots[old]  # of a clock that was wrong, too

    def _load(self, newest: int) -> dict[int, list[int]]:
        try:
            told = orjson.loads(self._path.read_bytes())["slots"]
            found = {int(slot): [int(counts[0]), int(counts[1])] for slot, counts in told.items()}
        except FileNotFoundError:
            return {}
        except (OSError, LookupError, AttributeError, TypeError, ValueError) as error:
            log.warning("%s cannot be read (%r); the line's count begins anew.", self._path, error)
            return {}
        return {slot: counts for slot, counts in found.items() if newest - DAY // SLOT_SECONDS < slot <= newest}

    def _save(self) -> None:
        told = {"slots": {str(slot): counts for slot, counts in self._slots.items()}}
        try:
            write_durably(self._path, orjson.dumps(told))
        except OSError as error:
            log.warning("%s cannot be written: %s.", self._path, error.strerror)
