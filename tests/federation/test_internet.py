"""From a server name to the pool of connections: which route a request takes."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from edgeserver.federation.internet import InternetExchange, InternetWeb, found_route
from edgeserver.federation.resolver import Resolver
from edgeserver.federation.well_known import WellKnown
from edgeserver.matrix import server_names
from tests.federation.test_discovery import FakeDns, FakeWeb, SrvRecord, delegation, well_known
from transports.exchange import Request, Response, Unreachable
from transports.http import PinnedKey, Route, VerifiedName


class FakePool:
    """Keeps routes; ports in `dead` are out of reach."""

    def __init__(self) -> None:
        self.dead: set[int] = set()
        self.taken: list[tuple[Request, Route]] = []

    async def exchange(self, request: Request, route: Route, *, max_response: int | None = None) -> Response:
        await trio.lowlevel.checkpoint()
        self.taken.append((request, route))
        if route.port in self.dead:
            raise Unreachable("dead")
        return Response(200)


def internet(dns: FakeDns, pool: Any, web: FakeWeb | None = None) -> InternetExchange:
    return InternetExchange(Resolver(WellKnown(web or FakeWeb()), dns, pick=lambda bound: 0), pool)


async def test_the_host_header_and_the_certificate_are_the_delegated_name() -> None:
    pool = FakePool()
    web = FakeWeb({well_known("a.org"): delegation("m.a.org:443")})
    exchange = internet(FakeDns({"m.a.org": ["198.41.0.4"]}), pool, web)
    await exchange.exchange(Request("GET", "/x", "a.org"))
    ((request, route),) = pool.taken
    assert request.authority == "m.a.org:443"
    assert route == Route("m.a.org:443", ("198.41.0.4",), 443, VerifiedName("m.a.org"))


async def test_the_next_srv_target_is_tried_when_one_is_dead() -> None:
    pool = FakePool()
    pool.dead = {1}
    records = [SrvRecord(1, 0, 1, "t.org"), SrvRecord(2, 0, 2, "t.org")]
    exchange = internet(FakeDns({"t.org": ["198.41.0.4"]}, {"_matrix-fed._tcp.a.org": records}), pool)
    assert (await exchange.exchange(Request("GET", "/x", "a.org"))).status == 200
    assert [route.port for _, route in pool.taken] == [1, 2]
    pool.dead = {1, 2}
    with pytest.raises(Unreachable):
        await exchange.exchange(Request("GET", "/x", "a.org"))


async def test_plain_web_requests_go_where_dns_says(autojump_clock: trio.testing.MockClock) -> None:
    pool: Any = FakePool()
    web = InternetWeb(FakeDns({"a.org": ["198.41.0.4"]}), pool)
    await web.get("a.org", 8443, "/here")
    ((request, route),) = pool.taken
    assert (request.target, route.host, route.addresses, route.port) == ("/here", "a.org:8443", ("198.41.0.4",), 8443)


def test_a_found_server_is_checked_by_the_key_in_its_name() -> None:
    name = server_names.name_of(b"m" * 32)
    assert found_route(name, ["192.168.1.7"], 8448).tls == PinnedKey(b"m" * 32, name)
    with pytest.raises(ValueError, match="states no key"):
        found_route("lan.test", ["192.168.1.7"], 8448)
