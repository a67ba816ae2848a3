"""Finding servers: every step of "Resolving server names", and what is refused."""

from __future__ import annotations

import json

import pytest
import trio

from edgeserver.federation.dns_lookup import DnsFailure, SrvRecord
from edgeserver.federation.resolver import Resolver, Whereabouts, is_public, order
from edgeserver.federation.well_known import WellKnown
from edgeserver.matrix import server_names
from transports.exchange import Response, Unreachable

PUBLIC = "198.41.0.4"


class FakeDns:
    """Records by name; a name in `broken` fails."""

    def __init__(self, addresses: dict[str, list[str]] | None = None, srv: dict[str, list[SrvRecord]] | None = None) -> None:
        self.by_name = addresses or {}
        self.services = srv or {}
        self.broken: set[str] = set()

    async def srv(self, name: str) -> list[SrvRecord]:
        await trio.lowlevel.checkpoint()
        if name in self.broken:
            raise DnsFailure(name)
        return self.services.get(name, [])

    async def addresses(self, name: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        if name in self.broken:
            raise DnsFailure(name)
        return self.by_name.get(name, [])


class FakeWeb:
    """Answers by URL without scheme; anything else is out of reach."""

    def __init__(self, pages: dict[str, Response] | None = None) -> None:
        self.pages = pages or {}
        self.asked: list[str] = []

    async def get(self, host: str, port: int, target: str) -> Response:
        await trio.lowlevel.checkpoint()
        url = f"{host}:{port}{target}"
        self.asked.append(url)
        if url not in self.pages:
            raise Unreachable("not there")
        return self.pages[url]


def delegation(to: str, **headers: str) -> Response:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(200, named, json.dumps({"m.server": to}).encode())


def well_known(host: str) -> str:
    return f"{host}:443/.well-known/matrix/server"


def resolver(dns: FakeDns, web: FakeWeb | None = None, *, allow_private: bool = False) -> Resolver:
    return Resolver(WellKnown(web or FakeWeb()), dns, pick=lambda bound: 0, allow_private=allow_private)


def at(port: int, name: str, host: str | None = None) -> Whereabouts:
    return Whereabouts(((PUBLIC, port),), name, host or name)


A = {"example.org": [PUBLIC], "matrix.example.org": [PUBLIC]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (PUBLIC, Whereabouts(((PUBLIC, 8448),), PUBLIC, PUBLIC)),
        (f"{PUBLIC}:8000", Whereabouts(((PUBLIC, 8000),), PUBLIC, f"{PUBLIC}:8000")),
        ("[2001:500:1::53]", Whereabouts((("2001:500:1::53", 8448),), "2001:500:1::53", "[2001:500:1::53]")),
        ("example.org:80", at(80, "example.org", "example.org:80")),
        ("example.org", at(8448, "example.org")),
    ],
)
async def test_a_literal_a_port_and_a_plain_name(name: str, expected: Whereabouts) -> None:
    assert await resolver(FakeDns(A)).resolve(name) == expected


@pytest.mark.parametrize(
    ("delegated", "expected"),
    [
        (f"{PUBLIC}:1", at(1, PUBLIC, f"{PUBLIC}:1")),
        ("matrix.example.org:443", at(443, "matrix.example.org", "matrix.example.org:443")),
        ("matrix.example.org", at(8448, "matrix.example.org")),
        ("not a name", at(8448, "example.org")),
    ],
)
async def test_a_delegation_is_followed(delegated: str, expected: Whereabouts) -> None:
    web = FakeWeb({well_known("example.org"): delegation(delegated)})
    assert await resolver(FakeDns(A), web).resolve("example.org") == expected


async def test_srv_records_name_port_and_target_but_not_the_certificate() -> None:
    targets = {"one.example.org": ["198.41.0.1"], "two.example.org": ["198.41.0.2"], **A}
    new = [SrvRecord(20, 0, 2, "two.example.org"), SrvRecord(10, 0, 1, "one.example.org")]
    old = [SrvRecord(0, 0, 9, "one.example.org")]
    dns = FakeDns(targets, {"_matrix-fed._tcp.example.org": new, "_matrix._tcp.example.org": old})
    expected = Whereabouts((("198.41.0.1", 1), ("198.41.0.2", 2)), "example.org", "example.org")
    assert await resolver(dns).resolve("example.org") == expected
    dns.services.pop("_matrix-fed._tcp.example.org")
    assert (await resolver(dns).resolve("example.org")).addresses == (("198.41.0.1", 9),)


async def test_srv_of_the_delegated_name_is_asked_and_a_broken_zone_is_passed_over() -> None:
    dns = FakeDns(A, {"_matrix-fed._tcp.matrix.example.org": [SrvRecord(0, 0, 7, "example.org")]})
    web = FakeWeb({well_known("example.org"): delegation("matrix.example.org")})
    assert await resolver(dns, web).resolve("example.org") == at(7, "matrix.example.org")
    dns.broken.add("_matrix-fed._tcp.matrix.example.org")
    assert await resolver(dns, web).resolve("example.org") == at(8448, "matrix.example.org")


@pytest.mark.parametrize("name", ["no.such", "bad name", server_names.name_of(b"k" * 32)])
async def test_names_that_lead_nowhere(name: str) -> None:
    with pytest.raises(Unreachable):
        await resolver(FakeDns()).resolve(name)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.1.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "224.0.0.1",
    ],
)
async def test_private_addresses_are_refused_unless_allowed(address: str) -> None:
    assert not is_public(address)
    dns = FakeDns({"example.org": [address]})
    with pytest.raises(Unreachable):
        await resolver(dns).resolve("example.org")
    assert (await resolver(dns, allow_private=True).resolve("example.org")).addresses == ((address, 8448),)


async def test_well_known_follows_redirects_to_https_only_and_not_for_ever() -> None:
    elsewhere = Response(302, (("location", "https://other.org:8443/here?x=1"),))
    web = FakeWeb({well_known("a.org"): elsewhere, "other.org:8443/here?x=1": delegation("m.a.org")})
    assert await WellKnown(web).delegation_of("a.org") == "m.a.org"
    web = FakeWeb({well_known("a.org"): Response(302, (("location", "http://a.org/x"),))})
    assert await WellKnown(web).delegation_of("a.org") is None
    web = FakeWeb({well_known("a.org"): Response(302, (("location", "/.well-known/matrix/server"),))})
    assert await WellKnown(web).delegation_of("a.org") is None
    assert len(web.asked) == 6


async def test_well_known_is_cached_as_its_headers_say_and_errors_ever_longer(autojump_clock: trio.testing.MockClock) -> None:
    web = FakeWeb({well_known("a.org"): delegation("m.a.org", cache_control="public, max-age=1000")})
    known = WellKnown(web)
    for _ in range(2):
        assert await known.delegation_of("a.org") == "m.a.org"
    await trio.sleep(1001)
    await known.delegation_of("a.org")
    assert len(web.asked) == 2
    for _ in range(600):
        assert await known.delegation_of("b.org") is None
        await trio.sleep(1)
    assert web.asked.count(well_known("b.org")) == 4  # after 0, 60, 180 and 420 seconds


async def test_a_delegation_holds_while_its_host_is_out_of_reach_or_broken_but_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    day = 86_400
    page = delegation("m.a.org", cache_control="max-age=1000")
    web = FakeWeb({well_known("a.org"): page})
    known = WellKnown(web)
    assert await known.delegation_of("a.org") == "m.a.org"
    for gone in ({}, {well_known("a.org"): Response(503)}):
        web.pages = gone
        await trio.sleep(day)
        assert await known.delegation_of("a.org") == "m.a.org"
    web.pages = {well_known("a.org"): Response(404)}
    await trio.sleep(day)
    assert await known.delegation_of("a.org") is None
    web.pages = {well_known("a.org"): page}
    await trio.sleep(day)
    assert await known.delegation_of("a.org") == "m.a.org"
    web.pages = {}
    await trio.sleep(8 * day)
    assert await known.delegation_of("a.org") is None


async def test_who_was_out_of_reach_is_asked_anew_as_soon_as_the_way_is_back(autojump_clock: trio.testing.MockClock) -> None:
    web = FakeWeb({well_known("broken.org"): Response(404)})
    known = WellKnown(web)
    for _ in range(300):
        assert [await known.delegation_of(host) for host in ("a.org", "broken.org")] == [None, None]
        await trio.sleep(60)
    web.pages[well_known("a.org")] = delegation("m.a.org")
    known.ask_again()
    asked = len(web.asked)
    assert [await known.delegation_of(host) for host in ("a.org", "broken.org")] == ["m.a.org", None]
    assert len(web.asked) == asked + 1


def test_srv_weights_share_one_priority() -> None:
    records = [SrvRecord(1, 10, 1, "a"), SrvRecord(1, 30, 1, "b"), SrvRecord(0, 0, 1, "c")]
    assert [record.target for record in order(records, lambda bound: 0)] == ["c", "a", "b"]
    assert [record.target for record in order(records, lambda bound: bound - 1)] == ["c", "b", "a"]
