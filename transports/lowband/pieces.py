"""The order of the pieces of a duplex, one direction of it, sans-io.

Messages over a link arrive once but may overtake each other, so every piece has a number, counted from 0 and sent
modulo 16. The sender never goes more than 8 beyond the oldest piece that is not acknowledged; so whatever arrives is
the next one in turn or one of the seven after it, and half the numbers are always a breach of the rules.
"""

from __future__ import annotations

NUMBERS = 16
WINDOW = NUMBERS // 2
MAX_PIECE = 16 * 1024
"""Bytes of one piece; what is larger is cut by whoever knows what it is."""


class PieceError(ValueError):
    """The other end broke the rules; this exchange cannot go on."""


class Departures:
    """Numbers for pieces that leave."""

    def __init__(self) -> None:
        self._next = 0
        self._oldest = 0
        self._late: set[int] = set()  # acknowledged, though the oldest one is not

    @property
    def full(self) -> bool:
        return self._next - self._oldest >= WINDOW

    @property
    def under_way(self) -> int:
        """How many are not acknowledged."""
        return self._next - self._oldest - len(self._late)

    def take(self) -> int:
        """The number of the next piece, not reduced; only while not `full`."""
        if self.full:
            raise RuntimeError("the window is full")
        self._next += 1
        return self._next - 1

    def settled(self, number: int) -> None:
        """That piece, which `take` numbered, has arrived."""
        self._late.add(number)
        while self._oldest in self._late:
            self._late.remove(self._oldest)
            self._oldest += 1


class Arrivals:
    """Puts pieces that arrive back in order."""

    def __init__(self) -> None:
        self._expected = 0
        self._early: dict[int, bytes] = {}

    @property
    def gap(self) -> bool:
        """A piece is here whose predecessor is not."""
        return bool(self._early)

    def take(self, number: int, piece: bytes) -> list[bytes]:
        """The pieces whose turn has come; `number` is modulo 16. Raises PieceError."""
        if not 0 < len(piece) <= MAX_PIECE:
            raise PieceError(f"a piece of {len(piece)} bytes")
        if (number - self._expected) % NUMBERS >= WINDOW:
            raise PieceError("a piece out of its window")
        if number in self._early:
            raise PieceError("a piece came twice")
        self._early[number] = piece
        ready = []
        while self._expected in self._early:
            ready.append(self._early.pop(self._expected))
            self._expected = (self._expected + 1) % NUMBERS
        return ready
