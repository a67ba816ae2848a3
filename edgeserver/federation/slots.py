"""Who may have a request under way: many dead peers must not hold up those that answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Final

import trio

QUICK: Final = 16
SLOW: Final = 24
"""Together they leave some of the HTTP pool's 64 connections to joins, keys and media."""
PATIENCE: Final = 2.0
"""Seconds after which a request counts as slow."""


class _Places:
    """So many places, given to whoever waits with the lowest rank, and among equals to whoever came first."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: list[tuple[int, int, trio.Event]] = []
        self._arrivals = count()

    async def take(self, rank: int) -> None:
        await trio.lowlevel.checkpoint()
        if self._free:
            self._free -= 1
            return
        mine = (rank, next(self._arrivals), trio.Event())
        heappush(self._waiting, mine)
        try:
            await mine[2].wait()
        except trio.Cancelled:
            if mine[2].is_set():
                self.give_back()
            else:
                self._waiting.remove(mine)
                self._waiting.sort()
            raise

    def give_back(self) -> None:
        if self._waiting:
            heappop(self._waiting)[2].set()
        else:
            self._free += 1


@dataclass(slots=True, eq=False)
class Ticket:
    """A slot that is held."""

    holds: _Places
    moving: trio.CancelScope = field(default_factory=trio.CancelScope)

    def give_back(self) -> None:
        self.moving.cancel()
        self.holds.give_back()


class Slots:
    """Two kinds of slots.

    Who is expected to answer gets a quick slot, those first that are known to, and if it turns out slow, a slow one in exchange as
    soon as there is one. Who has failed before gets a slow one, those first that have failed for the shortest time. So peers that
    hang, up to `SLOW` of them at a time, keep quick slots for no longer than `PATIENCE`; of more, each keeps one for its first time-out.
    """

    def __init__(self) -> None:
        self._quick = _Places(QUICK)
        self._slow = _Places(SLOW)

    async def take(self, nursery: trio.Nursery, doubt: int) -> Ticket:
        """Waits for a slot for one request. `nursery` outlives it; `doubt`: -1 for a peer that is known to answer, 0 if nothing is
        known, else for how long it has failed, in any unit. Whoever has the ticket gives it back.
        """
        ticket = Ticket(self._slow if doubt > 0 else self._quick)
        await ticket.holds.take(doubt)
        if doubt <= 0:
            nursery.start_soon(self._exchange_when_slow, ticket)
        return ticket

    async def _exchange_when_slow(self, ticket: Ticket) -> None:
        with ticket.moving:
            await trio.sleep(PATIENCE)
            await self._slow.take(0)
            if ticket.moving.cancel_called:  # it ended at this very moment
                self._slow.give_back()
                return
            self._quick.give_back()
            ticket.holds = self._slow
