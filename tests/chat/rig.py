"""The chat program in this process, in its plain form: lines go in, lines come out, and between it and a box lies a way that can be cut."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from edgeserver.chat.client import Client
from edgeserver.chat.plain import PlainFace
from edgeserver.chat.program import Way, converse
from tests.flows.world import EPOCH, BoxInWorld, Person
from transports.exchange import Exchange, LinkProfile, Request, Response, TimedOut, Unreachable
from transports.server import AsgiHandler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


HTTP = LinkProfile("http")
LINE = LinkProfile("line", bit_rate=2400)


class WayToBox:
    """An `Exchange` with the box's application. `is_cut`: nothing arrives, nor what was on its way. `swallows`: the answer to the next
    request with this in its target is lost. `asked` has method, target and body of every request that arrived.
    """

    def __init__(self, box: BoxInWorld, profile: LinkProfile = HTTP) -> None:
        self.box = box
        self.profile = profile
        self._is_cut = False
        self._under_way: set[trio.CancelScope] = set()
        self.swallows = ""
        self.asked: list[tuple[str, str, bytes]] = []
        self.answer: Callable[[Request], Response | None] = lambda request: None

    @property
    def is_cut(self) -> bool:
        return self._is_cut

    @is_cut.setter
    def is_cut(self, is_cut: bool) -> None:
        self._is_cut = is_cut
        for scope in self._under_way if is_cut else ():
            scope.cancel()

    @property
    def sends(self) -> str:
        """What is in the target of a message."""
        return "/say/" if self.profile.is_thin else "/send/"

    async def exchange(self, request: Request) -> Response:
        await trio.sleep(0.01)
        if self.is_cut:
            raise Unreachable("the cable is out")
        self.asked.append((request.method, request.target, request.body))
        answer = self.answer(request)
        if answer is not None:
            return answer
        handler = AsgiHandler(self.box.box.app, self.profile)
        with trio.move_on_after(request.timeout) as scope:
            self._under_way.add(scope)
            try:
                response = await handler(request, trio.Event())
            finally:
                self._under_way.discard(scope)
            if self.swallows and self.swallows in request.target:
                self.swallows = ""
                raise TimedOut("the answer was lost")
            return response
        raise TimedOut("no answer in time")

    def count(self, method: str, part: str) -> int:
        return sum(how == method and part in target for how, target, _ in self.asked)


class Chat:
    """A running program. `out` is what it has written so far."""

    def __init__(self, *, waits: bool) -> None:
        self.out: list[str] = []
        self._put, get = trio.open_memory_channel[str](100)

        async def read_line() -> str | None:
            async for line in get:
                return line
            return None

        self.face = PlainFace(self.out.append, read_line, waits=waits)
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    def type(self, *lines: str) -> None:
        for line in lines:
            self._put.send_nowait(line)

    def end_of_input(self) -> None:
        self._put.close()

    async def shows(self, text: str, seconds: float = 300.0) -> str:
        """Waits until a line with this has been written, and returns the first such line."""
        with trio.move_on_after(seconds):
            while True:
                found = next((line for line in self.out if text in line), None)
                if found is not None:
                    return found
                await trio.sleep(0.05)
        raise AssertionError("\n".join((f"{text!r} was not shown, but", *self.out)))

    async def connected(self) -> None:
        await self.shows("* Connected.")

    async def kill(self) -> None:
        """From one moment to the next; what is on disk stays as it is."""
        self.scope.cancel()
        await self.ended.wait()


@asynccontextmanager
async def chatting(way: Exchange, who: Person, folder: Path, *, waits: bool = False, **more: Any) -> AsyncIterator[Chat]:
    """A program that is logged in as that person."""
    chat = Chat(waits=waits)
    await trio.Path(folder).mkdir(exist_ok=True)

    async def run() -> None:
        with chat.scope:
            client = Client(way, who.token)
            told = Way(way, "test", **more)
            await converse(client, who.user_id, folder, chat.face, way=told, now=lambda: EPOCH + trio.current_time())
        chat.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield chat
        nursery.cancel_scope.cancel()
