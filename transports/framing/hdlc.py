"""HDLC-like framing of a byte stream (after RFC 1662 section 4): flag, escape, CRC-16.

A frame on the wire is `7E <payload and CRC, escaped> 7E`; 7E and 7D inside become 7D 5E and 7D 5D. The CRC is CRC-16 with polynomial 1021,
start value FFFF, most significant bit first, two bytes, big endian. It costs 4 bytes a frame and one more for each byte that needs
an escape (1 in 128 of ciphertext).

Whatever arrives before the first flag, a frame that is too long, one that is too short and one whose CRC is wrong are counted and
dropped; the next flag starts afresh. Memory is bounded by the longest frame allowed.
"""

from __future__ import annotations

from binascii import crc_hqx

FLAG = b"\x7e"
ESCAPE = b"\x7d"
OVERHEAD = 4


def encode(payload: bytes) -> bytes:
    """One frame, flags included."""
    body = payload + crc_hqx(payload, 0xFFFF).to_bytes(2, "big")
    return FLAG + body.replace(ESCAPE, b"\x7d\x5d").replace(FLAG, b"\x7d\x5e") + FLAG


class Decoder:
    """Feed it chunks of any size; it yields the payloads that arrived whole and undamaged.

    `crc_errors` counts frames whose CRC was wrong or whose escapes were malformed, `oversized` those longer than `max_payload` bytes.
    """

    def __init__(self, max_payload: int) -> None:
        self._limit = 2 * (max_payload + 2)
        self._max_payload = max_payload
        self._buffer = bytearray()
        self._skipping = False
        self.crc_errors = 0
        self.oversized = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads completed by these bytes, in order."""
        frames: list[bytes] = []
        first, *rest = data.split(FLAG)
        self._take(first)
        for part in rest:
            if not self._skipping and (payload := self._finish()) is not None:
                frames.append(payload)
            self._buffer.clear()
            self._skipping = False
            self._take(part)
        return frames

    def _take(self, part: bytes) -> None:
        if self._skipping:
            return
        if len(self._buffer) + len(part) > self._limit:
            self._buffer.clear()
            self._skipping = True
            self.oversized += 1
            return
        self._buffer += part

    def _finish(self) -> bytes | None:
        if not self._buffer:
            return None  # two flags in a row
        body = bytes(self._buffer)
        if ESCAPE in body:
            # An escape may be followed only by the two bytes that need one; anything else is damage.
            if body.count(ESCAPE) != body.count(b"\x7d\x5e") + body.count(b"\x7d\x5d"):
                self.crc_errors += 1
                return None
            body = body.replace(b"\x7d\x5e", FLAG).replace(b"\x7d\x5d", ESCAPE)
        if len(body) < 3 or crc_hqx(body[:-2], 0xFFFF).to_bytes(2, "big") != body[-2:]:
            self.crc_errors += 1
            return None
        if len(body) - 2 > self._max_payload:
            self.oversized += 1
            return None
        return body[:-2]
