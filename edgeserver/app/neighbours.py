"""The local network: announcing this box by mDNS and taking up the boxes that announce themselves."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from edgeserver.federation.internet import found_route
from edgeserver.matrix import server_names
from transports.discovery import Announcement, Event, PeerFound, discover
from transports.exchange import LinkProfile, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.federation.peers import Peers
    from transports.discovery import Peer
    from transports.exchange import Exchange, Request, Response
    from transports.http import HttpPool

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
MAX_PLACES = 8
"""Places that are tried for one name."""


def local_addresses(interfaces: Sequence[str]) -> tuple[str, ...]:
    """This machine's own addresses that a neighbour could use, or just the given ones."""
    if interfaces:
        return tuple(interfaces)
    import ifaddr  # comes with zeroconf

    found: list[str] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            parsed = ip_address(address)
            # A link-local IPv6 address means nothing without the interface at the other end, which it cannot say.
            if not parsed.is_loopback and not (parsed.version == 6 and parsed.is_link_local):
                found.append(address)
    return tuple(dict.fromkeys(found))


class Neighbours:
    """Runs discovery for the life of the box. `found` holds who is announced now, by server name."""

    def __init__(
        self, peers: Peers, pool: HttpPool, server_name: str, public_key: bytes, interfaces: Sequence[str]
    ) -> None:
        self._peers = peers
        self._pool = pool
        self._server_name = server_name
        self._public_key = public_key
        self._interfaces = list(interfaces)
        self.found: dict[str, tuple[str, ...]] = {}

    async def run(self, *, federation_port: int, client_port: int | None) -> None:
        """Announces the ports and listens. A machine without network is tried again: interfaces come and go."""
        while True:
            addresses = local_addresses(self._interfaces)
            if addresses:
                host = f"edgeserver-{server_names.label_of(self._public_key)[:8]}"
                announcement = Announcement(self._server_name, self._public_key, host, addresses, federation_port, client_port)
                try:
                    await self._discover(announcement)
                except OSError as error:
                    log.info("mDNS does not work now: %s", error)
            await trio.sleep(RETRY_SECONDS)

    async def _discover(self, announcement: Announcement) -> None:
        send, receive = trio.open_memory_channel[Event](64)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take, receive)
            async with send:
                await discover(send, announcement, interfaces=self._interfaces or None)
            nursery.cancel_scope.cancel()

    async def _take(self, events: trio.MemoryReceiveChannel[Event]) -> None:
        async for event in events:
            if not isinstance(event, PeerFound):
                self.found.pop(event.server_name, None)
                self._peers.lost(event.server_name)
                continue
            # A name that states no key could be claimed by anybody on the network: such boxes are met by pairing.
            places = [one for one in (event.peer, *event.others) if server_names.key_of(one.server_name) == one.key][:MAX_PLACES]
            if places and places[0].server_name != self._server_name:
                self._met(places)

    def _met(self, places: Sequence[Peer]) -> None:
        name = places[0].server_name
        self.found[name] = tuple(dict.fromkeys(address for place in places for address in place.addresses))
        self._peers.lost(name)  # a new place is a new way: whoever waits for the box tries again
        self._peers.found(name, Places([self._pool.peer(found_route(name, place.addresses, place.port)) for place in places]))
        log.info("%s is on this network", name)


class Places:
    """An `Exchange` to a box that is announced at several places. Only the one that holds the key can be where it is, so each is tried."""

    def __init__(self, places: Sequence[Exchange]) -> None:
        self._places = places

    @property
    def profile(self) -> LinkProfile:
        return self._places[0].profile

    async def exchange(self, request: Request) -> Response:
        """Raises what the last place raised, or the first that may have got the request."""
        *others, last = self._places
        for place in others:
            try:
                return await place.exchange(request)
            except Unreachable as error:
                log.debug("%s is not where it is announced: %s", request.authority, error)
        return await last.exchange(request)
