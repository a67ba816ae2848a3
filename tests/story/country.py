"""The country of the story.

::

    Alice ── proxy ══ 2400 baud ══ hut ══ 2400 baud ══ station ── internet ── town (a stock Synapse)
             (field)               (field)             │                      │
                                                      Bob's network         Carol

Alice's machine and the hut have no IP network at all, only a loopback interface each. The hut names itself under the station's domain; the
station, `gw.example.org`, holds a wildcard certificate and is the hut's gateway. DNS knows the town, the station, and a wildcard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.lab import netns
from tests.lab.ca import Authority
from tests.lab.client import NioClient
from tests.lab.dns import NameServer
from tests.lab.programs import Program, python_module
from tests.lab.ptyline import PtyLine
from tests.lab.synapse import Synapse
from tests.story.stage import Station, toml

BAUD = 2400
GATEWAY, TOWN = "gw.example.org", "full.example.net"
FIELD_HTTP: dict[str, Any] = {"client": [], "federation": []}
HERE = "http://127.0.0.1:8008"
QUICK_TO_GIVE_UP = {"max_long_retries": 1, "max_long_retry_delay": "1s", "max_short_retries": 1}
"""Synapse backs off from a peer after two tries rather than after minutes; the back-off itself (ten minutes) is the stock one."""


class Country:
    """Everything that stands between the people; `raised` puts it up."""

    def __init__(self, directory: Path, net: netns.Network, stack: ExitStack) -> None:
        self.directory = directory
        self.authority = Authority(directory / "ca")
        self.internet, self.home = net.bridge("internet", "198.51.100.0/24"), net.bridge("home", "10.77.0.0/24")
        spaces = self.spaces = {name: net.namespace(name) for name in ("names", "station", "town", "bob", "hut", "alice")}
        for name in ("names", "station", "town"):
            self.internet.join(spaces[name])
            spaces[name].nameserver(spaces["names"].address)
        for name in ("station", "bob"):
            self.home.join(spaces[name])
        self.desk = stack.enter_context(PtyLine(directory, BAUD, "desk"))
        self.valley = stack.enter_context(PtyLine(directory, BAUD, "valley"))
        town = spaces["town"].address
        zone = {name: {"A": [spaces["station"].address]} for name in (GATEWAY, f"*.{GATEWAY}")} | {TOWN: {"A": [town]}}
        stack.enter_context(NameServer(directory, zone, space=spaces["names"]))
        config = {"federation": QUICK_TO_GIVE_UP}
        self.town = Synapse(directory / "town", self.authority, TOWN, federation=(town, 8448), netns=spaces["town"].name, config=config)
        self.hut = Station(directory / "hut", self._hut(), name="hut", netns=spaces["hut"].name)
        self.station = Station(directory / "station", self._station(), name="station", netns=spaces["station"].name)
        self.proxy: Program | None = None
        for box in (self.hut, self.station):
            stack.callback(box.stop)
        stack.callback(self.town.stop)

    def _hut(self) -> str:
        links = [{"uri": f"serial:{self.desk.b},{BAUD}", "name": "desk"}, {"uri": f"serial:{self.valley.a},{BAUD}", "name": "valley"}]
        return toml(
            {
                "server": {"suffix": GATEWAY},
                "http": FIELD_HTTP,
                "accounts": {"registration": "open"},
                "federation": {"internet": False},
                "discovery": {"mdns": False},
            },
            links,
        )

    def _station(self) -> str:
        certificate = self.authority.issue(GATEWAY, f"*.{GATEWAY}")
        return toml(
            {
                "server": {"name": GATEWAY},
                "http": {
                    "client": [f"{self.spaces['station'].addresses[1]}:8008"],
                    "federation": [f"{self.spaces['station'].address}:8448"],
                    "certificate": str(certificate.chain),
                    "certificate_key": str(certificate.key),
                },
                "federation": {
                    "extra_ca": str(self.authority.certificate),
                    "private_addresses": True,
                    "nameservers": [self.spaces["names"].address],
                },
                "discovery": {"mdns": False},
            },
            [{"uri": f"serial:{self.valley.b},{BAUD}", "name": "valley"}],
        )

    # People

    def start_proxy(self, *more: str) -> Program:
        """`edgeserver proxy` on Alice's machine."""
        words = ["proxy", "--link", f"serial:{self.desk.a},{BAUD}", "--state", str(self.directory / "proxy"), *more]
        argv = python_module("edgeserver", *words)
        self.proxy = Program(argv, log=self.directory / "proxy.log", netns=self.spaces["alice"].name).start()
        return self.proxy

    def alice(self) -> NioClient:
        return NioClient(self.directory, HERE, name="alice", netns=self.spaces["alice"].name)

    def bob(self) -> NioClient:
        return NioClient(self.directory, f"http://{self.spaces['station'].addresses[1]}:8008", name="bob", netns=self.spaces["bob"].name)

    def carol(self) -> NioClient:
        return NioClient(self.directory, self.town.base_url, name="carol", netns=self.spaces["town"].name)

    # Lines

    def cut_uplink(self) -> None:
        self.internet.cut(self.spaces["station"])

    def restore_uplink(self) -> None:
        self.internet.restore(self.spaces["station"])

    def interfaces(self, name: str) -> list[str]:
        """The network interfaces that a machine has."""
        return [line.split()[1].rstrip(":@") for line in self.spaces[name].run("ip", "-o", "link").splitlines()]


@contextmanager
def raised(directory: Path) -> Iterator[Country]:
    """The country with its boxes and the town starting; everything goes when the block ends."""
    with netns.Network() as net, ExitStack() as stack:
        country = Country(directory, net, stack)
        country.town.begin()
        country.hut.begin()
        country.station.begin()
        try:
            yield country
        finally:
            if country.proxy is not None:
                country.proxy.stop()
