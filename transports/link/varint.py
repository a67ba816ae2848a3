"""Unsigned integers of 1 to 9 bytes: seven bits a byte, least significant first (LEB128)."""

from __future__ import annotations


class Truncated(ValueError):
    """The bytes end, or the number goes on, where it must not."""


def encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes, at: int) -> tuple[int, int]:
    """The number at offset `at` and the offset behind it. Raises `Truncated`; numbers of 2^63 and more are refused."""
    value = 0
    for position in range(at, min(at + 9, len(data))):
        value |= (data[position] & 0x7F) << 7 * (position - at)
        if data[position] < 0x80:
            return value, position + 1
    raise Truncated("a number is cut off or too long")


def size(value: int) -> int:
    """How many bytes `encode` would take."""
    return max(1, (value.bit_length() + 6) // 7)
