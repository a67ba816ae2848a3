"""The web as previews see it (`media.web.WebSource`): a name is looked up, all its addresses must be public, and one of just
those is connected to. So a name that leads somewhere else a moment later leads nowhere.
"""

from __future__ import annotations

import ipaddress
import zlib
from typing import TYPE_CHECKING, Final

import trio

from edgeserver import __version__
from edgeserver.federation.dns_lookup import DnsFailure
from edgeserver.federation.resolver import is_public
from edgeserver.media.web import AddressRefused, PageTooLarge, WebAnswer, WebFailed
from transports.exchange import ExchangeError, Request, TooLarge
from transports.http import HttpPool, Plaintext, Route, VerifiedName

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.federation.dns_lookup import Dns
    from edgeserver.media.web import WebAddress

TIMEOUT: Final = 10.0
MAX_CONNECTIONS: Final = 8
_AGENT: Final = f"Mozilla/5.0 (compatible; edgeserver/{__version__}; Matrix URL preview bot)"


class PublicWeb:
    """`run` must be running. `may_connect` says of an IP address whether it is asked; a lab may allow any. `ca_file`: as in
    `HttpPool`.
    """

    def __init__(self, dns: Dns, *, may_connect: Callable[[str], bool] = is_public, ca_file: str | None = None) -> None:
        self._dns = dns
        self._may_connect = may_connect
        self._ca_file = ca_file
        self._pool: HttpPool | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the connections, apart from federation's: these go out in the clear, too, and to other addresses."""
        async with HttpPool(
            ca_file=self._ca_file,
            allow_plaintext=True,
            allow_address=self._may_connect,
            max_connections=MAX_CONNECTIONS,
            keepalive=5.0,
            connect_timeout=TIMEOUT,
            read_timeout=TIMEOUT,
        ) as self._pool:
            task_status.started()
            await trio.sleep_forever()

    async def get(self, address: WebAddress, *, accept: str, max_bytes: int) -> WebAnswer:
        """See `WebSource`."""
        if self._pool is None:
            raise WebFailed("the web is not open yet")
        tls = VerifiedName(address.host) if address.scheme == "https" else Plaintext()
        route = Route(address.authority, await self._addresses(address.host), address.port, tls)
        headers = (("accept", accept), ("accept-encoding", "identity"), ("accept-language", "en, *;q=0.5"), ("user-agent", _AGENT))
        request = Request("GET", address.target, address.authority, headers, timeout=TIMEOUT)
        try:
            response = await self._pool.exchange(request, route, max_response=max_bytes)
        except TooLarge as error:
            raise PageTooLarge(str(error)) from error
        except ExchangeError as error:
            raise WebFailed(str(error)) from error
        body = _unpacked(response.body, response.header("content-encoding") or "identity", max_bytes)
        return WebAnswer(response.status, response.header("content-type") or "", body, response.header("location"))

    async def _addresses(self, host: str) -> tuple[str, ...]:
        """Raises `AddressRefused` if any address of the name is not public, `WebFailed` if it has none."""
        try:
            found = [host] if _is_ip(host) else await self._dns.addresses(host)
        except DnsFailure as failure:
            raise WebFailed(str(failure)) from failure
        if not found:
            raise WebFailed(f"{host} has no address")
        if not all(map(self._may_connect, found)):
            raise AddressRefused("This address leads into a private network.")
        return tuple(found)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body of a site that packs it although it was asked not to. Raises `WebFailed`."""
    if encoding.strip().lower() in ("identity", ""):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise WebFailed("the site packs its pages in a way that was not asked for")
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, max_bytes)
    except zlib.error as error:
        raise WebFailed(f"the page cannot be unpacked: {error}") from error
