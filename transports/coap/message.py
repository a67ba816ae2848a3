"""CoAP messages and their options (RFC 7252 §3), bounded on the way in.

::

    byte 0    version (1) << 6 | type << 4 | length of the token (0 … 8)
    byte 1    code: class << 5 | detail
    bytes 2-3 message id
    token, options (delta and length in nibbles, 13 and 14 extend them), 0xFF and the payload if there is one
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

MAX_MESSAGE = 2048
"""Bytes of a message: a block of 1,024 and options that name a long path (RFC 7252 §4.6 reckons with 1,152)."""
MAX_OPTIONS = 64

Options = tuple[tuple[int, bytes], ...]
"""(number, value), in the order in which they stand in the message: by number, equal ones in the order of their meaning."""


class Type(IntEnum):
    CON = 0
    NON = 1
    ACK = 2
    RST = 3


class Code(IntEnum):
    """Methods and response codes; `c.dd` is c << 5 | dd."""

    EMPTY = 0
    GET = 1
    POST = 2
    PUT = 3
    DELETE = 4
    CREATED = 65
    DELETED = 66
    VALID = 67
    CHANGED = 68
    CONTENT = 69
    CONTINUE = 95
    BAD_REQUEST = 128
    UNAUTHORIZED = 129
    BAD_OPTION = 130
    FORBIDDEN = 131
    NOT_FOUND = 132
    METHOD_NOT_ALLOWED = 133
    NOT_ACCEPTABLE = 134
    REQUEST_ENTITY_INCOMPLETE = 136
    CONFLICT = 137
    PRECONDITION_FAILED = 140
    REQUEST_ENTITY_TOO_LARGE = 141
    UNSUPPORTED_CONTENT_FORMAT = 143
    UNPROCESSABLE_ENTITY = 150
    TOO_MANY_REQUESTS = 157
    INTERNAL_SERVER_ERROR = 160
    NOT_IMPLEMENTED = 161
    BAD_GATEWAY = 162
    SERVICE_UNAVAILABLE = 163
    GATEWAY_TIMEOUT = 164


class Option(IntEnum):
    IF_MATCH = 1
    URI_HOST = 3
    ETAG = 4
    IF_NONE_MATCH = 5
    OBSERVE = 6
    URI_PORT = 7
    LOCATION_PATH = 8
    URI_PATH = 11
    CONTENT_FORMAT = 12
    MAX_AGE = 14
    URI_QUERY = 15
    ACCEPT = 17
    Q_BLOCK1 = 19
    LOCATION_QUERY = 20
    BLOCK2 = 23
    BLOCK1 = 27
    SIZE2 = 28
    Q_BLOCK2 = 31
    PROXY_URI = 35
    PROXY_SCHEME = 39
    SIZE1 = 60
    REQUEST_TAG = 292


LENGTHS: dict[int, tuple[int, int]] = {
    Option.IF_MATCH: (0, 8), Option.URI_HOST: (1, 255), Option.ETAG: (1, 8), Option.IF_NONE_MATCH: (0, 0), Option.OBSERVE: (0, 3),
    Option.URI_PORT: (0, 2), Option.LOCATION_PATH: (0, 255), Option.URI_PATH: (0, 255), Option.CONTENT_FORMAT: (0, 2),
    Option.MAX_AGE: (0, 4), Option.URI_QUERY: (0, 255), Option.ACCEPT: (0, 2), Option.Q_BLOCK1: (0, 3), Option.LOCATION_QUERY: (0, 255),
    Option.BLOCK2: (0, 3), Option.BLOCK1: (0, 3), Option.SIZE2: (0, 4), Option.Q_BLOCK2: (0, 3), Option.PROXY_URI: (1, 1034),
    Option.PROXY_SCHEME: (1, 255), Option.SIZE1: (0, 4), Option.REQUEST_TAG: (0, 8),
}  # fmt: skip
"""Shortest and longest value in bytes. One of another length counts as an option that is not known (§5.4.3)."""
REPEATABLE = frozenset(
    (Option.IF_MATCH, Option.ETAG, Option.LOCATION_PATH, Option.URI_PATH, Option.URI_QUERY, Option.LOCATION_QUERY, Option.REQUEST_TAG,
     Option.Q_BLOCK2)
)  # fmt: skip


class MessageError(ValueError):
    """These bytes are no message. `rejected` is the id of what asks for a Reset all the same (a malformed CON), else None."""

    def __init__(self, reason: str, rejected: int | None = None) -> None:
        super().__init__(reason)
        self.rejected = rejected


@dataclass(frozen=True, slots=True)
class Message:
    type: Type
    code: int
    message_id: int
    token: bytes = b""
    options: Options = ()
    payload: bytes = b""

    @property
    def is_request(self) -> bool:
        return 0 < self.code < 32

    @property
    def is_response(self) -> bool:
        return 64 <= self.code < 192

    def value(self, number: int) -> bytes | None:
        """The first option of that number."""
        return next((value for each, value in self.options if each == number), None)

    def values(self, number: int) -> list[bytes]:
        return [value for each, value in self.options if each == number]

    def number(self, option: int) -> int | None:
        """The first option of that number as an unsigned integer (§3.2)."""
        value = self.value(option)
        return None if value is None else int.from_bytes(value, "big")


def uint(value: int) -> bytes:
    """An unsigned integer in the fewest bytes, 0 in none (§3.2)."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def unknown_critical(options: Options, known: dict[int, tuple[int, int]]) -> int | None:
    """The first option that a message must be refused for: critical (its number is odd) and not known, of a length that it cannot
    have, or there a second time.
    """
    seen = -1
    for number, value in options:
        if number & 1 and (not _is_sound(number, value, known) or (number == seen and number not in REPEATABLE)):
            return number
        seen = number
    return None


def recognised(options: Options, known: dict[int, tuple[int, int]]) -> Options:
    """The options without the elective ones that are to be ignored."""
    kept = []
    seen = -1
    for number, value in options:
        if _is_sound(number, value, known) and not (number == seen and number not in REPEATABLE):
            kept.append((number, value))
        seen = number
    return tuple(kept)


def _is_sound(number: int, value: bytes, known: dict[int, tuple[int, int]]) -> bool:
    bounds = known.get(number)
    return bounds is not None and bounds[0] <= len(value) <= bounds[1]


def encode(message: Message) -> bytes:
    """The bytes of a message; its options are sorted by number. Raises ValueError on what cannot be written."""
    if len(message.token) > 8:
        raise ValueError("a token has at most 8 bytes")
    head = bytes((1 << 6 | message.type << 4 | len(message.token), message.code)) + message.message_id.to_bytes(2, "big")
    parts = [head, message.token]
    last = 0
    for number, value in sorted(message.options, key=lambda option: option[0]):
        delta, delta_more = _nibble(number - last)
        length, length_more = _nibble(len(value))
        parts += [bytes((delta << 4 | length,)), delta_more, length_more, value]
        last = number
    if message.payload:
        parts += [b"\xff", message.payload]
    return b"".join(parts)


def _nibble(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes((value - 13,))
    return 14, (value - 269).to_bytes(2, "big")


def decode(data: bytes) -> Message:
    """The one message in a datagram. Raises MessageError."""
    if not 4 <= len(data) <= MAX_MESSAGE or data[0] >> 6 != 1:
        raise MessageError("neither a message of version 1 nor of a bearable length")
    kind, token_length, code = Type(data[0] >> 4 & 3), data[0] & 15, data[1]
    message_id = int.from_bytes(data[2:4], "big")
    rejected = message_id if kind is Type.CON else None
    if code == 0:
        if len(data) > 4 or token_length:
            raise MessageError("an empty message that is not empty", rejected)
        return Message(kind, code, message_id)
    if token_length > 8 or len(data) < 4 + token_length:
        raise MessageError("a token that is too long", rejected)
    options, payload = _options(data, 4 + token_length, rejected)
    return Message(kind, code, message_id, data[4 : 4 + token_length], options, payload)


def _options(data: bytes, position: int, rejected: int | None) -> tuple[Options, bytes]:
    found: list[tuple[int, bytes]] = []
    number = 0
    while position < len(data):
        first = data[position]
        position += 1
        if first == 0xFF:
            if position == len(data):
                raise MessageError("a payload marker and no payload", rejected)
            return tuple(found), data[position:]
        delta, position = _extended(data, position, first >> 4, rejected)
        length, position = _extended(data, position, first & 15, rejected)
        number += delta
        if number > 0xFFFF or position + length > len(data) or len(found) >= MAX_OPTIONS:
            raise MessageError("options that do not fit", rejected)
        found.append((number, data[position : position + length]))
        position += length
    return tuple(found), b""


def _extended(data: bytes, position: int, nibble: int, rejected: int | None) -> tuple[int, int]:
    if nibble < 13:
        return nibble, position
    width = nibble - 12
    if width > 2 or position + width > len(data):
        raise MessageError("an option's head that does not end", rejected)
    return int.from_bytes(data[position : position + width], "big") + (13 if width == 1 else 269), position + width
