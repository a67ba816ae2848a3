"""Logging what a flood of other servers' doing could make the log overflow with: one line a minute of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    import logging

PAUSE: Final = 60.0
MAX_KINDS: Final = 256


class Seldom:
    """`say(kind, …)` logs unless it has said something of that kind (say, one server's rejected events) within a minute."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, tuple[float, int]] = {}

    def say(self, kind: str, message: str, *parameters: object) -> None:
        """Logs at INFO, with how many lines have been left out since the last one."""
        now = trio.current_time()
        until, left_out = self._said.pop(kind, (0.0, 0))
        if now < until:
            self._said[kind] = (until, left_out + 1)
            return
        self._said[kind] = (now + PAUSE, 0)
        while len(self._said) > MAX_KINDS:
            del self._said[next(iter(self._said))]
        more = f" ({left_out} more like it)" if left_out else ""
        self._log.info(message + more, *parameters)
