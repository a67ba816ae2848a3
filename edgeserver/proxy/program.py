"""`edgeserver proxy`: pairs if asked to, then serves clients on localhost until it is stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from edgeserver.app.listeners import serve
from edgeserver.app.wires import driver_of
from edgeserver.proxy.application import ProxyApplication
from edgeserver.proxy.line import Line
from edgeserver.proxy.pairing import device_name, pair, secret_of
from edgeserver.proxy.state import open_state
from transports.link.connection import Link
from transports.link.pairing import PairingFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.proxy.state import State
    from transports.link.wire import Driver

REDIAL_CAP = 60.0
"""Seconds between calls while the box does not answer."""
_LOOK_SECONDS = 1.0


class ProxyError(Exception):
    """The proxy cannot run as it was asked to; one sentence for the person in front of the screen."""


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """`link` is the line's URI (see `app.wires`); `listen` the host:port for clients; `pair` a pairing code or QR
    string (None: paired already); `state` the folder for key and pairing; `name` what the box calls this device.
    """

    link: str
    listen: str = "127.0.0.1:8008"
    pair: str | None = None
    state: Path = Path("proxy-state")
    name: str = field(default_factory=device_name)


async def run(
    options: ProxyOptions,
    say: Callable[[str], None],
    *,
    driver: Driver | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs until cancelled; started with the URL for clients. `say` gets plain sentences; `driver` replaces that of the URI.

    Raises `ProxyError`, `StateError` and `app.wires.WireError` (the URI); `app.listeners.ListenerError` (the address) in a group.
    """
    driver = driver or driver_of(options.link)
    state = await trio.to_thread.run_sync(open_state, options.state)
    if options.pair is not None:
        await _pair(options, driver, state, say)
    box = state.box
    if box is None:
        raise ProxyError("This proxy is not paired with a box yet. Let the box show a pairing code, and start this again with --pair CODE.")

    def known(key: bytes) -> str | None:
        return box.name if key == box.public_key else None

    line = Line(Link(driver, state.identity, known, peer_key=box.public_key, redial_cap=REDIAL_CAP), box.name)
    app = ProxyApplication(line, state)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run)
        urls = await nursery.start(serve, app, [options.listen])
        nursery.start_soon(line.run)
        nursery.start_soon(_tell, line, say)
        say(f"Matrix clients on this machine use {urls[0]} as their homeserver.")
        task_status.started(urls[0])


async def _pair(options: ProxyOptions, driver: Driver, state: State, say: Callable[[str], None]) -> None:
    try:
        box = await pair(driver, state.identity, secret_of(options.pair or ""), options.name, say)
    except PairingFailed as error:
        raise ProxyError(f"The pairing failed: {error}.") from error
    await trio.to_thread.run_sync(state.pair, box)
    say(f"Paired with {box.name}. From now on start the proxy without --pair.")


async def _tell(line: Line, say: Callable[[str], None]) -> None:
    """Says how the line stands whenever that has changed."""
    said = None
    while True:
        sentence = line.sentence()
        if sentence != said:
            say(sentence)
            said = sentence
        with trio.move_on_after(float("inf") if line.is_up else _LOOK_SECONDS):
            await line.change()
