"""The list of facts that both ends of a line number alike, as hashes; and what their files have in common.

The digest of the list (its *chain*) takes in each fact that ever was in it, also those that were forgotten at its beginning. A file
begins with `header`, and a fact takes `facts.OVERHEAD` bytes besides itself at most.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import Final

from transports.lowband.facts import MAX_NUMBER

STEP: Final = 256
"""Of every so many facts the chain is kept."""
MAGIC: Final = b"esfacts1"
HEADER: Final = 32
"""Bytes of a file before its facts: magic, number and chain of what was forgotten, and a checksum over these."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The hearing end holds the facts up to `number`, whose digest is `chain`."""

    number: int
    chain: int


@dataclass(frozen=True, slots=True)
class Patch:
    """A file is to be cut to `offset` bytes, and `data` appended."""

    offset: int
    data: bytes


def header(number: int, chain: int) -> bytes:
    """Of a file of which the facts up to `number` were left out, whose digest is `chain`."""
    told = MAGIC + number.to_bytes(8, "little") + chain.to_bytes(8, "little")
    return told + hashlib.blake2b(told, digest_size=8).digest()


def read_header(data: bytes) -> tuple[int, int] | None:
    """Number and chain; None if it is damaged."""
    number, chain = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
    return (number, chain) if data[:HEADER] == header(number, chain) and number <= MAX_NUMBER else None


class FactList:
    """Facts have the numbers `base` + 1 to `top`."""

    def __init__(self, base: int = 0, base_chain: int = 0) -> None:
        self.base = base
        self.hashes = array("Q")
        self._chains = array("Q", (base_chain,))

    @property
    def base_chain(self) -> int:
        return self._chains[0]

    @property
    def top(self) -> int:
        return self.base + len(self.hashes)

    def append(self, fact_hash: int) -> None:
        self.hashes.append(fact_hash)
        if len(self.hashes) % STEP == 0:
            self._chains.append(self._chained(self._chains[-1], len(self.hashes) - STEP, len(self.hashes)))

    def cut(self, top: int) -> None:
        """Takes away what is beyond `top`, which is at least `base`."""
        del self.hashes[top - self.base :], self._chains[(top - self.base) // STEP + 1 :]

    def forget(self, count: int) -> None:
        """Takes away the first ones, a multiple of `STEP`."""
        self.base += count
        del self.hashes[:count], self._chains[: count // STEP]

    def chain(self, number: int) -> int:
        """The digest of the facts up to `number`, which is in the list or its `base`."""
        count = number - self.base
        return self._chained(self._chains[count // STEP], count - count % STEP, count)

    def _chained(self, chain: int, start: int, end: int) -> int:
        for fact_hash in self.hashes[start:end]:
            both = chain.to_bytes(8, "little") + fact_hash.to_bytes(8, "little")
            chain = int.from_bytes(hashlib.blake2b(both, digest_size=8).digest(), "little")
        return chain
