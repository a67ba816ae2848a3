"""DNS through dnspython on trio, against a name server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import dns.message
import pytest
import trio

from edgeserver.federation.dns_lookup import DnsFailure, SrvRecord, TrioDns, _split
from tests.lab.dns import answer

ZONE = {
    "a.test": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
    "four.test": {"A": ["192.0.2.4"]},
    "_matrix-fed._tcp.a.test": {"SRV": [[10, 5, 8448, "m.a.test"]]},
    "broken.test": "SERVFAIL",
}


class NameServer:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.zone: dict[str, Any] = dict(ZONE)
        self.socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)

    async def run(self) -> None:
        while True:
            data, sender = await self.socket.recvfrom(4096)
            query = dns.message.from_wire(data)
            self.asked.append(query.question[0].name.to_text(omit_final_dot=True))
            response = answer(self.zone, query)
            if response is not None:
                await self.socket.sendto(response.to_wire(), sender)


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[NameServer]:
    name_server = NameServer()
    await name_server.socket.bind(("127.0.0.1", 0))
    nursery.start_soon(name_server.run)
    yield name_server
    nursery.cancel_scope.cancel()
    name_server.socket.close()


async def test_addresses_and_services_are_looked_up_once_for_their_time_to_live(server: NameServer) -> None:
    dns_client = TrioDns([f"127.0.0.1:{server.socket.getsockname()[1]}"])
    for _ in range(2):
        assert await dns_client.addresses("a.test") == ["2001:db8::1", "192.0.2.1"]
        assert await dns_client.srv("_matrix-fed._tcp.a.test") == [SrvRecord(10, 5, 8448, "m.a.test")]
        assert await dns_client.addresses("four.test") == ["192.0.2.4"]
        assert await dns_client.srv("_matrix._tcp.a.test") == []
        assert await dns_client.addresses("no.such.test") == []
    assert len(server.asked) == 8


async def test_a_broken_zone_is_a_failure_and_not_an_answer(server: NameServer) -> None:
    dns_client = TrioDns([f"127.0.0.1:{server.socket.getsockname()[1]}"])
    with pytest.raises(DnsFailure):
        await dns_client.srv("broken.test")


async def test_while_dns_fails_what_it_has_said_holds_for_a_week(server: NameServer, mock_clock: trio.testing.MockClock) -> None:
    dns_client = TrioDns([f"127.0.0.1:{server.socket.getsockname()[1]}"])
    assert await dns_client.addresses("four.test") == ["192.0.2.4"]
    assert await dns_client.srv("_matrix-fed._tcp.a.test") == [SrvRecord(10, 5, 8448, "m.a.test")]
    server.zone = dict.fromkeys(ZONE, "SERVFAIL")
    for _ in range(6):
        mock_clock.jump(86_400)
        assert await dns_client.addresses("four.test") == ["192.0.2.4"]
        assert await dns_client.srv("_matrix-fed._tcp.a.test") == [SrvRecord(10, 5, 8448, "m.a.test")]
    mock_clock.jump(86_400)
    with pytest.raises(DnsFailure):
        await dns_client.addresses("four.test")


async def test_after_a_failure_dns_is_asked_again_soon_but_not_each_time(server: NameServer, mock_clock: trio.testing.MockClock) -> None:
    dns_client = TrioDns([f"127.0.0.1:{server.socket.getsockname()[1]}"])
    server.zone["four.test"] = "SERVFAIL"
    for _ in range(3):
        with pytest.raises(DnsFailure):
            await dns_client.addresses("four.test")
    assert len(server.asked) == 2
    server.zone["four.test"] = ZONE["four.test"]
    mock_clock.jump(5)
    assert await dns_client.addresses("four.test") == ["192.0.2.4"]


def test_name_servers_may_state_a_port() -> None:
    assert [_split(text) for text in ("192.0.2.1", "192.0.2.1:5", "2001:db8::1", "[2001:db8::1]:5")] == [
        ("192.0.2.1", 53),
        ("192.0.2.1", 5),
        ("2001:db8::1", 53),
        ("[2001:db8::1]", 5),
    ]
