"""Quick block-wise transfer (RFC 9177): blocks go out in sets without being asked for, and what got lost is asked for by number.

Stop-and-wait costs a round trip a block; here a sender sends MAX_PAYLOADS blocks as NONs, then waits until the receiver says "go on" or
NON_TIMEOUT has passed, and so on. The receiver lists what is missing: a client by Q-Block2 options in a request, a server by a 4.08 whose
payload is a sequence of CBOR integers (application/missing-blocks+cbor-seq).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transports.coap.blockwise import Block, BlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_PAYLOADS = 10
NON_TIMEOUT = 2.0
NON_RECEIVE_TIMEOUT = 2 * NON_TIMEOUT
NON_MAX_RETRANSMIT = 4
MISSING_BLOCKS = 272
"""The Content-Format application/missing-blocks+cbor-seq."""
MAX_BLOCKS = 1 << 20


class BlockSender:
    """Which blocks of a body of `count` blocks to send when, from number `begin` on. `chance` gives random numbers of 0 … 1."""

    def __init__(self, count: int, now: float, chance: Callable[[], float], *, begin: int = 0) -> None:
        self.count = count
        self._chance = chance
        self._next = begin
        self._again: list[int] = []
        self._due = now
        self._quiet = 0

    def take(self, now: float) -> list[int]:
        """The numbers of the blocks to send now: those asked for again, and the next set if it is due."""
        numbers, self._again = self._again[:MAX_PAYLOADS], self._again[MAX_PAYLOADS:]
        if self._next < self.count and self._due <= now and not numbers:
            end = min((self._next // MAX_PAYLOADS + 1) * MAX_PAYLOADS, self.count)
            numbers = list(range(self._next, end))
            self._next = end
        if numbers:
            self._due = now + NON_TIMEOUT * (1 + self._chance() / 2)
        return numbers

    def go_on(self, number: int, now: float) -> None:
        """The receiver has all before `number`: the next set need not wait."""
        self._quiet = 0
        self._again = [each for each in self._again if each >= number]
        if number >= self._next:
            self._due = now

    def again(self, numbers: Iterable[int]) -> None:
        """The receiver lacks these."""
        self._quiet = 0
        wanted = {number for number in numbers if number < self._next}
        self._again = sorted(wanted.union(self._again))

    def from_(self, number: int, now: float) -> None:
        """The receiver has all before `number` and wants it and what follows: the next set, or the rest of one that was sent."""
        if number >= self._next:
            self.go_on(number, now)
        else:
            self.again(range(number, min((number // MAX_PAYLOADS + 1) * MAX_PAYLOADS, self._next)))

    def nudge(self, now: float) -> bool:
        """All has been sent and nothing is heard: the last block once more, which shows the receiver what it lacks. False after
        NON_MAX_RETRANSMIT of them.
        """
        self._quiet += 1
        self._again = [self.count - 1]
        self._due = now
        return self._quiet <= NON_MAX_RETRANSMIT

    @property
    def is_through(self) -> bool:
        """Whether every block has been sent once and none is asked for."""
        return self._next >= self.count and not self._again

    @property
    def deadline(self) -> float | None:
        """When `take` has something to give; None while nothing is left to send."""
        if self._again:
            return 0.0
        return self._due if self._next < self.count else None

    @property
    def quiet_until(self) -> float:
        """Until when the receiver has time to answer to what was sent last: NON_RECEIVE_TIMEOUT, doubled each time that it did not."""
        return self._due + NON_RECEIVE_TIMEOUT * (1 << self._quiet)


class BlockReceiver:
    """Puts blocks together that come in any order. Bounded by `max_body` bytes; raises BlockError on what does not fit."""

    def __init__(self, exponent: int, max_body: int, now: float) -> None:
        self.exponent = exponent
        self._max_body = max_body
        self._blocks: dict[int, bytes] = {}
        self._count: int | None = None
        self._highest = -1
        self._tries = 0
        self._went_on = 0
        self._skipped = 0
        self.contiguous = 0
        """The number of the first block that is not there."""
        self._due = now + NON_RECEIVE_TIMEOUT
        self.size = 0

    def add(self, at: Block, payload: bytes, now: float) -> bool:
        """Takes one block; False if it was there. Raises BlockError on one that contradicts the others."""
        if at.exponent != self.exponent or (at.more and len(payload) != at.size) or len(payload) > at.size:
            raise BlockError("a block of another size")
        if at.start + len(payload) > self._max_body or at.number >= MAX_BLOCKS:
            raise BlockError("a body that is too large")
        if not at.more:
            if self._count not in (None, at.number + 1) or self._highest > at.number:
                raise BlockError("a second last block")
            self._count = at.number + 1
        elif self._count is not None and at.number >= self._count - 1:
            raise BlockError("a block behind the last one")
        self._due = now + NON_RECEIVE_TIMEOUT
        self._tries = 0
        if at.number in self._blocks:
            return False
        self._blocks[at.number] = payload
        self._highest = max(self._highest, at.number)
        while self.contiguous in self._blocks:
            self.contiguous += 1
        self.size += len(payload)
        return True

    @property
    def body(self) -> bytes | None:
        """The whole body, once it is there."""
        if self._count is None or len(self._blocks) < self._count:
            return None
        return b"".join(self._blocks[number] for number in range(self._count))

    def completed_set(self) -> int | None:
        """The number of the next block to go on with, once for each set whose blocks and all before are there."""
        number = self.contiguous
        if number % MAX_PAYLOADS == 0 and number > self._went_on and self._count is None:
            self._went_on = number
            return number
        return None

    def missing(self) -> list[int]:
        """What is known to be missing, at most one set of it; the block behind the newest if its end is not known."""
        end = self._count if self._count is not None else self._highest + 2
        found = []
        for number in range(self.contiguous, end):
            if number not in self._blocks:
                found.append(number)
                if len(found) == MAX_PAYLOADS:
                    break
        return found

    def has_skipped_a_set(self) -> bool:
        """Whether blocks of a later set have come while some of an earlier one lack, which are then asked for at once; said once for
        each set that begins so.
        """
        newest = self._highest // MAX_PAYLOADS
        if self.contiguous // MAX_PAYLOADS >= newest or newest <= self._skipped:
            return False
        self._skipped = newest
        return True

    @property
    def deadline(self) -> float:
        """When to ask for what is missing."""
        return self._due

    def asked(self, now: float) -> bool:
        """It has been asked for what is missing: the next time is later. False when that was often enough."""
        self._tries += 1
        self._due = now + NON_RECEIVE_TIMEOUT * (1 << self._tries)
        return self._tries <= NON_MAX_RETRANSMIT


def encode_missing(numbers: Iterable[int]) -> bytes:
    """A sequence of CBOR unsigned integers (RFC 8742)."""
    return b"".join(_head(number) for number in numbers)


def decode_missing(data: bytes) -> list[int]:
    """At most MAX_PAYLOADS · 10 numbers. Raises BlockError."""
    found: list[int] = []
    position = 0
    while position < len(data) and len(found) < 10 * MAX_PAYLOADS:
        first = data[position]
        if first > 0x1A:
            raise BlockError("not a list of blocks")
        width = 0 if first < 24 else 1 << first - 24
        if position + 1 + width > len(data):
            raise BlockError("a list of blocks that ends too early")
        found.append(int.from_bytes(data[position + 1 : position + 1 + width], "big") if width else first)
        position += 1 + width
    return found


def _head(number: int) -> bytes:
    if number < 24:
        return bytes((number,))
    for first, width in ((0x18, 1), (0x19, 2), (0x1A, 4)):
        if number < 1 << 8 * width:
            return bytes((first,)) + number.to_bytes(width, "big")
    raise BlockError("a block number beyond 32 bits")
