"""What a box tells of its operator and of TURN, and which versions and capabilities it names: from the configuration, over the API."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.asgi import AsgiClient
from tests.flows.world import World

SECRET = "a secret between two programs"


async def _told(world: World, path: str, text: str = "", name: str = "a") -> Any:
    box = await world.box(name, text)
    client = AsgiClient(box.box.app, token=(await box.person("alice")).token)
    answer = await client.get(path, headers={"host": "client"})
    return answer.json if answer.status == 200 else (answer.status, answer.json["errcode"])


async def test_whom_to_turn_to_is_told_from_the_configuration(tmp_path: Path, autojump_clock: object) -> None:
    text = (
        '[support]\npage = "https://a.test/help"\n[[contacts]]\nrole = "m.role.security"\nemail_address = "s@a.test"\n'
        'pgp_key = "https://a.test/key.asc"\n[[contacts]]\nmatrix_id = "@root:a.test"\n'
    )
    async with World(tmp_path) as world:
        assert await _told(world, "/.well-known/matrix/support", text) == {
            "contacts": [
                {"role": "m.role.security", "email_address": "s@a.test", "dev.zirco.msc4439.pgp_key": "https://a.test/key.asc"},
                {"role": "m.role.admin", "matrix_id": "@root:a.test"},
            ],
            "support_page": "https://a.test/help",
        }
        assert await _told(world, "/.well-known/matrix/support", name="b") == (404, "M_NOT_FOUND")


async def test_the_versions_go_from_the_first_to_the_newest(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        told = await _told(world, "/_matrix/client/versions")
        assert told["versions"] == ["r0.6.1", *(f"v1.{minor}" for minor in range(1, 20))]


async def test_leaving_a_room_does_not_forget_it_and_the_capabilities_say_so(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        told = (await _told(world, "/_matrix/client/v3/capabilities"))["capabilities"]
        assert told["m.forget_forced_upon_leave"] == {"enabled": False}
        assert told["m.profile_fields"] == {"enabled": True}
        alice = await world.boxes["a"].person("bob")
        room_id = await alice.create_room()
        await alice.ok("POST", f"/rooms/{room_id}/leave")
        left = await alice.ok("GET", "/sync", query={"filter": '{"room":{"include_leave":true}}'})
        assert list(left["rooms"]["leave"]) == [room_id]


# TURN

TURN = f'[turn]\nuris = ["turn:127.0.0.1:%d?transport=udp"]\nshared_secret = "{SECRET}"\nlifetime = 600\n'


async def test_without_a_turn_server_no_credentials_are_given(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        assert await _told(world, "/_matrix/client/v3/voip/turnServer") == {}


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[int]:
    """A TURN server of Debian's package coturn on the loopback interface, which shares the secret; its port."""
    program = shutil.which("turnserver")
    if program is None or shutil.which("turnutils_uclient") is None:
        pytest.skip("needs turnserver and turnutils_uclient (Debian package coturn)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}", "--realm=a.test", "--use-auth-secret",
        f"--static-auth-secret={SECRET}", "--allow-loopback-peers", "--no-tls", "--no-dtls", "--no-cli", "--min-port=50000",
        "--max-port=50100", f"--pidfile={tmp_path}/pid", f"--userdb={tmp_path}/db", "--log-file=stdout", "--simple-log",
    ]  # fmt: skip
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path) as server:
        try:
            yield port
        finally:
            server.terminate()


async def test_a_real_turn_server_takes_the_credentials_and_no_others(tmp_path: Path, coturn: int) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a", TURN % coturn + '[server]\nclock = "system"\n')
        alice = await box.person("alice")
        box.wall_offset = _now() - box.box.ground.now_ms() / 1000  # the credentials hold until a time of day
        told = await alice.ok("GET", "/voip/turnServer")
    assert told["uris"] == [f"turn:127.0.0.1:{coturn}?transport=udp"]
    assert told["ttl"] == 600
    until, _, who = told["username"].partition(":")
    assert who == "@alice:a.test"
    assert abs(int(until) - _now() - 600) < 30
    with trio.fail_after(20):
        while await _relayed(coturn, told["username"], told["password"]):
            await trio.sleep(0.2)  # it is only starting
    assert await _relayed(coturn, told["username"], "wrong") != 0


def _now() -> float:
    import time

    return time.time()


async def _relayed(port: int, username: str, password: str) -> int:
    """0 if messages go through a relay of the server and back."""
    command = ["turnutils_uclient", "-y", "-n", "2", "-m", "1", "-c", "-u", username, "-w", password, "-p", str(port), "127.0.0.1"]
    with trio.move_on_after(8):
        done = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)
        lost = b"Total lost packets 0" in done.stdout
        return 0 if done.returncode == 0 and lost else 1
    return 1


