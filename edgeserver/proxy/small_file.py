"""A small file of JSON in the proxy's state, readable by its owner only: read at the start, written as soon as what it says has changed.

It holds `{"box": <public key of the box that it is about, unpadded base64>, "told": [...]}`. What is about another box, and what is
damaged, is as good as none: all of it can be learnt again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import orjson
import trio

from edgeserver.app.blocking import Hop
from edgeserver.app.identity import write_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_BYTES: Final = 4_000_000


class SmallFile:
    """`content` gives what the file is to say. `load` comes first, and `run` is one task for the life of the proxy. `inline`: see
    `app.blocking`.
    """

    def __init__(self, path: Path, box: str, content: Callable[[], Iterable[Any]], *, inline: bool = False) -> None:
        self._path = path
        self._box = box
        self._content = content
        self._hop = Hop(inline=inline)
        self._changed = trio.Event()

    async def load(self) -> list[Any]:
        """What the file says of this box."""
        return await self._hop(self._load)

    def change(self) -> None:
        """It is to be written, now or at the end."""
        self._changed.set()

    async def run(self) -> None:
        """Writes until cancelled, and then for the last time. What cannot be written is said in the log and no more."""
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                await self._hop(self._write, self._told())
        finally:
            if self._changed.is_set():
                self._write(self._told())

    def _told(self) -> bytes:
        return orjson.dumps({"box": self._box, "told": list(self._content())})

    def _load(self) -> list[Any]:
        try:
            if self._path.stat().st_size > MAX_BYTES:
                raise ValueError("too large")
            found = orjson.loads(self._path.read_bytes())
            if not isinstance(found["told"], list):
                raise TypeError("no list")
            return found["told"] if found["box"] == self._box else []
        except FileNotFoundError:
            return []
        except (OSError, LookupError, TypeError, ValueError) as error:
            log.warning("%s cannot be read (%r); what it said is learnt anew.", self._path, error)
            return []

    def _write(self, told: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self._path, told)
        except OSError as error:
            log.warning("%s cannot be written: %s.", self._path, error.strerror)
