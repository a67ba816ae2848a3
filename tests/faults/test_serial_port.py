"""Two boxes as processes on a real serial port (a pty at a true bit rate) that is pulled, put back, and whose other end is killed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.faults.test_disk import register
from tests.lab.box import Box
from tests.lab.programs import PYTHON, ROOT
from tests.lab.ptyline import PtyLine
from tests.lab.synapse import free_port

V3 = "/_matrix/client/v3"
CONFIG = """
[server]
name = "{name}.test"
[http]
client = ["127.0.0.1:{port}"]
federation = []
[accounts]
registration = "open"
[limits]
rate_limits = false
[federation]
internet = false
[discovery]
mdns = false
[[links]]
uri = "serial:{path},19200"
name = "line"
"""


def box_at(folder, name: str, path) -> Box:
    port = free_port()
    return Box(folder / name, CONFIG.format(name=name, port=port, path=path), f"http://127.0.0.1:{port}", name=name)


def edgeserver(box: Box, *words: str) -> subprocess.Popen[str]:
    command = [PYTHON, "-m", "edgeserver", *words, "--config", str(box.config_file)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def pair(one: Box, other: Box) -> None:
    host = edgeserver(one, "pair", "--json")
    assert host.stdout is not None
    code = json.loads(host.stdout.readline())["code"]
    guest = edgeserver(other, "pair", code)
    said, _ = guest.communicate(timeout=60)
    assert guest.returncode == 0, said
    said, _ = host.communicate(timeout=60)
    assert host.returncode == 0, said


def eventually(what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


def texts(box: Box, token: str, room_id: str) -> list[str]:
    page = box.request("GET", f"{V3}/rooms/{room_id}/messages?dir=b&limit=100", None, token).json
    return [event["content"]["body"] for event in reversed(page.get("chunk", [])) if event["type"] == "m.room.message"]


def say(box: Box, token: str, room_id: str, text: str) -> None:
    answer = box.request("PUT", f"{V3}/rooms/{room_id}/send/m.room.message/{text}", {"msgtype": "m.text", "body": text}, token)
    assert answer.status == 200, answer.body


@pytest.mark.full
def test_what_was_said_arrives_once_after_the_port_was_pulled_and_after_the_peer_was_killed(tmp_path):
    line = PtyLine(tmp_path, 19_200)
    line.start()
    a, b = box_at(tmp_path, "a", line.a), box_at(tmp_path, "b", line.b)
    try:
        a.start()
        b.start()
        pair(b, a)
        alice, bob = register(a, "alice"), register(b, "bob")
        room_id = a.request("POST", f"{V3}/createRoom", {"preset": "public_chat"}, alice).json["room_id"]
        joined = [0]

        def join() -> bool:
            joined[0] = b.request("POST", f"{V3}/join/{room_id}?server_name=a.test", {}, bob).status
            return joined[0] == 200

        eventually("bob joins", join)
        said: list[str] = []

        def everybody_has_all() -> bool:
            return sorted(texts(b, bob, room_id)) == sorted(said) == sorted(texts(a, alice, room_id))

        for number in range(3):
            line.stop()  # the adapter is pulled: the device is gone
            said += [f"pulled{number}", f"b{number}"]
            say(a, alice, room_id, f"pulled{number}")
            say(b, bob, room_id, f"b{number}")
            time.sleep(1)
            line.start()
            eventually("what was said while the port was gone", everybody_has_all)
        b.kill()
        say(a, alice, room_id, "killed")
        said.append("killed")
        b.start()
        eventually("what was said while the peer was dead", everybody_has_all)
        assert texts(b, bob, room_id) == texts(a, alice, room_id)
        assert (a.stop(), b.stop()) == (0, 0)
        assert a.troubles() + b.troubles() == []
    finally:
        for program in (a, b, line):
            program.stop()
