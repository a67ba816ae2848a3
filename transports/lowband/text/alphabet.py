"""Texts as strings of symbols: lower-case letters, a mark before each that was a capital, an end.

The symbols are UTF-8's bytes, except that the capitals' places hold the marks: nothing else than A to Z is written
with `SHIFT`. In the model a symbol is known by its *rank*, its place from left to right in a code tree (Huffman's) whose
inner nodes are the decisions that are coded. A node is named by its split: ranks below it lie to the left.
"""

from __future__ import annotations

import heapq
import re
from typing import Final

SHIFT: Final = ord("A")
"""The letter after it is a capital."""
END: Final = ord("B")
"""Where a text ends, and so what stands before the first."""

_UNUSED: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_CAPITAL: Final = re.compile(rb"[A-Z]")
_SHIFTED: Final = re.compile(rb"A([a-z]?)")


def symbols_of(text: bytes) -> bytes | None:
    """The symbols of UTF-8 `text`, without the end; None if it holds control characters, which have no symbols."""
    if _UNUSED.search(text):
        return None
    return _CAPITAL.sub(lambda capital: b"A" + capital.group().lower(), text)


def text_of(symbols: bytes) -> bytes:
    """The text again. Marks that stand before no letter are dropped: no text has them."""
    return _SHIFTED.sub(lambda shifted: shifted.group(1).upper(), symbols)


def is_word(symbol: int) -> bool:
    """Whether words are made of it: letters, digits, apostrophe, everything beyond ASCII; the end is a word too."""
    return symbol >= 0x80 or 0x61 <= symbol <= 0x7A or 0x30 <= symbol <= 0x39 or symbol in (0x27, END)


def code_lengths(frequencies: list[int]) -> bytes:
    """Huffman's code lengths of the 256 symbols, ties broken by symbol."""
    heap: list[tuple[int, int, tuple[int, ...]]] = [(frequency, symbol, (symbol,)) for symbol, frequency in enumerate(frequencies)]
    heapq.heapify(heap)
    lengths = bytearray(256)
    while len(heap) > 1:
        first, at, left = heapq.heappop(heap)
        second, _, right = heapq.heappop(heap)
        for symbol in left + right:
            lengths[symbol] += 1
        heapq.heappush(heap, (first + second, at, left + right))
    return bytes(lengths)


class CodeTree:
    """The canonical code of the given lengths. `lower[s]` and `upper[s]` are the splits of the children of split s, or,
    where the child is a leaf, 256 + its rank."""

    __slots__ = ("lengths", "lower", "ranks", "root", "symbols", "upper")

    def __init__(self, lengths: bytes) -> None:
        self.lengths = lengths
        order = sorted(range(256), key=lambda symbol: (lengths[symbol], symbol))
        self.symbols = bytes(order)
        """Symbol of each rank."""
        ranks = bytearray(256)
        for rank, symbol in enumerate(order):
            ranks[symbol] = rank
        self.ranks = bytes(ranks)
        """Rank of each symbol."""
        self.lower = [0] * 257
        self.upper = [0] * 257
        codes, code, last = [], 0, lengths[order[0]]
        for symbol in order:
            code <<= lengths[symbol] - last
            last = lengths[symbol]
            codes.append((code, last))
            code += 1
        if code != 1 << last:
            raise ValueError("the lengths are not those of a complete code")
        self.root = self._grow(codes, 0, 256, 0)

    def _grow(self, codes: list[tuple[int, int]], start: int, end: int, depth: int) -> int:
        """Splits ranks [start, end), whose codes agree in their first `depth` bits."""
        if end - start == 1:
            return 256 + start
        split = start
        while not codes[split][0] >> (codes[split][1] - depth - 1) & 1:
            split += 1
        self.lower[split] = self._grow(codes, start, split, depth + 1)
        self.upper[split] = self._grow(codes, split, end, depth + 1)
        return split
