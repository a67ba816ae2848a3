"""The local network: announcing this box by mDNS and taking up the boxes that announce themselves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from edgeserver.federation.internet import found_route
from edgeserver.matrix import server_names
from transports.discovery import Announcement, PeerFound, discover

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.federation.peers import Peers
    from transports.discovery import Event
    from transports.http import HttpPool

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0


def local_addresses(interfaces: Sequence[str]) -> tuple[str, ...]:
    """This machine's own addresses that a neighbour could use, or just the given ones."""
    if interfaces:
        return tuple(interfaces)
    import ifaddr  # comes with zeroconf

    found: list[str] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            if not address.startswith("127.") and address != "::1":
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
            peer = event.peer
            # A name that states no key could be claimed by anybody on the network: such boxes are met by pairing.
            if peer.server_name == self._server_name or server_names.key_of(peer.server_name) != peer.key:
                continue
            self.found[peer.server_name] = peer.addresses
            self._peers.found(peer.server_name, self._pool.peer(found_route(peer.server_name, peer.addresses, peer.port)))
            log.info("%s is on this network", peer.server_name)
