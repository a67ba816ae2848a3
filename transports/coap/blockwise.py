"""Block-wise transfer (RFC 7959): bodies that are larger than a datagram, one block at a time and each asked for.

A server puts a request's Block1 blocks together in `Uploads` and hands out the blocks of its large answers from `Downloads`. Both belong
to one peer, so that nobody adds to another's body; entries expire, their number is bounded, and their bytes come out of an `Allowance`
that all peers share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transports.coap.message import Option

if TYPE_CHECKING:
    from transports.coap.message import Message, Options

LARGEST = 6
"""Size exponent of the largest block: 2 ** (6 + 4) = 1,024 bytes."""
MAX_TRANSFERS = 8
"""Of each kind and of one peer."""

Key = tuple[int, "Options"]

_NOT_IN_KEY = frozenset(
    (Option.OBSERVE, Option.BLOCK1, Option.BLOCK2, Option.Q_BLOCK1, Option.Q_BLOCK2, Option.SIZE1, Option.SIZE2, Option.CONTENT_FORMAT)
)


class BlockError(ValueError):
    """A block option that cannot be."""


@dataclass(frozen=True, slots=True)
class Block:
    """The value of a Block1, Block2, Q-Block1 or Q-Block2 option (§2.2): `number` of the block, whether `more` follow, and the
    size, 2 ** (`exponent` + 4) bytes.
    """

    number: int
    more: bool
    exponent: int

    @property
    def size(self) -> int:
        return 1 << self.exponent + 4

    @property
    def start(self) -> int:
        """The byte at which it begins."""
        return self.number * self.size

    def encode(self) -> bytes:
        value = self.number << 4 | self.more << 3 | self.exponent
        return value.to_bytes((value.bit_length() + 7) // 8, "big")


def block(value: bytes) -> Block:
    """Reads an option's value. Raises BlockError."""
    number = int.from_bytes(value, "big")
    if len(value) > 3 or number & 7 == 7:
        raise BlockError("a block of a reserved size")
    return Block(number >> 4, bool(number & 8), number & 7)


def block_option(message: Message, option: int) -> Block | None:
    """That option of a message. Raises BlockError."""
    value = message.value(option)
    return None if value is None else block(value)


def piece(body: bytes, number: int, exponent: int) -> tuple[Block, bytes]:
    """One block of a body and what it says of itself. Raises BlockError for one behind the end."""
    found = Block(number, len(body) > (number + 1) << exponent + 4, exponent)
    if number and found.start >= len(body):
        raise BlockError("a block behind the end")
    return found, body[found.start : found.start + found.size]


def transfer_key(message: Message, without: frozenset[int] = frozenset()) -> Key:
    """What makes two requests of one peer parts of one transfer: the method and the options but those that differ from block to
    block, and those that the caller leaves out.
    """
    return message.code, tuple(option for option in message.options if option[0] not in _NOT_IN_KEY and option[0] not in without)


@dataclass(slots=True)
class Allowance:
    """Bytes that all peers together may have in transfers."""

    left: int

    def take(self, count: int) -> bool:
        if count > self.left:
            return False
        self.left -= count
        return True

    def give(self, count: int) -> None:
        self.left += count


@dataclass(frozen=True, slots=True)
class Whole:
    """The body is there. `options` are those of the first block that were given along."""

    body: bytes
    options: Options


@dataclass(frozen=True, slots=True)
class Part:
    """More is to come."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What comes before this block is not there (4.08)."""


@dataclass(frozen=True, slots=True)
class Overflow:
    """The body is larger than is taken (4.13)."""


@dataclass(slots=True)
class _Upload:
    expires: float
    options: Options
    body: bytearray = field(default_factory=bytearray)


class Uploads:
    """Request bodies of one peer that are on their way in (Block1)."""

    def __init__(self, allowance: Allowance, max_body: int, lifetime: float) -> None:
        self._allowance = allowance
        self._max_body = max_body
        self._lifetime = lifetime
        self._uploads: dict[Key, _Upload] = {}

    def add(self, key: Key, at: Block, payload: bytes, now: float, options: Options = ()) -> Whole | Part | Gap | Overflow:
        """Takes one block. The first one begins anew, any other must follow on what is there."""
        self.expire(now)
        if at.number == 0:
            self._drop(key)
            while len(self._uploads) >= MAX_TRANSFERS:
                self._drop(next(iter(self._uploads)))
            self._uploads[key] = _Upload(now + self._lifetime, options)
        upload = self._uploads.get(key)
        if upload is None or at.start != len(upload.body) or (at.more and len(payload) != at.size):
            return Gap()
        if len(upload.body) + len(payload) > self._max_body or not self._allowance.take(len(payload)):
            self._drop(key)
            return Overflow()
        upload.body += payload
        upload.expires = now + self._lifetime
        if at.more:
            return Part()
        body = bytes(upload.body)
        self._drop(key)
        return Whole(body, upload.options)

    @property
    def deadline(self) -> float | None:
        """When the next one expires."""
        return min((upload.expires for upload in self._uploads.values()), default=None)

    def expire(self, now: float) -> None:
        for key in [key for key, upload in self._uploads.items() if upload.expires <= now]:
            self._drop(key)

    def close(self) -> None:
        """Gives back what it holds of the allowance."""
        for key in list(self._uploads):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        gone = self._uploads.pop(key, None)
        if gone is not None:
            self._allowance.give(len(gone.body))


@dataclass(slots=True)
class Download:
    """An answer that is fetched block by block: what each block carries besides, and until when."""

    code: int
    options: Options
    body: bytes
    expires: float


class Downloads:
    """Large answers to one peer (Block2)."""

    def __init__(self, allowance: Allowance, lifetime: float) -> None:
        self._allowance = allowance
        self._lifetime = lifetime
        self._downloads: dict[Key, Download] = {}

    def put(self, key: Key, code: int, options: Options, body: bytes, now: float) -> Download | None:
        """Keeps an answer; None if there is no room for it."""
        self.expire(now)
        self.drop(key)
        while len(self._downloads) >= MAX_TRANSFERS:
            self.drop(next(iter(self._downloads)))
        if not self._allowance.take(len(body)):
            return None
        download = self._downloads[key] = Download(code, options, body, now + self._lifetime)
        return download

    def get(self, key: Key, now: float) -> Download | None:
        self.expire(now)
        found = self._downloads.get(key)
        if found is not None:
            found.expires = now + self._lifetime
        return found

    def peek(self, key: Key) -> Download | None:
        """As `get`, but it lives no longer for it."""
        return self._downloads.get(key)

    @property
    def deadline(self) -> float | None:
        """When the next one expires."""
        return min((download.expires for download in self._downloads.values()), default=None)

    def expire(self, now: float) -> None:
        for key in [key for key, download in self._downloads.items() if download.expires <= now]:
            self.drop(key)

    def drop(self, key: Key) -> None:
        gone = self._downloads.pop(key, None)
        if gone is not None:
            self._allowance.give(len(gone.body))

    def close(self) -> None:
        """Gives back what it holds of the allowance."""
        for key in list(self._downloads):
            self.drop(key)
