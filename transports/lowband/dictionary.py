"""zstd with dictionaries that both ends have: shipped with the software, named by hash, negotiated in HELLO.

A dictionary must match byte for byte, so it is named by the SHA-256 of its bytes (file name: the first eight bytes in
hex, on the wire: the first four). Files of earlier releases stay, so that an older peer still finds a common one.
Frames are written without zstd's magic number, checksum and dictionary id; the content size is in the header, and a
receiver looks at it before it lets anything grow (a frame of 8 KB can claim 268 MB). Compressors hold hundreds of
kilobytes, so there is one for each dictionary in a process: use one thread.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

import zstandard

WIRE_HASH = 4
_LEVEL = 3
_SOURCE_SIZE = 32 * 1024
"""Bytes that the compressor's tables are sized for: larger inputs work, with a window of this size."""
_FORMAT = zstandard.FORMAT_ZSTD1_MAGICLESS
_MAX_WINDOW = 1 << 20


class CompressionError(ValueError):
    """Not a frame, not this dictionary's, or larger than allowed."""


def name_of(dictionary: bytes) -> str:
    """The name of a dictionary's file, without `.zdict`."""
    return hashlib.sha256(dictionary).hexdigest()[:16]


class Dictionaries:
    """The dictionaries that this end has, the preferred one first, and compression with and without them."""

    def __init__(self, contents: tuple[bytes, ...] = ()) -> None:
        self._contents = {hashlib.sha256(content).digest()[:WIRE_HASH]: content for content in contents}
        self._loaded: dict[bytes | None, tuple[zstandard.ZstdCompressor, zstandard.ZstdDecompressor]] = {}

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """What HELLO announces."""
        return tuple(self._contents)

    def compress(self, data: bytes, dictionary: bytes | None) -> bytes:
        """One frame; `dictionary` is one of `hashes`, None for plain zstd."""
        return self._pair(dictionary)[0].compress(data)

    def decompress(self, frame: bytes, dictionary: bytes | None, max_size: int) -> bytes:
        """The content, at most `max_size` bytes. Raises CompressionError."""
        try:
            size = zstandard.get_frame_parameters(frame, format=_FORMAT).content_size
            if size == zstandard.CONTENTSIZE_UNKNOWN or size > max_size:
                raise CompressionError("a frame that states no size or too large a one")
            if size == 0:
                return b""
            data: bytes = self._pair(dictionary)[1].decompress(frame, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CompressionError("not a zstd frame of this dictionary") from error
        if len(data) != size:
            raise CompressionError("a frame that holds less than it states")
        return data

    def _pair(self, dictionary: bytes | None) -> tuple[zstandard.ZstdCompressor, zstandard.ZstdDecompressor]:
        if dictionary not in self._loaded:
            content = None if dictionary is None else self._contents[dictionary]
            parameters = zstandard.ZstdCompressionParameters.from_level(
                _LEVEL,
                source_size=_SOURCE_SIZE,
                dict_size=len(content or b""),
                format=_FORMAT,
                write_content_size=True,
                write_checksum=False,
                write_dict_id=False,
            )
            data = None if content is None else zstandard.ZstdCompressionDict(content)
            if data is not None:
                data.precompute_compress(compression_params=parameters)
            self._loaded[dictionary] = (
                zstandard.ZstdCompressor(compression_params=parameters, dict_data=data),
                zstandard.ZstdDecompressor(dict_data=data, format=_FORMAT, max_window_size=_MAX_WINDOW),
            )
        return self._loaded[dictionary]


@cache
def shipped() -> Dictionaries:
    """The dictionaries of this release, the one named in `current.txt` first."""
    folder = resources.files(__package__).joinpath("dictionaries")
    current = folder.joinpath("current.txt").read_text().strip()
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".zdict")), key=lambda file: file.name)
    files.sort(key=lambda file: file.name != f"{current}.zdict")
    return Dictionaries(tuple(file.read_bytes() for file in files))
