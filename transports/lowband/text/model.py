"""The model of English chat: how likely each next decision of the code tree is, given what stands before it.

Context mixing after M. Mahoney's PAQ and lpaq. For each decision every context that knows something gives the numbers of
zeros and ones that followed it: the last 0 to 6 symbols, the word begun, it with the word before, with the two before
(counted in the training text), and the last 1, 2, 3 and 5 symbols and the word begun as this message and the context given
have them so far. A table turns each pair of numbers into a *stretch*, ln(p / (1 - p)) in 1/256; their weighted sum, weights
chosen by how many contexts know something, is the stretch of the probability that is coded.

Both ends must compute the very same, so everything is whole numbers, and what was trained is in one file: `Model`. It is
never changed; what a message teaches is in its `Predictor`.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from functools import cache
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import zstandard

from transports.lowband.text.alphabet import END, SHIFT, CodeTree, is_word
from transports.lowband.text.trie import COUNTS, Trie, blocks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transports.lowband.rangecoder import Coder

ORDERS: Final = 6
"""The longest context of symbols that is counted."""
WORDS: Final = 3
"""The longest context of words, the one begun being the first."""
COUNTED: Final = ORDERS + 1 + WORDS
LEARNT: Final = 5
"""Contexts that are learnt from the message."""
INPUTS: Final = COUNTED + LEARNT + 1
"""The last input is always one: its weight is a bias."""
ONE: Final = 256
"""The bias's input, and the unit of stretches."""
SETS: Final = (ORDERS + 2) * (WORDS + 1)
"""Sets of weights: one for each number of symbol contexts and of word contexts that know something."""

_STEPS: Final = (7, 10, 15, 22, 33, 50, 80, 130, 220, 400, 800, 2000, 8000)
LEVELS: Final = 20
"""Steps in which the tables know the numbers of zeros and ones: 0 to 5, then up to each of `_STEPS`, then more."""
_MOST: Final = 0xFFFF
QUANTITIES: Final = bytes(range(6)) + b"".join(
    bytes([6 + n]) * (end - start) for n, (start, end) in enumerate(zip((5, *_STEPS), (*_STEPS, _MOST), strict=True))
)
"""The step of each number up to 65535."""

LEARNT_STRETCHES: Final = COUNTED * LEVELS * LEVELS
"""Where the stretches of the learnt contexts begin, 256 for each."""
STRETCHES: Final = LEARNT_STRETCHES + LEARNT * 256

_LIMIT: Final = 3071
"""The largest stretch, 12 in 1/256."""
_RATE: Final = 6
"""How fast weights follow a message."""

CONTEXT_SYMBOLS: Final = 256
"""How much of the texts before a message is looked at."""
_VERSION: Final = b"edgeserver text 1\n"


def _learn(state: int, bit: int) -> int:
    """A learnt context's state is zeros * 16 + ones, each up to 15; many of one kind are half forgotten at the other."""
    same, other = (state & 15, state >> 4) if bit else (state >> 4, state & 15)
    same = min(15, same + 1)
    if other > 2:
        other = (other + 3) // 2
    return other << 4 | same if bit else same << 4 | other


_LEARNT: Final = tuple(bytes(_learn(state, bit) for state in range(256)) for bit in (0, 1))


def _squash() -> array[int]:
    """65536 / (1 + e^-x) for stretches x from -_LIMIT to _LIMIT, kept from 16 to 65520."""
    step = 18518942588666869715  # e^(1/256) * 2^64
    power, powers = 1 << 64, []
    for _ in range(_LIMIT + 1):
        powers.append(power)
        power = power * step >> 64
    above = [min(65520, ((power << 17) // (power + (1 << 64)) + 1) >> 1) for power in powers]
    return array("H", [65536 - p for p in above[:0:-1]] + above)


_SQUASHED: Final = _squash()


class Model:
    """What was trained: the code tree, the two tries, the table of stretches and the sets of weights."""

    __slots__ = ("_opened", "stretches", "symbols", "tree", "weights", "words")

    def __init__(self, lengths: bytes, symbols: Trie, words: Trie, stretches: array[int], weights: array[int]) -> None:
        self.tree = CodeTree(lengths)
        self.symbols = symbols
        self.words = words
        self.stretches = stretches
        self.weights = [list(weights[at : at + INPUTS]) for at in range(0, SETS * INPUTS, INPUTS)]
        self._opened: dict[int, tuple[bytes, list[int]]] = {}

    @classmethod
    def load(cls, file: bytes) -> Model:
        """Reads what `dump` wrote; the file is part of the software and trusted."""
        if not file.startswith(_VERSION):
            raise ValueError("not text tables of this version")
        sections: list[bytes] = []
        at = len(_VERSION)
        decompressor = zstandard.ZstdDecompressor()
        while at < len(file):
            size = int.from_bytes(file[at : at + 4])
            sections.append(decompressor.decompress(file[at + 4 : at + 4 + size]))
            at += 4 + size
        lengths, stretches, weights, *tries = sections
        symbols = Trie(tries[0], tries[1], tries[2], _numbers("H", tries[3]))
        words = Trie(tries[4], tries[5], tries[6], _numbers("H", tries[7]))
        return cls(lengths, symbols, words, _numbers("h", stretches), _numbers("i", weights))

    def dump(self) -> bytes:
        """The file: sections, each with its length in four bytes, compressed by themselves; numbers little-endian."""
        sections = [bytes(self.tree.lengths), _bytes(self.stretches), _bytes(array("i", [w for row in self.weights for w in row]))]
        for trie in (self.symbols, self.words):
            sections += [trie.symbols, trie.counts, trie.degrees, _bytes(blocks_of(trie.degrees))]
        compressed = [zstandard.ZstdCompressor(level=22).compress(section) for section in sections]
        return _VERSION + b"".join(len(section).to_bytes(4) + section for section in compressed)

    def followers(self, trie: Trie, node: int) -> tuple[bytes, list[int]] | None:
        """The symbols that followed a context in rising order and how often those before each did, 65535 at most."""
        common = trie is self.symbols and node <= 256
        if common and node in self._opened:
            return self._opened[node]
        start, end = trie.children(node)
        if start == end:
            return None
        sums = list(accumulate([COUNTS[code] for code in trie.counts[start:end]], initial=0))
        if sums[-1] > _MOST:
            shift = sums[-1].bit_length() - 16
            sums = [count >> shift for count in sums]
        opened = trie.symbols[start:end], sums
        if common:
            self._opened[node] = opened
        return opened


def _numbers(kind: str, data: bytes) -> array[int]:
    """Little-endian numbers, whatever this machine's order is."""
    numbers = array(kind, data)
    if array("H", b"\1\0")[0] != 1:
        numbers.byteswap()
    return numbers


def _bytes(numbers: array[int]) -> bytes:
    if array("H", b"\1\0")[0] != 1:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _shipped_name() -> str:
    return resources.files(__package__).joinpath("tables", "current.txt").read_text().strip()


def shipped_hash() -> bytes:
    """The first eight bytes of the SHA-256 of this release's tables, without reading them."""
    return bytes.fromhex(_shipped_name())


@cache
def shipped() -> Model:
    """The tables of this release, 8 MB of memory; read when the first text comes."""
    return Model.load(resources.files(__package__).joinpath("tables", f"{_shipped_name()}.text").read_bytes())


def name_of(file: bytes) -> str:
    """The name of a file of tables, without `.text`."""
    return hashlib.sha256(file).hexdigest()[:16]


class Predictor:
    """Codes the symbols of one text one after another. `context` are the symbols of texts before it, each with its end."""

    __slots__ = ("_history", "_in_word", "_learnt", "_model", "_nodes", "_weights", "_word", "_word_nodes", "trace")

    def __init__(self, model: Model, context: bytes = b"") -> None:
        self._model = model
        self._learnt: tuple[dict[int, int], ...] = tuple({} for _ in range(LEARNT))
        self._weights: dict[int, list[int]] = {}
        self._history = 0
        self._word = 0
        self._in_word = False
        self.trace: list[tuple[int, list[int], list[int], int]] | None = None
        """For training: set of weights, inputs, their stretches and the bit of each decision."""
        self._remember(END)
        for symbol in context:
            self._learn(symbol)
            self._remember(symbol)
        self._history = self._word = 0
        self._remember(END)
        rank = model.tree.ranks[END]
        self._nodes = [0, model.symbols.child(0, rank)]
        self._word_nodes = [model.words.child(0, rank)]

    def code(self, coder: Coder, symbol: int = 0) -> int:
        """Codes one symbol and returns it; what follows `END` is undefined."""
        model = self._model
        tree = model.tree
        rank = tree.ranks[symbol]
        lower, upper, stretches, quantities, squashed = tree.lower, tree.upper, model.stretches, QUANTITIES, _SQUASHED
        orders = self._open(model.symbols, self._nodes, 0)
        words = self._open(model.words, self._word_nodes, ORDERS + 1)
        learnt = [*zip(self._learnt, self._keys(), range(COUNTED, INPUTS), strict=False)]
        weights, trace = self._weights, self.trace
        split = tree.root
        while split < 256:
            inputs = [INPUTS - 1]
            values = [ONE]
            for context in (*orders, *words):
                at, symbols, sums, low, high, _ = context
                context[5] = middle = bisect_left(symbols, split, low, high)
                count = sums[middle]
                inputs.append(at)
                values.append(
                    stretches[(at * LEVELS + quantities[count - sums[low]]) * LEVELS + quantities[sums[high] - count]]
                )
            states = []
            for table, key, at in learnt:
                state = table.get(key | split, 0)
                states.append(state)
                if state:
                    inputs.append(at)
                    values.append(stretches[LEARNT_STRETCHES - COUNTED * 256 + (at << 8) + state])
            chosen = len(orders) * (WORDS + 1) + len(words)
            mixed = weights.get(chosen)
            if mixed is None:
                mixed = weights[chosen] = model.weights[chosen][:]
            total = 0
            for at, value in zip(inputs, values, strict=True):
                total += mixed[at] * value
            total >>= 16
            if total > _LIMIT:
                total = _LIMIT
            elif total < -_LIMIT:
                total = -_LIMIT
            p = squashed[total + _LIMIT]
            bit = coder.code(rank >= split, p)
            if trace is not None:
                trace.append((chosen, inputs, values, bit))
            error = ((bit << 16) - p) * _RATE
            for at, value in zip(inputs, values, strict=True):
                mixed[at] += value * error >> 14
            following = _LEARNT[bit]
            for (table, key, _), state in zip(learnt, states, strict=True):
                table[key | split] = following[state]
            # Of each context the followers on the bit's side stay; one that has none knows nothing more.
            if bit:
                split = upper[split]
                for context in orders:
                    context[3] = context[5]
                for context in words:
                    context[3] = context[5]
            else:
                split = lower[split]
                for context in orders:
                    context[4] = context[5]
                for context in words:
                    context[4] = context[5]
            orders = [context for context in orders if context[3] < context[4]]
            words = [context for context in words if context[3] < context[4]]
        symbol = tree.symbols[split - 256]
        self._advance(symbol)
        return symbol

    def _open(self, trie: Trie, nodes: list[int], first: int) -> list[list[Any]]:
        """For each node with followers: its input, their symbols and sums, the first and the last that are still meant."""
        opened = []
        for at, node in enumerate(nodes, first):
            if node >= 0:
                followers = self._model.followers(trie, node)
                if followers is not None:
                    opened.append([at, *followers, 0, len(followers[0]), 0])
        return opened

    def _keys(self) -> tuple[int, ...]:
        """The learnt contexts, with a byte left free for the split."""
        history = self._history
        return (
            (history & 0xFF) << 8,
            (history & 0xFFFF) << 8,
            (history & 0xFFFFFF) << 8,
            (history & 0xFF_FFFF_FFFF) << 8,
            self._word << 8,
        )

    def _learn(self, symbol: int) -> None:
        """What `code` does to the learnt contexts, for a symbol that both ends know."""
        tree = self._model.tree
        rank = tree.ranks[symbol]
        learnt = [*zip(self._learnt, self._keys(), strict=True)]
        split = tree.root
        while split < 256:
            following = _LEARNT[rank >= split]
            for table, key in learnt:
                table[key | split] = following[table.get(key | split, 0)]
            split = tree.upper[split] if rank >= split else tree.lower[split]

    def _remember(self, symbol: int) -> bool:
        """Moves on the contexts that are made of the symbols themselves; whether a word begins."""
        self._history = (self._history << 8 | symbol) & 0xFF_FFFF_FFFF
        if symbol == SHIFT:
            return False
        word = is_word(symbol)
        begins = symbol == END or (word and not self._in_word)
        if begins:
            self._word = 0
        self._in_word = word and symbol != END
        # Any function that spreads words over 32 bits.
        self._word = (self._word * 0x2F0B4C47 + symbol + 1) & 0xFFFFFFFF
        return begins

    def _advance(self, symbol: int) -> None:
        """Moves all contexts on by one symbol."""
        begins = self._remember(symbol)
        model = self._model
        rank = model.tree.ranks[symbol]
        child = model.symbols.child
        self._nodes = [0, *(child(node, rank) if node >= 0 else -1 for node in self._nodes[:ORDERS])]
        if symbol != SHIFT:
            child = model.words.child
            nodes = [0, *self._word_nodes[: WORDS - 1]] if begins else self._word_nodes
            self._word_nodes = [child(node, rank) if node >= 0 else -1 for node in nodes]


def context_of(texts: Sequence[bytes]) -> bytes:
    """The last `CONTEXT_SYMBOLS` symbols of texts given as symbols, each with its end."""
    return b"".join(text + bytes([END]) for text in texts)[-CONTEXT_SYMBOLS:]
