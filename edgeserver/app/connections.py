"""The connections of the HTTP listeners: so many at once, and none that outlives its client.

Hypercorn holds a connection that its client has closed until the time for idle ones is over, and asks the system for more than it may have
when there are too many. Here such a connection is closed at once; when all places are taken, whoever has been idle longest makes room, and
if nobody is idle, the newcomer is let go. So files and the database always find a descriptor.

Imported with Hypercorn when the first listener starts. Builds on Hypercorn's `TCPServer`, whose version pyproject.toml pins.
"""

from __future__ import annotations

import logging
import resource
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from hypercorn.events import Closed, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import repr_socket_addr, wrap_app

if TYPE_CHECKING:
    from hypercorn.config import Config
    from hypercorn.events import Event

log = logging.getLogger(__name__)

MOST: Final = 2048
"""Connections of all listeners of this process together. An idle one costs some 20 KB."""
OTHER_FILES: Final = 128
"""Descriptors that the database, media, lines and requests to others may need."""
WARN_SECONDS: Final = 60.0


class Places:
    """Who is connected, the longest idle first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._warned = -WARN_SECONDS

    async def take(self, connection: Connection) -> bool:
        """Takes a place, making room for it; False if all are busy."""
        if len(self._held) < self.most:
            self._held.add(connection)
            return True
        self._warn()
        if not self._idle:
            return False
        oldest = next(iter(self._idle))
        self.leave(oldest)
        self._held.add(connection)
        await oldest.make_room()
        return True

    def leave(self, connection: Connection) -> None:
        self._held.discard(connection)
        self._idle.pop(connection, None)

    def note(self, connection: Connection, *, idle: bool) -> None:
        self._idle.pop(connection, None)
        if idle:
            self._idle[connection] = None

    def _warn(self) -> None:
        if trio.current_time() - self._warned >= WARN_SECONDS:
            self._warned = trio.current_time()
            log.warning("all %d places for connections are taken: whoever is idle longest makes room", self.most)


def places() -> Places:
    """As many as the limit of open files allows, which is raised as far as it goes (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return Places(MOST if soft == resource.RLIM_INFINITY else max(16, min(MOST, soft - OTHER_FILES)))


class Connection(TCPServer):
    """One connection. It begins idle."""

    def __init__(self, places: Places, app: Any, config: Config, context: WorkerContext, stream: Any) -> None:
        super().__init__(app, config, context, ConnectionState(LifespanState({})), stream)
        self._places = places
        self._ended = False

    async def run(self) -> None:
        try:
            if not await self._places.take(self):
                await trio.aclose_forcefully(self.stream)
                return
            self._places.note(self, idle=True)
            await super().run()
        except trio.ClosedResourceError:  # it made room while it was still agreeing on keys
            pass
        finally:
            self._places.leave(self)

    async def make_room(self) -> None:
        """Ends it, for somebody else."""
        self._ended = True
        await trio.aclose_forcefully(self.stream)  # first, so that nobody is let go who has heard that it is served
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self._places.note(self, idle=event.idle and not self._ended)
            if self._ended:
                return
        elif isinstance(event, Closed):
            self._ended = True
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:  # it is being closed at this moment
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        await super()._read_data()
        self._ended = True
        await self.idle_task.stop()


_places: Places | None = None
"""One for the process: so are its descriptors."""


async def serve(app: Any, config: Config, *, task_status: trio.TaskStatus[list[str]]) -> None:
    """Serves the application at the addresses of `config` until cancelled. Started with the URLs. Raises OSError."""
    global _places
    _places = _places or places()
    held = _places
    wrapped, context = wrap_app(app, config.wsgi_max_body_size, "asgi"), WorkerContext(None)
    sockets = config.create_sockets()
    for one in (*sockets.secure_sockets, *sockets.insecure_sockets):
        one.listen(config.backlog)
    tls = config.create_ssl_context()
    listeners: list[Any] = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in sockets.insecure_sockets]
    for one in sockets.secure_sockets:
        plain = trio.SocketListener(trio.socket.from_stdlib_socket(one))
        listeners.append(trio.SSLListener(plain, cast("Any", tls), https_compatible=True))
    urls = [f"http://{repr_socket_addr(one.family, one.getsockname())}" for one in sockets.insecure_sockets]
    urls += [f"https://{repr_socket_addr(one.family, one.getsockname())}" for one in sockets.secure_sockets]

    async def handle(stream: Any) -> None:
        await Connection(held, wrapped, config, context, stream).run()

    task_status.started(urls)
    try:
        await trio.serve_listeners(handle, listeners)
    finally:
        await context.terminated.set()
