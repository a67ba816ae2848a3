"""Counted strings as a tree in few arrays: which symbols followed a context in the training text, and how often."""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import Final

BLOCK: Final = 64
"""Nodes for which one index of a first child is kept; the others' are summed up from the degrees."""


def level(count: int) -> int:
    """The byte that stands for a count: exact to 7, then with two bits after the leading one."""
    exponent = max(0, count.bit_length() - 3)
    return (exponent << 2) + (count >> exponent)


def _count(code: int) -> int:
    exponent = max(0, (code >> 2) - 1)
    return (code - (exponent << 2)) << exponent


COUNTS: Final = [_count(code) for code in range(128)]
"""The count that a level stands for, from below."""


class Trie:
    """Nodes are numbered level by level, the children of one next to each other in the order of their symbols.

    Node 0 is the root. `symbols[n]` and `counts[n]` (a level) belong to node n, `degrees[n]` is its number of children,
    `blocks` are the sums of each `BLOCK` degrees.
    """

    __slots__ = ("_starts", "counts", "degrees", "symbols")

    def __init__(self, symbols: bytes, counts: bytes, degrees: bytes, blocks: array[int]) -> None:
        self.symbols = symbols
        self.counts = counts
        self.degrees = degrees
        self._starts = array("I", accumulate(blocks, initial=1))

    def __len__(self) -> int:
        return len(self.symbols)

    def children(self, node: int) -> tuple[int, int]:
        """The first child of `node` and the node after the last."""
        degrees = self.degrees
        block = node // BLOCK
        start = self._starts[block] + sum(degrees[block * BLOCK : node])
        return start, start + degrees[node]

    def child(self, node: int, symbol: int) -> int:
        """The child of `node` along `symbol`, -1 if there is none."""
        start, end = self.children(node)
        return self.symbols.find(symbol, start, end)


def blocks_of(degrees: bytes) -> array[int]:
    """What `Trie` takes as `blocks`."""
    return array("H", (sum(degrees[at : at + BLOCK]) for at in range(0, len(degrees), BLOCK)))
