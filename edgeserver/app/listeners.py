"""HTTP listeners: Hypercorn on trio, one for each set of addresses, all serving the same application.

TLS certificates are read again when their file changes, so a renewed wildcard certificate needs no restart.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import trio

from edgeserver.app import unread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hypercorn.config import Sockets

log = logging.getLogger(__name__)

CHECK_CERTIFICATE_SECONDS = 60.0
BACKLOG = 128
FAREWELL_SECONDS = 0.25
PING_SECONDS = 60.0
"""Of WebSockets: what an address translator forgets lives longer, and a phone that has left is noticed."""


class ListenerError(Exception):
    """An address cannot be listened on, or a certificate not be used; one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files with a certificate chain and its key."""

    certificate: Path
    key: Path


async def serve(
    app: Any,
    addresses: Sequence[str],
    tls: Tls | None = None,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled. `addresses` are host:port or unix:path. Started with the URLs that it listens on.

    Raises `ListenerError`.
    """
    from hypercorn.config import Config
    from hypercorn.trio import serve as hypercorn_serve

    config = Config()
    config.bind = list(addresses)
    config.backlog = BACKLOG
    config.keep_alive_max_requests = 1_000_000_000  # a client that stays connected for weeks is welcome
    config.keep_alive_timeout = 120.0
    config.graceful_timeout = 1.0
    config.websocket_ping_interval = PING_SECONDS
    config.websocket_max_message_size = 64 * 1024  # phones listen, they do not talk
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.errorlog.setLevel(logging.WARNING)
    addresses_in_use: list[unread.Address] = []
    create_sockets = config.create_sockets

    def prepared_sockets() -> Sockets:
        made = create_sockets()
        addresses_in_use.extend(unread.prepare([*made.secure_sockets, *made.insecure_sockets]))
        return made

    config.create_sockets = prepared_sockets  # type: ignore[method-assign]
    served = cast("Any", unread.in_pieces(app))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_shut_down_at_the_end, addresses_in_use)
        if tls is not None:
            context = _context(tls)
            config.certfile, config.keyfile = str(tls.certificate), str(tls.key)
            config.create_ssl_context = lambda: context  # type: ignore[method-assign]
            nursery.start_soon(_reload, context, tls)
        try:
            urls = await nursery.start(lambda task_status: hypercorn_serve(served, config, task_status=task_status))
        except* OSError as group:
            reason = _first_reason(group)
            raise ListenerError(f"cannot listen on {', '.join(addresses)}: {reason}") from group
        task_status.started(urls)


def _first_reason(error: BaseException) -> str:
    """What the system said, out of the groups that nurseries make of it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


async def _shut_down_at_the_end(addresses: Sequence[unread.Address]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(FAREWELL_SECONDS)  # answers that are being written reach whoever reads
        unread.shut_down(addresses)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # iOS fails against servers with 1.3 alone
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ListenerError(f"the certificate {tls.certificate} with the key {tls.key} cannot be used: {error}") from error
    return context


async def _reload(context: ssl.SSLContext, tls: Tls) -> None:
    """Loads the files again when either has changed; handshakes from then on show the new certificate."""
    seen = _changed_at(tls)
    while True:
        await trio.sleep(CHECK_CERTIFICATE_SECONDS)
        now = _changed_at(tls)
        if now is None or now == seen:
            continue
        try:
            context.load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            log.warning("the changed certificate %s cannot be used yet: %s", tls.certificate, error)
            continue
        seen = now
        log.info("took up the changed certificate %s", tls.certificate)


def _changed_at(tls: Tls) -> tuple[int, int] | None:
    try:
        return tls.certificate.stat().st_mtime_ns, tls.key.stat().st_mtime_ns
    except OSError:
        return None
