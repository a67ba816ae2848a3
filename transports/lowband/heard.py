"""What the hearing end of a line keeps of the facts that it was told: which it holds, and where.

The facts are in a file, each as its size (2 bytes), its hash (8 bytes) and its canonical JSON; the last ones are in memory until they are
written there (`Heard.patch`), which is done now and then. The hash tells whether a fact is what was said, whatever has happened to
the file.

Sans-io.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, Protocol

from transports.lowband import facts
from transports.lowband.factlist import HEADER, STEP, FactList, Patch, Standing, header, read_header
from transports.lowband.facts import hash_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from transports.lowband.facts import CondensedBody

RECORD: Final = 10
"""Bytes of a record besides the fact."""
MAX_UNWRITTEN: Final = 2_000_000
"""Bytes of facts in memory; beyond them the oldest are lost."""
KEPT: Final = 1.5
"""Times what the telling end refers to."""
_JUMP: Final = 1 << 16
"""Numbers left out by an end that begins anew, so that what is on its way is not taken for what is told from then on."""


class FactMemory(Protocol):
    """The hearing end's facts and their file, as a connection uses them. The newest connection alone hears."""

    def open(self) -> int:
        """What a new connection is called from now on."""
        ...

    async def standing(self, connection: int, top: int) -> Standing | None:
        """What to answer a telling end whose last fact has the number `top`; None: nothing, for a newer connection hears."""
        ...

    async def restored(self, connection: int, body: CondensedBody) -> bytes:
        """The JSON that the other end has condensed; its facts are kept. Raises FactsMissing, and FactError if there is no such JSON."""
        ...


class Heard:
    """The list of one box's facts. `key`: see `facts.hash_of`."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key
        self._list = FactList()
        self._ends = array("I")
        self._is_filed = False
        self._file_end = 0
        self._unwritten: dict[int, bytes] = {}
        self.unwritten_bytes = 0
        self._ahead: dict[int, bytes] = {}
        self._ahead_bytes = 0
        self._highest = 0

    @classmethod
    def from_file(cls, file: BinaryIO, key: bytes = b"") -> Heard:
        """What a file holds, up to where it is damaged."""
        made = cls(key)
        head = read_header(file.read(HEADER))
        if head is None:
            return made
        made._list = FactList(*head)
        made._is_filed, end = True, HEADER
        while made._list.top < facts.MAX_NUMBER:
            record = file.read(RECORD)
            size, fact_hash = int.from_bytes(record[:2], "little"), int.from_bytes(record[2:], "little")
            fact = file.read(size) if 0 < size <= facts.MAX_FACT else b""
            if not fact or len(fact) != size or hash_of(fact, key) != fact_hash:
                break
            made._list.append(fact_hash)
            made._ends.append(end := end + RECORD + size)
        made._highest = made._list.top
        made._file_end = end + len(record)  # what is damaged is cut off with the next patch
        return made

    @property
    def count(self) -> int:
        """Facts that are held."""
        return len(self._list.hashes)

    # What the other end tells

    def standing(self, top: int) -> Standing:
        """Forgets what a telling end of so many facts cannot know; what is held then."""
        if top < self._list.base:
            return self.begin_anew()
        number = min(top, self._list.top)
        self._list.cut(number)
        del self._ends[self.count :]
        self._unwritten = {each: fact for each, fact in self._unwritten.items() if each <= number}
        self.unwritten_bytes = sum(map(len, self._unwritten.values()))
        self._ahead.clear()
        self._ahead_bytes = 0
        return Standing(number, self._list.chain(number))

    def begin_anew(self) -> Standing:
        """Forgets everything, the file included. Numbers go on at a distance."""
        base = self._highest + _JUMP
        self._highest = base = base if base < facts.MAX_NUMBER // 2 else 0
        self._list, self._ends = FactList(base), array("I")
        self._is_filed = False
        self._unwritten.clear()
        self._ahead.clear()
        self._ahead_bytes = 0
        self.unwritten_bytes = 0
        return Standing(base, self._list.chain(base))

    def hear(self, first: int, told: list[bytes]) -> None:
        """Facts of one message. They are kept when all before them have come, too."""
        for number, fact in enumerate(told, first):
            if self._list.top < number < self._list.top + _JUMP and self._ahead_bytes + len(fact) <= MAX_UNWRITTEN:
                self._highest = max(self._highest, number)
                self._ahead_bytes += len(fact) - len(self._ahead.get(number, b""))
                self._ahead[number] = fact
                self._catch_up()
        if self.unwritten_bytes > MAX_UNWRITTEN:
            self.begin_anew()

    def _catch_up(self) -> None:
        while (fact := self._ahead.pop(self._list.top + 1, None)) is not None:
            self._list.append(hash_of(fact, self._key))
            self._unwritten[self._list.top] = fact
            self._ahead_bytes -= len(fact)
            self.unwritten_bytes += len(fact)

    def is_old(self, number: int) -> bool:
        """Whether it was told before everything that is held: perhaps before this end began anew."""
        return number <= self._list.base

    # What is held

    def in_memory(self, numbers: Iterable[int]) -> dict[int, bytes]:
        """Of the facts with these numbers those that need not be read from the file."""
        found = {}
        for number in numbers:
            fact = self._unwritten.get(number) or self._ahead.get(number)
            if fact is not None:
                found[number] = fact
        return found

    def in_file(self, numbers: Iterable[int]) -> list[tuple[int, int, int]]:
        """Of the facts with these numbers those that are in the file: number, offset and size, in the order of the file."""
        places = sorted(number - self._list.base - 1 for number in numbers)
        return [
            (at + self._list.base + 1, (start := self._start(at) + RECORD), self._ends[at] - start)
            for at in places
            if 0 <= at < len(self._ends)
        ]

    def _start(self, at: int) -> int:
        return self._ends[at - 1] if at else HEADER

    def is_right(self, number: int, fact: bytes) -> bool:
        """Whether this is the fact of that number."""
        at = number - self._list.base - 1
        return 0 <= at < self.count and self._list.hashes[at] == hash_of(fact, self._key)

    # The file

    def patch(self) -> Patch | None:
        """What the file lacks; None: nothing. To be followed by `written`, if it was, before anything else changes."""
        end = self._start(len(self._ends))
        if not self._unwritten and (self._file_end == end or not self._is_filed):
            return None
        data = bytearray(b"" if self._is_filed else header(self._list.base, self._list.base_chain))
        for number, fact in self._unwritten.items():
            fact_hash = self._list.hashes[number - self._list.base - 1]
            data += len(fact).to_bytes(2, "little") + fact_hash.to_bytes(8, "little") + fact
        return Patch(end if self._is_filed else 0, bytes(data))

    def written(self) -> None:
        """The last patch has been applied."""
        end = self._start(len(self._ends))
        for fact in self._unwritten.values():
            self._ends.append(end := end + RECORD + len(fact))
        self._is_filed, self._file_end = True, end
        self._unwritten.clear()
        self.unwritten_bytes = 0

    def outgrown(self) -> tuple[int, bytes] | None:
        """Of a file that is twice too large: from which byte on it is to be kept, and the header to go before. Then `shortened`."""
        size = self._ends[-1] if self._ends else 0
        most_bytes, most = KEPT * facts.MAX_BYTES, int(KEPT * facts.MAX_FACTS)
        if size <= 2 * most_bytes and len(self._ends) <= 2 * most:
            return None
        gone = self._gone(size, most_bytes, most)
        return self._start(gone), header(self._list.base + gone, self._list.chain(self._list.base + gone))

    def _gone(self, size: int, most_bytes: float, most: int) -> int:
        gone = (len(self._ends) - most) // STEP * STEP
        gone = max(gone, 0)
        while gone + STEP <= len(self._ends) and size - self._start(gone) > most_bytes:
            gone += STEP
        return gone

    def shortened(self, start: int) -> None:
        """The file has been begun anew with what was at `start`."""
        gone = bisect_right(self._ends, start)
        self._list.forget(gone)
        self._ends = array("I", (end - start + HEADER for end in self._ends[gone:]))
        self._file_end = self._start(len(self._ends))
