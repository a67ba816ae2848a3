"""From a server name to the addresses at which that server takes federation requests.

Spec: server-server API, "Resolving server names". The steps below stand in the spec's order; each says which
certificate the far end must show and which Host header it expects. Addresses that lead into this box or its private
networks are refused, unless allowed: server names come from strangers.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeserver.federation.dns_lookup import DnsFailure
from edgeserver.matrix import server_names
from transports.exchange import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeserver.federation.dns_lookup import Dns, SrvRecord
    from edgeserver.federation.well_known import WellKnown

DEFAULT_PORT: Final = 8448
MAX_TARGETS: Final = 4
MAX_ADDRESSES: Final = 8


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a server is: `addresses` are (IP address, port), to be tried in order.

    `certificate_name` is the name (or IP literal without brackets) that the certificate must hold, and the SNI;
    `host_header` the Host.
    """

    addresses: tuple[tuple[str, int], ...]
    certificate_name: str
    host_header: str


class Resolver:
    """Discovery with its caches in `well_known` and `dns`.

    `pick(n)` is a random number below n, for SRV weights; `allow_private` admits loopback, link-local and private
    addresses.
    """

    def __init__(self, well_known: WellKnown, dns: Dns, *, pick: Callable[[int], int], allow_private: bool = False) -> None:
        self._well_known = well_known
        self._dns = dns
        self._pick = pick
        self._allow_private = allow_private

    async def resolve(self, server_name: str) -> Whereabouts:
        """Raises `transports.exchange.Unreachable` if the name leads nowhere."""
        parsed = server_names.parse(server_name)
        if parsed is None:
            raise Unreachable(f"{server_name!r} is not a server name")
        if server_names.is_mesh(server_name):
            raise Unreachable(f"{server_name} is known to no DNS")
        try:
            # 1. An IP literal; 2. a name with a port
            if parsed.is_ip_literal or parsed.port is not None:
                return await self._at(parsed.host, parsed.port or DEFAULT_PORT, server_name)
            # 3. /.well-known/matrix/server
            delegated = await self._well_known.delegation_of(parsed.host)
            if delegated is not None:
                return await self._delegated(delegated)
            # 4. to 6. SRV, then port 8448
            return await self._by_srv(parsed.host)
        except DnsFailure as failure:
            raise Unreachable(str(failure)) from failure

    async def _delegated(self, delegated: str) -> Whereabouts:
        parsed = server_names.parse(delegated)
        assert parsed is not None, "the delegation has been checked"
        # 3.1 an IP literal; 3.2 a name with a port
        if parsed.is_ip_literal or parsed.port is not None:
            return await self._at(parsed.host, parsed.port or DEFAULT_PORT, delegated)
        # 3.3 to 3.5 SRV of the delegated name, then port 8448
        return await self._by_srv(parsed.host)

    async def _by_srv(self, host: str) -> Whereabouts:
        for service in ("_matrix-fed._tcp", "_matrix._tcp"):
            records = await self._srv(f"{service}.{host}")
            if records:
                return await self._at_targets(host, records)
        return await self._at(host, DEFAULT_PORT, host)

    async def _srv(self, name: str) -> list[SrvRecord]:
        try:
            records = await self._dns.srv(name)
        except DnsFailure:  # a zone that cannot answer for SRV may well have an address
            return []
        return [record for record in order(records, self._pick) if record.target not in ("", ".")]

    async def _at_targets(self, host: str, records: Sequence[SrvRecord]) -> Whereabouts:
        found: list[tuple[str, int]] = []
        for record in records[:MAX_TARGETS]:
            try:
                found += [(address, record.port) for address in await self._dns.addresses(record.target)]
            except DnsFailure:
                continue
        return self._whereabouts(found, host, host)

    async def _at(self, host: str, port: int, host_header: str) -> Whereabouts:
        literal = host.strip("[]")
        if host.startswith("[") or _is_address(host):
            return self._whereabouts([(literal, port)], literal, host_header)
        return self._whereabouts([(address, port) for address in await self._dns.addresses(host)], host, host_header)

    def _whereabouts(self, found: Sequence[tuple[str, int]], name: str, host_header: str) -> Whereabouts:
        allowed = [each for each in found if self._allow_private or is_public(each[0])]
        if not allowed:
            raise Unreachable(f"{name} leads into a private network" if found else f"{name} has no address")
        return Whereabouts(tuple(dict.fromkeys(allowed))[:MAX_ADDRESSES], name, host_header)


def order(records: Sequence[SrvRecord], pick: Callable[[int], int]) -> list[SrvRecord]:
    """SRV records in the order to try them: by priority, and at random by weight within one (RFC 2782)."""
    waiting = sorted(records, key=lambda record: (record.priority, record.weight > 0))
    ordered: list[SrvRecord] = []
    while waiting:
        same = [record for record in waiting if record.priority == waiting[0].priority]
        chance = pick(sum(record.weight for record in same) + 1)
        chosen = same[-1]
        for record in same:
            chance -= record.weight
            if chance <= 0:
                chosen = record
                break
        ordered.append(chosen)
        waiting.remove(chosen)
    return ordered


def is_public(address: str) -> bool:
    """Whether the address is one of the public internet; an IPv4 address inside an IPv6 one counts as itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if inner is None and parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        if inner is None:
            return parsed in _GLOBAL_UNICAST and parsed.is_global and parsed not in _DOCUMENTATION
        parsed = inner
    return parsed.is_global and not parsed.is_multicast and not any(parsed in network for network in _SPECIAL)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is given out (RFC 4291, section 2.4): beyond it lie forms of IPv4 addresses and local networks of many kinds."""
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")
_SPECIAL = (ipaddress.IPv4Network("192.0.0.0/24"), ipaddress.IPv4Network("192.88.99.0/24"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
