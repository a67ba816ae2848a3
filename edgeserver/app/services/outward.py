"""Asking other servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver.federation.calls import Calls
from edgeserver.federation.client import FederationClient
from edgeserver.federation.key_fetch import KeyFetcher
from edgeserver.federation.keyring import Keyring
from edgeserver.federation.notary import Notary
from edgeserver.federation.peer_keys import PeerKeyRoutes
from edgeserver.federation.source import FederationKeys, FederationMedia, FederationQueries, FederationSource, FederationSummaries
from edgeserver.federation.third_party_invites import KeyValidity
from edgeserver.rooms.turns import Turns

if TYPE_CHECKING:


    from edgeserver.app.services.ground import Ground
    from edgeserver.federation.internet import InternetWeb
    from edgeserver.federation.peers import Peers


@dataclass(frozen=True, slots=True)
class Out:
    """Asking other servers."""

    calls: Calls
    keyring: Keyring
    notary: Notary
    source: FederationSource
    queries: FederationQueries
    keys: FederationKeys
    media: FederationMedia
    summaries: FederationSummaries
    key_validity: KeyValidity
    joining: Turns


def outward(ground: Ground, peers: Peers, web: InternetWeb | None, notaries: list[str], *, trust_clock: bool) -> Out:
    """Who asks other servers, and whose keys are known. `web` fetches media from where a server says that it lies."""
    calls = Calls(FederationClient(ground.server_name, ground.key, peers))
    keyring = Keyring(
        ground.db,
        KeyFetcher(PeerKeyRoutes(peers, notaries)),
        server_name=ground.server_name,
        key=ground.key,
        now_ms=ground.now_ms,
        clock_trusted=lambda: trust_clock or ground.clock.trusted,
    )
    peers.on_return(keyring.route_returned)
    notary = Notary(ground.db, keyring, server_name=ground.server_name, now_ms=ground.now_ms)
    media = FederationMedia(calls, web)
    return Out(
        calls,
        keyring,
        notary,
        FederationSource(calls),
        FederationQueries(calls),
        FederationKeys(calls),
        media,
        FederationSummaries(calls),
        KeyValidity(web),
        Turns(),
    )
