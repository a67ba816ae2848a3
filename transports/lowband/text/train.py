"""Makes the tables of the text model: `python -m transports.lowband.text.train --corpus FILE` (a text a line, or .xz of it).

Writes `tables/<hash>.text` and names it in `current.txt`. The last tenth of the corpus is never looked at, so that it can
judge. The weights must be fitted to texts that were not counted, so a model of the lines before the last 15 % is fitted
to the next 5 %, and those weights go with the counts of the first 90 %. The same corpus and version of zstd give the same
file; it takes some minutes and 2 GB of memory.
"""

from __future__ import annotations

import argparse
import lzma
import math
from array import array
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from transports.lowband.text import model
from transports.lowband.text.alphabet import END, SHIFT, CodeTree, code_lengths, is_word, symbols_of
from transports.lowband.text.model import INPUTS, LEARNT_STRETCHES, LEVELS, SETS, STRETCHES, WORDS, Model
from transports.lowband.text.trie import Trie, blocks_of, level

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COUNTED_SHARE: Final = 85
FITTED_SHARE: Final = 90
"""Percent of the lines before which texts are counted for fitting, and are fitted to."""

LEAST: Final = (1, 1, 2, 2, 2, 3, 4)
"""How often a string of so many symbols before one must have been seen to be kept with it."""
LEAST_WORDS: Final = (*[2] * 10, *[3] * 18)
"""The same for strings of words, whose file would otherwise pass 2.5 MB."""

SMILES: Final = "😂😀😊👍❤️🙂😅🤣😍🙏😉😭🎉🔥🤔😁👋😎🥰🙈✅💪😢👏🤷💯😄🙄"
"""Signs that the corpus is too old for, the frequent ones first."""


def lines_of(corpus: Path) -> list[str]:
    """The texts of a corpus, one a line."""
    data = corpus.read_bytes()
    if corpus.suffix == ".xz":
        data = lzma.decompress(data)
    return [line for line in data.decode().split("\n") if line]


def modernised(lines: Sequence[str]) -> list[str]:
    """Every so many lines gets what the corpus, being of IRC, has none of: smiles, curly apostrophes and quotes, newlines."""
    texts = []
    for number, line in enumerate(lines):
        text = line
        if number % 59 == 0:
            text = f"{text} {SMILES[number * number % 97 * number % 89 % len(SMILES)]}"
        if number % 23 == 0:
            text = text.replace("'", "’")
        if number % 83 == 0:
            text = f"{text}\n{lines[(number + 1) % len(lines)]}"
        texts.append(text)
    return texts


def stream_of(texts: Sequence[str]) -> bytes:
    """Their symbols one after another, an end before, between and after them."""
    end = bytes([END])
    return end + b"".join(symbols + end for text in texts if (symbols := symbols_of(text.encode())) is not None)


def lengths_for(stream: bytes) -> bytes:
    """The code tree's lengths. What UTF-8 needs beyond ASCII is kept within reach though the corpus lacks it."""
    counts = Counter(stream)
    floor = len(stream) >> 14
    utf8 = {*range(0x80, 0xC0), *range(0xC2, 0xF5)}
    return code_lengths([max(counts[symbol], floor if symbol in utf8 else 1) for symbol in range(256)])


class _Growth:
    """A trie that grows by levels."""

    def __init__(self) -> None:
        self._symbols, self._counts, self._degrees = bytearray(1), bytearray(1), bytearray()
        self._first, self._parents = 0, 1

    def grow(self, counts: Counter[int], least: int) -> dict[int, int]:
        """Adds the children counted, by parent << 8 | rank, and gives the numbers of those that were kept."""
        kept = sorted(key for key, count in counts.items() if count >= least)
        degrees = Counter(key >> 8 for key in kept)
        self._degrees.extend(degrees[parent] for parent in range(self._first, self._first + self._parents))
        numbers = {key: number for number, key in enumerate(kept, len(self._symbols))}
        self._symbols.extend(key & 0xFF for key in kept)
        self._counts.extend(level(counts[key]) for key in kept)
        self._first += self._parents
        self._parents = len(kept)
        return numbers

    def trie(self) -> Trie:
        degrees = bytes(self._degrees) + bytes(self._parents)
        return Trie(bytes(self._symbols), bytes(self._counts), degrees, blocks_of(degrees))


def symbol_trie(stream: bytes, tree: CodeTree) -> Trie:
    """All strings of up to len(`LEAST`) symbols."""
    ranked = stream.translate(tree.ranks)
    growth = _Growth()
    nodes = array("I", bytes(4 * len(ranked)))
    alive: Sequence[int] = range(len(ranked))
    for depth, least in enumerate(LEAST):
        alive = [at for at in alive if at + depth < len(ranked)]
        numbers = growth.grow(Counter(nodes[at] << 8 | ranked[at + depth] for at in alive), least)
        following = []
        for at in alive:
            number = numbers.get(nodes[at] << 8 | ranked[at + depth])
            if number is not None:
                nodes[at] = number
                following.append(at)
        alive = following
    return growth.trie()


def word_trie(stream: bytes, tree: CodeTree) -> Trie:
    """All strings from the beginning of a word to the third after it; a capital's mark is a leaf beside its letter."""
    plain, marked, mark = bytearray(), bytearray(), 0
    for symbol in stream:
        if symbol == SHIFT:
            mark = 1
        else:
            plain.append(symbol)
            marked.append(mark)
            mark = 0
    begins, in_word = bytearray(len(plain)), False
    for at, symbol in enumerate(plain):
        begins[at] = symbol == END or (is_word(symbol) and not in_word)
        in_word = is_word(symbol) and symbol != END
    ranked, shift = plain.translate(tree.ranks), tree.ranks[SHIFT]
    growth = _Growth()
    # Where each string begins, its node so far, and the words begun after the first.
    alive = [(at, 0, 0) for at in range(len(plain)) if begins[at]]
    for depth, least in enumerate(LEAST_WORDS):
        alive = [string for string in alive if string[0] + depth < len(plain)]
        counts = Counter(node << 8 | ranked[at + depth] for at, node, _ in alive)
        counts.update(node << 8 | shift for at, node, _ in alive if marked[at + depth])
        numbers = growth.grow(counts, least)
        following = []
        for at, node, words in alive:
            number = numbers.get(node << 8 | ranked[at + depth])
            if number is None or (depth and plain[at + depth] == END):
                continue
            begun = words + (depth > 0 and begins[at + depth])
            if begun < WORDS:
                following.append((at, number, begun))
        alive = following
    return growth.trie()


class _Silent:
    """Codes nothing."""

    def code(self, bit: int, p: int, /) -> int:
        return int(bit)


_Decision = tuple[int, list[int], list[int], int]


def decisions_of(counted: Model, texts: Sequence[str]) -> Iterator[list[_Decision]]:
    """For each text the decisions that the model would code, inputs as places in the table of stretches; every other text
    with those before it as context."""
    blank = Model(counted.tree.lengths, counted.symbols, counted.words, array("i", range(STRETCHES)), array("i", bytes(4 * SETS * INPUTS)))
    silent = _Silent()
    before: list[bytes] = []
    for number, text in enumerate(texts):
        symbols = symbols_of(text.encode())
        if symbols is None:
            continue
        predictor = model.Predictor(blank, model.context_of(before) if number % 2 else b"")
        predictor.trace = []
        for symbol in (*symbols, END):
            predictor.code(silent, symbol)
        yield predictor.trace
        before = [*before[-3:], symbols]


def fit(texts: Sequence[list[_Decision]]) -> tuple[array[int], array[int]]:
    """Stretches that say what followed in these texts, and weights by gradient descent on the code's length."""
    seen, ones = [0] * STRETCHES, [0] * STRETCHES
    for text in texts:
        for _, _, places, bit in text:
            for place in places[1:]:
                seen[place] += 1
                ones[place] += bit
    stretches = []
    for place in range(STRETCHES):
        p = (ones[place] + 3 * _expected(place)) / (seen[place] + 3)
        stretches.append(max(-10.0, min(10.0, math.log(p / (1 - p)))))
    weights = [[0.2] * (INPUTS - 1) + [0.0] for _ in range(SETS)]
    for rate in (0.02, 0.01, 0.005, 0.0025):
        for text in texts:
            for chosen, inputs, places, bit in text:
                row = weights[chosen]
                values = [1.0, *(stretches[place] for place in places[1:])]
                total = sum(row[at] * value for at, value in zip(inputs, values, strict=True))
                error = rate * (bit - 1 / (1 + math.exp(-max(-12.0, min(12.0, total)))))
                for at, value in zip(inputs, values, strict=True):
                    row[at] += error * value
    return (
        array("h", (round(256 * stretch) for stretch in stretches)),
        array("i", (round(65536 * weight) for row in weights for weight in row)),
    )


def _expected(place: int) -> float:
    """The probability of a one that a pair of numbers means by itself."""
    if place >= LEARNT_STRETCHES:
        zeros, ones = divmod((place - LEARNT_STRETCHES) & 0xFF, 16)
        return (ones + 0.5) / (zeros + ones + 1)
    zeros, ones = divmod(place % (LEVELS * LEVELS), LEVELS)
    return (_MIDDLES[ones] + 0.3) / (_MIDDLES[zeros] + _MIDDLES[ones] + 0.6)


_MIDDLES: Final = [(model.QUANTITIES.index(step) + model.QUANTITIES.rindex(step)) / 2 for step in range(LEVELS)]


def train(lines: Sequence[str]) -> Model:
    """The model of these lines, their last tenth left out."""
    counted, fitted = len(lines) * COUNTED_SHARE // 100, len(lines) * FITTED_SHARE // 100
    stream = stream_of(modernised(lines[:counted]))
    lengths = lengths_for(stream)
    tree = CodeTree(lengths)
    none = array("h", bytes(2 * STRETCHES)), array("i", bytes(4 * SETS * INPUTS))
    before = Model(lengths, symbol_trie(stream, tree), word_trie(stream, tree), *none)
    stretches, weights = fit([*decisions_of(before, modernised(lines[counted:fitted]))])
    stream = stream_of(modernised(lines[:fitted]))
    return Model(lengths, symbol_trie(stream, tree), word_trie(stream, tree), stretches, weights)


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the tables of the text model.")
    parser.add_argument("--corpus", type=Path, required=True, help="a text a line, or .xz of it")
    lines = lines_of(parser.parse_args().corpus)
    folder = Path(str(resources.files(__package__).joinpath("tables")))
    folder.mkdir(exist_ok=True)
    file = train(lines).dump()
    name = model.name_of(file)
    (folder / f"{name}.text").write_bytes(file)
    (folder / "current.txt").write_text(name + "\n")


if __name__ == "__main__":
    main()
