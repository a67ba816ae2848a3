"""Tasks that run for as long as the box does. One that fails is logged with its traceback and begins anew after a pause:
a fault in one line, in discovery or in the sender takes nothing else down, and does not stay unseen either.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds. A task that ran for longer than the longest pause before it failed begins with the first pause again."""


async def lasting(what: str, run: Callable[..., Awaitable[object]], *args: Any) -> None:
    """Runs `run(*args)` until it returns or is cancelled, again and again if it fails. `what` names it in the log."""
    pause = FIRST_PAUSE
    while True:
        began = trio.current_time()
        failed = True
        try:
            await run(*args)
            failed = False
        except* Exception as group:
            log.error("%s failed; it begins again in %.0f s", what, pause, exc_info=group)
        if not failed:
            return
        await trio.sleep(pause)
        pause = FIRST_PAUSE if trio.current_time() - began > 2 * LONGEST_PAUSE else min(2 * pause, LONGEST_PAUSE)


async def contained(what: str, run: Callable[..., Awaitable[object]], *args: Any) -> None:
    """Runs `run(*args)` once; what goes wrong is logged and goes no further."""
    try:
        await run(*args)
    except* Exception as group:
        log.error("%s failed", what, exc_info=group)
