"""A box behind a home router that lets nobody in: it dials out by UDP to a gateway that has an address, and fronts for a hut in turn.

    Alice at the hut ══ 2400 baud ══ mill (behind NAT) ── UDP ── gateway ── HTTPS ── town (a stock Synapse) with Carol
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.lab import netns, synapse
from tests.lab.ca import Authority
from tests.lab.client import NioClient
from tests.lab.dns import NameServer
from tests.lab.ptyline import PtyLine
from tests.lab.synapse import Synapse
from tests.story.country import BAUD, GATEWAY, TOWN
from tests.story.stage import PASSWORD, Station, Teller, toml, until

_ABSENT = synapse.unavailable() or netns.unavailable()
pytestmark = [
    pytest.mark.story,
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.real_time,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]

PATIENCE = 180.0
PORT = 7710
FORGETFUL = 30  # seconds for which the router remembers a silent UDP flow
Section = dict[str, Any]
LOCAL = {"internet": False}
SILENT = {"mdns": False}


class Lowlands:
    """The boxes, the router and the town."""

    def __init__(self, directory: Path, net: netns.Network, stack: ExitStack) -> None:
        self.directory = directory
        authority = Authority(directory / "ca")
        internet = net.bridge("internet", "198.51.100.0/24")
        names, gateway, town, mill, hut = (net.namespace(name) for name in ("names", "gateway", "town", "mill", "hut"))
        for space in (names, gateway, town):
            internet.join(space)
            space.nameserver(names.address)
        home, self.router = net.behind_nat(internet, "home", "192.168.7.0/24")
        home.join(mill)
        mill.route(home.gateway)
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            self.router.run("sysctl", "-qw", f"net.netfilter.{name}={FORGETFUL}")
        zone = {name: {"A": [gateway.address]} for name in (GATEWAY, f"*.{GATEWAY}")} | {TOWN: {"A": [town.address]}}
        stack.enter_context(NameServer(directory, zone, space=names))
        self.line = stack.enter_context(PtyLine(directory, BAUD, "valley"))
        certificate = authority.issue(GATEWAY, f"*.{GATEWAY}")
        served = {"client": [], "federation": [f"{gateway.address}:8448"]}
        served |= {"certificate": str(certificate.chain), "certificate_key": str(certificate.key)}
        outside = {"extra_ca": str(authority.certificate), "private_addresses": True, "nameservers": [names.address]}
        callers = {"uri": f"udp-listen:0.0.0.0:{PORT}", "name": "callers"}
        self.gateway = self._box(stack, gateway, {"name": GATEWAY}, served, outside, [callers])
        up = {"uri": f"udp:{gateway.address}:{PORT}", "name": "up"}
        ends = [{"uri": f"serial:{end},{BAUD}", "name": "valley"} for end in (self.line.a, self.line.b)]
        self.mill = self._box(stack, mill, {"suffix": GATEWAY}, {"client": [], "federation": []}, LOCAL, [up, ends[1]])
        here = {"client": ["127.0.0.1:8008"], "federation": []}
        self.hut = self._box(stack, hut, {"suffix": GATEWAY}, here, LOCAL, [ends[0]])
        self.town = Synapse(directory / "town", authority, TOWN, federation=(town.address, 8448), netns=town.name)
        stack.callback(self.town.stop)

    def _box(
        self, stack: ExitStack, space: netns.Namespace, server: Section, http: Section, federation: Section, links: list[dict[str, str]]
    ) -> Station:
        sections = {"server": server, "http": http, "federation": federation, "discovery": SILENT, "accounts": {"registration": "open"}}
        box = Station(self.directory / space.label, toml(sections, links), name=space.label, netns=space.name)
        stack.callback(box.stop)
        return box

    def client(self, name: str, url: str, space: str | None) -> NioClient:
        return NioClient(self.directory, url, name=name, netns=space)


@pytest.fixture
def lowlands(tmp_path: Path) -> Iterator[Lowlands]:
    with netns.Network() as net, ExitStack() as stack:
        made = Lowlands(tmp_path, net, stack)
        made.town.begin()
        for box in (made.gateway, made.mill, made.hut):
            box.begin()
        yield made


async def _pair(host: Station, guest: Station, link: str) -> None:
    with host.offer("--front") as offer:
        await guest.acli("pair", offer.code, "--link", link, "--gateway")
        await offer.wait()


async def _frames_out(box: Station, link: str) -> int:
    links = (await box.told("link", "status"))["links"]
    return int(next(one for one in links if one["name"] == link)["stats"]["frames_out"])


async def test_a_hut_behind_a_box_behind_nat_talks_with_the_town(lowlands: Lowlands) -> None:
    tell = Teller()
    with tell.step("three boxes and a Synapse start"):
        for box in (lowlands.gateway, lowlands.mill, lowlands.hut):
            await box.ready()
        await trio.to_thread.run_sync(lowlands.town.wait_ready)
    with tell.step("the mill is paired with the gateway by UDP, the hut with the mill by its line"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pair, lowlands.gateway, lowlands.mill, "up")
            nursery.start_soon(_pair, lowlands.mill, lowlands.hut, "valley")
        for box in (lowlands.gateway, lowlands.mill, lowlands.hut):
            await box.paired_and_up()
    alice = lowlands.client("alice", "http://127.0.0.1:8008", lowlands.hut.netns)
    carol = lowlands.client("carol", lowlands.town.base_url, lowlands.town.netns)
    with alice, carol:
        await alice.register("alice", PASSWORD)
        await trio.to_thread.run_sync(lowlands.town.register, "carol", PASSWORD)
        carol_id = (await carol.login("carol", PASSWORD))["user_id"]
        with tell.step("Alice invites Carol, who joins"):
            room = await alice.create_room(room_version="12", preset="private_chat")
            await alice.invite(room, carol_id)
            await carol.wait_invite(room, timeout=PATIENCE)
            await carol.join(room, timeout=PATIENCE)
        with tell.step("they talk"):
            await alice.send(room, "Is the mill turning?")
            await carol.wait_message(room, "Is the mill turning?", timeout=PATIENCE)
            await carol.send(room, "I can hear it.")
            await alice.wait_message(room, "I can hear it.", timeout=PATIENCE)
        since = await _frames_out(lowlands.mill, "up")

        async def kept_alive() -> bool:
            return await _frames_out(lowlands.mill, "up") >= since + 2

        with tell.step("nobody says anything for longer than the router remembers"):
            await until("two keep-alives", kept_alive, 120)
        with tell.step("Carol is heard at once"):
            await carol.send(room, "Still there?")
            await alice.wait_message(room, "Still there?", timeout=30)
    assert lowlands.gateway.log().count(f"{lowlands.mill.server_name} is here") == 1
    assert " is gone" not in lowlands.gateway.log()
    stats = lowlands.line.assert_honest()
    there, back = stats["a_to_b"]["bytes"], stats["b_to_a"]["bytes"]
    tell(f"  the valley's line carried {there} B there and {back} B back in {stats['elapsed_s']:.0f} s")

