"""The listener for MSC3079: DTLS carries CoAP, and its requests go into the same application as all others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from edgeserver.app.listeners import ListenerError
from edgeserver.config import host_and_port, pre_shared_key
from transports.coap.blockwise import Allowance
from transports.dtls import MTU, Credentials, DtlsChannel, DtlsError, DtlsListener
from transports.exchange import LinkProfile
from transports.msc3079 import session
from transports.server import AsgiHandler

if TYPE_CHECKING:
    from edgeserver.app.listeners import Tls
    from edgeserver.config import LowBandwidth

log = logging.getLogger(__name__)

PROFILE = LinkProfile("msc3079", mtu=MTU)
"""The wire authenticates nobody, and how fast it is nobody knows: it may cross the internet."""
ALLOWANCE = 32 * 1024 * 1024
"""Bytes that all clients together have in block-wise transfers."""


async def serve_low_bandwidth(
    app: Any, config: LowBandwidth, tls: Tls | None, *, task_status: trio.TaskStatus[list[int]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serves until cancelled. Started with the UDP ports that it listens on. Raises `ListenerError`."""
    pre_shared = dict(map(pre_shared_key, config.pre_shared_keys))
    credentials = Credentials(None if tls is None else tls.certificate, None if tls is None else tls.key, pre_shared)
    allowance = Allowance(ALLOWANCE)

    async def serve(channel: DtlsChannel) -> None:
        handler = AsgiHandler(app, PROFILE, client=channel.address)
        try:
            await session.serve(channel, handler, allowance)
        except Exception:
            log.exception("a session over CoAP ended by a fault of ours")

    listeners = [DtlsListener(*host_and_port(address, "[low_bandwidth] listen"), credentials, serve) for address in config.listen]
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            try:
                await nursery.start(listener.run)
            except DtlsError as error:
                raise ListenerError(str(error)) from error
        log.info("MSC3079: CoAP over DTLS on %s", ", ".join(f"{host}:{port}/udp" for host, port in (one.address for one in listeners)))
        task_status.started([listener.address[1] for listener in listeners])
