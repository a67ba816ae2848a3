"""Two boxes as programs of their own, and everything that the command line does with them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeserver.app.box import Ready
from edgeserver.cli.serving import greeting, reachable

ROOT = Path(__file__).parents[2]
PATIENCE = 60


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Box:
    """One data folder with its configuration, and the program that serves it."""

    folder: Path
    link: str
    program: subprocess.Popen[str] | None = None
    begun: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """What the serving program writes to stderr."""
        return self.folder / "log"

    def start(self) -> str:
        """Starts it; returns what it says until it is ready."""
        self.folder.mkdir()
        ports = [_free_port(socket.SOCK_STREAM) for _ in range(2)]
        (self.folder / "edgeserver.toml").write_text(
            f'[http]\nclient = ["127.0.0.1:{ports[0]}"]\nfederation = ["127.0.0.1:{ports[1]}"]\n'
            f'[discovery]\nmdns = false\n[federation]\ninternet = false\n[[links]]\nuri = "{self.link}"\nname = "line"\n'
        )
        self.program = self.begin("serve", log=self.log)
        assert self.program.stdout is not None
        said = ""
        while "Ctrl-C stops the box." not in said:
            line = self.program.stdout.readline()
            assert line, self.log.read_text()
            said += line
        return said

    def begin(self, *words: str, log: Path | None = None) -> subprocess.Popen[str]:
        """Starts a verb. Its stderr goes to a pipe, or to `log`."""
        with (log or Path(os.devnull)).open("w") as file:
            program = subprocess.Popen(
                [sys.executable, "-m", "edgeserver", *words],
                cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE if log is None else file,
            )  # fmt: skip
        self.begun.append(program)
        return program

    def stop(self) -> None:
        """Ends whatever a test that failed has left."""
        for program in self.begun:
            program.kill()
            program.communicate()

    def __call__(self, *words: str, status: int = 0) -> str:
        """Runs a verb; returns what it says."""
        program = self.begin(*words)
        out, error = program.communicate(timeout=PATIENCE)
        assert program.returncode == status, out + error + self.log.read_text()
        return out + error


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box, str]]:
    port = _free_port(socket.SOCK_DGRAM)
    folder = tmp_path_factory.mktemp("boxes")
    hub, leaf = Box(folder / "hub", f"udp-listen:127.0.0.1:{port}"), Box(folder / "leaf", f"udp:127.0.0.1:{port}")
    try:
        said = hub.start()
        leaf.start()
        yield hub, leaf, said
    finally:
        hub.stop()
        leaf.stop()


def test_a_first_start_says_name_address_and_account(boxes: tuple[Box, Box, str]) -> None:
    hub, _, said = boxes
    name = (hub.folder / "data" / "server_name").read_text().strip()
    assert f"This box is {name}" in said
    assert "can never be reached from the internet" in said
    assert "http://127.0.0.1:" in said
    assert f"@owner:{name}" in said
    assert "shown only now" in said


def test_the_control_socket_is_for_the_boxs_own_user(boxes: tuple[Box, Box, str]) -> None:
    hub, _, _ = boxes
    assert (hub.folder / "data" / "control.sock").stat().st_mode & 0o777 == 0o600


def test_people_are_added_while_the_box_runs(boxes: tuple[Box, Box, str]) -> None:
    hub, _, _ = boxes
    (hub.folder / "word").write_text("correct horse\n")
    assert "has an account" in hub("person", "add", "alice", "--password-file", "word")
    assert "@alice:" in hub("person", "list")
    assert "has been changed" in hub("person", "password", "alice", "--password-file", "word")
    assert hub("person", "add", "alice", "--password-file", "word", status=1).startswith("edgeserver: ")
    assert "edgeserver person list shows those that there are" in hub("person", "lock", "nobody", status=1)


def test_the_running_box_is_shown(boxes: tuple[Box, Box, str]) -> None:
    hub, _, _ = boxes
    assert "internet          never used" in hub("status")
    assert "Next: pair the box" in hub("peers")
    assert "1 line, 0 up." in hub("link", "status")
    assert "There is no line 'x'; edgeserver link status lists" in hub("link", "test", "x", status=1)
    assert "Nothing is wrong" in hub("check")


def test_an_offer_is_closed_by_ctrl_c(boxes: tuple[Box, Box, str]) -> None:
    hub, _, _ = boxes
    waiting = hub.begin("pair")
    assert waiting.stdout is not None
    while "Waiting" not in waiting.stdout.readline():
        pass
    waiting.send_signal(signal.SIGINT)
    _, error = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, error) == (130, "edgeserver: the offer is closed; nobody has been paired.\n")


def test_two_boxes_pair_by_code_measure_their_line_and_part(boxes: tuple[Box, Box, str]) -> None:
    hub, leaf, _ = boxes
    host = hub.begin("pair", "--front", "--json")
    assert host.stdout is not None
    code = json.loads(host.stdout.readline())["code"]
    assert "It is our gateway now." in leaf("pair", code, "--gateway")
    out, error = host.communicate(timeout=PATIENCE)
    assert (host.returncode, error) == (0, ""), hub.log.read_text()
    leaf_name = (leaf.folder / "data" / "server_name").read_text().strip()
    assert json.loads(out)["paired"]["name"] == leaf_name
    _until_up(leaf)
    assert "our gateway" in leaf("peers")
    assert "we are its gateway" in hub("peers")
    measured = json.loads(leaf("link", "test", "line", "--json"))
    assert measured["round_trip"] < 5
    assert measured["down"] > 10_000
    assert measured["up"] > 10_000
    assert "is not paired any more" in hub("unpair", leaf_name)
    assert "Nobody named" in hub("unpair", leaf_name, status=1)


def _until_up(box: Box) -> None:
    for _ in range(PATIENCE):
        if json.loads(box("peers", "--json"))["paired"][0]["up_on"]:
            return
    raise AssertionError("the line did not come up")


def test_a_second_box_on_the_same_address_is_refused_in_a_sentence(boxes: tuple[Box, Box, str], tmp_path: Path) -> None:
    hub, _, _ = boxes
    text = (hub.folder / "edgeserver.toml").read_text()
    (tmp_path / "edgeserver.toml").write_text(text.partition("[[links]]")[0])
    program = Box(tmp_path, "").begin("serve")
    _, told = program.communicate(timeout=PATIENCE)
    assert program.returncode == 1
    assert told.startswith("edgeserver: ")
    assert "Address already in use" in told
    assert "Traceback" not in told


def test_a_second_box_on_the_same_folder_is_refused(boxes: tuple[Box, Box, str]) -> None:
    hub, _, _ = boxes
    assert "another edgeserver is at work on data" in hub("serve", status=1)
    assert "1 line" in hub("link", "status")  # and the first one still has its socket


def test_sigterm_stops_the_box_in_good_order(boxes: tuple[Box, Box, str]) -> None:
    hub, _, _ = boxes
    assert hub.program is not None
    hub.program.send_signal(signal.SIGTERM)
    out, _ = hub.program.communicate(timeout=PATIENCE)
    assert hub.program.returncode == 0
    assert out.endswith("The box has stopped in good order.\n")
    assert "start it with edgeserver serve" in hub("peers", status=1)
    assert "@alice:" in hub("person", "list")
    assert "Nothing is wrong" in hub("check")


def test_a_listener_for_everybody_is_told_by_the_machines_own_addresses() -> None:
    addresses = ["192.0.2.7", "10.0.0.2"]
    assert reachable(["http://0.0.0.0:8008", "http://[::]:8008"], addresses) == ["http://192.0.2.7:8008", "http://10.0.0.2:8008"]
    assert reachable(["http://0.0.0.0:8008"], []) == ["http://0.0.0.0:8008"]
    assert reachable(["http://127.0.0.1:8008"], addresses) == ["http://127.0.0.1:8008"]


def test_a_later_start_shows_no_account_and_a_domain_no_warning() -> None:
    told = greeting(Ready("box.example.org", [], [], False, None), [])
    assert "password" not in told
    assert "internet" not in told
    assert "Names are permanent" in told
