"""Who waits for what: after a commit, exactly those whom it concerns are woken, and they read the store.

A wake-up carries no data and may be lost with the process: followers keep their position in the store and sync tokens carry theirs.
Keys are user ids (long polls) or topics (followers, e.g. `OUTBOX`); an idle waiter costs one set entry and nothing per event elsewhere.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OUTBOX = "topic:outbox"
PARTIAL_ROOMS = "topic:partial rooms"
ANYTHING = "topic:anything"
"""For who follows everything (application services): woken whenever anybody is, and for news that concerns nobody here."""
DEPARTURES = "topic:departures"
PRESENCE = "topic:presence"


class Listener:
    """One waiter on some keys. A wake-up that comes between two waits is not lost."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def wake(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Returns at the next wake-up, at once if one came since the last wait."""
        await self._event.wait()
        self._event = trio.Event()


class Wakeups:
    """The table of waiters. All calls are made on the trio thread."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener]] = {}

    def notify(self, keys: Iterable[str]) -> None:
        """Wakes the listeners of these keys."""
        for key in (*keys, ANYTHING):
            for listener in self._listeners.get(key, ()):
                listener.wake()

    @contextmanager
    def listening(self, *keys: str) -> Iterator[Listener]:
        """Registers a listener for the length of the block; a key named twice counts once. Register first, then read the
        store, then wait."""
        listener = Listener()
        named = set(keys)
        for key in named:
            self._listeners.setdefault(key, set()).add(listener)
        try:
            yield listener
        finally:
            for key in named:
                waiting = self._listeners[key]
                waiting.discard(listener)
                if not waiting:
                    del self._listeners[key]
