"""One end of an exchange that goes on in pieces, of whichever side: its window, its order, its end.

`transports.client` gives it what arrives and says when it is over; a program sends and receives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from transports.exchange import Answered, ExchangeError, Interrupted, Priority, Response, TooLarge
from transports.lowband.pieces import MAX_PIECE, Arrivals, Departures, PieceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAX_UNREAD = 64 * 1024
"""Bytes that wait for a reader; every piece counts as 64 more than it has."""
_PIECE_COST = 64


class PieceStream:
    """A `Duplex`.

    `transmit(number, piece, priority)` returns when the other end has acknowledged the piece and raises ExchangeError; it
    runs in `nursery`, which lives as long as the link. A piece once taken is not withdrawn, for its successors wait for it.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        transmit: Callable[[int, bytes, Priority], Awaitable[None]],
        priority: Priority,
        max_piece: int = MAX_PIECE,
    ) -> None:
        self._nursery = nursery
        self._transmit = transmit
        self._priority = priority
        self._max_piece = min(max_piece, MAX_PIECE)
        self._departures = Departures()
        self._arrivals = Arrivals()
        self._turn = trio.Lock()  # senders go first come, first served
        self._change = trio.Event()
        self._put, self._get = trio.open_memory_channel[bytes](float("inf"))  # bounded by `_unread`
        self._unread = 0
        self._outcome: Response | ExchangeError | None = None

    # — the program's side

    async def send(self, piece: bytes, priority: Priority | None = None) -> None:
        """See `Duplex.send`. Raises ValueError on an empty piece."""
        if not piece:
            raise ValueError("a piece has at least one byte")
        if len(piece) > self._max_piece:
            raise TooLarge(f"a piece of {len(piece)} bytes; this link carries {self._max_piece}")
        async with self._turn:
            while self._departures.full and self._outcome is None:
                await self._change.wait()
            self._raise_if_over()
            number = self._departures.take()
            self._nursery.start_soon(self._carry, number, bytes(piece), self._priority if priority is None else priority)

    async def receive(self) -> bytes:
        """See `Duplex.receive`."""
        try:
            piece = await self._get.receive()
        except trio.EndOfChannel:
            self._raise_if_over()
            raise
        self._unread -= len(piece) + _PIECE_COST
        return piece

    def _raise_if_over(self) -> None:
        if isinstance(self._outcome, Response):
            raise Answered(f"the other end has ended it with status {self._outcome.status}", self._outcome)
        if self._outcome is not None:
            raise type(self._outcome)(self._outcome.reason)  # one of its own for each caller, with a traceback of its own

    async def _carry(self, number: int, piece: bytes, priority: Priority) -> None:
        try:
            await self._transmit(number, piece, priority)
        except ExchangeError as error:
            self.end(Interrupted(error.reason))
        finally:
            self._departures.settled(number)
            self._changed()

    def _changed(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()

    # — the link's side

    def arrived(self, number: int, piece: bytes) -> None:
        """A piece of the other end. Raises PieceError: this exchange is over."""
        if self._outcome is not None:
            return
        for ready in self._arrivals.take(number, piece):
            self._unread += len(ready) + _PIECE_COST
            if self._unread > MAX_UNREAD:
                raise PieceError("pieces came faster than they were read")
            self._put.send_nowait(ready)

    def end(self, outcome: Response | ExchangeError) -> None:
        """Nothing more arrives or leaves. What has arrived is still handed out; then `outcome` is raised."""
        if self._outcome is not None:
            return
        if isinstance(outcome, Response) and self._arrivals.gap:
            outcome = Interrupted("the other end has ended it before all its pieces were here")
        self._outcome = outcome
        self._put.close()
        self._changed()

    @property
    def under_way(self) -> int:
        """Pieces of ours that are not acknowledged yet."""
        return self._departures.under_way

    async def settled(self) -> None:
        """Returns when nothing of ours is under way, be it that it has arrived or that it never will."""
        while self.under_way:
            await self._change.wait()
