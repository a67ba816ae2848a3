"""GET https://<host>/.well-known/matrix/server: where a server has delegated its federation to.

Spec: server-server API, "Resolving server names", step 3. Answers are cached as their headers say (a day unless
told, two days at most), errors for an hour at most, doubling from a minute; redirects are followed to https alone,
and no more than five of them. While a host is out of reach, and when it fails (5xx), what it said within the last week holds: it may be
our own line that is gone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urljoin, urlsplit

import trio

from edgeserver.matrix import canonical_json, server_names
from transports.exchange import ExchangeError

if TYPE_CHECKING:
    from transports.exchange import Response

PATH: Final = "/.well-known/matrix/server"
MAX_BODY: Final = 51_200
MAX_REDIRECTS: Final = 5
DEFAULT_TTL: Final = 86_400.0
MAX_TTL: Final = 172_800.0
MIN_TTL: Final = 300.0
FIRST_ERROR_TTL: Final = 60.0
MAX_ERROR_TTL: Final = 3600.0
MAX_STALE: Final = 7 * 86_400.0
MAX_CACHED: Final = 512

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
_NO_CACHE = re.compile(r"(?:^|[\s,])no-(?:store|cache)\b", re.IGNORECASE)


class WebGet(Protocol):
    """One plain HTTPS GET with certificate check, no redirects followed."""

    async def get(self, host: str, port: int, target: str) -> Response:
        """The answer of `https://host:port/target`, its body no longer than 50 KiB. Raises ExchangeError."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    """`delegated`: what the host said at `said`."""

    expires: float
    delegated: str | None
    said: float
    failures: int = 0
    is_out_of_reach: bool = False


class WellKnown:
    """The cache of delegations; one request at a time for a host."""

    def __init__(self, web: WebGet) -> None:
        self._web = web
        self._cache: dict[str, _Entry] = {}
        self._asking: dict[str, trio.Event] = {}

    async def delegation_of(self, host: str) -> str | None:
        """The server name that `host` delegates to (grammar checked), None if it delegates nothing or cannot be
        asked.
        """
        while (asking := self._asking.get(host)) is not None:
            await asking.wait()
        entry = self._cache.get(host)
        if entry is not None and entry.expires > trio.current_time():
            return entry.delegated
        self._asking[host] = asked = trio.Event()
        try:
            entry = await self._ask(host, entry)
            self._cache.pop(host, None)
            self._cache[host] = entry
            if len(self._cache) > MAX_CACHED:
                del self._cache[next(iter(self._cache))]
        finally:
            del self._asking[host]
            asked.set()
        return entry.delegated

    def ask_again(self) -> None:
        """The way to the internet is back: whoever was out of reach is asked anew when somebody wants to know."""
        for host in [host for host, entry in self._cache.items() if entry.is_out_of_reach]:
            self._cache[host] = replace(self._cache[host], expires=float("-inf"), failures=0)

    async def _ask(self, host: str, before: _Entry | None) -> _Entry:
        delegated, ttl, is_out_of_reach = None, DEFAULT_TTL, False
        try:
            response = await self._follow(host)
            delegated, ttl = _delegation(response), _time_to_live(response)
            is_out_of_reach = response.status >= 500
        except ExchangeError:
            is_out_of_reach = True
        except ValueError:
            delegated = None
        now = trio.current_time()
        if delegated is not None:
            return _Entry(now + ttl, delegated, now)
        failures = (before.failures if before else 0) + 1
        wait = min(FIRST_ERROR_TTL * 2 ** min(failures - 1, 10), MAX_ERROR_TTL)
        if before is not None and is_out_of_reach and now - before.said < MAX_STALE:
            return _Entry(now + wait, before.delegated, before.said, failures, is_out_of_reach)
        return _Entry(now + wait, None, now, failures, is_out_of_reach)

    async def _follow(self, host: str) -> Response:
        url = f"https://{host}{PATH}"
        for _ in range(MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            if parts.scheme != "https" or not parts.hostname or parts.username is not None:
                raise ValueError("the redirect does not lead to an https address")
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            response = await self._web.get(parts.hostname, parts.port or 443, target)
            location = response.header("location")
            if response.status not in (301, 302, 303, 307, 308) or location is None:
                return response
            url = urljoin(url, location)
        raise ValueError("too many redirects")


def _delegation(response: Response) -> str | None:
    if response.status != 200 or len(response.body) > MAX_BODY:
        return None
    body = canonical_json.decode(response.body)
    delegated = body.get("m.server") if isinstance(body, dict) else None
    return delegated if isinstance(delegated, str) and server_names.is_valid(delegated) else None


def _time_to_live(response: Response) -> float:
    control = response.header("cache-control") or ""
    if _NO_CACHE.search(control):
        return MIN_TTL
    age = _MAX_AGE.search(control)
    return min(max(float(age.group(1)), MIN_TTL), MAX_TTL) if age else DEFAULT_TTL
