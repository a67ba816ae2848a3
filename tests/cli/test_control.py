"""The control API over a box of pieces that the tests play, and the measuring of lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edgeserver.api import control, link_test
from edgeserver.api.control import BoxStatus
from edgeserver.matrix import errors
from edgeserver.store.pairings import Pairing
from edgeserver.users.accounts import Accounts
from tests.asgi import AsgiClient, section_application
from tests.users.places import open_place
from transports.exchange import ExchangeError, LinkProfile, Request, Response, Unreachable
from transports.link.pairing import PairingFailed, PairingQR
from transports.link.wire import LinkStats

RIDGE = Pairing(b"\x01" * 32, "ridge.example.org", True, "serial", False, True, 1_700_000_000_000)
PHONE = Pairing(b"\x02" * 32, "Ana's phone", False, None, False, False, 1_700_000_000_000)


@dataclass
class Line:
    name: str
    uri: str = "serial:/dev/ttyUSB0,2400"
    peers: list[str] = field(default_factory=list)
    trouble: str | None = None
    stats: LinkStats | None = None


class PlayedLines:
    """`control.Lines` in which people pair when the test says so."""

    def __init__(self) -> None:
        stats = LinkStats(bytes_in=7, since=0.0)
        self.standings = [Line("serial", peers=["ridge.example.org"], stats=stats), Line("a/b", trouble="no port")]
        self.paired = [RIDGE, PHONE]
        self.offer_trouble: str | None = "no pairing is open"
        self.last_paired: Pairing | None = None
        self.fronting = False

    def open_offer(self, *, front: bool) -> tuple[str, str]:
        self.offer_trouble, self.fronting = None, front
        return "K7QM-2XPA", "edgeserver:pair?n=box"

    def close_offer(self) -> None:
        self.offer_trouble = "no pairing is open"

    async def join_offer(self, line_name: str, secret: str, *, gateway: bool) -> Pairing:
        if secret.startswith("edgeserver:"):
            PairingQR.parse(secret)
        if secret == "WRON-GONE":
            raise PairingFailed("the code was wrong")
        return Pairing(b"\x03" * 32, "far.example.org", True, line_name, False, gateway, 5)

    async def unpair(self, name: str) -> bool:
        before = len(self.paired)
        self.paired = [one for one in self.paired if one.name != name]
        return len(self.paired) < before

    def pairings(self) -> list[Pairing]:
        return self.paired

    def standing(self) -> list[Line]:
        return self.standings


class PlayedBox:
    """`control.Operations`."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self.lines = PlayedLines()
        self.client_lines = [Line("serial:/dev/ttyUSB1,9600", peers=["an app"])]
        self.exchange: Any = None

    async def status(self) -> BoxStatus:
        return BoxStatus("test", "0.1.0", 5, ["http://a:1"], [], True, None, ["far.example.org"])

    def found(self) -> dict[str, tuple[str, ...]]:
        return {"ridge.example.org": ("10.0.0.1",), "near.mesh": ("10.0.0.2", "fe80::1")}

    def exchange_on(self, line_name: str) -> Any:
        if line_name != "a/b":
            raise errors.NotFound(f"There is no line {line_name!r}.")
        return self.exchange


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[PlayedBox]:
    async with open_place(tmp_path) as place:
        yield PlayedBox(place.accounts)


@pytest.fixture
def client(box: PlayedBox) -> AsgiClient:
    return AsgiClient(section_application(control.routes(box)))


PREFIX = "/_edgeserver/control/"


async def test_the_status_is_told(client: AsgiClient) -> None:
    answer = await client.get(PREFIX + "status")
    assert answer.json["server_name"] == "test"
    assert answer.json["uplink"] is None
    assert answer.json["waiting"] == ["far.example.org"]


async def test_peers_are_told_with_the_line_that_they_are_on(client: AsgiClient) -> None:
    answer = await client.get(PREFIX + "peers")
    ridge, phone = answer.json["paired"]
    assert (ridge["name"], ridge["up_on"], ridge["gateway"], ridge["key"]) == ("ridge.example.org", ["serial"], True, "01" * 32)
    assert (phone["name"], phone["is_box"], phone["up_on"]) == ("Ana's phone", False, [])
    assert answer.json["found"] == [
        {"name": "near.mesh", "addresses": ["10.0.0.2", "fe80::1"], "paired": False},
        {"name": "ridge.example.org", "addresses": ["10.0.0.1"], "paired": True},
    ]


async def test_lines_are_told_with_their_counters(client: AsgiClient) -> None:
    serial, other = (await client.get(PREFIX + "links")).json["links"]
    assert serial["stats"]["bytes_in"] == 7
    assert serial["stats"]["bytes_by_priority"]["interactive"] == 0
    assert serial["stats"]["up_for"] > 0
    (for_apps,) = (await client.get(PREFIX + "links")).json["client_lines"]
    assert (for_apps["name"], for_apps["peers"]) == ("serial:/dev/ttyUSB1,9600", ["an app"])
    assert other == {"name": "a/b", "uri": "serial:/dev/ttyUSB0,2400", "peers": [], "trouble": "no port", "stats": None}


async def test_an_offer_is_opened_watched_and_closed(client: AsgiClient, box: PlayedBox) -> None:
    offer = await client.post(PREFIX + "pairing", {"front": True})
    assert offer.json == {"code": "K7QM-2XPA", "qr": "edgeserver:pair?n=box", "expires_in_ms": 600_000}
    assert box.lines.fronting
    assert (await client.get(PREFIX + "pairing")).json == {"open": True, "trouble": None, "paired": None}
    box.lines.last_paired = RIDGE
    assert (await client.get(PREFIX + "pairing")).json["paired"]["name"] == "ridge.example.org"
    assert (await client.delete(PREFIX + "pairing")).status == 200
    assert (await client.get(PREFIX + "pairing")).json["trouble"] == "no pairing is open"


async def test_a_box_without_lines_opens_no_offer(client: AsgiClient, box: PlayedBox) -> None:
    box.lines.standings = []
    answer = await client.post(PREFIX + "pairing")
    assert answer.status == 409
    assert "has no line to pair over" in answer.json["error"]


async def test_a_guest_pairs_by_code(client: AsgiClient) -> None:
    answer = await client.post(PREFIX + "pairing/guest", {"link": "serial", "secret": "K7QM-2XPA", "gateway": True})
    assert (answer.json["name"], answer.json["link"], answer.json["gateway"]) == ("far.example.org", "serial", True)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"link": "serial"}, "secret is missing."),
        ({"link": "serial", "secret": "K7QM-2XPA", "gateway": 1}, "gateway must be true or false."),
        ({"link": "serial", "secret": "WRON-GONE"}, "the code was wrong"),
        ({"link": "serial", "secret": "edgeserver:nonsense"}, "this is not an edgeserver pairing code"),
    ],
)
async def test_a_wrong_wish_to_pair_is_refused_in_words(client: AsgiClient, body: dict[str, Any], told: str) -> None:
    answer = await client.post(PREFIX + "pairing/guest", body)
    assert answer.status == 400
    assert told in answer.json["error"]


async def test_a_pairing_is_ended_by_name(client: AsgiClient, box: PlayedBox) -> None:
    assert (await client.delete(PREFIX + "peers/Ana%27s%20phone")).status == 200
    assert box.lines.paired == [RIDGE]
    assert (await client.delete(PREFIX + "peers/Ana%27s%20phone")).status == 404


async def test_people_are_made_listed_and_given_passwords(client: AsgiClient, box: PlayedBox) -> None:
    made = await client.post(PREFIX + "people", {"name": "alice", "password": "correct horse", "admin": True})
    assert made.json == {"user_id": "@alice:test"}
    (alice,) = (await client.get(PREFIX + "people")).json["people"]
    assert (alice["user_id"], alice["admin"], alice["deactivated"]) == ("@alice:test", True, False)
    changed = await client.post(PREFIX + "people/%40alice%3Atest/password", {"password": "battery staple"})
    assert changed.json == {"user_id": "@alice:test"}
    assert await box.accounts.check_password("@alice:test", "battery staple")
    assert (await client.post(PREFIX + "people", {"name": "alice", "password": "correct horse"})).json["errcode"] == "M_USER_IN_USE"
    assert (await client.post(PREFIX + "people/bob/password", {"password": "correct horse"})).status == 404


async def test_people_are_locked_suspended_and_deactivated(client: AsgiClient, box: PlayedBox) -> None:
    await client.post(PREFIX + "people", {"name": "bob", "password": "correct horse"})
    for key in ("locked", "suspended"):
        for value in (True, False):
            assert (await client.put(f"{PREFIX}people/bob/{key}", {key: value})).json == {"user_id": "@bob:test"}
            (bob,) = (await client.get(PREFIX + "people")).json["people"]
            assert bob[key] is value
        assert (await client.put(f"{PREFIX}people/bob/{key}", {key: "yes"})).json["errcode"] == "M_BAD_JSON"
        assert (await client.put(f"{PREFIX}people/bob/{key}", {})).json["errcode"] == "M_MISSING_PARAM"
        assert (await client.put(f"{PREFIX}people/nobody/{key}", {key: True})).status == 404
    assert (await client.post(PREFIX + "people/bob/deactivate", {"erase": True})).json == {"user_id": "@bob:test"}
    (bob,) = (await client.get(PREFIX + "people")).json["people"]
    assert bob["deactivated"]
    assert (await client.post(PREFIX + "people/nobody/deactivate")).status == 404


# Measuring


class SlowLine:
    """An `Exchange` to the other end's `link_test` over a line of this many bits a second; `error` is raised instead."""

    def __init__(self, rate: int | None, *, serves: bool = True) -> None:
        self.profile = LinkProfile("serial", rate, 256, "ridge.example.org")
        self._far = AsgiClient(section_application(link_test.routes() if serves else []), link=LinkProfile("serial", rate, 256, "near"))
        self._seconds_a_byte = 0.0 if rate is None else 8 / rate
        self.error: ExchangeError | None = None

    async def exchange(self, request: Request) -> Response:
        if self.error is not None:
            raise self.error
        answer = await self._far.request(request.method, request.target, body=request.body)
        await trio.sleep(0.5 + (len(request.body) + len(answer.body)) * self._seconds_a_byte)
        return Response(answer.status, (), answer.body)


async def test_round_trip_and_throughput_are_those_of_the_line(autojump_clock: trio.testing.MockClock) -> None:
    measured = await link_test.measure(SlowLine(2400))
    assert measured.round_trip == pytest.approx(0.5, abs=0.1)
    assert measured.size == 1200
    assert measured.down == pytest.approx(2400, rel=0.1)
    assert measured.up == pytest.approx(2400, rel=0.1)


async def test_an_end_that_does_not_serve_the_test_still_gives_a_round_trip(autojump_clock: trio.testing.MockClock) -> None:
    measured = await link_test.measure(SlowLine(None, serves=False))
    assert measured.round_trip > 0.4
    assert (measured.down, measured.up) == (None, None)


async def test_the_test_is_served_over_links_alone_and_within_bounds() -> None:
    app = section_application(link_test.routes())
    assert (await AsgiClient(app).get(link_test.PATH)).status == 404
    peer = AsgiClient(app, link=LinkProfile("serial", 2400, 256, "near"))
    assert len((await peer.get(link_test.PATH + "?bytes=100")).body) == 100
    for wrong in ("-1", "x", "65537", "9" * 5000):
        assert (await peer.get(f"{link_test.PATH}?bytes={wrong}")).status == 400
    assert (await peer.request("POST", link_test.PATH, body=b"x" * 65_537)).status == 413
    assert (await AsgiClient(app, link=LinkProfile("serial", 2400, 256)).get(link_test.PATH)).status == 404


async def test_a_line_is_tested_by_its_name(client: AsgiClient, box: PlayedBox) -> None:
    assert (await client.post(PREFIX + "links/nowhere/test")).status == 404
    nobody = await client.post(PREFIX + "links/a%2Fb/test")
    assert (nobody.status, nobody.json["error"]) == (503, "Nobody is at the other end of a/b now.")
    box.exchange = SlowLine(None)
    box.exchange.error = Unreachable("it is down")
    assert (await client.post(PREFIX + "links/a%2Fb/test")).status == 504
