"""What a client has been told in one sync, in a file: enough to begin it anew from there.

The file begins with a line of JSON: `box`, the public key of the box that it is from; `form`, `connection`, `first`, `state_after`, as in
`Asked`; `person`, the user id, "" if it was not known. It goes on with records: the length (4 bytes, little-endian) and the CRC-32
(4 bytes) of what follows, a JSON object compressed by zstandard. An object has either

    since, answer       what the box answered to the sync from `since` on (null: the first)
    room, start, page   what it answered to /messages backwards from `start`
    whole               the mirror of all before it, when a file has become long and is written anew

What is folded from the first records of a file is what was known at some time, however many of the last ones are lost. So they are written
at once, but without a sync.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import orjson
import zstandard

from edgeserver.matrix.errors import MatrixError
from edgeserver.proxy.asked import Asked
from edgeserver.proxy.mirror import Mirror, goes_on, is_overtaken
from edgeserver.proxy.sliding_mirror import SlidingMirror
from edgeserver.proxy.timelines import Unmirrorable
from transports.syncing import Form

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_FILE: Final = 16_000_000
"""Bytes; what outgrows them is given up."""
MAX_OBJECT: Final = 48_000_000
"""Bytes of a record's JSON."""
REWRITTEN: Final = 512 * 1024
"""Bytes of records with which a file is written anew, if there are also more of them than of the rest."""
_HEAD: Final = 8
_MAX_LINE: Final = 1 << 20

Json = dict[str, Any]


class Fold(Protocol):
    """What a client knows by the answers to one sync."""

    @property
    def position(self) -> str:
        """Where the last answer ended; empty before the first."""
        ...

    def hear(self, start: str | None, answer: Json) -> None:
        """An answer to the sync from `start` on (None: the first). Raises `Unmirrorable`."""
        ...

    def hear_older(self, room_id: str, start: str, page: Json) -> None:
        """An answer to /messages backwards from `start`. Raises `Unmirrorable`."""
        ...

    @property
    def counts(self) -> Json:
        """What answers always say of the keys of the device; empty if that is not known."""
        ...

    def first(self, limit: int) -> bytes:
        """The body of an answer to a first sync; `limit`: of events of each room."""
        ...

    def write(self) -> bytes:
        """JSON, for `read`."""
        ...

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Raises `Unmirrorable`."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """`data` is a record's JSON. Of a sync's answer, where it starts (None: at the beginning) and ends."""

    data: bytes
    is_sync: bool = False
    start: str | None = None
    end: str = ""

    @classmethod
    def of_sync(cls, start: str | None, answer: bytes, end: str) -> Self:
        return cls(orjson.dumps({"since": start, "answer": orjson.Fragment(answer)}), True, start, end)

    @classmethod
    def of_older(cls, room_id: str, start: str, page: bytes) -> Self:
        return cls(orjson.dumps({"room": room_id, "start": start, "page": orjson.Fragment(page)}))

    @classmethod
    def of_whole(cls, fold: Fold) -> Self:
        return cls(orjson.dumps({"whole": orjson.Fragment(fold.write())}), True, None, fold.position)


@dataclass(eq=False)
class FeedFile:
    """`box` is the box's public key in base64. All methods block, and raise OSError, or `Unmirrorable` when the file is of no use any more.

    `lacks`: answers were lost, so later ones are of no use until somebody asks from `position` on, where those end that are here.
    """

    path: Path
    box: str
    asked: Asked
    person: str
    position: str = ""
    lacks: bool = False
    fold: Fold | None = None
    """What the file says, as long as it is at hand."""
    size: int = 0
    """Bytes; of those that are good, once it has been read."""
    _rest: int = field(default=0, init=False)  # of that, what there was when it was written anew
    _is_known: bool = field(default=False, init=False)

    @classmethod
    def found(cls, path: Path, box: str) -> FeedFile | None:
        """What an earlier run has left; None if it is none, or of another box."""
        with path.open("rb") as file:
            line = file.readline(_MAX_LINE)
        try:
            told = orjson.loads(line)
            asked = Asked(Form[told["form"]], told["connection"], told["first"], told["state_after"])
            return cls(path, box, asked, told["person"], size=path.stat().st_size) if told["box"] == box else None
        except (KeyError, TypeError, ValueError):
            return None

    def begin(self) -> None:
        """Forgets what there was."""
        self.fold, self.position, self.lacks = None, "", False
        self._replace(())

    def write(self, records: Iterable[Record]) -> None:
        """Adds those that go on from what is there."""
        if not self._is_known:
            self.read()
        try:
            fitting = [record for record in records if self._takes(record)]
        except MatrixError as error:
            raise Unmirrorable(f"no token: {error!r}") from error
        if fitting:
            self._append(b"".join(_packed(record.data) for record in fitting))
        if self.fold is not None:
            for record in fitting:
                self.fold = _heard(self.fold, record.data)
        if self._rest == 0:
            self._rest = self.size
        if self.size - self._rest > max(REWRITTEN, self._rest):
            self._replace((Record.of_whole(self.read()),))
        if self.size > MAX_FILE:
            raise Unmirrorable("it has become too long")

    def _takes(self, record: Record) -> bool:
        if not record.is_sync:
            return True
        if record.start is not None and self._is_overtaken(record.start, record.end):
            return False
        if record.start is not None and not self._goes_on(record.start):
            if self.asked.form is not Form.CLASSIC:
                raise Unmirrorable("answers have been lost")
            self.lacks = True
            return False
        self.position, self.lacks = record.end, False
        return True

    def _is_overtaken(self, start: str, end: str) -> bool:
        return self.asked.form is Form.CLASSIC and is_overtaken(self.position, start, end)

    def _goes_on(self, start: str) -> bool:
        return goes_on(self.position, start) if self.asked.form is Form.CLASSIC else start == self.position

    def _append(self, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.size)
            file.write(data)
            file.truncate()
        self.size += len(data)

    def _replace(self, records: Iterable[Record]) -> None:
        data = self._first_line() + b"".join(_packed(record.data) for record in records)
        new = self.path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        new.replace(self.path)
        self.size, self._is_known = len(data), True
        self._rest = len(data) if records else 0

    def _first_line(self) -> bytes:
        asked = self.asked
        told = {"box": self.box, "person": self.person, "form": asked.form.name, "connection": asked.connection, "first": asked.first}
        return orjson.dumps(told | {"state_after": asked.state_after}) + b"\n"

    def read(self) -> Fold:
        """What the file says, up to where it is damaged."""
        if self.fold is not None:
            return self.fold
        classic = self.asked.form is Form.CLASSIC
        fold: Fold = Mirror(state_after=self.asked.state_after) if classic else SlidingMirror(self.person)
        for data, end in self._records():
            fold = _heard(fold, data)
            self.size = end
        if not fold.position:
            raise Unmirrorable("nothing is left of it")
        if not self._is_known:
            self.position, self._rest, self._is_known = fold.position, self.size, True
        self.fold = fold
        return fold

    def _records(self) -> Iterator[tuple[bytes, int]]:
        """The JSON of each record, and where it ends."""
        with self.path.open("rb") as file:
            end = len(file.readline(_MAX_LINE))
            while len(head := file.read(_HEAD)) == _HEAD:
                size, check = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
                record = file.read(min(size, MAX_FILE))
                if len(record) != size or zlib.crc32(record) != check:
                    return
                end += _HEAD + size
                yield _unpacked(record), end


def _packed(data: bytes) -> bytes:
    record = zstandard.ZstdCompressor().compress(data)
    return len(record).to_bytes(4, "little") + zlib.crc32(record).to_bytes(4, "little") + record


def _unpacked(record: bytes) -> bytes:
    try:
        if zstandard.frame_content_size(record) > MAX_OBJECT:
            raise Unmirrorable("a record is too long")
        return bytes(zstandard.ZstdDecompressor().decompress(record, max_output_size=MAX_OBJECT))
    except zstandard.ZstdError as error:
        raise Unmirrorable(repr(error)) from error


def _heard(fold: Fold, data: bytes) -> Fold:
    try:
        told = orjson.loads(data)
        if "whole" in told:
            return type(fold).read(orjson.dumps(told["whole"]))
        if "room" in told:
            fold.hear_older(told["room"], told["start"], told["page"])
        else:
            fold.hear(told["since"], told["answer"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unmirrorable(repr(error)) from error
    return fold
