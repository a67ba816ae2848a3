"""The `Exchange` that finds servers on the internet, and the routes of those found on the local network.

Discovery says where a server is (`resolver.py`), the pool of connections carries the request (`transports.http`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.federation.dns_lookup import DnsFailure
from edgeserver.federation.resolver import is_public
from edgeserver.federation.well_known import MAX_BODY
from edgeserver.matrix import server_names
from transports.exchange import LinkProfile, Request, Unreachable
from transports.http import PinnedKey, Route, VerifiedName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.federation.dns_lookup import Dns
    from edgeserver.federation.resolver import Resolver
    from transports.exchange import Response
    from transports.http import HttpPool

WEB_TIMEOUT: Final = 15.0


class InternetExchange:
    """Takes a request to the server that its `authority` names."""

    def __init__(self, resolver: Resolver, pool: HttpPool) -> None:
        self._resolver = resolver
        self._pool = pool

    @property
    def profile(self) -> LinkProfile:
        return LinkProfile("internet")

    async def exchange(self, request: Request) -> Response:
        """Raises ExchangeError. Ports (of several SRV targets) are tried in turn, as long as nothing was delivered."""
        with trio.move_on_after(request.timeout):
            whereabouts = await self._resolver.resolve(request.authority)
            sent = replace(request, authority=whereabouts.host_header)
            failure = Unreachable(f"{request.authority} has no address")
            for port, group in groupby(whereabouts.addresses, key=lambda each: each[1]):
                addresses = tuple(address for address, _ in group)
                tls = VerifiedName(whereabouts.certificate_name)
                try:
                    return await self._pool.exchange(sent, Route(whereabouts.host_header, addresses, port, tls))
                except Unreachable as error:
                    failure = error
            raise failure
        raise Unreachable(f"{request.authority} was not found within {request.timeout:g} s")


class Forbidden(Unreachable):
    """The host's addresses are all in private networks, where strangers must not make us go."""


class InternetWeb:
    """`well_known.WebGet`: plain HTTPS by DNS; never into private networks, unless `allow_private`."""

    def __init__(self, dns: Dns, pool: HttpPool, *, allow_private: bool = False) -> None:
        self._dns = dns
        self._pool = pool
        self._allow_private = allow_private

    async def get(self, host: str, port: int, target: str, *, max_response: int = MAX_BODY, timeout: float = WEB_TIMEOUT) -> Response:
        """See `WebGet`; `max_response` in bytes, `timeout` in seconds. Raises ExchangeError."""
        return await self.ask(Request("GET", target, timeout=timeout, max_response=max_response), host, port)

    async def ask(self, request: Request, host: str, port: int) -> Response:
        """Carries a request, within its timeout, to where DNS says that the host is. Raises ExchangeError."""
        bare = host.strip("[]")
        name = f"[{bare}]" if ":" in bare else bare
        with trio.move_on_after(request.timeout):
            addresses = await self._allowed_addresses(bare)
            authority = name if port == 443 else f"{name}:{port}"
            route = Route(authority, tuple(addresses), port, VerifiedName(bare))
            return await self._pool.exchange(replace(request, authority=authority), route, max_response=request.max_response)
        raise Unreachable(f"{host} did not answer within {request.timeout:g} s")

    async def _allowed_addresses(self, host: str) -> list[str]:
        found = await self._addresses(host)
        addresses = [address for address in found if self._allow_private or is_public(address)]
        if not addresses:
            raise (Forbidden if found else Unreachable)(f"{host} leads into a private network" if found else f"{host} has no address")
        return addresses

    async def _addresses(self, host: str) -> Sequence[str]:
        parsed = server_names.parse(f"[{host}]" if ":" in host else host)
        if parsed is not None and parsed.is_ip_literal:
            return [host]
        try:
            return await self._dns.addresses(host)
        except DnsFailure as failure:
            raise Unreachable(str(failure)) from failure


def found_route(server_name: str, addresses: Sequence[str], port: int) -> Route:
    """The route to a server that announced itself on the local network. Raises ValueError unless its name states
    its key.
    """
    key = server_names.key_of(server_name)
    if key is None:
        raise ValueError(f"{server_name} states no key")
    return Route(server_name, tuple(addresses), port, PinnedKey(key, server_name))
