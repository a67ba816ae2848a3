"""Two boxes on one network without internet, DNS or any authority: they find each other, and each proves its name by its own key."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edgeserver.matrix import server_names
from tests.lab import netns
from tests.lab.client import NioClient
from tests.lab.programs import Program, python_module
from tests.lab.rpc import RpcError
from tests.story.stage import PASSWORD, Station, Teller, toml, until

REASON = netns.unavailable()
pytestmark = [
    pytest.mark.story,
    pytest.mark.netns,
    pytest.mark.interop,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]

HERE = "http://127.0.0.1:8008"


class Lan:
    """Two boxes and a stranger on one switch."""

    def __init__(self, directory: Path, net: netns.Network) -> None:
        self.directory = directory
        lan = net.bridge("lan", "10.77.0.0/24")
        self.spaces = {name: net.namespace(name) for name in ("hut", "barn", "stranger")}
        for space in self.spaces.values():
            lan.join(space)
        text = toml({"accounts": {"registration": "open"}, "limits": {"rate_limits": False}})
        self.hut, self.barn = (Station(directory / name, text, name=name, netns=self.spaces[name].name) for name in ("hut", "barn"))

    def client(self, box: Station, name: str) -> NioClient:
        return NioClient(self.directory, HERE, name=name, netns=box.netns)

    def impostor(self, *claims: str) -> Program:
        space = self.spaces["stranger"]
        words = [word for claim in zip(claims[::2], claims[1::2], strict=True) for word in ("--claim", *claim)]
        argv = python_module("tests.story.impostor", "--address", space.address, *words)
        return Program(argv, log=self.directory / "impostor.log", netns=space.name)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    with netns.Network() as net:
        made = Lan(tmp_path, net)
        try:
            made.hut.begin()
            made.barn.begin()
            yield made
        finally:
            made.hut.stop()
            made.barn.stop()


async def _finds(box: Station, name: str) -> None:
    async def found() -> bool:
        return any(one["name"] == name for one in (await box.told("peers"))["found"])

    await until(f"{box.name} finds {name}", found, 40)


async def test_two_boxes_find_each_other_and_their_people_talk_under_seal(lan: Lan, tmp_path: Path) -> None:
    tell = Teller()
    await lan.hut.ready()
    await lan.barn.ready()
    names = lan.hut.server_name, lan.barn.server_name
    assert all(server_names.is_mesh(name) for name in names)
    with tell.step("the hut and the barn find each other by mDNS"):
        await _finds(lan.hut, names[1])
        await _finds(lan.barn, names[0])
    with lan.client(lan.hut, "dora") as dora, lan.client(lan.barn, "emil") as emil, tell.step("Dora and Emil talk"):
        await dora.register("dora", PASSWORD)
        emil_id = (await emil.register("emil", PASSWORD))["user_id"]
        room = await dora.create_room(encrypted=True, room_version="12", invite=[emil_id])
        await emil.wait_invite(room)
        await emil.join(room)
        await dora.wait_member(room, emil_id)
        sent = await dora.send(room, "Is the barn dry?")
        heard = await emil.wait_message(room, "Is the barn dry?")
        assert (heard["event_id"], heard["decrypted"]) == (sent, True)
        await emil.send(room, "As a bone.")
        assert (await dora.wait_message(room, "As a bone."))["decrypted"]


async def test_who_announces_the_name_of_another_is_not_believed(lan: Lan, tmp_path: Path) -> None:
    """The stranger claims the barn's name twice: with a key of his own, and with the barn's, for that is no secret."""
    tell = Teller()
    await lan.hut.ready()
    await lan.barn.ready()
    barn = lan.barn.server_name
    true_key = base64.b64encode(server_names.key_of(barn) or b"").decode().rstrip("=")
    false_key = base64.b64encode(bytes(range(32))).decode().rstrip("=")
    lan.barn.stop()
    log = tmp_path / "impostor.log"

    def said(word: str) -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(word)]

    def meant_for_the_barn() -> list[str]:
        return [line for line in said("heard") if f'destination="{barn}"' in line or line == f"Host: {barn}"]

    async def shown() -> list[str]:
        return said("truly")

    async def lost() -> bool:
        return all(one["name"] != barn for one in (await lan.hut.told("peers"))["found"])

    with lan.client(lan.hut, "dora") as dora:
        await dora.register("dora", PASSWORD)
        await until("the barn is gone", lost, 40)
        with lan.impostor(barn, false_key), tell.step("a stranger announces the barn's name with a key of his own"):
            await _finds(lan.hut, (await until("the stranger's own name", shown, 30))[0])
            assert await lost()
        log.unlink()
        with lan.impostor(barn, true_key) as impostor:
            with tell.step("he announces it with the barn's key, at his own address"):
                await _finds(lan.hut, barn)
                room = await dora.create_room()
                with pytest.raises(RpcError):
                    await dora.invite(room, f"@emil:{barn}")
                assert said("called")
                assert meant_for_the_barn() == []
            with tell.step("the barn comes back while he goes on"):
                lan.barn.start()
                with lan.client(lan.barn, "emil") as emil:
                    emil_id = (await emil.register("emil", PASSWORD))["user_id"]
                    await _invite_until_taken(dora, room, emil_id)
                    await emil.wait_invite(room)
                    await emil.join(room)
                    await dora.send(room, "It was you all along")
                    await emil.wait_message(room, "It was you all along")
                    impostor.stop()
                    await emil.send(room, "Who else?")
                    await dora.wait_message(room, "Who else?")
        assert any("X-Matrix" in line for line in said("heard"))  # under his own name he is a box like others
        assert meant_for_the_barn() == []


async def _invite_until_taken(client: NioClient, room: str, user_id: str) -> None:
    """The announcement may still be under way."""
    with trio.fail_after(40):
        while True:
            try:
                await client.invite(room, user_id)
            except RpcError:
                await trio.sleep(0.5)
            else:
                return
