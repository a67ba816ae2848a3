"""Stock clients that encrypt, behind `edgeserver proxy` on a serial line, while cables are pulled and programs killed: every message once,
in order.

Programs, ptys at their true rate and kill -9 are real. A disturbance comes while messages of all three people are on their way.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
import trio

from edgeserver.cli.control_client import client_of
from tests.interop.boxes import PASSWORD, register
from tests.lab import jssdk
from tests.lab.box import Box
from tests.lab.client import Client, NioClient
from tests.lab.jssdk import JsClient
from tests.lab.programs import Program, python_module, wait_for
from tests.lab.ptyline import PtyLine
from tests.lab.synapse import free_port
from tests.lab.web import request

_ABSENT = jssdk.unavailable()
pytestmark = [
    pytest.mark.interop,
    pytest.mark.real_time,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]
nio = pytest.importorskip("nio", reason="matrix-nio is not installed in this environment")

RATE = 57_600
"""As fast as a line can be that still counts as thin."""
CONFIG = """\
[server]
name = "box.test"
clock = "system"
log_level = "info"
[http]
client = ["127.0.0.1:{port}"]
federation = []
[accounts]
registration = "open"
registration_shared_secret = "lab"
[limits]
rate_limits = false
[federation]
internet = false
[discovery]
mdns = false
[[links]]
uri = "serial:{line},{rate}"
name = "line"
"""


class World:
    """A box, a line, a proxy that is paired, and what can happen to them."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.line = PtyLine(folder, RATE)
        port, front = free_port(), free_port()
        self.box = Box(folder / "box", CONFIG.format(port=port, line=self.line.b, rate=RATE), f"http://127.0.0.1:{port}")
        self.url = f"http://127.0.0.1:{front}"
        self._argv = ["proxy", "--link", f"serial:{self.line.a},{RATE}", "--listen", f"127.0.0.1:{front}", "--state", str(folder / "proxy")]
        self.proxy = Program(python_module("edgeserver", *self._argv), log=folder / "proxy.log")
        self.happened: list[str] = []

    def start(self) -> None:
        self.line.start()
        self.box.start()
        with closing(client_of(self.folder / "box" / "data")) as control:
            code = control.call("POST", "pairing", {"front": False})["code"]
        with Program(python_module("edgeserver", *self._argv, "--pair", code), log=self.folder / "pairing.log"):
            wait_for("the pairing", self.is_up, timeout=60)
        self.proxy.start()
        wait_for("the line", self.is_up, timeout=60, program=self.proxy)

    def stop(self) -> None:
        self.proxy.stop()
        self.box.stop()
        self.line.stop()

    def is_up(self) -> bool:
        try:
            return bool(request("GET", f"{self.url}/").json["up"])
        except OSError:
            return False

    # ---- what happens

    async def disturb(self, count: int) -> None:
        """So many things, each of every kind at least once, in an order that chance has chosen; mostly cuts."""
        rare = [self.replug, self.kill_box, self.kill_proxy] * max(1, count // 12)
        things = [*rare, *[self.cut] * (count - len(rare))]
        self.chance.shuffle(things)
        for thing in things:
            await trio.sleep(self.chance.random() * 2.5)
            self.happened.append(thing.__name__)
            await thing()

    async def cut(self) -> None:
        await trio.to_thread.run_sync(self.line.cut)
        await trio.sleep(self.chance.choice([0.02, 0.2, 0.2, 1.0]))
        await trio.to_thread.run_sync(self.line.restore)

    async def replug(self) -> None:
        """Both ports vanish and come back."""
        await trio.to_thread.run_sync(self.line.stop)
        await trio.sleep(self.chance.random())
        await trio.to_thread.run_sync(self.line.start)

    async def kill_box(self) -> None:
        await trio.to_thread.run_sync(self.box.kill)
        await trio.sleep(self.chance.random())
        await trio.to_thread.run_sync(self.box.start)

    async def kill_proxy(self) -> None:
        await trio.to_thread.run_sync(self.proxy.kill)
        await trio.sleep(self.chance.random())
        await trio.to_thread.run_sync(self.proxy.start)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, random.Random(7))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@asynccontextmanager
async def people(world: World) -> AsyncIterator[tuple[str, dict[str, Client]]]:
    """Alice with nio and Carol with js-sdk behind the proxy, Bob with nio at the box itself; an encrypted room of the three."""
    folder = world.folder
    for name in ("alice", "bob", "carol"):
        register(world.box, name)
    with (
        NioClient(folder, world.url, name="alice", timeline_limit=500) as alice,
        NioClient(folder, world.box.url, name="bob", timeline_limit=500) as bob,
        JsClient(folder, world.url, name="carol") as carol,
    ):
        those: dict[str, Client] = {"alice": alice, "bob": bob, "carol": carol}
        ids = {name: (await client.login(name, PASSWORD))["user_id"] for name, client in those.items()}
        room = await bob.create_room(encrypted=True, preset="private_chat", invite=[ids["alice"], ids["carol"]])
        for name in ("alice", "carol"):
            await those[name].wait_invite(room)
            await those[name].join(room)
        for name, client in those.items():
            for other in ids.keys() - {name}:
                await client.wait_member(room, ids[other], timeout=120)
        yield room, those


async def say(client: Client, room: str, body: str) -> None:
    """Returns when the server has it, however long that takes."""
    content = {"msgtype": "m.text", "body": body}
    stubborn = {"stubborn": True} if isinstance(client, JsClient) else {}
    await client.acall("send", timeout=600, room_id=room, kind="m.room.message", content=content, **stubborn)


async def talk(world: World, disturbances: int) -> None:
    """Everybody talks until so much has happened; then everybody has everything, once and in the order of each."""
    async with people(world) as (room, those):
        said: dict[str, list[str]] = {name: [] for name in those}
        is_over = False

        async def speak(name: str, client: Client) -> None:
            number = 0
            while not is_over:
                await say(client, room, body := f"{name} {number}")
                said[name].append(body)
                number += 1
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for name, client in those.items():
                nursery.start_soon(speak, name, client)
            await world.disturb(disturbances)
            with trio.fail_after(300):
                while min(map(len, said.values())) < 5:
                    await trio.sleep(0.1)
            is_over = True
        for client in those.values():
            for bodies in said.values():
                await client.wait_message(room, bodies[-1], timeout=300)
        for name, client in those.items():
            events = await (client.do("scrolled", timeout=600, room_id=room) if isinstance(client, JsClient) else client.events(room))
            heard = [event["content"]["body"] for event in events if "body" in event["content"]]
            for speaker, bodies in said.items():
                assert [body for body in heard if body.startswith(f"{speaker} ")] == bodies, f"{name} of {speaker}: {world.happened}"


def test_a_key_that_is_shared_again_from_a_later_message_on_does_not_hide_the_first() -> None:
    """Of the client of this laboratory: without that it cannot read what an outage has brought together."""
    from nio.crypto.sessions import InboundGroupSession, OutboundGroupSession

    from tests.lab.nio import RoomKeys

    def key() -> InboundGroupSession:
        return InboundGroupSession(sending.session_key, "ed25519", "curve25519", "!room")

    sending, keys = OutboundGroupSession(), RoomKeys()
    sending.mark_as_shared()
    keys.add(key())
    first = sending.encrypt("first")
    keys.add(key())
    known = keys.get("!room", "curve25519", sending.id)
    assert known is not None
    assert known.decrypt(first)[0] == "first"


async def test_an_app_whose_message_waited_for_the_line_misses_nothing_that_came_meanwhile(world: World) -> None:
    """matrix-js-sdk knows its own message from the answer to its sending, and asks for nothing of a gap before it."""
    async with people(world) as (room, those):
        bob, carol = those["bob"], those["carol"]
        await carol.send(room, "before")
        await bob.wait_message(room, "before")
        await trio.to_thread.run_sync(world.line.stop)
        said = [f"bob {number}" for number in range(40)]
        for body in said:
            await bob.send(room, body)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, carol, room, "carol")
            await world.kill_proxy()
            await trio.to_thread.run_sync(world.line.start)
        await carol.wait_message(room, said[-1])
        heard = [event["content"].get("body") for event in await carol.acall("scrolled", room_id=room)]
    assert [body for body in heard if body in said] == said
    assert heard.count("carol") == 1


async def test_three_people_talk_through_cuts_resets_and_kills(world: World) -> None:
    await talk(world, 12)


async def test_apps_that_are_started_while_the_line_is_down_show_what_they_knew_and_go_on_when_it_is_back(world: World) -> None:
    async with people(world) as (room, those):
        plain = await those["bob"].create_room(preset="public_chat", name="Quay")
        for name in ("alice", "carol"):
            await those[name].join(plain)
        await those["bob"].send(room, "sealed")
        await those["bob"].send(plain, "open")
        for name in ("alice", "carol"):
            await those[name].wait_message(plain, "open", timeout=120)
        await those["alice"].wait_message(room, "sealed", timeout=120)
        sessions = {name: await those[name].session() for name in ("alice", "carol")}
        for name in ("alice", "carol"):
            those[name].stop()
        await trio.to_thread.run_sync(world.proxy.kill)
        await trio.to_thread.run_sync(world.line.cut)
        await trio.to_thread.run_sync(world.proxy.start)
        await those["bob"].send(plain, "while the line was down")
        with (
            NioClient(world.folder, world.url, name="alice", timeline_limit=500) as alice,
            JsClient(world.folder, world.url, name="carol") as carol,
        ):
            await alice.resume(sessions["alice"])
            await carol.resume(sessions["carol"])
            assert (await alice.wait_message(room, "sealed", timeout=5))["decrypted"]
            for app in (alice, carol):
                await app.wait_message(plain, "open", timeout=5)
                assert "@bob:box.test" in await app.members(plain)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    partial(alice.acall, "send", timeout=300, room_id=plain, kind="m.room.message", content=_text("from Alice"))
                )
                nursery.start_soon(
                    partial(carol.acall, "send", timeout=300, room_id=plain, kind="m.room.message", content=_text("from Carol"))
                )
                await trio.sleep(2)
                await trio.to_thread.run_sync(world.line.restore)
            for client in (alice, carol, those["bob"]):
                for body in ("while the line was down", "from Alice", "from Carol"):
                    await client.wait_message(plain, body, timeout=120)


def _text(body: str) -> dict[str, str]:
    return {"msgtype": "m.text", "body": body}


@pytest.mark.full
async def test_three_people_talk_through_a_thousand_cuts_resets_and_kills(world: World) -> None:
    await talk(world, 1000)
