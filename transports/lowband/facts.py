"""Facts: events and names in answers, of which the other end is told each once; later answers refer to it by number.

An *event* is a JSON object with an object `content` and a string `event_id` (or the type `m.push_rules`, which every client asks for),
without the members that vary from answer to answer (`BESIDE`), of at most `MAX_FACT` bytes of canonical JSON. Whatever of it changes makes
it another fact. In a condensed body an event that the hearing end holds is replaced by `{"#": number}` and what stood beside it. A *name*
is a room or event id anywhere else, as a string or as a key; it is replaced by the string `~number`.

All other events and names stand as they are and get numbers from `first` on: those of an object before those within, among the keys of
an object the names first, as sorted, and what belongs to keys in the order of the sorted keys, an event before what is bundled with it. A
body that refers may do so to its own facts, too. A checksum tells whether it came out as what was said, with the first references that a
connection has to a fact.

The `unsigned.age` of an event says, with its `origin_server_ts`, when the answer was made: nearly the same for all events of an answer. So
of all but the first it is told by how much that differs from what the one before said.

Sans-io. `told` has what the telling end knows of the other's, `heard` what the hearing end keeps.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from transports.lowband.body import from_value

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from transports.lowband.factlist import Standing

TELLS: Final = b"fct\x01"
HOLDS: Final = b"fch\x01"
"""What HELLO calls the two ends of this scheme; what follows says how far either has come."""
MARKER: Final = "#"
_NAME: Final = re.compile(r"[!$][^\s\x00-\x1f]{17,254}")
_REFERENCE: Final = re.compile(r"~([1-9][0-9]{0,9})")
BESIDE: Final = ("room_id", "unsigned")
MAX_FACT: Final = 8192
MAX_NUMBER: Final = 0xFFFF_FFFF
MAX_RESTORED: Final = 8 * 1024 * 1024
"""Bytes that the references of one body may unfold to."""
OVERHEAD: Final = 10
"""Bytes that a fact takes in a file, besides itself."""
MAX_FACTS: Final = 20_000
MAX_BYTES: Final = 6_000_000
"""What the telling end refers to: no more facts, and no more of their bytes; the oldest are forgotten first. The hearing end holds at least
half as much again, for what is on its way while others are told."""
MAX_TOLD: Final = 4096
"""Facts of one body that get numbers: the first ones."""
_MAX_DEPTH: Final = 48
_MAX_INTEGER: Final = (1 << 53) - 1

Json = Any


class FactError(ValueError):
    """This body has no condensed form, or these are none."""


class FactsMissing(FactError):
    """A body refers to what this end does not hold (any more). `standing`, if given, is to be told to the other end."""

    def __init__(self, reason: str, standing: Standing | None = None) -> None:
        super().__init__(reason)
        self.standing = standing


@dataclass(frozen=True, slots=True)
class CondensedBody:
    """A JSON value with references. Facts in it get numbers from `first` on; 0: they get none. `check`: of the whole body, 32 bits; None:
    it refers to nothing that has not been checked on this connection.
    """

    value: Json
    first: int
    check: int | None = None


def hash_of(fact: bytes, key: bytes) -> int:
    """64 bits. `key` is what only the two ends know: two events that have the same hash cannot be made without it."""
    return int.from_bytes(hashlib.blake2b(fact, digest_size=8, key=key).digest(), "little")


def check_of(body: bytes) -> int:
    """32 bits of canonical JSON."""
    return int.from_bytes(hashlib.blake2b(body, digest_size=4).digest(), "big")


def may_hold_facts(body: bytes) -> bool:
    """A quick look, before a body is read."""
    return (b'"event_id"' in body and b'"content"' in body) or b'"!' in body


# To the other end


def condense(
    value: Json, find: Callable[[bytes], int | None], first: int, checked: Container[int] = ()
) -> tuple[CondensedBody, list[bytes], set[int]]:
    """The condensed body, the facts that get numbers, and the numbers that are referred to. `find` gives the number of a fact that is held;
    `checked` are those of references that came out rightly before. Raises FactError.
    """
    walk = _Condensing(find, first)
    condensed = walk.value(value, 0)
    check = None if all(number in checked for number in walk.refers) else check_of(from_value(value))
    return CondensedBody(condensed, first, check), walk.told, walk.refers


class _Condensing:
    def __init__(self, find: Callable[[bytes], int | None], first: int) -> None:
        self._find = find
        self._first = first
        self._here: dict[bytes, int] = {}
        self.told: list[bytes] = []
        self.refers: set[int] = set()
        self._ages = _Ages()

    def value(self, value: Json, depth: int) -> Json:
        if isinstance(value, dict):
            return self._object(value, depth + 1)
        if isinstance(value, list):
            _check_depth(depth)
            return [self.value(one, depth + 1) for one in value]
        return self._string(value) if isinstance(value, str) else value

    def _object(self, value: dict[str, Json], depth: int) -> Json:
        _check_depth(depth)
        if MARKER in value:
            raise FactError("a key that is a marker here")
        if not _is_event(value):
            keys = {key: self._string(key) for key in sorted(value)}
            return {keys[key]: self.value(value[key], depth) for key in keys}
        number = self._number(fact_in(value))
        beside = {key: value[key] for key in BESIDE if key in value}
        if "unsigned" in beside:
            beside["unsigned"] = self._ages.tell(beside["unsigned"], value)
        return (value if number is None else {MARKER: number}) | {key: self.value(beside[key], depth) for key in beside}

    def _string(self, string: str) -> str:
        if _REFERENCE.fullmatch(string):
            raise FactError("a string that is a reference here")
        if not _NAME.fullmatch(string):
            return string
        number = self._number(from_value(string))
        return string if number is None else f"~{number}"

    def _number(self, fact: bytes | None) -> int | None:
        """None: it is told."""
        if fact is None:
            return None
        number = self._here.get(fact) or self._find(fact)
        if number is not None:
            self.refers.add(number)
        elif self._first and len(self.told) < MAX_TOLD:
            self._here[fact] = self._first + len(self.told)
            self.told.append(fact)
        return number


# From the other end


def references(value: Json) -> set[int]:
    """The numbers that a condensed value refers to. Raises FactError."""
    found: set[int] = set()
    _find_references(value, found, 0)
    return found


def _find_references(value: Json, found: set[int], depth: int) -> None:
    if isinstance(value, str):
        if match := _REFERENCE.fullmatch(value):
            found.add(_checked(int(match[1])))
    elif isinstance(value, dict):
        _check_depth(depth)
        if MARKER in value:
            found.add(_number_in(value))
        if MARKER in value or _is_event(value):
            value = {key: value[key] for key in BESIDE if key in value}
        for key, one in value.items():
            _find_references(key, found, depth)
            _find_references(one, found, depth + 1)
    elif isinstance(value, list):
        _check_depth(depth)
        for one in value:
            _find_references(one, found, depth + 1)


def restore(body: CondensedBody, held: Callable[[int], bytes | None]) -> tuple[bytes, list[bytes]]:
    """The canonical JSON of what the other end has said, and the facts that got numbers. `held` gives that of a fact by its number.

    Raises FactsMissing (also if the two ends number facts differently), FactError.
    """
    walk = _Restoring(held, body.first)
    try:
        restored = from_value(walk.value(body.value, 0))
    except TypeError as error:  # numbers that JSON has not
        raise FactError(str(error)) from error
    if body.check not in (None, check_of(restored)):
        raise FactsMissing("a reference to something else")
    return restored, walk.told


class _Restoring:
    def __init__(self, held: Callable[[int], bytes | None], first: int) -> None:
        self._held = held
        self._first = first
        self._room = MAX_RESTORED
        self.told: list[bytes] = []
        self._ages = _Ages()

    def value(self, value: Json, depth: int) -> Json:
        if isinstance(value, dict):
            return self._object(value, depth + 1)
        if isinstance(value, list):
            _check_depth(depth)
            return [self.value(one, depth + 1) for one in value]
        return self._string(value) if isinstance(value, str) else value

    def _object(self, value: dict[str, Json], depth: int) -> Json:
        _check_depth(depth)
        if MARKER in value:
            event = self._referred(_number_in(value))
            if not isinstance(event, dict):
                raise FactError("a name in the place of an event")
        elif _is_event(value):
            event = value
            self._tell(fact_in(value))
        else:
            keys = {self._string(key): key for key in sorted(value)}
            if len(keys) != len(value):
                raise FactError("a key that is there twice")
            return {key: self.value(value[keys[key]], depth) for key in sorted(keys)}
        beside = {key: value[key] for key in BESIDE if key in value}
        if "unsigned" in beside:
            beside["unsigned"] = self._ages.hear(beside["unsigned"], event)
        return event | {key: self.value(beside[key], depth) for key in beside}

    def _string(self, string: str) -> str:
        if match := _REFERENCE.fullmatch(string):
            name = self._referred(_checked(int(match[1])))
            if not isinstance(name, str):
                raise FactError("an event in the place of a name")
            return name
        if _NAME.fullmatch(string):
            self._tell(from_value(string))
        return string

    def _tell(self, fact: bytes | None) -> None:
        if self._first and fact is not None and len(self.told) < MAX_TOLD:
            self.told.append(fact)

    def _referred(self, number: int) -> Json:
        own = number - self._first
        fact = self.told[own] if self._first and 0 <= own < len(self.told) else self._held(number)
        if fact is None:
            raise FactsMissing(f"fact {number} is not held")
        self._room -= len(fact)
        if self._room < 0:
            raise FactError("a body beyond all bounds")
        return orjson.loads(fact)


# Both ways


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise FactError("nested beyond all bounds")


def _is_event(value: dict[str, Json]) -> bool:
    is_kept = isinstance(value.get("event_id"), str) or value.get("type") == "m.push_rules"
    return is_kept and isinstance(value.get("content"), dict)


def fact_in(event: dict[str, Json]) -> bytes | None:
    """The canonical JSON of the fact that this event is; None: it is too large."""
    fact = from_value({key: one for key, one in event.items() if key not in BESIDE})
    return fact if len(fact) <= MAX_FACT else None


class _Ages:
    """Of the events of one body, in the order in which both ends come by them."""

    def __init__(self) -> None:
        self._now: int | None = None

    def tell(self, unsigned: Json, event: dict[str, Json]) -> Json:
        """`unsigned` as it is told. Raises FactError where that would not be exact."""
        at = event.get("origin_server_ts")
        age = unsigned.get("age") if isinstance(unsigned, dict) else None
        if type(at) is not int or type(age) is not int:
            return unsigned
        before, self._now = self._now, at + age
        return unsigned | {"age": _bounded(age if before is None else at + age - before)}

    def hear(self, unsigned: Json, event: dict[str, Json]) -> Json:
        """`unsigned` as it was."""
        at = event.get("origin_server_ts")
        told = unsigned.get("age") if isinstance(unsigned, dict) else None
        if type(at) is not int or type(told) is not int:
            return unsigned
        self._now = told + (at if self._now is None else self._now)
        return unsigned | {"age": _bounded(self._now - at)}


def _bounded(age: int) -> int:
    if not -_MAX_INTEGER <= age <= _MAX_INTEGER:
        raise FactError("an age beyond 2^53")
    return age


def _number_in(marker: dict[str, Json]) -> int:
    number = marker[MARKER]
    if type(number) is not int or not marker.keys() <= {MARKER, *BESIDE}:
        raise FactError("not a reference")
    return _checked(number)


def _checked(number: int) -> int:
    if not 0 < number <= MAX_NUMBER:
        raise FactError("not a reference")
    return number
