from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dns.rcode
import pytest

from tests.lab import netns
from tests.lab.dns import NameServer
from tests.lab.synapse import free_port

ZONE = {
    "*.fleet.test": {"A": ["10.77.0.2"], "AAAA": ["fd00::2"]},
    "special.fleet.test": {"A": ["10.77.0.9"]},
    "_matrix-fed._tcp.hills.test": {"SRV": [[10, 5, 8448, "box.fleet.test"]]},
    "alias.test": {"CNAME": ["box.fleet.test"]},
    "broken.test": "SERVFAIL",
    "mute.test": "silence",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NameServer]:
    with NameServer(tmp_path, ZONE, port=free_port()) as server:
        yield server


def _said(server: NameServer, name: str, kind: str) -> list[str]:
    return [item.to_text() for answer in server.ask(name, kind).answer for item in answer]


def test_names_wildcards_services_and_aliases_are_answered(server: NameServer) -> None:
    assert _said(server, "box.fleet.test", "A") == ["10.77.0.2"]
    assert _said(server, "deep.box.fleet.test", "AAAA") == ["fd00::2"]
    assert _said(server, "special.fleet.test", "A") == ["10.77.0.9"]
    assert _said(server, "_matrix-fed._tcp.hills.test", "SRV") == ["10 5 8448 box.fleet.test."]
    assert _said(server, "alias.test", "A") == ["box.fleet.test.", "10.77.0.2"]
    assert {"name": "special.fleet.test", "type": "A", "rcode": "NOERROR"} in server.questions()


def test_what_is_not_there_is_denied_at_once(server: NameServer) -> None:
    assert server.ask("nobody.test", "A").rcode() == dns.rcode.NXDOMAIN
    assert server.ask("special.fleet.test", "AAAA").rcode() == dns.rcode.NOERROR
    assert server.ask("hills.test", "A").rcode() == dns.rcode.NOERROR
    assert server.ask("broken.test", "A").rcode() == dns.rcode.SERVFAIL
    with pytest.raises(TimeoutError):
        server.ask("mute.test", "A", timeout=0.2)


def test_a_changed_zone_counts_from_the_next_question(server: NameServer) -> None:
    server.zone({"new.test": {"A": ["10.0.0.1"]}})
    assert _said(server, "new.test", "A") == ["10.0.0.1"]
    assert server.ask("box.fleet.test", "A").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.netns
@pytest.mark.skipif(netns.unavailable() is not None, reason=netns.unavailable() or "")
def test_programs_in_a_namespace_ask_it_through_their_resolv_conf(tmp_path: Path) -> None:
    with netns.Network() as net:
        lan = net.bridge("lan", "10.77.0.0/24")
        box, other = net.namespace("dns"), net.namespace("box")
        lan.join(box)
        lan.join(other)
        other.nameserver(box.address)
        with NameServer(tmp_path, ZONE, space=box):
            assert other.run("getent", "ahostsv4", "box.fleet.test").split()[0] == "10.77.0.2"
