"""Programs that run until they are told to stop: signals, logging, and what is said when one cannot run."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from edgeserver.cli.console import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio


def run_until_stopped(
    what: str, program: Callable[[], Awaitable[object]], *, log_level: str, expected: tuple[type[Exception], ...] = ()
) -> None:
    """Runs `program` under trio until it returns, Ctrl-C or SIGTERM. `what` names it in sentences (`the box`).

    Raises `CommandError` when it fails; `expected` are errors of its own whose text is a sentence for the operator.
    """
    import trio

    from edgeserver.cli import logs
    from edgeserver.cli.reasons import reasons

    logs.set_up(log_level)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            await program()
            nursery.cancel_scope.cancel()

    try:
        trio.run(run)
    except Exception as error:
        known = reasons(error, expected)
        if known is None:
            _log_fault(what, error)
            raise CommandError(f"{what} stopped because of a fault of its own; the line above says where.") from error
        told = "; ".join(known) + "."
        raise CommandError(told if told[0].isupper() else f"{what} cannot run: {told}") from error


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    """The first signal stops the program in good order; a second one finds the system's own handling and stops it at once."""
    import trio

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            break
    scope.cancel()


def _log_fault(what: str, error: BaseException) -> None:
    import logging

    logging.getLogger("edgeserver").error("%s failed", what, exc_info=(type(error), error, error.__traceback__))
