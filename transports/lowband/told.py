"""What the telling end of a line knows of the facts that the other end holds: their hashes, numbered, the newest `MAX_FACTS`.

It takes some twenty bytes a fact in memory and ten in a file (`Told.from_file`, `Told.patch`), which is written now and then: of a tail
that was lost only the bytes are, for each connection begins with the hearing end's `Standing`. It names a number that both ends know and
the digest of all facts up to there (`facts.chained`). Where the telling end agrees it goes on from there, else it goes on from there, too,
but knows of no fact.

Sans-io. A connection has a `Telling`, and the newest one alone tells. What messages tell is referred to when it was acknowledged, and all
that was written before it, too: documents are read in the order of writing.
"""

from __future__ import annotations

from array import array
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from transports.lowband import facts
from transports.lowband.factlist import HEADER, STEP, FactList, Patch, Standing, header, read_header
from transports.lowband.facts import FactError, hash_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transports.lowband.facts import CondensedBody

RECORD: Final = 10
"""Bytes of a fact in the file: hash and size."""
MAX_UNDER_WAY: Final = 4096
"""Facts that may be told in messages without acknowledgement; further ones get no numbers."""
MAX_FILE: Final = HEADER + 3 * RECORD * facts.MAX_FACTS
_MAX_CHECKED: Final = 1024
_TRIMMED: Final = 16 * STEP
"""Facts that are forgotten at a time."""


class Told:
    """The list for one device. `key`: see `facts.hash_of`."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key
        self._list = FactList()
        self._sizes = array("H")
        self._places = _Places(0)
        self._floor = 1
        self._bytes = 0
        self._current: Telling | None = None
        self._file_base: int | None = None
        self._filed = 0  # so far the file is right
        self._file_top = 0  # so far it goes

    @classmethod
    def from_file(cls, content: bytes, key: bytes = b"") -> Told:
        """The list that a file holds, up to where it is damaged."""
        made = cls(key)
        head = read_header(content)
        if head is None:
            return made
        made._list = FactList(*head)
        made._floor = made._list.base + 1
        for at in range(HEADER, len(content) - RECORD + 1, RECORD):
            size = int.from_bytes(content[at + 8 : at + RECORD], "little")
            if not 0 < size <= facts.MAX_FACT or made._list.top == facts.MAX_NUMBER:
                break
            made._append(int.from_bytes(content[at : at + 8], "little"), size)
        made._file_base, made._filed = head[0], made._list.top
        made._file_top = made._filed if len(content) == HEADER + RECORD * (made._filed - head[0]) else 0
        made._trim()
        return made

    def is_current(self, telling: Telling) -> bool:
        return self._current is telling

    @property
    def count(self) -> int:
        """Facts that are known to be held, or on their way."""
        return self._list.top - self._floor + 1

    def open(self) -> Telling:
        """For a new connection. What the last one told without acknowledgement is forgotten."""
        if self._current is not None:
            self.cut(self._current.acknowledged_up_to)
        self._current = Telling(self)
        return self._current

    def patch(self) -> Patch | None:
        """What the file lacks of acknowledged facts; None: nothing. It counts as written from now on (else `spoiled`)."""
        self._trim()
        top = self._list.top if self._current is None else self._current.acknowledged_up_to
        if self._file_base is None and not top:
            return None
        if self._file_base is None or self._filed - self._file_base > 2 * facts.MAX_FACTS:
            self._file_base, self._filed, self._file_top = self._list.base, top, top
            return Patch(0, header(self._list.base, self._list.base_chain) + self._records(self._list.base, top))
        filed, self._filed = self._filed, top
        if filed == top == self._file_top:
            return None
        self._file_top = top
        return Patch(HEADER + RECORD * (filed - self._file_base), self._records(filed, top))

    def spoiled(self) -> None:
        """The file could not be written."""
        self._file_base = None

    def _records(self, after: int, top: int) -> bytes:
        hashes, base = self._list.hashes, self._list.base
        places = range(after - base, top - base)
        return b"".join(hashes[at].to_bytes(8, "little") + self._sizes[at].to_bytes(2, "little") for at in places)

    # What a `Telling` uses

    @property
    def top(self) -> int:
        return self._list.top

    def find(self, fact: bytes, most: int) -> int | None:
        """The number of a fact that is referred to, if it has one of no more than `most`."""
        fact_hash = hash_of(fact, self._key)
        for number in self._places.of(fact_hash):
            if self._floor <= number <= most and self._list.hashes[number - self._list.base - 1] == fact_hash:
                return number
        return None

    def add(self, fact: bytes) -> None:
        """It has the next number."""
        self._append(hash_of(fact, self._key), len(fact))

    def _append(self, fact_hash: int, size: int) -> None:
        self._list.append(fact_hash)
        self._sizes.append(size)
        self._bytes += size + facts.OVERHEAD
        if self._places.is_full(len(self._sizes)):
            self._put_in_places()
        else:
            self._places.put(fact_hash, self.top)
        while self._bytes > facts.MAX_BYTES or self.count > facts.MAX_FACTS:
            self._bytes -= self._sizes[self._floor - self._list.base - 1] + facts.OVERHEAD
            self._floor += 1

    def cut(self, top: int) -> None:
        """Forgets the facts beyond `top`."""
        if top >= self.top:
            return
        self._list.cut(top)
        del self._sizes[top - self._list.base :]
        self._floor = min(self._floor, top + 1)
        self._bytes = sum(self._sizes[self._floor - self._list.base - 1 :]) + facts.OVERHEAD * self.count
        self._filed = min(self._filed, top)
        self._put_in_places()

    def _trim(self) -> None:
        """Gives back the memory of what is referred to no more."""
        gone = (self._floor - self._list.base - 1) // _TRIMMED * _TRIMMED
        if gone <= 0:
            return
        self._list.forget(gone)
        del self._sizes[:gone]
        if self._filed < self._list.base:
            self._file_base = None
        self._put_in_places()

    def _put_in_places(self) -> None:
        self._places = _Places(len(self._sizes))
        for number, fact_hash in enumerate(self._list.hashes, self._list.base + 1):
            self._places.put(fact_hash, number)

    def agree(self, standing: Standing) -> None:
        """The other end holds this: what we know beyond it is forgotten, or everything, if it is not what we know."""
        known = self._list
        if known.base <= standing.number <= known.top and known.chain(standing.number) == standing.chain:
            self.cut(standing.number)
            return
        self._list, self._sizes, self._places = FactList(standing.number, standing.chain), array("H"), _Places(0)
        self._floor, self._bytes = standing.number + 1, 0
        self._file_base = None


class _Places:
    """From hashes to numbers: four bytes a place, of which at most two thirds are taken. Whoever asks has to compare."""

    def __init__(self, facts_in_it: int) -> None:
        size = 64
        while 2 * facts_in_it >= size:
            size *= 2
        self._mask = size - 1
        self._numbers = array("I", bytes(4 * size))

    def is_full(self, count: int) -> bool:
        return 3 * count > 2 * self._mask

    def put(self, fact_hash: int, number: int) -> None:
        at = fact_hash & self._mask
        while self._numbers[at]:
            at = (at + 1) & self._mask
        self._numbers[at] = number

    def of(self, fact_hash: int) -> Iterator[int]:
        """The numbers that it may have."""
        at = fact_hash & self._mask
        while number := self._numbers[at]:
            yield number
            at = (at + 1) & self._mask


class Condensed:
    """An answer's body, or (`body` is None) an answer without facts, which is counted so that what follows it waits for it.

    Each is either `acknowledge`d, or `withdraw`n before the next is made; as long as neither happens, what follows waits.
    """

    def __init__(self, telling: Telling, body: CondensedBody | None, refers: set[int]) -> None:
        """`refers`: the numbers to which it does."""
        self._telling = telling
        self.body = body
        self.refers = refers

    def acknowledge(self) -> None:
        """The other end has the message that this travelled in."""
        self._telling.acknowledge(self)

    def give_up(self) -> None:
        """The answer travels as it is: nothing is told with it."""
        self._telling.forget(self)
        self.body = None

    def withdraw(self) -> None:
        """The answer does not travel."""
        self.give_up()
        self.acknowledge()


class Telling:
    """One connection's use of the list."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._agreed = False
        self._checked: set[int] = set()
        self._under_way: dict[Condensed, int] = {}  # the last number that was told before it

    @property
    def top(self) -> int:
        """For HELLO: the number of the last fact that the other end has been told, as far as is known."""
        return self._told.top

    @property
    def acknowledged_up_to(self) -> int:
        return next(iter(self._under_way.values()), self._told.top)

    def agree(self, standing: Standing) -> None:
        """The other end has said what it holds, or that it begins anew."""
        if self._told.is_current(self):
            self._under_way.clear()
            self._checked.clear()
            self._told.agree(standing)
            self._agreed = True

    def condense(self, value: Any) -> Condensed | None:
        """Of an answer that is about to be written (None: of one that cannot hold facts); None as long as nothing has been agreed."""
        if not self._agreed or not self._told.is_current(self):
            return None
        before = self._told.top
        made = Condensed(self, *((None, set()) if value is None else self._condensed(value)))
        self._under_way[made] = before
        return made

    def _condensed(self, value: Any) -> tuple[CondensedBody | None, set[int]]:
        told = self._told
        most = self.acknowledged_up_to
        free = told.top - most < MAX_UNDER_WAY and told.top < facts.MAX_NUMBER - (1 << 20)
        first = told.top + 1 if free else 0
        try:
            condensed, new, refers = facts.condense(value, partial(told.find, most=most), first, self._checked)
        except (FactError, TypeError):
            return None, set()
        if not new and condensed.value == value:
            return None, set()
        for fact in new:
            told.add(fact)
        return condensed, refers

    def acknowledge(self, condensed: Condensed) -> None:
        """See `Condensed`."""
        if self._under_way.pop(condensed, None) is not None and condensed.body is not None and condensed.body.check is not None:
            self._checked.update(condensed.refers)
            if len(self._checked) > _MAX_CHECKED:
                self._checked = condensed.refers

    def forget(self, condensed: Condensed) -> None:
        """See `Condensed.give_up`."""
        before = self._under_way.get(condensed)
        if before is not None and self._told.is_current(self):
            self._told.cut(before)
