"""The listeners for MSC3079: DTLS carries CoAP over UDP and on serial lines; the requests go into the same application as all others."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from edgeserver.app.lasting import lasting
from edgeserver.app.listeners import ListenerError
from edgeserver.app.wires import driver_of
from edgeserver.config import host_and_port, pre_shared_key
from transports.coap.blockwise import Allowance
from transports.dtls import MTU, Credentials, DtlsChannel, DtlsContext, DtlsError, DtlsListener
from transports.exchange import LinkProfile
from transports.msc3079 import session
from transports.server import AsgiHandler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.app.listeners import Tls
    from edgeserver.config import LowBandwidth
    from transports.link.wire import Driver, LinkStats

log = logging.getLogger(__name__)

PROFILE = LinkProfile("msc3079", mtu=MTU)
"""The wire authenticates nobody, and how fast it is nobody knows: it may cross the internet."""
ALLOWANCE = 32 * 1024 * 1024
"""Bytes that all clients together have in block-wise transfers."""


class ClientLine:
    """A serial line on which apps speak MSC3079. `run` is one task for the life of the box; the rest says how it stands, for people."""

    def __init__(self, app: Any, uri: str, credentials: Credentials, allowance: Allowance, driver: Driver | None = None) -> None:
        from transports.dtls_line import DtlsLine

        self.name = self.uri = uri
        self.peers: list[str] = []
        self._app = app
        self._allowance = allowance
        self._line = DtlsLine(driver or driver_of(uri, mtu=MTU), credentials, self._serve)
        self.run = self._line.run

    @property
    def trouble(self) -> str | None:
        return self._line.socket.trouble

    @property
    def stats(self) -> LinkStats:
        return self._line.socket.stats

    async def _serve(self, channel: DtlsChannel) -> None:
        rate = self._line.socket.bit_rate
        profile = LinkProfile("msc3079", bit_rate=rate, mtu=self._line.mtu)
        pace = None if rate is None else session.pace_of(rate, self._line.mtu)
        self.stats.handshakes += 1
        self.stats.since = trio.current_time()
        self.peers.append("an app")
        try:
            # Whoever is there is there until somebody else is: an app has no need to ping.
            await _serve(channel, AsgiHandler(self._app, profile, client=channel.address), self._allowance, idle=math.inf, pace=pace)
        finally:
            self.peers.pop()


@dataclass(frozen=True, slots=True)
class Listening:
    """The UDP ports that are listened on, and the lines."""

    ports: Sequence[int]
    lines: Sequence[ClientLine]


async def serve_low_bandwidth(
    app: Any,
    config: LowBandwidth,
    tls: Tls | None,
    *,
    drivers: Mapping[str, Driver] | None = None,
    task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled. Started with what it listens on; a line whose port is not there yet is no error. `drivers` replace those
    of URIs. Raises `ListenerError` and `WireError`.
    """
    pre_shared = dict(map(pre_shared_key, config.pre_shared_keys))
    credentials = Credentials(None if tls is None else tls.certificate, None if tls is None else tls.key, pre_shared)
    allowance = Allowance(ALLOWANCE)

    async def serve(channel: DtlsChannel) -> None:
        await _serve(channel, AsgiHandler(app, PROFILE, client=channel.address), allowance)

    listeners = [DtlsListener(*host_and_port(address, "[low_bandwidth] listen"), credentials, serve) for address in config.listen]
    lines = [ClientLine(app, uri, credentials, allowance, (drivers or {}).get(uri)) for uri in config.lines]
    try:
        if lines:
            DtlsContext(credentials)  # what is wrong with the certificate is said at the start
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                await _start(nursery, listener)
            for line in lines:
                nursery.start_soon(lasting, f"the line {line.name}", line.run)
            where = [f"{host}:{port}/udp" for host, port in (one.address for one in listeners)] + [line.name for line in lines]
            log.info("MSC3079: CoAP over DTLS on %s", ", ".join(where))
            task_status.started(Listening([listener.address[1] for listener in listeners], lines))
    except DtlsError as error:
        raise ListenerError(str(error)) from error


async def _start(nursery: trio.Nursery, listener: DtlsListener) -> None:
    try:
        await nursery.start(listener.run)
    except DtlsError as error:
        raise ListenerError(str(error)) from error


async def _serve(channel: DtlsChannel, handler: AsgiHandler, allowance: Allowance, **how: Any) -> None:
    try:
        await session.serve(channel, handler, allowance, **how)
    except Exception:
        log.exception("a session over CoAP ended by a fault of ours")
