"""Where `key_fetch` asks for keys: the ways to the server itself, then gateways, then configured notaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.federation.peers import Peers
    from transports.exchange import Exchange


class PeerKeyRoutes:
    """`key_fetch.KeyRoutes` over the table of ways. `notaries` are names of servers that are trusted to tell
    others' keys.
    """

    def __init__(self, peers: Peers, notaries: Sequence[str] = ()) -> None:
        self._peers = peers
        self._notaries = tuple(notaries)

    def direct(self, server_name: str) -> list[Exchange]:
        return [way.exchange for way in self._peers.ways_to(server_name) if way.proves_peer]

    def witness(self, server_name: str) -> Exchange | None:
        return next((way.exchange for way in self._peers.ways_to(server_name) if way.proves_peer), None)

    def notaries(self) -> list[tuple[str, Exchange]]:
        found = [(exchange.profile.peer or "", exchange) for exchange in self._peers.gateways()]
        for name in self._notaries:
            ways = [way for way in self._peers.ways_to(name) if way.proves_peer]
            found += [(name, way.exchange) for way in ways[:1]]
        return found
