"""Texts of any script, with nothing known beforehand: a page of 128 code points, then the place in it, both learnt.

The letters of most alphabets share a page, so each costs seven bits at first and less when it comes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from transports.lowband.rangecoder import AdaptiveNumber, BitTree, HastyBit, RangeCodeError

if TYPE_CHECKING:
    from transports.lowband.rangecoder import Coder

_PAGES: Final = 0x110000 >> 7
_SPACE: Final = 0x20


def code_script(coder: Coder, text: str | None, max_length: int) -> str:
    """Codes a text of at most `max_length` UTF-8 bytes; None decodes. Raises RangeCodeError where no text was coded."""
    # Each answers one question in the context of the answer before: on the same page, the space, ASCII, another page.
    same = [HastyBit(p) for p in (0xC000, 0xE000, 0x4000)]
    space, ascii_, other = HastyBit(0xA000), HastyBit(0x8000), HastyBit(0x8000)
    page_number = AdaptiveNumber(_PAGES - 1, bit=HastyBit)
    places: dict[int, BitTree] = {}
    decoded: list[str] = []
    page, before, length = 0, 0, 0
    at = 0
    while True:
        point = -1 if text is None or at == len(text) else ord(text[at])
        at += 1
        own = point >> 7
        if same[before].code(coder, int(own == page and point != _SPACE and point >= 0)):
            own, before = page, 0
        elif space.code(coder, int(point == _SPACE)):
            decoded.append(" ")
            length += 1
            if length > max_length:
                raise RangeCodeError("a text longer than allowed")
            before = 1
            continue
        elif page and ascii_.code(coder, int(own == 0)):
            own, before = 0, 2
        elif other.code(coder, int(point >= 0)):
            own = page = page_number.code(coder, max(own, 0))
            before = 0
        else:
            return "".join(decoded)
        tree = places.get(own)
        if tree is None:
            tree = places[own] = BitTree(128, rate=4, bit=HastyBit)
        point = own << 7 | tree.code(coder, max(point, 0) & 127)
        if 0xD800 <= point < 0xE000:
            raise RangeCodeError("half a surrogate pair")
        decoded.append(chr(point))
        length += 1 + (point > 0x7F) + (point > 0x7FF) + (point > 0xFFFF)
        if length > max_length:
            raise RangeCodeError("a text longer than allowed")
