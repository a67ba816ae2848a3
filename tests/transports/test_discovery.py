"""Boxes on the local network: what is believed of a record, and a round over multicast on the loopback interface."""

import base64
import socket
import struct

import pytest
import trio

from transports.discovery import (
    MAX_ADDRESSES,
    MAX_PEERS,
    Announcement,
    Peer,
    PeerFound,
    PeerLost,
    _change,
    _services,
    discover,
    parse_peer,
)

KEY = bytes(range(32))
KEY64 = base64.b64encode(KEY).rstrip(b"=")


def test_a_record_describes_a_peer():
    found = parse_peer({b"name": b"box.example:8448", b"key": KEY64, b"new": None}, ["192.168.1.2", "fe80::1%eth0"], 8448)
    assert found == Peer("box.example:8448", KEY, ("192.168.1.2", "fe80::1%eth0"), 8448)


@pytest.mark.parametrize(
    ("properties", "addresses", "port"),
    [
        ({}, ["10.0.0.1"], 1),
        ({b"name": b"box", b"key": None}, ["10.0.0.1"], 1),
        ({b"name": b"box", b"key": b"c2hvcnQ"}, ["10.0.0.1"], 1),
        ({b"name": b"box", b"key": b"!" * 43}, ["10.0.0.1"], 1),
        ({b"name": b"a b", b"key": KEY64}, ["10.0.0.1"], 1),
        ({b"name": b"", b"key": KEY64}, ["10.0.0.1"], 1),
        ({b"name": "bücher".encode(), b"key": KEY64}, ["10.0.0.1"], 1),
        ({b"name": b"x" * 231, b"key": KEY64}, ["10.0.0.1"], 1),
        ({b"name": b"box/../x", b"key": KEY64}, ["10.0.0.1"], 1),
        ({b"name": b"box", b"key": KEY64}, [], 1),
        ({b"name": b"box", b"key": KEY64}, ["224.0.0.1", "0.0.0.0", "::", "not an address", "1" * 99], 1),
        ({b"name": b"box", b"key": KEY64}, ["10.0.0.1"], None),
        ({b"name": b"box", b"key": KEY64}, ["10.0.0.1"], 0),
    ],
)
def test_what_describes_none_is_none(properties, addresses, port):
    assert parse_peer(properties, addresses, port) is None


def test_addresses_are_few_and_each_once():
    found = parse_peer({b"name": b"box", b"key": KEY64}, [f"10.0.0.{n % 50}" for n in range(200)], 1)
    assert found is not None
    assert len(found.addresses) == len(set(found.addresses)) == MAX_ADDRESSES


def peer(name="box", port=1):
    return Peer(name, KEY, ("10.0.0.1",), port)


def test_changes_become_found_and_lost():
    known = {}
    assert _change(known, "i", peer(), None) == [PeerFound(peer())]
    assert _change(known, "i", peer(), None) == []
    assert _change(known, "i", peer(port=2), None) == [PeerFound(peer(port=2))]
    assert _change(known, "i", peer("other"), None) == [PeerLost("box"), PeerFound(peer("other"))]
    assert _change(known, "i", None, None) == [PeerLost("other")]
    assert _change(known, "i", None, None) == []
    assert _change(known, "i", peer("me"), "me") == []
    assert known == {}


def test_who_claims_the_name_of_another_neither_takes_its_place_nor_takes_it_along():
    known = {}
    liar = Peer("box", bytes(32), ("10.0.0.66",), 1)
    assert _change(known, "i", peer(), None) == [PeerFound(peer())]
    assert _change(known, "j", liar, None) == [PeerFound(peer(), (liar,))]
    assert _change(known, "i", None, None) == [PeerFound(liar)]
    assert _change(known, "i", peer(), None) == [PeerFound(liar, (peer(),))]
    assert _change(known, "j", None, None) == [PeerFound(peer())]


def test_no_more_peers_are_known_than_the_bound():
    known = {}
    events = [_change(known, f"i{n}", peer(f"b{n}"), None) for n in range(MAX_PEERS + 50)]
    assert len(known) == sum(map(len, events)) == MAX_PEERS


def test_both_services_are_announced_under_one_host_name():
    announcement = Announcement("box.example", KEY, "box", ("10.0.0.1", "fd00::1"), 8448, 8008)
    assert _services(announcement) == [
        ("_matrix-fed._tcp.local.", "box", 8448, {"name": "box.example", "key": KEY64.decode()}),
        ("_matrix-client._tcp.local.", "box", 8008, {"name": "box.example"}),
    ]
    with pytest.raises(ValueError, match="label"):
        _services(Announcement("x", KEY, "a.b", ("10.0.0.1",), 1))


def multicast_works():
    """Whether a datagram to a multicast group comes back on the loopback interface."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            group = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
            s.bind(("", 0))
            s.settimeout(1)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, struct.pack("b", 1))
            s.sendto(b"?", ("224.0.0.251", s.getsockname()[1]))
            return s.recv(10) == b"?"
    except OSError:
        return False


@pytest.mark.skipif(not multicast_works(), reason="no multicast on the loopback interface")
async def test_a_box_is_found_and_says_goodbye():
    announcement = Announcement("box.example", KEY, "edgeserver-test", ("127.0.0.1", "::1"), 8448, 8008)
    send, receive = trio.open_memory_channel(10)
    announced = trio.CancelScope()

    async def browse():
        await discover(send, interfaces=["127.0.0.1"])

    async def announce():
        with announced:
            await discover(None, announcement, interfaces=["127.0.0.1"])

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(browse)
            nursery.start_soon(announce)
            while (event := await receive.receive()) != PeerFound(Peer("box.example", KEY, ("127.0.0.1", "::1"), 8448)):
                assert event.peer.server_name != "box.example"
            announced.cancel()
            while await receive.receive() != PeerLost("box.example"):
                pass
            nursery.cancel_scope.cancel()
