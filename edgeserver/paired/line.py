"""The line to the box: always there for whoever has a request, up or not.

Over one `Link` connections come and go; each gets its `Multiplexer`. `carry` waits for the line, and repeats what was
not delivered, and what may be repeated if it is not known whether it was.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from transports.client import Multiplexer
from transports.exchange import Interrupted, LinkProfile, Priority, Request, Response, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from edgeserver.paired.facts import HeardFile
    from transports.exchange import Observation
    from transports.link.connection import Connection, Link
    from transports.link.wire import LinkStats

_PAUSE_FIRST, _PAUSE_CAP = 0.5, 15.0  # seconds between tries; the link itself calls the other end while it is away
_BACKGROUND, _FOREGROUND, _POLLS = 4, 10, 16  # requests under way; a box answers no more than 32 at a time


class OutOfPatience(Interrupted):
    """The line did not bring an answer within the time that it was given."""


class Line:
    """`box` is what people call the other end; `facts` are those that it has told."""

    def __init__(self, link: Link, box: str, facts: HeardFile | None = None) -> None:
        self._link = link
        self._box = box
        self._facts = facts
        self._profile: LinkProfile | None = None
        self._max_message = 0
        self._connection: Connection | None = None
        self._multiplexer: Multiplexer | None = None
        self._down_since: float | None = None
        self._changed = trio.Event()
        self._background = trio.CapacityLimiter(_BACKGROUND)
        self._foreground = trio.CapacityLimiter(_FOREGROUND)
        self._polls = trio.CapacityLimiter(_POLLS)

    async def run(self) -> None:
        """Runs until cancelled."""
        self._down_since = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.run)
            if self._facts is not None:
                nursery.start_soon(self._facts.run)
            async for connection in self._link.connections():
                multiplexer = Multiplexer(connection, heard=self._facts)
                await nursery.start(multiplexer.run)
                self._connection, self._multiplexer = connection, multiplexer
                self._profile, self._max_message = connection.profile, connection.max_message
                self._wake()
                nursery.start_soon(self._watch, connection)

    async def _watch(self, connection: Connection) -> None:
        await connection.wait_down()
        if connection is self._connection:
            self._down_since = trio.current_time()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # ---- how it stands

    @property
    def is_up(self) -> bool:
        return self._connection is not None and self._connection.is_up

    @property
    def down_seconds(self) -> float | None:
        """For how long it has been down, or has not come up yet; None while it is up."""
        if self.is_up:
            return None
        return 0.0 if self._down_since is None else trio.current_time() - self._down_since

    @property
    def is_thin(self) -> bool:
        """As long as nothing is known of the line it is taken for a thin one."""
        return self._profile is None or self._profile.is_thin

    @property
    def profile(self) -> LinkProfile | None:
        """Of the newest connection, None before the first."""
        return self._profile

    @property
    def max_message(self) -> int:
        """Bytes that one message may have; 0 before the first connection."""
        return self._max_message

    @property
    def stats(self) -> LinkStats:
        return self._link.stats

    def sentence(self) -> str:
        """How the line stands, for people."""
        if self.is_up:
            rate = self._profile.bit_rate if self._profile else None
            return f"The line to {self._box} is up{f' at {rate} bit/s' if rate else ''}."
        if self._link.trouble is not None:
            return f"The line to {self._box} is down: {self._link.trouble}. Messages are held until it is back."
        if self._connection is not None:
            return f"The line to {self._box} is down. Messages are held until it is back."
        return f"Calling {self._box} over {self._link.name}."

    async def change(self) -> None:
        """Returns when the line has come up or gone down."""
        await self._changed.wait()

    # ---- requests

    async def carry(self, request: Request, *, repeatable: bool, patience: float, poll: bool = False) -> Response:
        """The box's answer, however long the line is down meanwhile, within `patience` seconds.

        A `poll` waits at the box and is counted apart. Raises `Interrupted` if the request may have been carried out
        and must not be repeated, `OutOfPatience` (its subclass), and `TooLarge`.
        """
        limiter = self._polls if poll else self._background if request.priority >= Priority.HISTORY else self._foreground
        with trio.move_on_after(patience):
            async with limiter:
                return await self._carry(request, repeatable)
        raise OutOfPatience("The line to the box brought no answer in time.")

    async def attempt(self, request: Request) -> Response:
        """One try, as soon as the line is up. Raises `ExchangeError`: `Unreachable` if the line did not come up in the request's time."""
        until = trio.current_time() + request.timeout
        with trio.move_on_at(until) as waiting:
            multiplexer = await self._wait_up()
        if waiting.cancelled_caught:
            raise Unreachable("the line is down")
        return await multiplexer.exchange(replace(request, timeout=until - trio.current_time()))

    @asynccontextmanager
    async def observe(self, request: Request) -> AsyncIterator[Observation]:
        """A sync that the box goes on answering, as a context. Waits for the line; raises `ExchangeError` like `transports.exchange`."""
        multiplexer = await self._wait_up()
        async with multiplexer.observe(request) as observed:
            yield observed

    async def _carry(self, request: Request, repeatable: bool) -> Response:
        pause = _PAUSE_FIRST
        while True:
            multiplexer = await self._wait_up()
            try:
                return await multiplexer.exchange(request)
            except Unreachable:
                pass  # surely not delivered: the line went down, or the box is busy
            except Interrupted:
                if not repeatable:
                    raise
            await trio.sleep(pause)
            pause = min(2 * pause, _PAUSE_CAP)

    async def _wait_up(self) -> Multiplexer:
        while True:
            connection = await self._link.wait_up()
            if self._multiplexer is not None and self._connection is connection:
                return self._multiplexer
            await self._changed.wait()


class LineExchange:
    """The line as an `Exchange`, for who repeats requests by rules of their own: each is tried once."""

    def __init__(self, line: Line) -> None:
        self._line = line

    @property
    def profile(self) -> LinkProfile:
        """Before the first connection nothing is known of the wire: not even that it is thin."""
        return self._line.profile or LinkProfile("line")

    async def exchange(self, request: Request) -> Response:
        """Waits for the line for as long as the request has time. Raises `ExchangeError`."""
        return await self._line.attempt(request)

    def observe(self, request: Request) -> AbstractAsyncContextManager[Observation]:
        """See `Line.observe`."""
        return self._line.observe(request)
