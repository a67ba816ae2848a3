"""The program at the end of a cable of 2400 baud, paired by code: what it costs, and a cable that is pulled."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from edgeserver.chat import saved
from edgeserver.chat.plain import PlainFace
from edgeserver.chat.program import ChatError, ChatOptions, run
from edgeserver.paired.state import open_state
from tests.chat.rig import Chat, chatting
from tests.flows.world import EPOCH, World, until
from tests.proxy.test_real_box import behind_the_proxy
from transports.exchange import LinkProfile, Request, Response
from transports.memory import Medium, MemoryCable
from transports.server import AsgiHandler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LINK = '[[links]]\nuri = "serial:/dev/null,2400"\nname = "line"\n'
WORD = "correct horse battery"


class AtTheLine(Chat):
    """The whole program but for its command line. `said` is what it told outside of the conversation."""

    def __init__(self) -> None:
        super().__init__(waits=False)
        self.said: list[str] = []
        self.said_at = 0.0

    def say(self, sentence: str) -> None:
        self.said.append(sentence)
        self.said_at = trio.current_time()

    async def run(self, options: ChatOptions, driver: Any) -> None:
        async def ask(earlier: str) -> tuple[str, str]:
            return earlier or "alice", WORD

        def front() -> PlainFace:
            return self.face

        with self.scope:
            await run(options, self.say, ask, front, driver=driver, now=lambda: EPOCH + trio.current_time())
        self.ended.set()


@asynccontextmanager
async def at_the_line(folder: Path, cable: MemoryCable, code: str | None = None) -> AsyncIterator[AtTheLine]:
    chat = AtTheLine()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chat.run, ChatOptions(folder, link="serial:/dev/null,2400", pair=code), cable.a)
        yield chat
        nursery.cancel_scope.cancel()


async def test_a_cable_is_enough_and_a_conversation_costs_seconds_of_it(tmp_path: Path, autojump_clock) -> None:
    cable = MemoryCable(Medium(2400), seed=3)
    async with World(tmp_path) as world:
        box = await world.box("a", LINK, {"line": cable.b})
        alice, bob = await box.person("alice"), await box.person("bob")
        rooms = [await bob.create_room(name=f"Room {number}", preset="public_chat") for number in range(5)]
        for room_id in rooms:
            await alice.join(room_id)
            await bob.say(room_id, f"This is room {room_id[:4]}.")
        code, _ = box.box.links.open_offer(front=False)
        async with at_the_line(tmp_path / "chat", cable, code) as chat:
            await chat.connected()
            assert "Paired with a.test. From now on start the chat without --pair." in chat.said
            assert trio.current_time() - chat.said_at < 4  # since the end of pairing: login, and the first sync of five rooms
            chat.type("/room Room 3")
            await chat.shows(", Room 3:")
            began = trio.current_time()
            chat.type("Hello over the cable.")
            await chat.shows("alice: Hello over the cable.")
            assert trio.current_time() - began < 1
            began = trio.current_time()
            await bob.say(rooms[3], "Hello.")
            await chat.shows("bob: Hello.")
            assert trio.current_time() - began < 1
            assert "Hello over the cable." in await bob.texts(rooms[3])

            cable.unplug()
            await chat.shows("* The line to a.test is down", 2000)
            chat.type("And now?")
            await chat.shows("1 message waits.")
            await chat.kill()
        assert open_state(tmp_path / "chat", "chat").box is not None
        cable.plug()
        async with at_the_line(tmp_path / "chat", cable) as chat:  # known by its key, and still logged in
            await chat.connected()
            await until(lambda: _has(bob, rooms[3], "And now?"))
            assert chat.said == []
            chat.type("/quit")
            await chat.ended.wait()
        assert (await bob.texts(rooms[3])).count("And now?") == 1


async def _has(person: Any, room_id: str, text: str) -> bool:
    return text in await person.texts(room_id)


async def test_the_program_speaks_to_a_box_through_the_proxy_as_any_app_does(tmp_path: Path, autojump_clock) -> None:
    async with behind_the_proxy(tmp_path) as (box, client, _):
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Harbour", preset="public_chat")
        await alice.join(room_id)
        handler = AsgiHandler(client.app, LinkProfile("http"))

        class Proxy:
            profile = LinkProfile("http")

            async def exchange(self, request: Request) -> Response:
                return await handler(request, trio.Event())

        async with chatting(Proxy(), alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("1")
            await chat.shows("* Room 1, Harbour:")
            chat.type("Hello through the proxy.")
            await chat.shows("alice: Hello through the proxy.")
            await bob.say(room_id, "Hello.")
            await chat.shows("bob: Hello.")


async def test_an_account_of_one_server_is_not_shown_to_another(tmp_path: Path) -> None:
    saved.keep(tmp_path, saved.Saved("http://127.0.0.1:9", "", "@alice:a.test", "D", "secret"))

    async def ask(earlier: str) -> tuple[str, str]:
        raise AssertionError("nobody is to be asked")

    def front() -> PlainFace:
        raise AssertionError("it is not to begin")

    with pytest.raises(ChatError, match=r"holds the account @alice:a\.test at http://127\.0\.0\.1:9"):
        await run(ChatOptions(tmp_path, server="http://127.0.0.1:10"), print, ask, front)
