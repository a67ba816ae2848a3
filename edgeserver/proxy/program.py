"""`edgeserver proxy`: pairs if asked to, then serves clients on localhost until it is stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from edgeserver.app.listeners import serve
from edgeserver.app.wires import driver_of
from edgeserver.paired.joining import line_to_box, tell_of_line
from edgeserver.paired.state import open_state
from edgeserver.proxy.application import ProxyApplication
from edgeserver.proxy.media import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from transports.link.wire import Driver


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """`link` is the line's URI (see `app.wires`); `listen` the host:port for clients; `pair` a pairing code or QR
    string (None: paired already); `state` the folder for key, pairing, held messages, media and what the box has told; `name` what the box
    calls this device (empty: after this machine); `media` which media apps get over a thin line without somebody's wish.
    """

    link: str
    listen: str = "127.0.0.1:8008"
    pair: str | None = None
    state: Path = Path("proxy-state")
    name: str = ""
    media: Policy = Policy.NONE


async def run(
    options: ProxyOptions,
    say: Callable[[str], None],
    *,
    driver: Driver | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs until cancelled; started with the URL for clients. `say` gets plain sentences; `driver` replaces that of the URI.

    Raises `JoinError`, `StateError` and `app.wires.WireError` (the URI); `StateError` (held messages) and `app.listeners.ListenerError`
    (the address) in a group.
    """
    driver = driver or driver_of(options.link)
    state = await trio.to_thread.run_sync(open_state, options.state, "proxy")
    line = await line_to_box(options.link, state, "proxy", say, pairing=options.pair, name=options.name, driver=driver)
    app = ProxyApplication(line, state, options.media)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run)
        urls = await nursery.start(serve, app, [options.listen])
        nursery.start_soon(line.run)
        nursery.start_soon(tell_of_line, line, say)
        say(f"Matrix clients on this machine use {urls[0]} as their homeserver.")
        say("In a browser that address shows the line, and fetches pictures and files that are not fetched by themselves.")
        task_status.started(urls[0])
