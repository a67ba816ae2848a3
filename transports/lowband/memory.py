"""What both ends of a thin connection remember of the requests and answers that went over it: small ones become documents.

Each direction has its own memory (`Documents`), which moves with every document, so they are read in the order in which they were written:
each has a number, and what has overtaken another is held until that has come. Nothing that was written may be withdrawn. The memory begins
with made-up traffic (`samples`) that both ends know; its name covers all that they must agree on.

As long as fewer than `SHORT` documents are without acknowledgement the number is one of five bits, which with the kind of the message makes
one byte; else these say so, and a byte with the number follows.

A request is `{template: {…}, "i": id}`, an answer `{template + "r": {…, "i": id}}`, with the number of the path's template as a key, so
that the bodies of each endpoint have places of their own, and the id of the exchange: requests are numbered one after another, but many
answers may be to one of them. Members, left out where they say nothing::

    m  method * 5 + priority          h  headers, pairs
    a  authority                      y  quoting style of the parameters
    k  the token of a Bearer
    t  Authorization; an X-Matrix     p  parameters of the path, by their places
       without its signature          q  the query, by its keys; pairs, if they are not in order
    g  that signature                 b  the body, JSON; of an answer, too
    s  status, if it is not 200       f  of a condensed body (`facts`), the number of its first fact
    n  true, if it is not the last    c  and its checksum

A parameter of the path or the query that is a whole number is written as one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from transports.exchange import Headers, Priority, Request, Response
from transports.lowband import body as bodies
from transports.lowband import facts, samples, tables, targets
from transports.lowband.dictionary import WIRE_HASH
from transports.lowband.documents import MAX_TEXT, MAX_VALUES, DocumentError, Documents, Snapshot
from transports.lowband.facts import CondensedBody
from transports.lowband.rangecoder import Decoder
from transports.lowband.text import LOOKED_AT, decode_text, encode_text, text_model_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transports.lowband.documents import TextCodec
    from transports.lowband.rangecoder import Coder

VERSION: Final = 3
LARGEST_BODY: Final = 16 * 1024
"""Bytes of JSON. A larger body would hold up whoever comes after it; other messages overtake what zstd has packed."""
LARGEST_CONDENSED: Final = 24 * 1024
"""The same of a condensed body, most of which is references, which are quickly coded."""
LEAST_MESSAGE: Final = 4 * LARGEST_BODY
"""Bytes that a message of the link must be allowed to have: what has been coded must also be sent."""
MODELLED: Final = 4096
"""Characters of one document that the text model codes, at a tenth of a millisecond each: more would keep a small box busy."""
_MOST_BEFORE: Final = 24
_BEFORE_COSTS: Final = 16
"""What it takes to look at the texts before one, in characters of it."""
MAX_HELD: Final = 128
"""Documents without acknowledgement: so many messages may wait for one that they have overtaken."""
NUMBERS: Final = 256
SHORT: Final = 31
_LONG: Final = SHORT
"""In the place of a short number: the number follows."""
METHODS: Final = ("GET", "PUT", "POST", "DELETE")
_BEARER: Final = "Bearer "
_OBSERVE: Final = (("observe", "0"),)
_TOKEN: Final = "esa_Made0up0for0who0has0none"
_EXCHANGE: Final = "i"
_ANSWER: Final = "r"
_MEMBERS: Final = (*"makgthypqsbfcn", _EXCHANGE, facts.MARKER)
_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,14}")


@dataclass(frozen=True, slots=True)
class RequestDocument:
    """`request` lacks the Authorization header; `authorization` is what stands around a signature, and that."""

    exchange_id: int
    request: Request
    authorization: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class ResponseDocument:
    """`condensed`: the answer's body, if that is one."""

    exchange_id: int
    response: Response
    is_last: bool
    condensed: CondensedBody | None


class Memory:
    """Both directions of one connection. Sans-io; not for two threads."""

    def __init__(self) -> None:
        self._texts = _Texts()
        self._out, self._in = _fresh(self._texts), _fresh(_Texts())
        self._written = self._read = 0
        self._under_way: dict[int, None] = {}  # numbers, the oldest first
        self._held: dict[int, bytes] = {}

    # — out

    def encode_request(
        self, exchange_id: int, request: Request, headers: Headers, authorization: tuple[str, bytes] | None
    ) -> bytes | None:
        """The number and the document; None if it must travel otherwise. `headers` are those to carry, `authorization` what stands
        around a signature and that.
        """
        document = request_document(request, headers, authorization)
        return self._encode(None if document is None else _of_exchange(exchange_id, document))

    def encode_response(
        self,
        exchange_id: int,
        response: Response,
        headers: Headers,
        target: str,
        *,
        is_last: bool = True,
        condensed: CondensedBody | None = None,
    ) -> bytes | None:
        """The same of an answer to the other end's request for `target`. `condensed`: what its body is the JSON of."""
        document = response_document(response, headers, target, is_last=is_last, condensed=condensed)
        return self._encode(None if document is None else _of_exchange(exchange_id, document))

    def _encode(self, document: dict[str, Any] | None) -> bytes | None:
        if document is None or self._written - self._oldest >= MAX_HELD:
            return None
        self._texts.left = MODELLED
        try:
            coded = self._out.encode(document)
        except DocumentError:  # nothing has been remembered of it
            return None
        number, is_short = self._written, self._written - self._oldest < SHORT
        self._under_way[number] = None
        self._written += 1
        return (bytes((number % SHORT,)) if is_short else bytes((_LONG, number % NUMBERS))) + coded

    @property
    def _oldest(self) -> int:
        """The other end has all before this one."""
        return next(iter(self._under_way), self._written)

    def arrived(self, document: bytes) -> None:
        """The other end has acknowledged what `encode_…` gave."""
        if document[0] == _LONG:
            number = self._oldest + (document[1] - self._oldest) % NUMBERS
        else:
            number = self._oldest + (document[0] - self._oldest) % SHORT
        self._under_way.pop(number, None)

    # — in

    def in_order(self, document: bytes) -> Iterator[bytes]:
        """Takes a document with its number; gives those whose turn has come, without. Raises DocumentError."""
        is_long = document[0] == _LONG
        if is_long and len(document) < 2:
            raise DocumentError("a document without its number")
        ahead = (document[1] - self._read) % NUMBERS if is_long else (document[0] - self._read) % SHORT
        number = self._read + ahead
        if ahead >= MAX_HELD or number in self._held:
            raise DocumentError("a document out of all order")
        self._held[number] = document[1 + is_long :]
        while self._read in self._held:
            whole = self._held.pop(self._read)
            self._read += 1
            yield whole

    def decode(self, document: bytes) -> RequestDocument | ResponseDocument:
        """Raises ValueError."""
        found = self._in.decode(document)
        if not isinstance(found, dict):
            raise DocumentError("neither a request nor an answer")
        told = dict(found)
        exchange_id = told.pop(_EXCHANGE, None)
        if len(told) != 1:
            raise DocumentError("neither a request nor an answer")
        [(key, members)] = told.items()
        template = key.removesuffix(_ANSWER)
        if not isinstance(members, dict) or not template.isdecimal() or (template != key) == (exchange_id is not None):
            raise DocumentError("neither a request nor an answer")
        if template != key:
            return ResponseDocument(_number(members.get(_EXCHANGE)), *_decode_response(members))
        return RequestDocument(_number(exchange_id), *_decode_request(int(template), members))


def _of_exchange(exchange_id: int, document: dict[str, Any]) -> dict[str, Any]:
    [(key, members)] = document.items()
    if key.endswith(_ANSWER):
        return {key: members | {_EXCHANGE: exchange_id}}
    return document | {_EXCHANGE: exchange_id}


def request_document(request: Request, headers: Headers, authorization: tuple[str, bytes] | None) -> dict[str, Any] | None:
    parts = targets.take_apart(request.target, tables.extended().paths)
    if parts is None or request.method not in METHODS:
        return None
    index, style, parameters, pairs = parts
    members: dict[str, Any] = {"m": METHODS.index(request.method) * len(Priority) + request.priority}
    if authorization is not None:
        around, signature = authorization
        token = around.removeprefix(_BEARER)
        members |= {"k": token} if token != around and not signature else {"t": around}
        members |= {"g": bodies.to_base64(signature)} if signature else {}
    numbered = {str(place): _as_number(value) for place, value in enumerate(parameters)}
    members |= {key: value for key, value in (("a", request.authority), ("y", style), ("p", numbered), ("q", _by_key(pairs))) if value}
    return _with_body(str(index), members, headers, request.body)


def response_document(
    response: Response, headers: Headers, target: str, *, is_last: bool = True, condensed: CondensedBody | None = None
) -> dict[str, Any] | None:
    parts = targets.take_apart(target, tables.extended().paths)
    if parts is None:
        return None
    key = f"{parts[0]}{_ANSWER}"
    members: dict[str, Any] = {} if response.status == 200 else {"s": response.status}
    members |= {} if is_last else {"n": True}
    if condensed is None:
        return _with_body(key, members, headers, response.body)
    members |= {"f": condensed.first} if condensed.check is None else {"f": condensed.first, "c": condensed.check}
    return _with_body(key, members, headers, response.body, LARGEST_CONDENSED)


def _with_body(key: str, members: dict[str, Any], headers: Headers, body: bytes, largest: int = LARGEST_BODY) -> dict[str, Any] | None:
    types = [value for name, value in headers if name == "content-type"]
    if len(body) > largest or (body and types not in ([], [bodies.JSON])):
        return None
    if body:
        headers = tuple(header for header in headers if header[0] != "content-type")
        try:
            members["b"] = bodies.to_value(body)
        except (ValueError, TypeError):
            return None
    return {key: members | ({"h": [list(header) for header in headers]} if headers else {})}


def _decode_request(template: int, members: dict[str, Any]) -> tuple[Request, tuple[str, str] | None]:
    method, priority = divmod(_number(members.get("m")), len(Priority))
    if method >= len(METHODS):
        raise DocumentError("an unknown method")
    parameters, query = _parameters(members.get("p", {})), _query(members.get("q", []))
    target = targets.put_together(template, _number(members.get("y", 0)), parameters, query, tables.extended().paths)
    body, headers = _body_and_headers(members)
    authorization = None
    if "k" in members:
        _strings([members["k"]])
        authorization = (_BEARER + members["k"], "")
    elif "t" in members:
        _strings(around := [members["t"], members.get("g", "")])
        authorization = (around[0], around[1])
    _strings([members.get("a", "")])
    return Request(METHODS[method], target, members.get("a", ""), headers, body, Priority(priority)), authorization


def _decode_response(members: dict[str, Any]) -> tuple[Response, bool, CondensedBody | None]:
    status, is_last = _number(members.get("s", 200)), "n" not in members
    if not 100 <= status <= 599:
        raise DocumentError("not an answer")
    first = members.pop("f", None)
    if first is None:
        body, headers = _body_and_headers(members)
        return Response(status, headers, body), is_last, None
    check = members.get("c")
    condensed = CondensedBody(members.pop("b", None), _number(first), None if check is None else _number(check))
    _, headers = _body_and_headers(members)
    return Response(status, (("content-type", bodies.JSON), *headers), b""), is_last, condensed


def _by_key(pairs: list[list[str]]) -> dict[str, int | str] | list[list[str]]:
    """Each key has a place of its own, if the order of the keys can be told from themselves."""
    keys = [key for key, _ in pairs]
    return {key: _as_number(value) for key, value in pairs} if all(map(str.__lt__, keys, keys[1:])) else pairs


def _as_number(text: str) -> int | str:
    return int(text) if _WHOLE.fullmatch(text) else text


def _as_text(value: object) -> str:
    """What `_as_number` was given. Raises DocumentError."""
    if isinstance(value, str):
        return value
    return str(_number(value))


def _parameters(told: object) -> list[str]:
    if not isinstance(told, dict) or list(told) != [str(place) for place in range(len(told))]:
        raise DocumentError("not the parameters of a path")
    return [_as_text(value) for value in told.values()]


def _query(told: object) -> list[list[str]]:
    if isinstance(told, dict):
        return [[key, _as_text(told[key])] for key in sorted(told)]
    for pair in told if isinstance(told, list) else [None]:
        _strings(pair, 2)
    return list(told) if isinstance(told, list) else []


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise DocumentError("not a number")
    return value


def _strings(values: object, length: int | None = None) -> None:
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values) or length not in (None, len(values)):
        raise DocumentError("not a list of texts")


def _body_and_headers(members: dict[str, Any]) -> tuple[bytes, Headers]:
    headers = members.get("h", [])
    for header in headers if isinstance(headers, list) else [None]:
        _strings(header, 2)
    carried = tuple((name, value) for name, value in headers)
    if "b" not in members:
        return b"", carried
    return bodies.from_value(members["b"]), (("content-type", bodies.JSON), *carried)


# What both ends know at the start


@cache
def name() -> bytes:
    """What HELLO calls this memory: the start of the SHA-256 over everything in it."""
    parts = json.dumps([VERSION, _keys(), _TOKEN, _traffic()]).encode()
    return hashlib.sha256(parts + tables.extended().hash + text_model_hash()).digest()[:WIRE_HASH]


def _keys() -> list[str]:
    table = tables.extended()
    templates = [str(index) for index in range(len(table.paths.templates))]
    return list(dict.fromkeys([*_MEMBERS, *templates, *(f"{one}{_ANSWER}" for one in templates), *table.vocabulary.keys]))


def _traffic() -> list[list[tuple[str, str, Any, Any]]]:
    """Several connections, each of which begins with what the ones before were like, and without their names."""
    source = samples.Source()
    return [samples.exchanges(source), samples.polls(source), *(samples.screens(source) for _ in range(3))]


def _fresh(texts: TextCodec) -> Documents:
    return Documents.restored(_primed(), texts)


@cache
def _primed() -> Snapshot:
    """Has seen the made-up traffic; its names, hashes and texts are forgotten."""
    made = Documents(_Untold(), _keys())
    ids = count()
    for exchanges in _traffic():
        for turn, (method, target, asked, answered) in enumerate(exchanges):
            is_observed = target.partition("?")[0].endswith("/sync")
            request = Request(method, target, body=b"" if asked is None else bodies.from_value(asked), priority=Priority.MESSAGE)
            headers = _OBSERVE if is_observed else ()
            told = [request_document(request, headers, (_BEARER + _TOKEN, b""))]
            told += [_answered(answered, target, refers=refers, checked=turn % 3 > 0, is_last=not is_observed) for refers in (False, True)]
            exchange_id = next(ids) % 128
            for document in told:
                if document is not None:
                    made.encode(_of_exchange(exchange_id, document))
        made.forget_names()
    return made.snapshot()


def _answered(answered: Any, target: str, *, refers: bool, checked: bool, is_last: bool) -> dict[str, Any] | None:
    """An answer as it is told of which nothing is known, or, if it `refers`, all (None: it has no facts)."""
    numbers = count(1)
    condensed, told, found = facts.condense(answered, lambda _: next(numbers) if refers else None, 1, range(MAX_VALUES) if checked else ())
    if refers and not found:
        return None
    body = condensed if told or found else None
    response = Response(200, body=bodies.from_value(answered if body is None else body.value))
    return response_document(response, (), target, is_last=is_last, condensed=body)


class _Texts:
    """By the model of texts, in the light of the last ones, as long as `left` characters last."""

    def __init__(self) -> None:
        self.left = 0
        self._before: deque[str] = deque(maxlen=_MOST_BEFORE)

    def code(self, coder: Coder, text: str = "") -> str:
        if isinstance(coder, Decoder):
            text = decode_text(coder, context=self._before, max_length=MAX_TEXT)
        else:
            encode_text(coder, text, context=self._before, modelled=len(text) <= self.left)
            self.left -= len(text) + _BEFORE_COSTS
        if " " in text:  # what people write: a name of a server or a token has none
            self._before.append(text[-LOOKED_AT:])
        return text


class _Untold:
    """Texts of which nothing is learnt."""

    def code(self, coder: Coder, text: str = "") -> str:
        return text
