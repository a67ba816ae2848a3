"""Our own end of MSC3079 that asks, over any channel of datagrams; a pair of such channels in memory that lose some."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from transports.coap.client import Answered, ClientSession
from transports.exchange import Interrupted, Request, Response
from transports.msc3079 import mapping, session

MTU = 1232


class CoapClient:
    """`run` must be running. `wire` counts the bytes of all datagrams, each way."""

    def __init__(self, channel: Any, *, seed: int = 0, quick: bool = False, pace: session.Pace | None = None) -> None:
        """`pace`: of a slow wire; a client that has read nothing of it uses the times and sizes that are made for the internet."""
        self._channel = channel
        how = {} if pace is None else {"parameters": pace.parameters, "exponent": pace.largest_block}
        self._session = ClientSession(random.Random(seed).random, quick=quick, **how)
        self._told = mapping.Told()
        self._heard: dict[int, trio.MemorySendChannel[Any]] = {}
        self._changed = trio.Event()
        self._sending = trio.Lock()
        self.messages: list[tuple[str, bytes]] = []

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            task_status.started()
            while True:
                try:
                    data = await self._channel.receive()
                except (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
                    nursery.cancel_scope.cancel()
                    return
                self.messages.append(("in", data))
                await self._act(self._session.receive(data, trio.current_time()))

    async def _keep_time(self) -> None:
        while True:
            self._changed = trio.Event()
            deadline = self._session.deadline
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await self._changed.wait()
            await self._act(self._session.advance(trio.current_time()))

    async def _act(self, events: list[Any]) -> None:
        for event in events:
            self._heard[event.exchange].send_nowait(event)
        self._changed.set()
        async with self._sending:  # DTLS of trio would put two records into one datagram
            for data in self._session.take():
                self.messages.append(("out", data))
                try:
                    await self._channel.send(data)
                except trio.ClosedResourceError:
                    return  # the test is over

    async def request(self, method: str, target: str, body: bytes = b"", token: str | None = None) -> Response:
        async with self.asking(method, target, body, token, observe=False) as answers:
            return await anext(answers)

    @asynccontextmanager
    async def asking(self, method: str, target: str, body: bytes = b"", token: str | None = None, *, observe: bool = True):
        """An iterator over the answer and the notifications after it."""
        headers = () if token is None else (("authorization", f"Bearer {token}"),)
        request = Request(method, target, headers=headers, body=body)
        exchange = self._session.ask(*mapping.ask_of(request, self._told), trio.current_time(), observe=observe)
        put, get = trio.open_memory_channel[Any](1000)
        self._heard[exchange] = put
        await self._act([])

        try:
            yield _Answers(get, lambda: self._told.heard(request))
        finally:
            self._session.cancel(exchange)
            self._changed.set()


@dataclass
class _Answers:
    events: trio.MemoryReceiveChannel[Any]
    heard: Callable[[], None]

    def __aiter__(self) -> _Answers:
        return self

    async def __anext__(self) -> Response:
        event = await self.events.receive()
        if not isinstance(event, Answered):
            raise Interrupted(event.reason)
        self.heard()
        return mapping.response_from(event.code, event.options, event.payload)


@dataclass
class Datagrams:
    """One end in memory."""

    incoming: trio.MemoryReceiveChannel[bytes]
    outgoing: trio.MemorySendChannel[bytes]
    chance: random.Random
    loss: float = 0.0
    sent: list[bytes] = field(default_factory=list)

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        assert len(data) <= MTU
        self.sent.append(data)
        if self.chance.random() >= self.loss:
            self.outgoing.send_nowait(data)

    async def receive(self) -> bytes:
        return await self.incoming.receive()


def datagrams(*, loss: float = 0.0, seed: int = 0) -> tuple[Datagrams, Datagrams]:
    """Two ends of a wire."""
    chance = random.Random(seed)
    first, second = trio.open_memory_channel[bytes](math.inf), trio.open_memory_channel[bytes](math.inf)
    return Datagrams(second[1], first[0], chance, loss), Datagrams(first[1], second[0], chance, loss)
