"""DNS on trio through dnspython: SRV, A and AAAA with a cache of our own.

dnspython is imported with the first look-up: a box without internet never pays its four megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import dns.asyncresolver

TIMEOUT: Final = 10.0
MAX_RECORDS: Final = 16
MIN_TTL: Final = 60.0
MAX_TTL: Final = 3600.0
FAILED_TTL: Final = 5.0
"""After a failure without an answer from before (RFC 9520, section 3.2: 1 s to 5 min): our own line may be gone, and come back."""
STALE_TTL: Final = 30.0
"""For which the answer from before holds after a failure (RFC 8767, section 5)."""
MAX_STALE: Final = 7 * 86_400.0
"""Seconds since DNS has given it."""
MAX_CACHED: Final = 512


class DnsFailure(Exception):
    """The look-up brought no answer: no resolver, a time-out, a broken zone. "There is no such record" is an answer."""


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


class Dns(Protocol):
    """What discovery needs of DNS."""

    async def srv(self, name: str) -> list[SrvRecord]:
        """The SRV records of `name`, unordered; empty if there are none. Raises DnsFailure."""
        ...

    async def addresses(self, name: str) -> list[str]:
        """The IPv6 and IPv4 addresses of `name`; empty if there are none. Raises DnsFailure."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    """`records` (None: no answer), which DNS gave at `given`."""

    expires: float
    records: list[tuple[Any, ...]] | None
    given: float


class TrioDns:
    """`Dns` by dnspython's asynchronous resolver. Answers are kept for their TTL (a minute to an hour), and after it while DNS fails, for
    a week: a box that has lost its uplink must not forget where everybody is (RFC 8767). `nameservers` are IP addresses, with a port if it
    is not 53, to be asked instead of the system's.
    """

    def __init__(self, nameservers: Sequence[str] = ()) -> None:
        self._nameservers = list(nameservers)
        self._cache: dict[tuple[str, str], _Entry] = {}

    async def srv(self, name: str) -> list[SrvRecord]:
        records = await self._look_up(
            name, "SRV", lambda data: (data.priority, data.weight, data.port, data.target.to_text(omit_final_dot=True))
        )
        return [SrvRecord(*record) for record in records]

    async def addresses(self, name: str) -> list[str]:
        if name == "localhost" or name.endswith(".localhost"):
            return ["127.0.0.1", "::1"]  # RFC 6761, section 6.3: never asked for
        found: dict[str, list[str]] = {"AAAA": [], "A": []}
        failed: list[DnsFailure] = []

        async def ask(kind: str) -> None:
            try:
                found[kind] = [record[0] for record in await self._look_up(name, kind, lambda data: (data.address,))]
            except DnsFailure as failure:
                failed.append(failure)

        async with trio.open_nursery() as nursery:
            for kind in found:
                nursery.start_soon(ask, kind)
        addresses = [*found["AAAA"], *found["A"]]
        if not addresses and not self._nameservers:
            addresses = await _system_addresses(name)
        if failed and not addresses:
            raise failed[0]
        return addresses

    async def _look_up(self, name: str, kind: str, take: Callable[[Any], tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        entry = self._cache.get((name, kind))
        if entry is None or entry.expires <= trio.current_time():
            entry = await self._ask(name, kind, take, entry)
            self._cache.pop((name, kind), None)
            self._cache[name, kind] = entry
            if len(self._cache) > MAX_CACHED:
                del self._cache[next(iter(self._cache))]
        if entry.records is None:
            raise DnsFailure(f"no answer from DNS for {kind} of {name}")
        return entry.records

    def _resolver(self) -> dns.asyncresolver.Resolver:
        import dns.asyncresolver
        import dns.nameserver

        resolver = dns.asyncresolver.Resolver(configure=not self._nameservers)
        if self._nameservers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(host.strip("[]"), port) for host, port in map(_split, self._nameservers)]
        return resolver

    async def _ask(self, name: str, kind: str, take: Callable[[Any], tuple[Any, ...]], before: _Entry | None) -> _Entry:
        import dns.exception
        import dns.resolver

        try:
            answer = await self._resolver().resolve(name, kind, search=False, lifetime=TIMEOUT)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            now = trio.current_time()
            return _Entry(now + MIN_TTL, [], now)
        except (dns.exception.DNSException, OSError):
            now = trio.current_time()
            if before is not None and before.records is not None and now - before.given < MAX_STALE:
                return _Entry(now + STALE_TTL, before.records, before.given)
            return _Entry(now + FAILED_TTL, None, now)
        now = trio.current_time()
        ttl = 0 if answer.rrset is None else answer.rrset.ttl
        records = [take(data) for data in list(answer)[:MAX_RECORDS]]
        return _Entry(now + min(max(ttl, MIN_TTL), MAX_TTL), records, now)


async def _system_addresses(name: str) -> list[str]:
    """What the system knows of a name that DNS does not: the hosts file above all."""
    try:
        found = await trio.socket.getaddrinfo(name, None, type=trio.socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))[:MAX_RECORDS]


def _split(nameserver: str) -> tuple[str, int]:
    """Address and port of a name server: `192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1` or `[2001:db8::1]:5353`."""
    host, colon, port = nameserver.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.endswith("]")):
        return host, int(port)
    return nameserver, 53
