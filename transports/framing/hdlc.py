"""HDLC-like framing of a byte stream (after RFC 1662 section 4): flag, escape, CRC-16.

A frame on the wire is `7E <payload and CRC, escaped> 7E`; 7E and 7D inside become 7D 5E and 7D 5D. The CRC is CRC-16 with polynomial 1021,
start value FFFF, most significant bit first, two bytes, big endian. It costs 4 bytes a frame and one more for each byte that needs
an escape (1 in 128 of ciphertext).

Two of the four are saved where a payload's first byte is 40 to 7F hex: that says that it ends in an authentication tag of its own, which
finds damage better than any CRC (a compact frame of `transports.link.secure`). Such a frame has no CRC and 9 bytes at least; whoever
verifies the tag counts the damaged ones.

One flag between two frames is enough (RFC 1662 section 4.1): the opening one is left out when the closing one of the frame before was sent
within the last `FLAG_STANDS` seconds. After a longer pause noise may stand behind that, so there both are sent.

Whatever arrives before the first flag, a frame that is too long, one that is too short and one whose CRC is wrong are counted and
dropped; the next flag starts afresh. Memory is bounded by the longest frame allowed.
"""

from __future__ import annotations

from binascii import crc_hqx

FLAG = b"\x7e"
ESCAPE = b"\x7d"
OVERHEAD = 4
FLAG_STANDS = 0.2
_GUARDED, _GUARDED_END, _SHORTEST_GUARDED = 0x40, 0x80, 9


def _is_guarded(payload: bytes) -> bool:
    return _GUARDED <= payload[0] < _GUARDED_END


def encode(payload: bytes, *, flag_stands: bool = False) -> bytes:
    """One frame, flags included; without the opening one if another frame's closing flag still stands."""
    body = payload if _is_guarded(payload) else payload + crc_hqx(payload, 0xFFFF).to_bytes(2, "big")
    return (b"" if flag_stands else FLAG) + body.replace(ESCAPE, b"\x7d\x5d").replace(FLAG, b"\x7d\x5e") + FLAG


class Decoder:
    """Feed it chunks of any size; it yields the payloads that arrived whole and undamaged.

    `crc_errors` counts frames whose CRC was wrong, whose escapes were malformed or which were too short, `oversized` those longer than
    `max_payload` bytes.
    """

    def __init__(self, max_payload: int) -> None:
        self._limit = 2 * (max_payload + 2)
        self._max_payload = max_payload
        self._buffer = bytearray()
        self._skipping = False
        self.crc_errors = 0
        self.oversized = 0

    @property
    def within(self) -> bool:
        """Whether a frame has begun that has not ended."""
        return self._skipping or bool(self._buffer)

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
        payload = body if _is_guarded(body) else body[:-2]
        if len(payload) < _SHORTEST_GUARDED if _is_guarded(body) else not _crc_is_right(body):
            self.crc_errors += 1
            return None
        if len(payload) > self._max_payload:
            self.oversized += 1
            return None
        return payload


def _crc_is_right(body: bytes) -> bool:
    return len(body) >= 3 and crc_hqx(body[:-2], 0xFFFF).to_bytes(2, "big") == body[-2:]
