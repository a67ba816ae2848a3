"""Requests to peers: which way they take, how they are signed, and what is made of answers."""

from __future__ import annotations

import pytest
import trio

from edgeserver.federation.calls import Calls, path
from edgeserver.federation.client import Ask, FederationClient, timeout_on
from edgeserver.federation.errors import BadAnswer, PeerError, PeerUnreachable, as_matrix_error
from edgeserver.federation.multipart import Media, decode_media
from edgeserver.federation.peers import Peers, Via
from edgeserver.matrix import server_names, signatures
from edgeserver.matrix.signatures import SigningKey
from edgeserver.media.multipart import frame
from transports.exchange import ExchangeError, Interrupted, LinkProfile, Request, Response, Unreachable

KEY = SigningKey(b"k" * 32, "ed25519:k")
MESH = server_names.name_of(b"m" * 32)


class Line:
    """An exchange that answers with what it was given and keeps what it was asked."""

    def __init__(self, answer: Response | ExchangeError, bit_rate: int | None = None, peer: str | None = None) -> None:
        self.answer = answer
        self.profile = LinkProfile("line", bit_rate=bit_rate, peer=peer)
        self.asked: list[Request] = []

    async def exchange(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        self.asked.append(request)
        if isinstance(self.answer, ExchangeError):
            raise self.answer
        return self.answer


OK = Response(200, (), b"{}")


def test_ways_stand_in_the_order_link_found_internet_gateway() -> None:
    internet, radio, cable, found, gateway = (Line(OK, rate) for rate in (None, 1200, None, None, 9600))
    peers = Peers("us.test", internet)
    peers.link_up(MESH, radio)
    peers.link_up(MESH, cable)
    assert peers.found(MESH, found)
    assert not peers.found("lan.test", found)
    peers.link_up("gw.test", gateway, gateway=True)
    assert [way.exchange for way in peers.ways_to(MESH)] == [cable, radio, found, gateway]
    assert [way.via for way in peers.ways_to("a.test")] == [Via.GATEWAY]
    peers.internet_changed(True)
    assert [way.via for way in peers.ways_to("a.test")] == [Via.INTERNET, Via.GATEWAY]
    assert [way.via for way in peers.ways_to("gw.test")] == [Via.LINK, Via.INTERNET]
    peers.link_down(MESH, cable)
    peers.lost(MESH)
    peers.link_down("gw.test", gateway)
    assert [way.exchange for way in peers.ways_to(MESH)] == [radio]


def test_whoever_waits_for_a_way_is_told_of_its_return() -> None:
    told: list[str | None] = []
    peers = Peers("us.test", Line(OK))
    peers.on_return(told.append)
    peers.link_up("gw.test", Line(OK), gateway=True)
    peers.found(MESH, Line(OK))
    peers.found(MESH, Line(OK))
    peers.internet_changed(True)
    peers.internet_changed(True)
    assert told == ["gw.test", None, MESH, None]


async def test_the_link_to_the_peer_itself_needs_no_signature_and_any_other_way_does() -> None:
    link, gateway = Line(OK), Line(OK)
    peers = Peers("us.test")
    peers.link_up("a.test", link, gateway=False)
    peers.link_up("gw.test", gateway, gateway=True)
    client = FederationClient("us.test", KEY, peers)
    ask = Ask("PUT", "/_matrix/x", {"b": 1, "a": 2})
    await client.json("a.test", ask)
    assert link.asked[0].header("authorization") is None
    assert link.asked[0].body == b'{"a":2,"b":1}'
    await client.json("b.test", ask)
    (request,) = gateway.asked
    claim = signatures.parse_authorization(request.header("authorization") or "")
    assert (request.authority, claim.origin, claim.destination) == ("b.test", "us.test", "b.test")
    signatures.verify_request(claim, "PUT", "/_matrix/x", "b.test", KEY.verify_key, {"b": 1, "a": 2})


async def test_the_next_way_is_tried_only_where_nothing_was_delivered() -> None:
    dead, alive = Line(Unreachable("no")), Line(OK)
    peers = Peers("us.test", dead, internet_up=True)
    peers.link_up("gw.test", alive, gateway=True)
    client = FederationClient("us.test", KEY, peers)
    assert await client.json("a.test", Ask("GET", "/x")) == {}
    dead.answer = Interrupted("half way")
    with pytest.raises(PeerUnreachable) as failure:
        await client.json("a.test", Ask("GET", "/x"))
    assert failure.value.may_be_done
    peers.link_down("gw.test", alive)
    dead.answer = Unreachable("no")
    with pytest.raises(PeerUnreachable) as failure:
        await client.json("a.test", Ask("GET", "/x"))
    assert not failure.value.may_be_done


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b"1" * 100])
async def test_a_bad_answer_is_the_peers_fault(body: bytes) -> None:
    client = FederationClient("us.test", KEY, Peers("us.test", Line(Response(200, (), body)), internet_up=True))
    with pytest.raises(BadAnswer):
        await client.json("a.test", Ask("GET", "/x", max_answer=50))


async def test_errors_keep_the_peers_status_and_code() -> None:
    line = Line(Response(429, (("Retry-After", "7"),), b'{"errcode":"M_LIMIT_EXCEEDED","error":"slow"}'))
    client = FederationClient("us.test", KEY, Peers("us.test", line, internet_up=True))
    with pytest.raises(PeerError) as failure:
        await client.json("a.test", Ask("GET", "/x"))
    assert (failure.value.status, failure.value.errcode, failure.value.retry_after_ms) == (429, "M_LIMIT_EXCEEDED", 7000)
    line.answer = Response(502, (), b"<html>")
    with pytest.raises(PeerError) as failure:
        await client.json("a.test", Ask("GET", "/x"))
    assert failure.value.is_passing
    assert as_matrix_error(failure.value).status == 502
    assert as_matrix_error(PeerError("a", 404, "M_NOT_FOUND", "no")).errcode == "M_NOT_FOUND"
    assert as_matrix_error(PeerUnreachable("a", "no")).status == 504


def test_a_thin_line_is_given_the_time_that_its_bytes_take() -> None:
    assert timeout_on(LinkProfile("lan"), 1_000_000, 60) == 60
    assert timeout_on(LinkProfile("radio", bit_rate=1200), 6000, 60) == 220
    assert timeout_on(LinkProfile("radio", bit_rate=10), 10**9, 60) == 3600


def test_targets_are_encoded_segment_by_segment() -> None:
    assert path("/x", "!a/b:c", "@ü", v=["$1", "$2"], limit=3) == "/x/%21a%2Fb%3Ac/%40%C3%BC?v=%241&v=%242&limit=3"


@pytest.mark.parametrize("body", [b"", b"\x00--not-it\r\n--edge", b"\r\n\r\n"])
def test_media_survives_its_wrapping(body: bytes) -> None:
    around = frame("image/png", 'inline; filename="a.png"', "0" * 64)
    media = decode_media(around.content_type, around.head + body + around.tail)
    assert media == Media(body, "image/png", 'inline; filename="a.png"')


def test_media_may_be_elsewhere_and_other_servers_wrap_it_in_their_own_way() -> None:
    body = b"preamble\r\n--x\r\nContent-Type: application/json\r\n\r\n{}\r\n--x\r\nlocation: https://cdn.test/x\r\n\r\n\r\n--x--"
    assert decode_media("Multipart/Mixed;boundary=x", body).location == "https://cdn.test/x"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/mixed", b"--a\r\n\r\n--a--"),
        ("multipart/mixed; boundary=a", b""),
        ("multipart/mixed; boundary=a", b"--a\r\n\r\n{}\r\n--a--\r\n"),
        ("multipart/mixed; boundary=a", b"--a\r\n\r\n{}\r\n--a\r\nno end of headers\r\n--a--"),
    ],
)
def test_malformed_media_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_media(content_type, body)


async def test_a_download_is_bounded() -> None:
    around = frame("image/png", "inline", "0" * 64)
    line = Line(Response(200, (("Content-Type", around.content_type),), around.head + b"x" * 2000 + around.tail))
    calls = Calls(FederationClient("us.test", KEY, Peers("us.test", line, internet_up=True)))
    assert len((await calls.download("a.test", "id", max_bytes=2000)).body) == 2000
    with pytest.raises(BadAnswer):
        await calls.download("a.test", "id", max_bytes=1999)
