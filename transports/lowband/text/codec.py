"""Texts among other fields in the bits of one `rangecoder`: by the model, or in another way where that is shorter."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from transports.lowband.rangecoder import AdaptiveNumber, HastyBit, RangeCodeError, Trial, code_bytes
from transports.lowband.text import model
from transports.lowband.text.alphabet import END, symbols_of, text_of
from transports.lowband.text.scripts import code_script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transports.lowband.rangecoder import Coder

MODELLED: Final = 2048
"""UTF-8 bytes up to which texts are modelled: a longer one would keep a small box busy for seconds."""
LOOKED_AT: Final = model.CONTEXT_SYMBOLS
"""Characters at the end of the texts before one that can make a difference."""
WIRE_HASH: Final = 4

# Which way was taken, each asked only if those before were not.
_MODEL: Final = 0xF000
_SCRIPT: Final = 0xC000
_DEFLATE: Final = 0x2000


class TextError(ValueError):
    """Not a text, or one longer than allowed."""


def text_model_hash() -> bytes:
    """The name of this release's tables, as announced: the first four bytes of the SHA-256 of their file."""
    return model.shipped_hash()[:WIRE_HASH]


def encode_text(coder: Coder, text: str, *, context: Sequence[str] = (), modelled: bool = True) -> None:
    """Codes any text that has a UTF-8 form, in whichever way is the shortest.

    `context` are texts that the other end has too, the latest last. Without `modelled` the tables are left alone, for a
    peer that has others. Raises TextError for half a surrogate pair.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise TextError("half a surrogate pair has no UTF-8 form") from None
    ways = [_by_bytes(data)]
    if len(data) <= MODELLED:
        ways.append(_by_script(text))
        if modelled and (symbols := symbols_of(data)) is not None:
            ways.append(_by_model(symbols, context))
    min(ways, key=lambda way: way.cost).replay(coder)


def decode_text(coder: Coder, *, context: Sequence[str] = (), max_length: int) -> str:
    """The text, at most `max_length` bytes in UTF-8. `context` is what it was encoded with. Raises TextError."""
    modelled = min(max_length, MODELLED)
    try:
        if coder.code(1, _MODEL):
            return _decode_symbols(coder, context, modelled)
        if coder.code(1, _SCRIPT):
            return code_script(coder, None, modelled)
        deflated = coder.code(1, _DEFLATE)
        length = AdaptiveNumber(bit=HastyBit).code(coder)
        if length > max_length:
            raise TextError("a text longer than allowed")
        data = code_bytes(coder, length)
        return (_inflate(data, max_length) if deflated else data).decode()
    except RangeCodeError as error:
        raise TextError(str(error)) from error
    except UnicodeDecodeError as error:
        raise TextError("bytes that are not UTF-8") from error


def _by_model(symbols: bytes, context: Sequence[str]) -> Trial:
    trial = Trial()
    trial.code(1, _MODEL)
    predictor = _predictor(context)
    for symbol in symbols:
        predictor.code(trial, symbol)
    predictor.code(trial, END)
    return trial


def _decode_symbols(coder: Coder, context: Sequence[str], max_length: int) -> str:
    predictor = _predictor(context)
    symbols = bytearray()
    # A capital is two symbols.
    while (symbol := predictor.code(coder)) != END:
        symbols.append(symbol)
        if len(symbols) > 2 * max_length:
            raise TextError("a text longer than allowed")
    text = text_of(bytes(symbols))
    if len(text) > max_length:
        raise TextError("a text longer than allowed")
    return text.decode()


def _predictor(context: Sequence[str]) -> model.Predictor:
    symbols: list[bytes] = []
    size = 0
    for text in reversed(context):
        # The end of a long text is looked at; what holds control characters is passed over.
        before = symbols_of(text[-model.CONTEXT_SYMBOLS :].encode(errors="replace"))
        if before is not None:
            symbols.append(before)
            size += len(before) + 1
            if size >= model.CONTEXT_SYMBOLS:
                break
    return model.Predictor(model.shipped(), model.context_of(symbols[::-1]))


def _by_script(text: str) -> Trial:
    trial = Trial()
    trial.code(0, _MODEL)
    trial.code(1, _SCRIPT)
    code_script(trial, text, MODELLED)
    return trial


def _by_bytes(data: bytes) -> Trial:
    deflater = zlib.compressobj(9, wbits=-15)
    deflated = deflater.compress(data) + deflater.flush()
    shorter = len(deflated) < len(data)
    trial = Trial()
    trial.code(0, _MODEL)
    trial.code(0, _SCRIPT)
    trial.code(int(shorter), _DEFLATE)
    sent = deflated if shorter else data
    AdaptiveNumber(bit=HastyBit).code(trial, len(sent))
    code_bytes(trial, len(sent), sent)
    return trial


def _inflate(data: bytes, max_length: int) -> bytes:
    inflater = zlib.decompressobj(wbits=-15)
    try:
        text = inflater.decompress(data, max_length + 1)
    except zlib.error as error:
        raise TextError("not deflated") from error
    if len(text) > max_length:
        raise TextError("a text longer than allowed")
    if not inflater.eof or inflater.unused_data:
        raise TextError("not one deflated text")
    return text
