"""Boxes find each other on the local network: multicast DNS and DNS-SD (RFC 6762, RFC 6763) through zeroconf.

A box announces `_matrix-fed._tcp.local.` (federation port; TXT `name` is its server name, `key` its ed25519 key in
base64), `_matrix-client._tcp.local.` for clients, and a `.local` host name with its addresses. Whoever answers on a
network may claim any name: a `Peer` is a hint where to try, and the key still has to be one that is known for that
name.

zeroconf is an asyncio library and runs in a trio-asyncio loop that lives as long as `discover` runs.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zeroconf.asyncio import AsyncZeroconf

FEDERATION_SERVICE = "_matrix-fed._tcp.local."
CLIENT_SERVICE = "_matrix-client._tcp.local."
MAX_PEERS = 256
MAX_ADDRESSES = 8
RESOLVE_TIMEOUT = 3.0
"""Seconds that a service found has for its details."""

_MAX_QUEUE = 512
_SERVER_NAME = re.compile(r"(?:[A-Za-z0-9.-]{1,230}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What this box tells the network. `host` is one label: `box` becomes `box.local.`; `addresses` are IPv4 and
    IPv6."""

    server_name: str
    key: bytes
    host: str
    addresses: tuple[str, ...]
    federation_port: int
    client_port: int | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A box that somebody announced: server name, ed25519 key (32 bytes), addresses and federation port."""

    server_name: str
    key: bytes
    addresses: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True)
class PeerFound:
    """A new box, or new details of a known one.

    `others` is what else is announced under the same server name now: somebody there is not who he says.
    """

    peer: Peer
    others: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The box said goodbye or was not heard of for the lifetime of its records, and nobody else announces its name."""

    server_name: str


Event = PeerFound | PeerLost


def parse_peer(properties: Mapping[bytes, bytes | None], addresses: Sequence[str], port: int | None) -> Peer | None:
    """The peer that a service's TXT record, addresses and port describe, or None where they describe none."""
    name = properties.get(b"name") or b""
    key = properties.get(b"key") or b""
    try:
        server_name = name.decode("ascii")
        raw = base64.b64decode(key + b"=" * (-len(key) % 4), validate=True)
    except (UnicodeDecodeError, binascii.Error, ValueError):
        return None
    if not _SERVER_NAME.fullmatch(server_name) or len(raw) != 32 or port is None or not 0 < port < 65536:
        return None
    usable = tuple(dict.fromkeys(address for address in addresses if _is_usable(address)))[:MAX_ADDRESSES]
    return Peer(server_name, raw, usable, port) if usable else None


def _is_usable(address: str) -> bool:
    if len(address) > 64:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_multicast or parsed.is_unspecified)


async def discover(
    events: trio.MemorySendChannel[Event] | None,
    announcement: Announcement | None = None,
    *,
    interfaces: Sequence[str] | None = None,
) -> None:
    """Announces this box and tells `events` of others, until it is cancelled; then it says goodbye.

    `interfaces` are the IP addresses of the interfaces to use (None: all). At most `MAX_PEERS` boxes are known at a
    time. Events are dropped while the channel is full. Without `events` it only announces. Raises OSError if there is
    no network to speak on.
    """
    import trio_asyncio
    from zeroconf import InterfaceChoice
    from zeroconf.asyncio import AsyncZeroconf

    own = None if announcement is None else announcement.server_name
    async with trio_asyncio.open_loop() as loop:
        loop.time = time.monotonic  # zeroconf sets timers by that clock; trio's has another origin, and timers in the past would spin
        zeroconf: AsyncZeroconf = await trio_asyncio.aio_as_trio(_open)(
            AsyncZeroconf, InterfaceChoice.All if interfaces is None else list(interfaces)
        )
        try:
            async with trio.open_nursery() as nursery:
                if announcement is not None:
                    nursery.start_soon(trio_asyncio.aio_as_trio(_announce), zeroconf, announcement)
                if events is not None:
                    nursery.start_soon(_browse, zeroconf, events, own)
                await trio.sleep_forever()
        finally:
            with trio.move_on_after(5) as goodbye:
                goodbye.shield = True
                await trio_asyncio.aio_as_trio(_close)(zeroconf)


async def _open(kind: Any, interfaces: Any) -> Any:
    """Over IPv4 and IPv6; where a machine has no IPv6, over IPv4 alone."""
    from zeroconf import InterfaceChoice, IPVersion

    # An interface that cannot send (IPv6 loopback, say) is no news for the operator: the others carry on.
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
    if interfaces is not InterfaceChoice.All:
        return kind(interfaces=interfaces)  # the addresses say which
    try:
        return kind(interfaces=interfaces, ip_version=IPVersion.All)
    except (OSError, RuntimeError):
        return kind(interfaces=interfaces, ip_version=IPVersion.V4Only)


async def _close(zeroconf: AsyncZeroconf) -> None:
    await zeroconf.async_unregister_all_services()
    await zeroconf.async_close()


def _services(announcement: Announcement) -> list[tuple[str, str, int, dict[str, str]]]:
    """Service type, instance name, port and TXT properties of what is announced. Raises ValueError on a bad host
    label."""
    if not _LABEL.fullmatch(announcement.host):
        raise ValueError("the host must be one DNS label")
    key = base64.b64encode(announcement.key).rstrip(b"=").decode("ascii")
    properties = {"name": announcement.server_name, "key": key}
    services = [(FEDERATION_SERVICE, announcement.host, announcement.federation_port, properties)]
    if announcement.client_port is not None:
        services.append(
            (CLIENT_SERVICE, announcement.host, announcement.client_port, {"name": announcement.server_name})
        )
    return services


async def _announce(zeroconf: AsyncZeroconf, announcement: Announcement) -> None:
    from zeroconf.asyncio import AsyncServiceInfo

    for kind, instance, port, properties in _services(announcement):
        info = AsyncServiceInfo(
            kind,
            f"{instance}.{kind}",
            port=port,
            properties=properties,
            server=f"{announcement.host}.local.",
            parsed_addresses=list(announcement.addresses),
        )
        await (await zeroconf.async_register_service(info, allow_name_change=True))


async def _browse(zeroconf: AsyncZeroconf, events: trio.MemorySendChannel[Event], own: str | None) -> None:
    """Turns service changes into events, one service at a time, so that a flood of announcements only fills a queue."""
    import trio_asyncio
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser

    changes_in, changes = trio.open_memory_channel[tuple[str, bool]](_MAX_QUEUE)
    known: dict[str, Peer] = {}

    def changed(zeroconf: Any, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        with suppress(trio.WouldBlock):  # a flood; what is real is announced again
            changes_in.send_nowait((name, state_change is ServiceStateChange.Removed))

    async def start() -> AsyncServiceBrowser:
        return AsyncServiceBrowser(zeroconf.zeroconf, FEDERATION_SERVICE, handlers=[changed])

    browser = await trio_asyncio.aio_as_trio(start)()
    try:
        async for name, removed in changes:
            peer = None if removed else await trio_asyncio.aio_as_trio(_resolve)(zeroconf, name)
            for event in _change(known, name, peer, own):
                with suppress(trio.WouldBlock):
                    events.send_nowait(event)
    finally:
        with trio.CancelScope(shield=True):
            await trio_asyncio.aio_as_trio(browser.async_cancel)()


async def _resolve(zeroconf: AsyncZeroconf, name: str) -> Peer | None:
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncServiceInfo

    info = AsyncServiceInfo(FEDERATION_SERVICE, name)
    if not await info.async_request(zeroconf.zeroconf, RESOLVE_TIMEOUT * 1000):
        return None
    return parse_peer(info.properties, info.parsed_scoped_addresses(IPVersion.All)[: 4 * MAX_ADDRESSES], info.port)


def _change(known: dict[str, Peer], name: str, peer: Peer | None, own: str | None) -> list[Event]:
    """Records what a service instance is now (None: gone) and says what that changes. `own` announcements are
    ignored."""
    before = known.get(name)
    if peer == before or (peer is not None and peer.server_name == own):
        return []
    names: dict[str, None] = {}
    if before is not None:
        del known[name]
        names[before.server_name] = None
    if peer is not None and len(known) < MAX_PEERS:
        known[name] = peer
        names[peer.server_name] = None
    return [_standing(known, server_name) for server_name in names]


def _standing(known: Mapping[str, Peer], server_name: str) -> Event:
    places = [one for one in known.values() if one.server_name == server_name]
    return PeerFound(places[0], tuple(places[1:])) if places else PeerLost(server_name)
