"""A binary adaptive range coder: every bit costs what its probability says, down to small fractions of a bit.

After G. N. N. Martin (1979) with the carry handling of LZMA's coder, in whole numbers only, so that both ends agree on
every machine. `Encoder` and `Decoder` have the same verbs, and `code(bit, p)` is the same call on both: it returns the
bit, which the decoder takes from its bytes and not from its argument. A codec is thus written once:

    number = lengths.code(coder, number)

Many codecs may share one coder one after another. Nothing marks the end of the stream: a decoder that has used up its
bytes reads zeros, so zeros at the end are never sent, and whatever is decoded must be bounded by its own codec. Any bytes
at all decode to something.

Probabilities are those of a one, in 1/65536, from 1 to 65535.
"""

from __future__ import annotations

from typing import Final, Protocol

ONE: Final = 1 << 16
"""The unit of probabilities."""
HALF: Final = ONE >> 1

_TOP: Final = 1 << 48
_BOTTOM: Final = 1 << 40
"""The range is kept in [_BOTTOM, _TOP): a byte leaves whenever it falls below."""
_MASK: Final = _TOP - 1
_BYTES: Final = 6


class RangeCodeError(ValueError):
    """Decoded bits that no encoder writes."""


class Coder(Protocol):
    """An end of the stream: `Encoder`, `Decoder` or `Trial`."""

    def code(self, bit: int, p: int, /) -> int:
        """Codes one bit that is 1 with probability `p`/65536 and returns it; a decoder ignores the argument."""
        ...


class Encoder:
    """Collects bits; `finish` gives the bytes."""

    __slots__ = ("_carried", "_low", "_out", "_pending", "_range")

    def __init__(self) -> None:
        self._low = 0
        self._range = _MASK
        self._out = bytearray()
        self._pending = 0
        self._carried = -1
        """The last byte that a carry may still raise by one, before `_pending` bytes of 0xFF; -1 at the very start."""

    def encode(self, bit: int, p: int) -> None:
        bound = (self._range >> 16) * p
        if bit:
            self._range = bound
        else:
            self._low += bound
            self._range -= bound
        while self._range < _BOTTOM:
            self._range <<= 8
            self._shift()

    def code(self, bit: int, p: int, /) -> int:
        self.encode(bit, p)
        return bit

    def _shift(self) -> None:
        """Moves the top byte of `_low` out, or keeps it back while a carry could still ripple through it."""
        low = self._low
        if low < 0xFF << 40 or low > _MASK:
            carry = low >> 48
            if self._carried >= 0:
                self._out.append(self._carried + carry)
            if self._pending:
                self._out.extend(bytes([(0xFF + carry) & 0xFF]) * self._pending)
                self._pending = 0
            self._carried = (low >> 40) & 0xFF
        else:
            self._pending += 1
        self._low = (low << 8) & _MASK

    def finish(self) -> bytes:
        """The shortest bytes that decode to what was encoded. The encoder takes nothing after this."""
        # Of all numbers in [low, low + range) the one with the most zeros at its end.
        last = self._low + self._range - 1
        keep = 48
        while keep and (last >> keep) << keep < self._low:
            keep -= 1
        self._low = (last >> keep) << keep
        for _ in range(_BYTES + 1):
            self._shift()
        return bytes(self._out).rstrip(b"\0")


class Decoder:
    """Takes back from `data` the bits that an `Encoder` was given, with the same probabilities in the same order."""

    __slots__ = ("_at", "_code", "_data", "_range")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._code = int.from_bytes(data[:_BYTES].ljust(_BYTES, b"\0"))
        self._at = _BYTES
        self._range = _MASK

    def decode(self, p: int) -> int:
        bound = (self._range >> 16) * p
        if self._code < bound:
            self._range = bound
            bit = 1
        else:
            self._code -= bound
            self._range -= bound
            bit = 0
        while self._range < _BOTTOM:
            self._range <<= 8
            self._code <<= 8
            if self._at < len(self._data):
                self._code |= self._data[self._at]
            self._at += 1
        return bit

    def code(self, bit: int, p: int, /) -> int:
        return self.decode(p)

    @property
    def excess(self) -> int:
        """Bytes read past the end of the data. A stream whose content is decoded ends with at most six."""
        return max(0, self._at - len(self._data))


class Trial:
    """Writes nothing down but what it would cost; `replay` gives the same bits to another coder."""

    __slots__ = ("cost", "decisions")

    def __init__(self) -> None:
        self.decisions: list[tuple[int, int]] = []
        self.cost = 0
        """So far, in 1/256 bit."""

    def code(self, bit: int, p: int, /) -> int:
        self.decisions.append((bit, p))
        self.cost += _COST[(p if bit else ONE - p) >> 4]
        return bit

    def replay(self, coder: Coder) -> None:
        for bit, p in self.decisions:
            coder.code(bit, p)


def _cost(probability: int) -> int:
    """-log2 of probability/4096, in 1/256 bit, by repeated squaring."""
    value, cost = max(probability, 1) << 20, 0
    while value < 1 << 32:
        value <<= 1
        cost += 256
    step = 128
    value >>= 1
    # value/2^31 is in [1, 2): its logarithm is what the cost is too high by.
    while step:
        value = value * value >> 31
        if value >= 1 << 32:
            value >>= 1
            cost -= step
        step >>= 1
    return cost


_COST: Final = [_cost(probability) for probability in range(4097)]


_COPIED: Final = 3
_SLOWEST: Final = 8
_SHARES: Final = [10 * ONE // (10 * seen + 13) for seen in range((1 << _SLOWEST) + 1)]
"""What an error moves a probability by, in 1/65536, after so many bits: the first one by most of it, for most bits never change."""


class AdaptiveBit:
    """A bit whose probability is learnt: as the mean of what came while little has, then by 1/2**`rate` of the error (`rate` up to 8).

    A copy that was pickled expects the same, but is as ready to learn as if it had seen `_COPIED` bits at most.
    """

    __slots__ = ("_most", "_p", "_seen")

    def __init__(self, p: int = HALF, rate: int = 5) -> None:
        self._p = p
        self._most = 1 << min(rate, _SLOWEST)
        self._seen = 0

    def __getstate__(self) -> tuple[int, int, int]:
        return self._p, self._most, min(self._seen, _COPIED)

    def __setstate__(self, state: tuple[int, int, int]) -> None:
        self._p, self._most, self._seen = state

    def code(self, coder: Coder, bit: int = 0) -> int:
        bit = coder.code(bit, self._p)
        # Never nearer to certainty than 1/2048, so that a surprise costs at most 11 bits.
        self._p += ((ONE - 32 if bit else 32) - self._p) * _SHARES[self._seen] >> 16
        if self._seen < self._most:
            self._seen += 1
        return bit


class HastyBit(AdaptiveBit):
    """One that nearly forgets what came first: for what is learnt from one short text alone."""

    __slots__ = ()

    def code(self, coder: Coder, bit: int = 0) -> int:
        bit = coder.code(bit, self._p)
        self._p += ((ONE - 32 if bit else 32) - self._p) >> min(2 + self._seen, self._most.bit_length() - 1)
        self._seen = min(self._seen + 1, self._most)
        return bit


class BitTree:
    """One of `size` values, learnt as a binary tree of adaptive bits: log2(size) bits at first, less when uneven."""

    __slots__ = ("_bits", "_make", "_rate", "_size")

    def __init__(self, size: int, rate: int = 5, bit: type[AdaptiveBit] = AdaptiveBit) -> None:
        if size < 1:
            raise ValueError("a tree has at least one value")
        self._size = size
        self._rate = rate
        self._make = bit
        self._bits: dict[int, AdaptiveBit] = {}

    def code(self, coder: Coder, value: int = 0) -> int:
        """The value, in range(size) whatever is decoded."""
        low, high = 0, self._size
        while high - low > 1:
            # A split is met in one interval only, so it names the tree's node.
            split = low + (1 << ((high - low - 1).bit_length() - 1))
            bit = self._bits.get(split)
            if bit is None:
                bit = self._bits[split] = self._make(rate=self._rate)
            if bit.code(coder, int(value >= split)):
                low = split
            else:
                high = split
        return low


class AdaptiveNumber:
    """A number from 0 to `limit`: Elias' gamma code of number + 1 with learnt lengths and learnt leading bits.

    Small numbers are cheap, and so are numbers of the usual size once some were seen.
    """

    __slots__ = ("_leading", "_lengths", "_longest", "_make", "_rate", "limit")

    def __init__(self, limit: int = (1 << 32) - 1, rate: int = 5, bit: type[AdaptiveBit] = AdaptiveBit) -> None:
        self.limit = limit
        self._rate = rate
        self._make = bit
        self._longest = (limit + 1).bit_length() - 1
        self._lengths: dict[int, AdaptiveBit] = {}
        self._leading: dict[int, AdaptiveBit] = {}

    def code(self, coder: Coder, number: int = 0) -> int:
        """The number. Raises RangeCodeError if one above the limit is decoded, ValueError if one is given."""
        if not 0 <= number <= self.limit:
            raise ValueError(f"{number} is not in 0..{self.limit}")
        length = (number + 1).bit_length() - 1
        at = 0
        while at < self._longest:
            model = self._lengths.get(at)
            if model is None:
                model = self._lengths[at] = self._make(rate=self._rate)
            if not model.code(coder, int(at < length)):
                break
            at += 1
        value = 1
        for shift in range(at - 1, -1, -1):
            bit = (number + 1) >> shift & 1
            if at - shift <= 2:
                # The two bits below the leading one, in the context of the length.
                node = at << 2 | value & 3 if at - shift == 2 else at << 2
                model = self._leading.get(node)
                if model is None:
                    model = self._leading[node] = self._make()
                value = value << 1 | model.code(coder, bit)
            else:
                value = value << 1 | coder.code(bit, HALF)
        if value - 1 > self.limit:
            raise RangeCodeError("a number above its limit")
        return value - 1


def code_bits(coder: Coder, width: int, value: int = 0) -> int:
    """`width` bits that nothing is known about, the highest first."""
    decoded = 0
    for shift in range(width - 1, -1, -1):
        decoded = decoded << 1 | coder.code(value >> shift & 1, HALF)
    return decoded


def code_bytes(coder: Coder, length: int, data: bytes = b"") -> bytes:
    """`length` bytes that nothing is known about; the caller has bounded the length."""
    data = data or bytes(length)
    return bytes(code_bits(coder, 8, byte) for byte in data[:length])
