"""Which way to another server: over a paired link, the local network, the internet, or through a gateway.

The ways to a server stand in this order, and the next one is tried only where a request provably did not get through:

1. **Link**: a paired link to that very server is up (the fastest first). The link has authenticated both ends, so
   our requests to that peer carry no X-Matrix signature: the link's identity is the origin.
2. **Found**: the server announced itself on the local network. Only self-certifying names are taken: TLS is checked
   against the key that the name states, so an announcement can lie about nothing but an address.
3. **Internet**: discovery and HTTPS, when this box has internet. Never for `.mesh` names, which DNS does not know.
4. **Gateway**: a paired gateway passes the request on to the server that `authority` names. It sees and could
   change what it carries, so everything is signed end to end, and it proves nothing about who answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import server_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transports.exchange import Exchange


RETURNED_PAUSE: Final = 10.0
"""Seconds within which a gateway's word that it is back is heard once."""


class Via(Enum):
    """By what a way leads."""

    LINK = "link"
    FOUND = "found"
    INTERNET = "internet"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to a server."""

    via: Via
    exchange: Exchange

    @property
    def needs_signature(self) -> bool:
        """Whether the request must carry X-Matrix."""
        return self.via is not Via.LINK

    @property
    def proves_peer(self) -> bool:
        """Whether an answer is sure to come from the server that was asked."""
        return self.via is not Via.GATEWAY


class Peers:
    """The table of ways. All calls are made on the trio thread.

    `internet` is the Exchange that finds a server by the request's `authority`; None for a box that never has internet.
    """

    def __init__(self, server_name: str, internet: Exchange | None = None, *, internet_up: bool = False) -> None:
        self._server_name = server_name
        self._internet = internet
        self._internet_up = internet_up
        self._links: dict[str, list[Exchange]] = {}
        self._gateways: set[str] = set()
        self._found: dict[str, Exchange] = {}
        self._returned: list[Callable[[str | None], None]] = []
        self._returned_at = float("-inf")

    # What is there

    def link_up(self, peer: str, exchange: Exchange, *, gateway: bool = False) -> None:
        """A paired link to `peer` carries requests; with `gateway`, it passes requests on to other servers too."""
        links = self._links.setdefault(peer, [])
        if exchange not in links:
            links.append(exchange)
            links.sort(key=_slowness)
        if gateway:
            self._gateways.add(peer)
        self._notify(peer)
        if gateway:
            self._notify(None)

    def link_down(self, peer: str, exchange: Exchange) -> None:
        """That link to `peer` carries nothing any more."""
        links = self._links.get(peer, [])
        if exchange in links:
            links.remove(exchange)
        if not links:
            self._links.pop(peer, None)
            self._gateways.discard(peer)

    def found(self, server_name: str, exchange: Exchange) -> bool:
        """A server announced itself on the local network; `exchange` checks its key. False: not a self-certifying
        name, so not taken.
        """
        if server_names.key_of(server_name) is None or server_name == self._server_name:
            return False
        is_new = server_name not in self._found
        self._found[server_name] = exchange
        if is_new:
            self._notify(server_name)
        return True

    def lost(self, server_name: str) -> None:
        """The announcement has ended."""
        self._found.pop(server_name, None)

    def internet_changed(self, up: bool) -> None:
        """The box gained or lost its way to the internet."""
        came_back = up and not self._internet_up
        self._internet_up = up
        if came_back:
            self._notify(None)

    def gateway_returned(self, peer: str) -> None:
        """A peer says that it reaches the internet again. Nothing follows unless it is a gateway of ours, nor soon after the last time:
        boxes that are each other's gateways in a circle would tell each other for ever.
        """
        now = trio.current_time()
        if peer in self._gateways and now - self._returned_at >= RETURNED_PAUSE:
            self._returned_at = now
            self._notify(None)

    # What follows

    def ways_to(self, server_name: str) -> list[Way]:
        """The ways to a server, the best first; empty if there is none now."""
        ways = [Way(Via.LINK, exchange) for exchange in self._links.get(server_name, ())]
        if server_name in self._found:
            ways.append(Way(Via.FOUND, self._found[server_name]))
        if self._internet is not None and self._internet_up and not server_names.is_mesh(server_name):
            ways.append(Way(Via.INTERNET, self._internet))
        ways += [Way(Via.GATEWAY, exchange) for exchange in self.gateways(but=server_name)]
        return ways

    def gateways(self, *, but: str = "") -> list[Exchange]:
        """The fastest link to each gateway that is up."""
        return sorted((self._links[peer][0] for peer in self._gateways if peer != but), key=_slowness)

    def links(self) -> Sequence[str]:
        """The paired peers whose link is up."""
        return list(self._links)

    def on_return(self, callback: Callable[[str | None], None]) -> None:
        """Calls back with a server name when a way to it returns, with None when one to servers at large does."""
        self._returned.append(callback)

    def _notify(self, server_name: str | None) -> None:
        for callback in self._returned:
            callback(server_name)


def _slowness(exchange: Exchange) -> int:
    rate = exchange.profile.bit_rate
    return 0 if rate is None else -rate + (1 << 62)
