"""JSON documents in very few bytes, each coded in the light of all earlier ones of its direction.

Both ends of a reliable, ordered channel keep the same memory (`Documents`): for every *place* in a document (the path of keys
that leads to a value) which kinds of values stood there, with which keys, strings and numbers. What repeats costs fractions of
a bit to a few bits: an object's keys, a sender, a type. What is new costs what it holds: a hash in base64 its 32 bytes, a text
what the text model makes of it, a time stamp its distance from the last one. A memory may begin as a copy of one that has seen
what is usual, so that the first document is cheap, too.

A value is written as its kind, then

    object   which of the sets of keys that stood here, or a new one; then the values, in the order of the sorted keys
    array    its length and its elements, which share one place
    number   its distance from the last number here, or itself: whichever is smaller
    string   one of the last that stood here (most recent first), one of the last anywhere, one like the last here but for its numbers
             (a token of a stream, a transaction id), or a new one in a form of `_Form`; a text that begins and ends as one of the last
             here says how much of which, and what is between them; digits alone are a number of so many
    raw      whatever else JSON knows (fractions, numbers beyond 2^53, what lies too deep): its JSON as text

Sans-io. Bytes that no encoder wrote decode to something or raise; what they unfold to is bounded (`MAX_VALUES`, `MAX_TEXT`).
After an error in `decode` the memory is void, for both ends no longer agree.
"""

from __future__ import annotations

import base64
import copy
import json
import pickle
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from transports.lowband.rangecoder import AdaptiveBit, AdaptiveNumber, BitTree, Decoder, Encoder, RangeCodeError, code_bits, code_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from transports.lowband.rangecoder import Coder

MAX_DEPTH: Final = 24
MAX_VALUES: Final = 16_384
"""Values in one document, keys included."""
MAX_TEXT: Final = 1 << 15
"""Characters in one document."""
MAX_NUMBER: Final = (1 << 53) - 1
_MAX_PLACES: Final = 2048
_MAX_SHAPES: Final = 64
_MAX_RECENT: Final = 48
_MAX_ANYWHERE: Final = 1024
_LONGEST_REMEMBERED: Final = 255
_SHORTEST_BASE64: Final = 16
_MAX_PATTERNS: Final = 4
_MOST_COUNTERS: Final = 8
_LONGEST_PATTERN: Final = 80
_MAX_COUNTER: Final = (1 << 64) - 1
_BITS_OF_NEAR_DIGIT: Final = 2.5
_MOST_DIGITS: Final = 18
_MAX_ALIKE: Final = 8
_OLDER: Final = 2
"""Characters by which an older one must be more alike than the last."""
_NUMERALS: Final = "0123456789"
_LEAST_ALIKE: Final = 3
"""Characters of a name that are worth saying where they are from."""
_ELEMENT: Final = "[]"
_OTHER_KEY: Final = "*"

Json = Any


class DocumentError(ValueError):
    """Not a document: it cannot be written, or the bytes do not hold one."""


class TextCodec(Protocol):
    """Codes a text on its own: `transports.lowband.text`."""

    def code(self, coder: Coder, text: str = "") -> str:
        """Writes the text, or reads and returns one; a decoder ignores the argument. Raises ValueError."""
        ...


class _Kind(IntEnum):
    NULL = 0
    FALSE = 1
    TRUE = 2
    NUMBER = 3
    RECENT = 4
    ANYWHERE = 5
    NEW = 6
    OBJECT = 7
    ARRAY = 8
    RAW = 9
    LIKE = 10


class _Form(IntEnum):
    """Forms of new strings."""

    TEXT = 0
    HASH = 1
    """A sigil and 32 bytes in unpadded URL-safe base64."""
    NAMED = 2
    """A sigil, a local part and a server name."""
    MXC = 3
    BASE64 = 4
    """Unpadded base64 of any bytes."""
    BASE64_URL = 5


_SIGILS: Final = "$!@#"
_COUNTER: Final = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,18})(?![0-9])")
"""A number that is written in one way only."""
_DIGITS: Final = re.compile(rf"[0-9]{{1,{_MOST_DIGITS}}}")
_LONG_NUMBER: Final = re.compile(r"[0-9]{5}")
_WORD: Final = re.compile(r"[a-z][a-z0-9_]*([.-][a-z0-9_-]+)*(/[a-z]+)?|[A-Z]*")
_HASHED: Final = re.compile(r"[$!][A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_NAMED: Final = re.compile(r"([$!@#])([^:]*):(.+)", re.DOTALL)
_MXC: Final = re.compile(r"mxc://([^/]*)/(.*)", re.DOTALL)
_STANDARD: Final = re.compile(r"(?=.*[0-9+/])(?=.*[A-Z])(?=.*[a-z])[A-Za-z0-9+/]+")
_URL_SAFE: Final = re.compile(r"(?=.*[0-9_-])(?=.*[A-Z])(?=.*[a-z])[A-Za-z0-9_-]+")
"""All three kinds of characters: a long word is a text."""


class _Recent:
    """The last strings of a place, the most recent first."""

    __slots__ = ("_index", "_most", "_strings")

    def __init__(self, most: int) -> None:
        self._most = most
        self._strings: list[str] = []
        self._index = AdaptiveNumber(most - 1)

    def find(self, string: str) -> int | None:
        try:
            return self._strings.index(string)
        except ValueError:
            return None

    def newest(self, most: int) -> list[str]:
        return self._strings[:most]

    def code(self, coder: Coder, index: int = 0) -> str:
        index = self._index.code(coder, index)
        if index >= len(self._strings):
            raise DocumentError("a string that was never told")
        return self._strings[index]

    def note(self, string: str) -> None:
        if len(string) > _LONGEST_REMEMBERED:
            return
        if string in self._strings:
            self._strings.remove(string)
        self._strings.insert(0, string)
        del self._strings[self._most :]

    def keep(self, pattern: re.Pattern[str]) -> None:
        self._strings = [string for string in self._strings if pattern.fullmatch(string)]


class _Shapes:
    """The last sets of keys of a place, the most recent first."""

    __slots__ = ("_index", "_is_same", "known")

    def __init__(self) -> None:
        self.known: list[tuple[str, ...]] = []
        self._is_same = AdaptiveBit(rate=4)
        self._index = AdaptiveNumber(_MAX_SHAPES)

    def code(self, coder: Coder, shape: tuple[str, ...]) -> int | None:
        """Which one it is; None: none of them."""
        at = self.known.index(shape) if shape in self.known else None
        if self.known and self._is_same.code(coder, int(at == 0)):
            return 0
        index = self._index.code(coder, at or 0)
        if index and index >= len(self.known):
            raise DocumentError("a set of keys that was never told")
        return index or None


class _Integers:
    """Numbers of a place, by their distance from the last or by themselves."""

    __slots__ = ("_is_near", "_most", "_number", "_offset", "_sign", "last")

    def __init__(self, most: int = MAX_NUMBER) -> None:
        self.last = 0
        self._most = most
        self._is_near = AdaptiveBit(rate=4)
        self._sign = AdaptiveBit(rate=4)
        self._offset = AdaptiveNumber(2 * most, rate=4)
        self._number = AdaptiveNumber(most)

    def code(self, coder: Coder, value: int) -> int:
        offset = value - self.last
        if self._is_near.code(coder, int(abs(offset) < abs(value) or not offset)):
            negative = self._sign.code(coder, int(offset < 0))
            size = self._offset.code(coder, abs(offset))
            value = self.last + (-size if negative else size)
        else:
            negative = code_bits(coder, 1, int(value < 0))
            size = self._number.code(coder, abs(value))
            value = -size if negative else size
        if not -self._most <= value <= self._most:
            raise DocumentError("a number beyond all bounds")
        self.last = value
        return value


class _Patterns:
    """Strings of a place that were alike but for their numbers, the most recent kind first.

    A pattern is a tuple of the texts around the numbers.
    """

    __slots__ = ("_index", "_known")

    def __init__(self) -> None:
        self._index = AdaptiveNumber(_MAX_PATTERNS - 1)
        self._known: list[tuple[tuple[str, ...], list[_Integers]]] = []

    def find(self, pattern: tuple[str, ...]) -> int | None:
        return next((index for index, (known, _) in enumerate(self._known) if known == pattern), None)

    def is_near(self, index: int, numbers: Sequence[int]) -> bool:
        """Whether the numbers are so near the last ones that saying how far costs less than saying them."""
        pairs = zip(self._known[index][1], numbers, strict=True)
        bits = sum(min(abs(number - counter.last), number).bit_length() for counter, number in pairs)
        return bits <= _BITS_OF_NEAR_DIGIT * sum(len(str(number)) for number in numbers)

    def code(self, coder: Coder, index: int, numbers: Sequence[int]) -> str:
        index = self._index.code(coder, index)
        if index >= len(self._known):
            raise DocumentError("a kind of string that was never told")
        found = self._known.pop(index)
        self._known.insert(0, found)
        pattern, counters = found
        told = [counter.code(coder, numbers[at] if at < len(numbers) else 0) for at, counter in enumerate(counters)]
        if min(told) < 0:
            raise DocumentError("a number below zero in a string")
        return "".join(text + str(number) for text, number in zip(pattern, told, strict=False)) + pattern[-1]

    def forget_numbers(self) -> None:
        for _, counters in self._known:
            for counter in counters:
                counter.last = 0

    def note(self, pattern: tuple[str, ...], numbers: Sequence[int]) -> None:
        """A string that was told in another way."""
        index = self.find(pattern)
        found = (pattern, [_Integers(_MAX_COUNTER) for _ in numbers]) if index is None else self._known.pop(index)
        for counter, number in zip(found[1], numbers, strict=True):
            counter.last = number
        self._known.insert(0, found)
        del self._known[_MAX_PATTERNS:]


def _taken_apart(string: str) -> tuple[tuple[str, ...], list[int]] | None:
    """The pattern of a string and its numbers; None of one that has none, or is of another form."""
    if not string.isascii() or len(string) > _LONGEST_PATTERN or _form_of(string) is not _Form.TEXT:
        return None
    parts = _COUNTER.split(string)
    if not 3 <= len(parts) <= 2 * _MOST_COUNTERS + 1:
        return None
    return tuple(parts[::2]), [int(part) for part in parts[1::2]]


class _Kinds:
    """Which kind of value stands at a place: the same as last time, or another, in the light of that. A new place begins as others did."""

    __slots__ = ("_last", "_others", "_same")

    def __init__(self) -> None:
        self._last: int | None = None
        self._same: dict[int, AdaptiveBit] = {}
        self._others = BitTree(len(_Kind), rate=4)

    def code(self, coder: Coder, kind: int, first: BitTree) -> _Kind:
        last = self._last
        if last is None:
            kind = first.code(coder, kind)
        else:
            same = self._same.get(last) or self._same.setdefault(last, AdaptiveBit(rate=4))
            kind = last if same.code(coder, int(kind == last)) else self._others.code(coder, kind)
        self._last = kind
        return _Kind(kind)


class _New:
    """New strings of a place: their forms and sigils, with how much of which one they begin and end, and whether the rest is digits."""

    __slots__ = ("digits", "form", "is_number", "prefix", "sigil", "suffix", "which")

    def __init__(self) -> None:
        self.form = BitTree(len(_Form), rate=4)
        self.sigil = BitTree(len(_SIGILS), rate=4)
        self.prefix = AdaptiveNumber(_LONGEST_REMEMBERED, rate=3)
        self.suffix = AdaptiveNumber(_LONGEST_REMEMBERED, rate=3)
        self.which = AdaptiveNumber(_MAX_ALIKE - 1, rate=3)
        self.is_number = AdaptiveBit(rate=3)
        self.digits = AdaptiveNumber(_MOST_DIGITS, rate=3)


class _Place:
    """What stood at one place of documents."""

    __slots__ = ("_integers", "_list", "_new", "_object", "_patterns", "_strings", "children", "kind")

    def __init__(self) -> None:
        self.kind = _Kinds()
        self.children: dict[str, _Place] = {}
        self._integers: _Integers | None = None
        self._list: AdaptiveNumber | None = None
        self._new: _New | None = None
        self._object: _Shapes | None = None
        self._patterns: _Patterns | None = None
        self._strings: _Recent | None = None

    # Of all that a place could hold, most hold one kind.

    @property
    def integers(self) -> _Integers:
        if self._integers is None:
            self._integers = _Integers()
        return self._integers

    @property
    def length(self) -> AdaptiveNumber:
        if self._list is None:
            self._list = AdaptiveNumber(MAX_VALUES)
        return self._list

    @property
    def shapes(self) -> _Shapes:
        if self._object is None:
            self._object = _Shapes()
        return self._object

    @property
    def recent(self) -> _Recent:
        if self._strings is None:
            self._strings = _Recent(_MAX_RECENT)
        return self._strings

    @property
    def patterns(self) -> _Patterns:
        if self._patterns is None:
            self._patterns = _Patterns()
        return self._patterns

    @property
    def new(self) -> _New:
        if self._new is None:
            self._new = _New()
        return self._new

    def forget_names(self, keys: Collection[str]) -> None:
        if self._strings is not None:
            self._strings.keep(_WORD)
        if self._object is not None:
            self._object.known = [one for one in self._object.known if all(key in keys or _WORD.fullmatch(key) for key in one)]
        if self._patterns is not None:
            self._patterns.forget_numbers()
        if self._integers is not None:
            self._integers.last = 0
        for child in self.children.values():
            child.forget_names(keys)


@dataclass(frozen=True)
class Snapshot:
    """A memory as it was. Most of it are the places right below the root, of which a connection meets few: each is unpacked when met."""

    rest: bytes
    places: Mapping[str, bytes]
    shared: Mapping[str, Any]
    """What nobody changes, and all memories that are made of it have in common."""

    def __len__(self) -> int:
        """Bytes."""
        return len(self.rest) + sum(map(len, self.places.values()))


def _packed(value: Any) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


class Documents:
    """The memory of one direction: `encode` at one end, `decode` at the other, in the same order."""

    def __init__(self, text: TextCodec, keys: Sequence[str] = ()) -> None:
        """`keys` are keys of objects that both ends know: each has a place of its own, others of one object share one."""
        self._text = text
        self._keys = {key: number for number, key in enumerate(keys)}
        self._key_list = list(keys)
        self._key = BitTree(len(keys) + 1)
        self._places = 1
        self._first_kind = BitTree(len(_Kind))
        self._root = _Place()
        self._unopened: Mapping[str, bytes] = {}
        self._strays = _Place()
        self._new_keys = _Recent(_MAX_ANYWHERE)
        self._key_forms = _Place()
        self._is_new_key = AdaptiveBit()
        self._anywhere = _Recent(_MAX_ANYWHERE)
        self._server = _Place()
        self._length = AdaptiveNumber(MAX_TEXT)
        self._values = 0
        self._characters = 0

    def snapshot(self) -> Snapshot:
        """For `restored`, in this process."""
        root = copy.copy(self._root)
        root.children = {}
        places = {**self._unopened} | {key: _packed(place) for key, place in self._root.children.items()}
        shared = {"_keys": self._keys, "_key_list": self._key_list}
        rest = self.__dict__ | {"_text": None, "_root": root, "_unopened": None} | dict.fromkeys(shared)
        return Snapshot(_packed(rest), places, shared)

    @classmethod
    def restored(cls, snapshot: Snapshot, text: TextCodec) -> Documents:
        """A memory that begins where another one was, with these texts."""
        made = cls.__new__(cls)
        made.__dict__.update(pickle.loads(snapshot.rest) | snapshot.shared | {"_text": text, "_unopened": snapshot.places})
        return made

    def forget_names(self) -> None:
        """Of the strings only words of protocols stay (`m.room.message`): what the traffic so far was like, but not whose it was."""
        self._anywhere.keep(_WORD)
        self._new_keys.keep(_WORD)
        for place in (self._server, self._root, self._strays):
            place.forget_names(self._keys)

    def encode(self, document: Json) -> bytes:
        """Raises DocumentError, before anything is remembered, if it is no JSON or too large."""
        _check(document)
        encoder = Encoder()
        self._document(encoder, document)
        return encoder.finish()

    def decode(self, data: bytes) -> Json:
        """Raises DocumentError."""
        try:
            return self._document(Decoder(data))
        except DocumentError:
            raise
        except (RangeCodeError, ValueError, RecursionError) as error:
            raise DocumentError(str(error)) from error

    def _document(self, coder: Coder, value: Json = None) -> Json:
        self._values = self._characters = 0
        return self._value(coder, self._root, value, 0)

    def _value(self, coder: Coder, place: _Place, value: Json, depth: int) -> Json:
        self._count(1, 0)
        kind, index = self._classify(place, value, depth)
        kind = place.kind.code(coder, kind, self._first_kind)
        match kind:
            case _Kind.OBJECT:
                return self._object(coder, place, value if isinstance(value, dict) else {}, depth)
            case _Kind.ARRAY:
                return self._array(coder, place, value if isinstance(value, list) else [], depth)
            case _Kind.NUMBER:
                return place.integers.code(coder, value if isinstance(value, int) else 0)
            case _Kind.RECENT:
                return self._noted(place, place.recent.code(coder, index))
            case _Kind.ANYWHERE:
                return self._noted(place, self._anywhere.code(coder, index))
            case _Kind.LIKE:
                _, numbers = (isinstance(value, str) and _taken_apart(value)) or ((), [])
                return self._noted(place, place.patterns.code(coder, index, numbers), is_like=True)
            case _Kind.NEW:
                return self._noted(place, self._new(coder, place, value if isinstance(value, str) else ""))
            case _Kind.RAW:
                return self._raw(coder, value)
        return {_Kind.NULL: None, _Kind.FALSE: False, _Kind.TRUE: True}[kind]

    def _classify(self, place: _Place, value: Json, depth: int) -> tuple[_Kind, int]:
        """The kind, and the index of a string that is known."""
        if value is None:
            return _Kind.NULL, 0
        if value is True or value is False:
            return (_Kind.TRUE if value else _Kind.FALSE), 0
        if isinstance(value, str):
            for kind, strings in ((_Kind.RECENT, place.recent), (_Kind.ANYWHERE, self._anywhere)):
                index = strings.find(value)
                if index is not None:
                    return kind, index
            parts = _taken_apart(value)
            index = None if parts is None else place.patterns.find(parts[0])
            if parts is None or index is None or not place.patterns.is_near(index, parts[1]):
                return _Kind.NEW, 0
            return _Kind.LIKE, index
        if isinstance(value, int) and -MAX_NUMBER <= value <= MAX_NUMBER:
            return _Kind.NUMBER, 0
        if isinstance(value, dict) and depth < MAX_DEPTH:
            return _Kind.OBJECT, 0
        if isinstance(value, list) and depth < MAX_DEPTH:
            return _Kind.ARRAY, 0
        return _Kind.RAW, 0

    def _noted(self, place: _Place, string: str, *, is_like: bool = False) -> str:
        place.recent.note(string)
        self._anywhere.note(string)
        if not is_like and (parts := _taken_apart(string)) is not None:
            place.patterns.note(*parts)
        return string

    # Objects and arrays

    def _object(self, coder: Coder, place: _Place, value: dict[str, Json], depth: int) -> dict[str, Json]:
        shape = self._shape(coder, place, tuple(sorted(value)))
        self._count(len(shape), 0)
        return {key: self._value(coder, self._child(place, key), value.get(key), depth + 1) for key in shape}

    def _shape(self, coder: Coder, place: _Place, shape: tuple[str, ...]) -> tuple[str, ...]:
        """0 and a new set of keys, or which of the last ones."""
        shapes = place.shapes
        index = shapes.code(coder, shape)
        if index is not None:
            shape = shapes.known.pop(index)
        else:
            count = self._length.code(coder, len(shape))
            self._count(count, 0)
            shape = tuple(self._new_key(coder, shape[at] if at < len(shape) else "") for at in range(count))
        shapes.known.insert(0, shape)
        del shapes.known[_MAX_SHAPES:]
        return shape

    def _new_key(self, coder: Coder, key: str) -> str:
        number = self._key.code(coder, self._keys.get(key, len(self._keys)))
        if number < len(self._keys):
            return self._key_list[number]
        index = self._new_keys.find(key)
        is_new = self._is_new_key.code(coder, int(index is None))
        key = self._new(coder, self._key_forms, key) if is_new else self._new_keys.code(coder, index or 0)
        self._new_keys.note(key)
        return key

    def _child(self, place: _Place, key: str) -> _Place:
        return self._below(place, key if key in self._keys else _OTHER_KEY)

    def _below(self, place: _Place, key: str) -> _Place:
        return place.children.get(key) or self._unpacked(place, key) or self._new_place(place, key)

    def _unpacked(self, place: _Place, key: str) -> _Place | None:
        """One of the snapshot's places, which from now on is this memory's own."""
        packed = self._unopened.get(key) if place is self._root else None
        if packed is None:
            return None
        made: _Place = pickle.loads(packed)
        place.children[key] = made
        return made

    def _new_place(self, place: _Place, key: str) -> _Place:
        if self._places >= _MAX_PLACES:
            return self._strays
        self._places += 1
        made = place.children[key] = _Place()
        return made

    def _array(self, coder: Coder, place: _Place, value: list[Json], depth: int) -> list[Json]:
        length = place.length.code(coder, len(value))
        self._count(length, 0)
        child = self._below(place, _ELEMENT)
        return [self._value(coder, child, value[at] if at < len(value) else None, depth + 1) for at in range(length)]

    def _raw(self, coder: Coder, value: Json) -> Json:
        text = "" if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        text = self._plain(coder, text)
        return json.loads(text, parse_constant=_refuse)

    # New strings

    def _new(self, coder: Coder, place: _Place, string: str) -> str:
        new, last = place.new, place.recent.newest(_MAX_ALIKE)
        form = _Form(new.form.code(coder, _form_of(string)))
        match form:
            case _Form.HASH:
                sigil = _SIGILS[new.sigil.code(coder, _SIGILS.find(string[:1]) if string else 0)]
                return sigil + _from_bytes(code_bytes(coder, 32, _to_bytes(string[1:])), url_safe=True)
            case _Form.NAMED:
                match = _NAMED.fullmatch(string)
                sigil, local, server = ("", "", "") if match is None else match.groups()
                sigil = _SIGILS[new.sigil.code(coder, max(0, _SIGILS.find(sigil)) if sigil else 0)]
                before = [match[2] for one in last if (match := _NAMED.fullmatch(one)) is not None]
                local = self._like(coder, new, local, before)
                return f"{sigil}{local}:{self._server_name(coder, server)}"
            case _Form.MXC:
                match = _MXC.fullmatch(string)
                server, media = ("", "") if match is None else match.groups()
                return f"mxc://{self._server_name(coder, server)}/{self._plain(coder, media)}"
            case _Form.BASE64 | _Form.BASE64_URL:
                data = _to_bytes(string)
                length = self._length.code(coder, len(data))
                self._count(0, 2 * length)
                return _from_bytes(code_bytes(coder, length, data), url_safe=form is _Form.BASE64_URL)
        return self._like(coder, new, string, last, least=len(string) // 2)

    def _like(self, coder: Coder, new: _New, text: str, last: Sequence[str], least: int = 0) -> str:
        """A text that may begin and end as one of the last, with at least so many characters if it does."""
        if not last:
            return self._between(coder, new, text)
        shared = [_shared(text, one) for one in last]
        at = max(range(len(last)), key=lambda one: sum(shared[one]) - _OLDER * (one > 0))
        prefix, suffix = shared[at] if sum(shared[at]) >= max(least, _LEAST_ALIKE) else (0, 0)
        prefix, suffix = new.prefix.code(coder, prefix), new.suffix.code(coder, suffix)
        if not prefix + suffix:
            return self._between(coder, new, text)
        at = new.which.code(coder, at)
        if at >= len(last) or prefix + suffix > len(last[at]):
            raise DocumentError("more of a text than there is")
        self._count(0, prefix + suffix)
        middle = self._between(coder, new, text[prefix : len(text) - suffix])
        return f"{last[at][:prefix]}{middle}{last[at][len(last[at]) - suffix :]}"

    def _between(self, coder: Coder, new: _New, text: str) -> str:
        """Any text; digits cost what they say."""
        if not new.is_number.code(coder, int(_DIGITS.fullmatch(text) is not None)):
            return self._plain(coder, text)
        count = new.digits.code(coder, len(text))
        self._count(0, count)
        number = code_bits(coder, (10**count - 1).bit_length(), int(text or 0))
        if number >= 10**count:
            raise DocumentError("a number with more digits than it has")
        return str(number).zfill(count) if count else ""

    def _server_name(self, coder: Coder, name: str) -> str:
        place = self._server
        index = place.recent.find(name)
        if place.kind.code(coder, _Kind.NEW if index is None else _Kind.RECENT, self._first_kind) == _Kind.RECENT:
            name = place.recent.code(coder, index or 0)
        else:
            name = self._like(coder, place.new, name, place.recent.newest(_MAX_ALIKE))
        place.recent.note(name)
        return name

    def _plain(self, coder: Coder, text: str) -> str:
        text = self._text.code(coder, text)
        self._count(0, len(text))
        return text

    def _count(self, values: int, characters: int) -> None:
        self._values += values
        self._characters += characters
        if self._values > MAX_VALUES or self._characters > MAX_TEXT:
            raise DocumentError("a document beyond all bounds")


def _shared(text: str, last: str) -> tuple[int, int]:
    """With how many characters of `last` the text begins and ends. A long number is not parted: names that differ in one are alike."""
    most = min(len(text), len(last))
    prefix = next((at for at in range(most) if text[at] != last[at]), most)
    suffix = next((at for at in range(most - prefix) if text[-1 - at] != last[-1 - at]), most - prefix)
    whole = len(text[:prefix].rstrip(_NUMERALS))
    if _LONG_NUMBER.match(text, whole):
        prefix = whole
    return prefix, suffix


def _form_of(string: str) -> _Form:
    if _HASHED.fullmatch(string):
        return _Form.HASH
    if string[:1] in _SIGILS and _NAMED.fullmatch(string):
        return _Form.NAMED
    if string.startswith("mxc://") and _MXC.fullmatch(string):
        return _Form.MXC
    if len(string) >= _SHORTEST_BASE64:
        for form, pattern in ((_Form.BASE64, _STANDARD), (_Form.BASE64_URL, _URL_SAFE)):
            if pattern.fullmatch(string) and _from_bytes(_to_bytes(string), url_safe=form is _Form.BASE64_URL) == string:
                return form
    return _Form.TEXT


def _to_bytes(string: str) -> bytes:
    """Of unpadded base64 in either alphabet; nothing, if it is none."""
    try:
        return base64.b64decode(string.replace("-", "+").replace("_", "/") + "=" * (-len(string) % 4), validate=True)
    except ValueError:
        return b""


def _from_bytes(data: bytes, *, url_safe: bool) -> str:
    encoded = base64.urlsafe_b64encode(data) if url_safe else base64.b64encode(data)
    return encoded.rstrip(b"=").decode("ascii")


def _refuse(name: str) -> None:
    raise DocumentError(f"{name} is no JSON")


def _check(document: Json) -> None:
    """Raises DocumentError on what cannot be written."""
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DocumentError(f"no JSON: {error}") from error
    most = 2 * sum(map(text.count, ",:[{")) + 2
    if len(text) > MAX_TEXT or most > MAX_VALUES:
        raise DocumentError(f"{len(text):,} characters, some {most:,} values: more than a document may have")
