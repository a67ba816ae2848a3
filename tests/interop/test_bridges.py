"""mautrix-python, of which many bridges are made, as an application service of one box over HTTP."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
import yaml

from tests.interop.boxes import PASSWORD, local_box, register
from tests.lab.box import Box
from tests.lab.client import NioClient
from tests.lab.programs import python_module
from tests.lab.rpc import RpcProgram
from tests.lab.synapse import free_port

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(importlib.util.find_spec("mautrix") is None, reason="mautrix is not installed in this environment"),
]
GHOST = "@net_bob:box.test"


def registration(folder: Path) -> Path:
    """As `python -m mautrix_telegram -g` and its like write it."""
    path = folder / "registration.yaml"
    user = {"exclusive": True, "regex": "^@net_.+:box\\.test$"}
    path.write_text(yaml.safe_dump({
        "id": "net", "as_token": "as-secret", "hs_token": "hs-secret", "url": f"http://localhost:{free_port()}",
        "namespaces": {"users": [user, {"exclusive": True, "regex": "^@netbot:box\\.test$"}], "aliases": []},
        "sender_localpart": "netbot", "rate_limited": False, "receive_ephemeral": True, "push_ephemeral": True,
        "de.sorunome.msc2409.push_ephemeral": True, "org.matrix.msc3202": True, "io.element.msc4190": True,
    }))  # fmt: skip
    return path


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = local_box(tmp_path / "box")
    made.configure(made.config_file.read_text() + f'\n[bridges]\nregistrations = ["{registration(tmp_path)}"]\n')
    with made as started:
        yield started
        assert started.troubles() == []


@pytest.fixture
def bridge(box: Box, tmp_path: Path) -> Iterator[RpcProgram]:
    with RpcProgram(python_module("tests.lab.mautrix", str(tmp_path)), log=tmp_path / "bridge.log") as program:
        program.call("start", homeserver=box.url, domain="box.test")
        yield program


async def events(bridge: RpcProgram, until: Callable[[list[dict[str, Any]]], bool], seconds: float = 30) -> list[dict[str, Any]]:
    """The events that it has been told, once they are as wanted."""
    deadline = time.monotonic() + seconds
    while True:
        found = [event for _, content in await bridge.acall("told") for event in content["events"]]
        if until(found):
            return found
        assert time.monotonic() < deadline, [(one["type"], one["content"]) for one in found]
        await trio.sleep(0.05)


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [one["content"]["body"] for one in found if one["type"] == "m.room.message"]


async def test_ghosts_talk_with_people_and_the_bridge_hears_of_it_all(box: Box, bridge: RpcProgram) -> None:
    assert await bridge.acall("ping") >= 0
    alice = register(box, "alice")
    room = (await alice.ok("POST", "/createRoom", {"preset": "private_chat", "name": "Portal"}))["room_id"]
    path = f"/rooms/{quote(room)}"
    await bridge.acall("register", user_id=GHOST, name="Bob of the Net")
    await alice.ok("POST", f"{path}/invite", {"user_id": GHOST})
    await events(bridge, lambda found: any(one.get("state_key") == GHOST for one in found))
    await bridge.acall("join", room_id=room, user_id=GHOST)
    await alice.ok("POST", f"{path}/invite", {"user_id": "@net_new:box.test"})  # whom nobody has registered yet
    await bridge.acall("send", room_id=room, user_id=GHOST, text="hello from the net")
    await alice.ok("PUT", f"{path}/send/m.room.message/1", {"msgtype": "m.text", "body": "hello net"})
    found = await events(bridge, lambda found: texts(found)[-1:] == ["hello net"])
    assert texts(found) == ["hello from the net", "hello net"]
    assert (await alice.ok("GET", f"{path}/state/m.room.member/{quote(GHOST)}"))["displayname"] == "Bob of the Net"
    assert (await alice.ok("GET", "/profile/@net_new:box.test")) == {}
    assert (await alice.request("GET", "/_matrix/client/v3/profile/@net_nobody:box.test")).status == 404
    await alice.ok("PUT", f"{path}/typing/{quote(alice.user_id)}", {"typing": True, "timeout": 10000})
    deadline = time.monotonic() + 20
    while not (told := [one for _, content in await bridge.acall("told") for one in content["ephemeral"] or ()]):
        assert time.monotonic() < deadline
        await trio.sleep(0.05)
    assert told == [{"type": "m.typing", "room_id": room, "content": {"user_ids": [alice.user_id]}}]


async def test_a_box_that_is_killed_again_and_again_loses_nothing_and_keeps_the_order(box: Box, bridge: RpcProgram) -> None:
    alice = register(box, "alice")
    room = (await alice.ok("POST", "/createRoom", {"preset": "public_chat"}))["room_id"]
    path = f"/rooms/{quote(room)}"
    await bridge.acall("register", user_id=GHOST, name="Bob")
    await bridge.acall("join", room_id=room, user_id=GHOST)
    sent = []
    for life in range(3):
        for number in range(20):
            text = f"{life}.{number}"
            await alice.ok("PUT", f"{path}/send/m.room.message/{text}", {"msgtype": "m.text", "body": text})
            sent.append(text)
        box.kill()
        box.start()
    found = await events(bridge, lambda found: texts(found)[-1:] == sent[-1:])
    heard = list({one["event_id"]: one["content"]["body"] for one in found if one["type"] == "m.room.message"}.values())
    assert heard == sent
    ids = [txn_id for txn_id, _ in await bridge.acall("told")]
    assert len(ids) == len(set(ids))


async def test_a_bridge_that_was_away_is_told_what_it_missed(box: Box, tmp_path: Path) -> None:
    def program() -> RpcProgram:
        return RpcProgram(python_module("tests.lab.mautrix", str(tmp_path)), log=tmp_path / "bridge.log")

    alice = register(box, "alice")
    room = (await alice.ok("POST", "/createRoom", {"preset": "public_chat"}))["room_id"]
    with program() as first:
        await first.acall("start", homeserver=box.url, domain="box.test")
        await first.acall("join", room_id=room, user_id=GHOST)
    for number in range(5):
        await alice.ok("PUT", f"/rooms/{quote(room)}/send/m.room.message/{number}", {"msgtype": "m.text", "body": str(number)})
    with program() as second:
        await second.acall("start", homeserver=box.url, domain="box.test")
        await second.acall("ping")
        found = await events(second, lambda found: len(texts(found)) == 5)
        assert texts(found) == ["0", "1", "2", "3", "4"]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("olm", "nio")),
    reason="python-olm (which needs cmake and a C++ compiler) or matrix-nio is not installed in this environment",
)
async def test_a_person_and_a_bridges_bot_talk_in_an_encrypted_room(box: Box, bridge: RpcProgram, tmp_path: Path) -> None:
    register(box, "alice")
    assert await bridge.acall("encrypt") == "BRIDGE"
    with NioClient(tmp_path, box.url, name="alice") as alice:
        who = (await alice.login("alice", PASSWORD))["user_id"]
        room = await alice.create_room(encrypted=True, preset="public_chat")
        await alice.invite(room, "@netbot:box.test")
        await bridge.acall("join", room_id=room)
        await alice.wait_member(room, "@netbot:box.test")
        secret = await alice.send(room, "between us")
        deadline = time.monotonic() + 30
        while secret not in (opened := await bridge.acall("opened")):
            assert time.monotonic() < deadline, await bridge.acall("told")
            await trio.sleep(0.1)
        assert opened == {secret: "between us"}
        await bridge.acall("send_encrypted", room_id=room, users=[who], text="heard")
        assert (await alice.wait_message(room, "heard"))["decrypted"]
        raw = await bridge.acall("told")
        assert any(content["to_device"] for _, content in raw)
        assert any(content["otk_counts"] for _, content in raw)
        assert any(content["device_lists"]["changed"] == [who] for _, content in raw if content["device_lists"])
