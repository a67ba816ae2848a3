"""Network namespaces: boxes on one machine, each with its own interfaces, name service and hosts file.

::

    with Network() as net:
        lan = net.bridge("lan", "10.77.0.0/24")
        a, b = net.namespace("a"), net.namespace("b")
        lan.join(a)                    # 10.77.0.2 on eth0, and so on
        lan.join(b)
        net.hosts({"a.test": a.address, "b.test": b.address})
        a.run("getent", "hosts", "b.test")
        lan.cut(b); lan.restore(b)
        home, router = net.behind_nat(lan, "home", "10.88.0.0/24")

The names of the kernel's namespaces start with `edge-` and the maker's process id: what a killed run has left behind is
removed by the next one. Bridges live in a namespace of their own, so nothing appears in the machine's own network and
its firewall has no say. Multicast (mDNS) floods across a bridge.
"""

from __future__ import annotations

import ctypes
import functools
import ipaddress
import os
import shutil
import signal
import socket
import threading
from pathlib import Path
from typing import Any, Self

from tests.lab.programs import LabError, missing, run

_PREFIX = "edge-"
_ETC = Path("/etc/netns")
_MASQUERADE = """
table ip nat {
    chain out {
        type nat hook postrouting priority srcnat;
        oifname eth0 masquerade
    }
}
table ip filter {
    chain through {
        type filter hook forward priority 0; policy drop;
        iifname eth1 accept
        ct state established,related accept
    }
}
"""
_CLONE_NEWNET = 0x40000000


@functools.cache
def unavailable() -> str | None:
    """Why namespaces cannot be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if reason := missing("ip", "nft"):
        return reason
    probe = f"{_PREFIX}{os.getpid()}-probe"
    try:
        run("ip", "netns", "add", probe)
        run("ip", "-n", probe, "link", "add", "name", "v0", "type", "veth", "peer", "name", "v1")
    except LabError as error:
        return f"the kernel refuses a namespace with a veth pair: {error}"
    finally:
        run("ip", "netns", "del", probe, check=False)
    return None


def sweep() -> list[str]:
    """Removes the namespaces of runs that are dead, with the processes in them; returns their names."""
    swept = []
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        maker = name.removeprefix(_PREFIX).partition("-")[0]
        if name.startswith(_PREFIX) and maker.isdigit() and not Path(f"/proc/{maker}").exists():
            _remove(name)
            swept.append(name)
    return swept


def _remove(name: str) -> None:
    for pid in run("ip", "netns", "pids", name, check=False).split():
        if pid.isdigit():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
    run("ip", "netns", "del", name, check=False)
    shutil.rmtree(_ETC / name, ignore_errors=True)


class Namespace:
    """One box's network. `name` is what `ip netns exec` wants; `addresses` are in the order of the bridges joined."""

    def __init__(self, name: str, label: str) -> None:
        self.name, self.label = name, label
        self.addresses: list[str] = []
        self._etc = _ETC / name
        self._etc.mkdir(parents=True, exist_ok=True)
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        self.hosts({})
        self.nameserver(None)

    @property
    def address(self) -> str:
        return self.addresses[0]

    def run(self, *command: str | Path, check: bool = True, **options: Any) -> str:
        """Runs a short command inside, to its end; returns what it printed."""
        return run("ip", "netns", "exec", self.name, *command, check=check, **options)

    def hosts(self, names: dict[str, str]) -> None:
        """Replaces /etc/hosts as programs started inside from now on see it: `{name: address}`."""
        lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{address} {name}" for name, address in names.items())]
        (self._etc / "hosts").write_text("\n".join(lines) + "\n")

    def nameserver(self, address: str | None) -> None:
        """Replaces /etc/resolv.conf likewise; None: nobody resolves anything, and says so at once."""
        address = address or "127.0.0.1"
        (self._etc / "resolv.conf").write_text(f"nameserver {address}\noptions timeout:1 attempts:1\n")

    def route(self, gateway: str) -> None:
        run("ip", "-n", self.name, "route", "replace", "default", "via", gateway)

    def nft(self, rules: str) -> None:
        """Adds firewall rules in nft's own language inside this namespace (for instance to lose packets)."""
        self.run("nft", "-f", "-", input_text=rules)


class Bridge:
    """A switch with a subnet; whoever joins gets the next address."""

    def __init__(self, switch: Namespace, name: str, subnet: str, number: int) -> None:
        self.subnet = ipaddress.ip_network(subnet)
        self.name, self._number = name, number
        self._switch = switch
        self._hosts = iter(self.subnet.hosts())
        self.gateway = str(next(self._hosts))  # the first address is kept for a router
        self._ports: dict[str, str] = {}
        run("ip", "-n", switch.name, "link", "add", "name", f"br{number}", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", switch.name, "link", "set", f"br{number}", "up")

    def join(self, space: Namespace, address: str | None = None) -> str:
        """Plugs the namespace in, as its next interface eth0, eth1, …; returns its address."""
        address = address or str(next(self._hosts))
        port = f"p{self._number}-{len(self._ports)}"
        interface = f"eth{len(space.addresses)}"
        ip = ("ip", "-n", self._switch.name, "link")
        run(*ip, "add", "name", port, "type", "veth", "peer", "name", interface, "netns", space.name)
        run(*ip, "set", port, "master", f"br{self._number}", "up")
        run("ip", "-n", space.name, "addr", "add", f"{address}/{self.subnet.prefixlen}", "dev", interface)
        run("ip", "-n", space.name, "link", "set", interface, "multicast", "on", "up")
        if not space.addresses:
            run("ip", "-n", space.name, "route", "add", "224.0.0.0/4", "dev", interface)
        space.addresses.append(address)
        self._ports[space.name] = port
        return address

    def cut(self, space: Namespace) -> None:
        """Pulls the plug at the switch: the box's interface loses its carrier, its addresses stay."""
        run("ip", "-n", self._switch.name, "link", "set", self._ports[space.name], "down")

    def restore(self, space: Namespace) -> None:
        run("ip", "-n", self._switch.name, "link", "set", self._ports[space.name], "up")

    def bytes(self, space: Namespace) -> tuple[int, int]:
        """(sent, received) by the namespace over this bridge, in bytes of Ethernet frames."""
        directory = f"/sys/class/net/{self._ports[space.name]}/statistics"
        counts = self._switch.run("cat", f"{directory}/rx_bytes", f"{directory}/tx_bytes").split()
        return int(counts[0]), int(counts[1])


class Network:
    """All namespaces and bridges of one test; everything goes when it is closed, the processes inside too."""

    _made = 0

    def __init__(self) -> None:
        self._spaces: dict[str, Namespace] = {}
        self._bridges: list[Bridge] = []

    def __enter__(self) -> Self:
        sweep()
        Network._made += 1
        self._stem = f"{_PREFIX}{os.getpid()}-{Network._made}"
        self._switch = self.namespace("switch")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for space in self._spaces.values():
            _remove(space.name)
        self._spaces.clear()

    def namespace(self, label: str) -> Namespace:
        """A new, unconnected box."""
        self._spaces[label] = Namespace(f"{self._stem}-{label}", label)
        return self._spaces[label]

    def bridge(self, name: str, subnet: str) -> Bridge:
        """A new switch that numbers its members in `subnet`."""
        self._bridges.append(Bridge(self._switch, name, subnet, len(self._bridges)))
        return self._bridges[-1]

    def hosts(self, names: dict[str, str]) -> None:
        """The same hosts file for every namespace made so far."""
        for space in self._spaces.values():
            space.hosts(names)

    def behind_nat(self, outside: Bridge, name: str, subnet: str) -> tuple[Bridge, Namespace]:
        """A home network: members reach `outside` through a masquerading router, and nobody outside reaches them.

        Returns the inner bridge and the router; members that join want `member.route(inner.gateway)`.
        """
        router = self.namespace(f"{name}-nat")
        outside.join(router)
        inner = self.bridge(name, subnet)
        inner.join(router, inner.gateway)
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        router.nft(_MASQUERADE)
        return inner, router


def connection_in(netns: str | None, address: tuple[str, int], timeout: float) -> socket.socket:
    """A TCP connection of this process that is made inside a namespace: a socket stays where it was created."""
    if netns is None:
        return socket.create_connection(address, timeout=timeout)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    made = socket_in(netns, family, socket.SOCK_STREAM)
    try:
        made.settimeout(timeout)
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def socket_in(netns: str, family: int, kind: int) -> socket.socket:
    """A socket of this process that belongs to a namespace; only a thread that ends here ever enters it."""
    made: list[socket.socket | OSError] = []

    def enter_and_open() -> None:
        try:
            with open(f"/run/netns/{netns}") as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
            made.append(socket.socket(family, kind))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
