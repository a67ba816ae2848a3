"""LoRa modulation: what a packet costs on the air (Semtech SX1276 datasheet, section 4.1.1.6 and 4.1.1.7)."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PACKET = 255
_EXPLICIT_HEADER, _CRC = 8, 16  # bits in the first symbols of a payload, and of its checksum
_LOW_RATE_SYMBOL = 0.01638  # seconds; so long symbols must be coded more robustly
_SYNC_SYMBOLS = 4.25


@dataclass(frozen=True, slots=True)
class LoRa:
    """`bandwidth` in Hz, `coding_rate` 5 to 8 (4/5 to 4/8), `preamble` in symbols. `overhead`: bytes that a modem's own
    protocol adds to every packet.
    """

    spreading_factor: int
    bandwidth: int
    coding_rate: int = 5
    preamble: int = 8
    overhead: int = 0

    @property
    def symbol(self) -> float:
        """Seconds that one symbol takes."""
        return float((1 << self.spreading_factor) / self.bandwidth)

    @property
    def bit_rate(self) -> int:
        """Nominal bits a second, without preambles and headers."""
        return round(self.spreading_factor * 4 / self.coding_rate / self.symbol)

    @property
    def mtu(self) -> int:
        """The longest frame in bytes."""
        return MAX_PACKET - self.overhead

    def seconds(self, size: int) -> float:
        """Time on air of a packet of `size` bytes, `overhead` not added, with an explicit header and a checksum."""
        sparse = 2 if self.symbol >= _LOW_RATE_SYMBOL else 0
        bits = 8 * size - 4 * self.spreading_factor + 20 + _EXPLICIT_HEADER + _CRC
        blocks = max(-(-bits // (4 * (self.spreading_factor - sparse))), 0)
        return (self.preamble + _SYNC_SYMBOLS + 8 + blocks * self.coding_rate) * self.symbol


MESHTASTIC_LONG_FAST = LoRa(11, 250_000, preamble=16, overhead=22)
"""Meshtastic's default preset; each packet has its header of 16 bytes and 6 of protobuf (a private application's `Data`)."""
