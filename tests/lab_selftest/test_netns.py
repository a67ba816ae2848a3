from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import netns
from tests.lab.programs import PYTHON, Program, run, wait_for, which
from tests.lab.web import answers, arequest

REASON = netns.unavailable()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(REASON is not None, reason=REASON or "")]


@pytest.fixture
def net() -> Iterator[netns.Network]:
    with netns.Network() as net:
        yield net


def test_boxes_on_one_bridge_reach_each_other_by_name_until_the_plug_is_pulled(net: netns.Network) -> None:
    lan = net.bridge("lan", "10.77.0.0/24")
    a, b = net.namespace("a"), net.namespace("b")
    assert lan.join(a) == "10.77.0.2"
    assert lan.join(b) == "10.77.0.3"
    net.hosts({"b.test": b.address})
    assert a.run("getent", "hosts", "b.test").split() == [b.address, "b.test"]
    with netns.socket_in(b.name, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind((b.address, 80))
        server.listen()
        netns.connection_in(a.name, (b.address, 80), 5).close()
        lan.cut(b)
        with pytest.raises(OSError):  # noqa: PT011
            netns.connection_in(a.name, (b.address, 80), 0.3)
        lan.restore(b)
        netns.connection_in(a.name, (b.address, 80), 5).close()
    assert min(lan.bytes(b)) > 0


async def test_the_test_itself_can_ask_a_server_inside_a_namespace(net: netns.Network, tmp_path: Path) -> None:
    a = net.namespace("a")
    (tmp_path / "hello").write_text("hi")
    serve = [PYTHON, "-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with Program(serve, log=tmp_path / "log", netns=a.name) as server:
        url = "http://127.0.0.1:8000/hello"
        wait_for("the server", lambda: answers(url, netns=a.name), timeout=10, program=server)
        assert (await arequest("GET", url, netns=a.name)).body == b"hi"
        assert not answers(url)


def test_multicast_crosses_a_bridge(net: netns.Network) -> None:
    lan = net.bridge("lan", "10.77.0.0/24")
    a, b = net.namespace("a"), net.namespace("b")
    lan.join(a)
    lan.join(b)
    with (
        netns.socket_in(a.name, socket.AF_INET, socket.SOCK_DGRAM) as sender,
        netns.socket_in(b.name, socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("", 5353))
        group = struct.pack("4s4s", socket.inet_aton("224.0.0.251"), socket.inet_aton(b.address))
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        receiver.settimeout(5)
        sender.sendto(b"who is there", ("224.0.0.251", 5353))
        assert receiver.recvfrom(100) == (b"who is there", (a.address, sender.getsockname()[1]))


def test_a_box_behind_a_router_reaches_out_and_cannot_be_reached(net: netns.Network) -> None:
    internet = net.bridge("internet", "198.51.100.0/24")
    public = net.namespace("public")
    internet.join(public)
    home, router = net.behind_nat(internet, "home", "192.168.7.0/24")
    box = net.namespace("box")
    home.join(box)
    box.route(home.gateway)
    with netns.socket_in(public.name, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind((public.address, 8448))
        server.listen()
        server.settimeout(5)
        with netns.connection_in(box.name, (public.address, 8448), 5):
            caller, (address, _) = server.accept()
            caller.close()
            assert address == router.address
    public.route(router.address)
    with pytest.raises(TimeoutError):
        netns.connection_in(public.name, (box.address, 8008), 0.5)


def test_what_a_killed_run_has_left_is_swept_with_its_processes() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = f"edge-{dead.pid}-1-left"
    run("ip", "netns", "add", name)
    with subprocess.Popen([which("ip") or "ip", "netns", "exec", name, "sleep", "60"]) as orphan:
        wait_for("the orphan", lambda: str(orphan.pid) in run("ip", "netns", "pids", name).split(), timeout=5)
        assert name in netns.sweep()
        assert orphan.wait(5) == -9
    assert name not in run("ip", "netns", "list")
    assert not os.path.exists(f"/etc/netns/{name}")
