"""Lines from a file descriptor. A thread waits in the system and holds no lock, so that the program can end while nobody types."""

from __future__ import annotations

import os
from collections import deque
from typing import Final

import trio

MAX_LINE: Final = 100_000
"""Bytes; what is longer comes in several lines."""
_PIECE: Final = 4096


class TypedLines:
    """UTF-8; what is not is replaced."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = b""
        self._lines: deque[bytes] = deque()
        self._ended = False

    async def read_line(self) -> str | None:
        """The next line without its end; None when there are no more."""
        while not self._lines:
            if self._ended:
                return None
            try:
                piece = await trio.to_thread.run_sync(os.read, self._descriptor, _PIECE, abandon_on_cancel=True)
            except OSError:
                piece = b""  # the terminal has gone
            self._take(piece)
        return self._lines.popleft().decode("utf-8", "replace").rstrip("\r")

    def _take(self, piece: bytes) -> None:
        *whole, self._held = (self._held + piece).split(b"\n")
        self._lines.extend(whole)
        if (not piece and self._held) or len(self._held) > MAX_LINE:
            self._lines.append(self._held)
            self._held = b""
        self._ended = not piece
