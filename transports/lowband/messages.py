"""The messages between two ends of a reliable link: requests, their answers, and little else.

Either end asks; a request's id is chosen by who asks and is free again once its one answer has come. Every message is::

    byte 0    kind << 5 | extended tables << 4 | CBOR body << 3 | compression      (compression: 0 none, 1 zstd,
              2 + n zstd with the n-th dictionary that the *receiver's* HELLO announced)
    number    exchange id (not in HELLO and FACTS)
    payload   compressed if that makes it smaller

    HELLO     version, hash of the extended tables (4 bytes), names of dictionaries and of a memory (4 bytes each); of an end
              that tells facts or holds some their name (4 bytes) and the number of the last one (4 bytes); in the second case
              their chain (8 bytes)
    REQUEST   shape byte ((method * 5 + priority) << 3 | authority << 2 | authorization << 1 | headers),
              [method as text], [authority], [authorization], [headers], target, body to the end
    RESPONSE  shape byte (checksum << 3 | condensed << 2 | status << 1 | headers), [status as number], [headers],
              [number of the first fact], [checksum (4 bytes)], body to the end
    NOTIFICATION as RESPONSE, but not the last answer
    CANCEL    nothing; the answer still comes, and is most likely a FAILURE
    FAILURE   code, reason: the link or the program failed, there is no HTTP status
    FACTS     number of facts, their chain (8 bytes): what an end holds from now on; no exchange id
    DOCUMENT  kind << 5 | number of the document (5 bits, or what says that a byte with it follows), the document: a request or an
              answer with its exchange id (`memory`)

An end that tells facts and one that holds them (`facts`) agree on the lesser of the numbers in their HELLOs. If that is the telling
end's, the other says FACTS.

A sync with the header `observe: 0` (the Observe option of RFC 7641) is answered with any number of NOTIFICATIONs, each when
the one before was acknowledged, and in the end with one RESPONSE or FAILURE, which is all that an end brings which does not
care for the header. The asking end has no end of its own but CANCEL.

A message before the other end's HELLO uses MSC3079's tables and no dictionary, which every receiver has. Messages may
overtake each other: whatever one relies on was acknowledged before it was written. Between two ends that remember (`memory`)
small requests and answers are DOCUMENTs instead, which are read in the order in which they were written.

Authorization is sticky: the first request that carries a value also gives it a handle, and once that request is
acknowledged the handle alone is sent. The 64-byte signature of an X-Matrix header is cut out and travels as raw
bytes; the text around it is what sticks. A CBOR body means `content-type: application/json`. Headers that only speak
of an HTTP connection or a browser are not carried (`DROPPED`).
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING

from transports.exchange import Headers, Priority, Request, Response
from transports.lowband import body as bodies
from transports.lowband import facts, fields, tables, targets
from transports.lowband import memory as memories
from transports.lowband.cbor import decode as decode_cbor
from transports.lowband.dictionary import WIRE_HASH, CompressionError, Dictionaries, shipped
from transports.lowband.factlist import Standing
from transports.lowband.facts import CondensedBody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transports.lowband.told import Condensed, Telling

VERSION = 2
MAX_CONTENT = 8 * 1024 * 1024
"""Bytes that one message may unfold to."""
MAX_ID = 0xFFFF
MAX_HEADERS = 32
MAX_HANDLES = 64
_MAX_DICTIONARIES = 6
_MAX_STICKY = 2048
_MAX_REASON = 200

_METHODS = ("GET", "PUT", "POST", "DELETE")
_OTHER_METHOD = len(_METHODS)
_METHOD = re.compile(r"[A-Z]{1,16}")
_X_MATRIX = re.compile(r'(X-Matrix .*sig="?)([A-Za-z0-9+/]{85}[AQgw])(|".*)', re.DOTALL)
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_VERBATIM = re.compile(r"/_matrix/(media|client/v1/media|federation/v1/media)/")

_DROPPED_NAMES = """
accept accept-charset accept-encoding accept-language alt-svc connection content-length date dnt expect forwarded host
keep-alive origin pragma priority proxy-authorization proxy-connection referer server strict-transport-security te
trailer transfer-encoding upgrade upgrade-insecure-requests user-agent vary via
"""
DROPPED = frozenset(_DROPPED_NAMES.split())
_DROPPED_PREFIXES = ("access-control-", "sec-", "x-forwarded-", ":")


class Kind(IntEnum):
    HELLO = 0
    REQUEST = 1
    RESPONSE = 2
    CANCEL = 3
    FAILURE = 4
    NOTIFICATION = 5
    FACTS = 6
    DOCUMENT = 7


_ANSWERS = (Kind.RESPONSE, Kind.NOTIFICATION)


class FailureCode(IntEnum):
    """What the asking end may conclude."""

    FAILED = 0
    """It may or may not have been carried out."""
    REFUSED = 1
    """It was not carried out and can be sent again."""
    CANCELLED = 2
    """It was cancelled; it may have been carried out before."""
    TOO_LARGE = 3
    """It was carried out, but the answer is larger than this link carries."""


@dataclass(frozen=True, slots=True)
class Hello:
    version: int
    tables: bytes
    dictionaries: tuple[bytes, ...]
    facts: int | None = None
    """That end tells facts, the last with this number."""
    holds: Standing | None = None
    """That end holds facts."""


@dataclass(frozen=True, slots=True)
class RequestMessage:
    exchange_id: int
    request: Request


@dataclass(frozen=True, slots=True)
class ResponseMessage:
    """`is_last`: a RESPONSE, no NOTIFICATION. `condensed`: the body that is to be restored and put into the response."""

    exchange_id: int
    response: Response
    is_last: bool = True
    condensed: CondensedBody | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    exchange_id: int


@dataclass(frozen=True, slots=True)
class Failure:
    exchange_id: int
    code: FailureCode
    reason: str


Message = Hello | RequestMessage | ResponseMessage | Cancel | Failure | Standing


class MemoryLost(Exception):
    """What the other end's documents build upon is not what this end remembers: only a new connection helps."""


class MessageError(ValueError):
    """The other end's bytes are not a message. `kind` and `exchange_id` say whose answer is at stake, where known."""

    def __init__(self, reason: str, kind: Kind | None = None, exchange_id: int | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.exchange_id = exchange_id


@dataclass
class Session:
    """One connection's memory: what the other end announced, and the authorizations that either end may abbreviate.

    Sans-io: `encode_…` gives the bytes to send, `receive` takes whole messages in the order in which they came. `remembers`: this end is
    willing to keep a memory of small requests and answers, for a line so thin that it is worth it. `telling`: it tells the other end of
    facts, if that end says what it holds. `holds`: what this one does.
    """

    dictionaries: Dictionaries = field(default_factory=shipped)
    max_content: int = MAX_CONTENT
    remembers: bool = False
    telling: Telling | None = None
    holds: Standing | None = None
    peer: Hello | None = None
    _memory: memories.Memory | None = None
    _sent: dict[str, int] = field(default_factory=dict)
    _acknowledged: set[str] = field(default_factory=set)
    _received: dict[int, str] = field(default_factory=dict)

    # — out

    def encode_hello(self) -> bytes:
        """What this end has; to be sent first and once."""
        told = b"" if self.telling is None else facts.TELLS + self.telling.top.to_bytes(4, "big")
        held = b"" if self.holds is None else facts.HOLDS + self.holds.number.to_bytes(4, "big") + self.holds.chain.to_bytes(8, "big")
        return bytes((Kind.HELLO << 5, VERSION)) + tables.extended().hash + b"".join(self._announced) + told + held

    @property
    def _announced(self) -> tuple[bytes, ...]:
        names = (memories.name(),) if self.remembers else ()
        return (*self.dictionaries.hashes[: _MAX_DICTIONARIES - len(names)], *names)

    def encode_request(self, exchange_id: int, request: Request) -> bytes:
        """The request, without headers of no meaning here. Raises ValueError on what cannot be a request."""
        if self._is_remembered(request.target):
            carried, value = _carried(request.headers)
            around = None if value is None else _around_signature(value)
            document = self._shared_memory.encode_request(exchange_id, request, carried, around)
            if document is not None:
                return _marked(document)
        method = _METHODS.index(request.method) if request.method in _METHODS else _OTHER_METHOD
        headers, authorization = _carried(request.headers)
        verbatim = _VERBATIM.match(request.target) is not None
        packed, headers = self._body(request.body, headers, verbatim)
        shape = (method * 5 + request.priority) << 3 | bool(request.authority) << 2 | (authorization is not None) << 1
        vocabulary = self._tables.vocabulary
        parts = [bytes((shape | bool(headers),))]
        if method == _OTHER_METHOD:
            parts.append(fields.text(request.method, vocabulary))
        if request.authority:
            parts.append(fields.text(request.authority, vocabulary))
        if authorization is not None:
            parts.append(self._authorization(authorization))
        if headers:
            parts.append(self._headers(headers))
        parts.append(targets.encode(request.target, self._tables.paths, vocabulary))
        parts.append(request.body if packed is None else packed)
        return self._message(Kind.REQUEST, exchange_id, b"".join(parts), packed is not None)

    def delivered(self, request: Request) -> None:
        """The other end has acknowledged this request: from now on its authorization's handle is enough."""
        authorization = _carried(request.headers)[1]
        around = None if authorization is None else _around_signature(authorization)[0]
        if around is not None and around in self._sent:
            self._acknowledged.add(around)

    def condense(self, response: Response, target: str) -> Condensed | None:
        """What facts make of an answer to the other end's request for `target`, to be given to `encode_response` before anything else is
        written; None where they are not told.
        """
        if self.telling is None or _VERBATIM.match(target) is not None:
            return None
        types = {value for name, value in response.headers if name.lower() == "content-type"}
        value = None
        if types <= {bodies.JSON} and len(response.body) <= bodies.MAX_JSON and facts.may_hold_facts(response.body):
            with suppress(ValueError, TypeError):
                value = bodies.to_value(response.body)
        return self.telling.condense(value)

    def encode_response(
        self, exchange_id: int, response: Response, *, target: str = "", is_last: bool = True, condensed: Condensed | None = None
    ) -> bytes:
        """The answer to the other end's request for `target`, or one of several; with its body condensed where that is given."""
        kind = Kind.RESPONSE if is_last else Kind.NOTIFICATION
        if condensed is not None and condensed.body is not None:
            body = condensed.body
            message = self._encode_response(kind, exchange_id, replace(response, body=bodies.from_value(body.value)), target, body)
            if message is not None:
                return message
            condensed.give_up()
        message = self._encode_response(kind, exchange_id, response, target, None)
        assert message is not None
        if condensed is not None and not self.is_final(message):
            condensed.acknowledge()  # nothing waits for it
        return message

    def _encode_response(self, kind: Kind, exchange_id: int, response: Response, target: str, body: CondensedBody | None) -> bytes | None:
        """None: the body has no form in which it may be condensed."""
        headers, _ = _carried(response.headers)
        if self._is_remembered(target):
            document = self._shared_memory.encode_response(
                exchange_id, response, headers, target, is_last=kind is Kind.RESPONSE, condensed=body
            )
            if document is not None:
                return _marked(document)
        packed, headers = self._body(response.body, headers, _VERBATIM.match(target) is not None)
        if packed is None and body is not None:
            return None
        shape = 0 if body is None else (body.check is not None) << 3 | 4
        parts = [bytes((shape | (response.status != 200) << 1 | bool(headers),))]
        if response.status != 200:
            parts.append(fields.number(response.status))
        if headers:
            parts.append(self._headers(headers))
        if body is not None:
            parts.append(fields.number(body.first))
            parts.append(b"" if body.check is None else body.check.to_bytes(4, "big"))
        parts.append(response.body if packed is None else packed)
        return self._message(kind, exchange_id, b"".join(parts), packed is not None)

    def encode_standing(self, standing: Standing) -> bytes:
        """To an end that tells facts: what this one holds."""
        return bytes((Kind.FACTS << 5,)) + fields.number(standing.number) + standing.chain.to_bytes(8, "big")

    def encode_cancel(self, exchange_id: int) -> bytes:
        return self._message(Kind.CANCEL, exchange_id, b"", False)

    def encode_failure(self, failure: Failure) -> bytes:
        raw = failure.reason.encode(errors="replace")[:_MAX_REASON]
        reason = raw.decode(errors="ignore")
        payload = bytes((failure.code,)) + fields.text(reason, self._tables.vocabulary)
        return self._message(Kind.FAILURE, failure.exchange_id, payload, False)

    # — remembering

    def is_final(self, message: bytes) -> bool:
        """Whether a written message may not be withdrawn, for later ones build upon it."""
        return self._is_document(message)

    def arrived(self, message: bytes) -> None:
        """The other end has acknowledged this message."""
        if self._is_document(message):
            self._shared_memory.arrived(_unmarked(message))

    def _is_document(self, message: bytes) -> bool:
        return self.remembers and message[0] >> 5 == Kind.DOCUMENT

    def _is_remembered(self, target: str) -> bool:
        if not self.remembers or self.peer is None or memories.name() not in self.peer.dictionaries:
            return False
        return _VERBATIM.match(target) is None

    @property
    def _shared_memory(self) -> memories.Memory:
        if self._memory is None:
            self._memory = memories.Memory()
        return self._memory

    @property
    def _extended(self) -> bool:
        return self.peer is not None and self.peer.tables == tables.extended().hash

    @property
    def _tables(self) -> tables.Tables:
        return tables.extended() if self._extended else tables.msc3079()

    def _message(self, kind: Kind, exchange_id: int, payload: bytes, cbor: bool) -> bytes:
        compression, shown = self._compressed(payload)
        first = kind << 5 | self._extended << 4 | cbor << 3 | compression
        return bytes((first,)) + fields.number(exchange_id) + shown

    def _compressed(self, payload: bytes) -> tuple[int, bytes]:
        best = (0, payload)
        if len(payload) < 16:
            return best
        announced = self.peer.dictionaries if self.peer else ()
        known = self.dictionaries.hashes
        common = next((name for name in known if name in announced), None)
        frame = self.dictionaries.compress(payload, common)
        if len(frame) < len(payload):
            best = (1 if common is None else 2 + announced.index(common), frame)
        return best

    def _body(self, body: bytes, headers: Headers, verbatim: bool) -> tuple[bytes | None, Headers]:
        """The body as CBOR with its content type taken out of the headers, or None and the headers as they are."""
        types = [value for name, value in headers if name == "content-type"]
        if [value.split(";")[0].strip().lower() for value in types] not in ([], [bodies.JSON]):
            return None, headers
        if verbatim and types != [bodies.JSON]:
            return None, headers
        packed = bodies.to_cbor(body, self._tables.vocabulary, verbatim=verbatim)
        if packed is None:
            return None, headers
        return packed, tuple(header for header in headers if header[0] != "content-type")

    def _headers(self, headers: Headers) -> bytes:
        vocabulary = self._tables.vocabulary
        parts = [fields.text(text, vocabulary) for header in headers for text in header]
        return fields.number(len(headers)) + b"".join(parts)

    def _authorization(self, value: str) -> bytes:
        """number(handle << 2 | literal << 1 | signature), [text], [64 bytes]; handle 0 is not remembered."""
        around, signature = _around_signature(value)
        handle = self._sent.get(around, 0)
        if not handle and len(self._sent) < MAX_HANDLES and len(around) <= _MAX_STICKY // 4:
            handle = self._sent[around] = len(self._sent) + 1
        literal = not handle or around not in self._acknowledged
        head = fields.number(handle << 2 | literal << 1 | bool(signature))
        return head + (fields.text(around, self._tables.vocabulary) if literal else b"") + signature

    # — in

    def receive(self, data: bytes) -> Iterator[Message]:
        """The messages whose turn has come with this one: itself, unless it has overtaken what it builds upon. Raises MessageError,
        MemoryLost.
        """
        if not data or not self._is_document(data):
            yield self.decode(data)
            return
        try:
            for document in self._shared_memory.in_order(_unmarked(data)):
                yield self._decode_document(document)
        except ValueError as error:
            raise MemoryLost(str(error)) from error

    def _decode_document(self, data: bytes) -> Message:
        told = self._shared_memory.decode(data)
        if told.exchange_id > MAX_ID:
            raise fields.FieldError("an exchange id beyond its limit")
        if isinstance(told, memories.ResponseDocument):
            return ResponseMessage(told.exchange_id, told.response, told.is_last, told.condensed)
        request = told.request
        _check_target(request.target)
        _check_headers(request.headers)
        if told.authorization is not None:
            value = _with_signature(*told.authorization)
            request = replace(request, headers=(("authorization", value), *request.headers))
        return RequestMessage(told.exchange_id, request)

    def decode(self, data: bytes) -> Message:
        """The message in these bytes, which is no document; a HELLO is remembered. Raises MessageError."""
        kind: Kind | None = None
        exchange_id: int | None = None
        try:
            reader = fields.Reader(data)
            first = reader.byte()
            kind = Kind(first >> 5)
            if kind is Kind.DOCUMENT:
                raise fields.FieldError("a document of a memory that was not agreed")
            if kind is Kind.HELLO:
                self.peer = _decode_hello(reader)
                held = self.peer.holds
                if self.telling is not None and held is not None and held.number <= self.telling.top:
                    self.telling.agree(held)
                return self.peer
            if kind is Kind.FACTS:
                standing = Standing(reader.number(facts.MAX_NUMBER), int.from_bytes(reader.take(8), "big"))
                if self.telling is not None:
                    self.telling.agree(standing)
                return standing
            exchange_id = reader.number(MAX_ID)
            payload = fields.Reader(self._expanded(first & 7, reader.rest()))
            return self._decode(kind, exchange_id, payload, first)
        except ValueError as error:
            raise MessageError(str(error), kind, exchange_id) from error

    def _decode(self, kind: Kind, exchange_id: int, payload: fields.Reader, first: int) -> Message:
        table, cbor = tables.extended() if first & 0x10 else tables.msc3079(), bool(first & 8)
        if kind is Kind.REQUEST:
            return RequestMessage(exchange_id, self._decode_request(payload, table, cbor))
        if kind in _ANSWERS:
            response, condensed = _decode_response(payload, table, cbor)
            return ResponseMessage(exchange_id, response, kind is Kind.RESPONSE, condensed)
        if kind is Kind.CANCEL:
            return Cancel(exchange_id)
        code = payload.byte()
        known = FailureCode(code) if code <= max(FailureCode) else FailureCode.FAILED
        return Failure(exchange_id, known, payload.text(table.vocabulary, 4 * _MAX_REASON))

    def _expanded(self, compression: int, payload: bytes) -> bytes:
        if compression == 0:
            return payload
        name = None
        if compression > 1:
            ours = self.dictionaries.hashes[:_MAX_DICTIONARIES]
            if compression - 2 >= len(ours):
                raise CompressionError("a dictionary that was not announced")
            name = ours[compression - 2]
        return self.dictionaries.decompress(payload, name, self.max_content)

    def _decode_request(self, payload: fields.Reader, table: tables.Tables, cbor: bool) -> Request:
        shape = payload.byte()
        method_number, priority = divmod(shape >> 3, 5)
        if method_number > _OTHER_METHOD:
            raise fields.FieldError("an unknown method")
        vocabulary = table.vocabulary
        method = payload.text(vocabulary, 16) if method_number == _OTHER_METHOD else _METHODS[method_number]
        if not _METHOD.fullmatch(method):
            raise fields.FieldError("not a method")
        authority = payload.text(vocabulary, 255) if shape & 4 else ""
        authorization = self._take_authorization(payload, table) if shape & 2 else None
        headers = _take_headers(payload, table) if shape & 1 else ()
        target = targets.decode(payload, table.paths, vocabulary)
        _check_target(target)
        if authorization is not None:
            headers = (("authorization", authorization), *headers)
        body, headers = _take_body(payload, table, cbor, headers)
        return Request(method, target, authority, headers, body, Priority(priority))

    def _take_authorization(self, payload: fields.Reader, table: tables.Tables) -> str:
        head = payload.number(MAX_HANDLES << 2 | 3)
        handle = head >> 2
        around = payload.text(table.vocabulary, _MAX_STICKY * 4) if head & 2 else self._received.get(handle)
        if around is None:
            raise fields.FieldError("an authorization that was never told")
        if handle and head & 2:
            self._received[handle] = around
        return _with_signature(around, bodies.to_base64(payload.take(64)) if head & 1 else "")


def _carried(headers: Headers) -> tuple[Headers, str | None]:
    """The headers worth their bytes, names in lower case, and the authorization taken out of them."""
    kept: list[tuple[str, str]] = []
    authorization = None
    for name, value in headers:
        lower = name.lower()
        if lower == "authorization":
            authorization = value if authorization is None else authorization
        elif lower not in DROPPED and not lower.startswith(_DROPPED_PREFIXES) and len(kept) < MAX_HEADERS:
            kept.append((lower, value))
    return tuple(kept), authorization


def _around_signature(authorization: str) -> tuple[str, bytes]:
    """An X-Matrix header with NUL in the place of its signature, and the signature; other values whole."""
    match = _X_MATRIX.fullmatch(authorization)
    if match is None:
        return authorization, b""
    return f"{match[1]}\0{match[3]}", base64.b64decode(match[2] + "==")


def _with_signature(around: str, signature: str) -> str:
    value = around.replace("\0", signature, 1)
    if not _HEADER_VALUE.fullmatch(value):
        raise fields.FieldError("not a header value")
    return value


def _check_target(target: str) -> None:
    if not target.startswith("/") or not target.isascii() or not target.isprintable() or " " in target:
        raise fields.FieldError("not a request target")


def _check_headers(headers: Headers) -> None:
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value) or name == "authorization":
            raise fields.FieldError("not a header")


def _marked(document: bytes) -> bytes:
    return bytes((Kind.DOCUMENT << 5 | document[0],)) + document[1:]


def _unmarked(message: bytes) -> bytes:
    return bytes((message[0] & 0x1F,)) + message[1:]


def _decode_hello(reader: fields.Reader) -> Hello:
    version, table, names = reader.byte(), reader.take(4), reader.rest()
    hashes = [names[n : n + WIRE_HASH] for n in range(0, len(names), WIRE_HASH)]
    if len(hashes) > 64 or len(names) % WIRE_HASH:
        raise fields.FieldError("not a list of dictionaries")
    told, held = _taken(hashes, facts.TELLS, 1), _taken(hashes, facts.HOLDS, 3)
    return Hello(
        version,
        table,
        tuple(hashes[:_MAX_DICTIONARIES]),
        None if told is None else int.from_bytes(told, "big"),
        None if held is None else Standing(int.from_bytes(held[:4], "big"), int.from_bytes(held[4:], "big")),
    )


def _taken(hashes: list[bytes], name: bytes, count: int) -> bytes | None:
    """So many words after a name, which are taken out of the list with it; None if it is not there."""
    if name not in hashes:
        return None
    at = hashes.index(name)
    words = hashes[at + 1 : at + 1 + count]
    del hashes[at : at + 1 + count]
    return b"".join(words) if len(words) == count else None


def _decode_response(payload: fields.Reader, table: tables.Tables, cbor: bool) -> tuple[Response, CondensedBody | None]:
    shape = payload.byte()
    status = payload.number(599) if shape & 2 else 200
    if status < 100:
        raise fields.FieldError("not a status")
    headers = _take_headers(payload, table) if shape & 1 else ()
    if shape & 4:
        first = payload.number(facts.MAX_NUMBER)
        check = int.from_bytes(payload.take(4), "big") if shape & 8 else None
        value = decode_cbor(payload.rest(), table.vocabulary)
        return Response(status, (("content-type", bodies.JSON), *headers), b""), CondensedBody(value, first, check)
    body, headers = _take_body(payload, table, cbor, headers)
    return Response(status, headers, body), None


def _take_headers(payload: fields.Reader, table: tables.Tables) -> Headers:
    count = payload.number(MAX_HEADERS)
    headers = tuple((payload.text(table.vocabulary, 64), payload.text(table.vocabulary)) for _ in range(count))
    _check_headers(headers)
    return headers


def _take_body(payload: fields.Reader, table: tables.Tables, cbor: bool, headers: Headers) -> tuple[bytes, Headers]:
    if not cbor:
        return payload.rest(), headers
    return bodies.to_json(payload.rest(), table.vocabulary), (("content-type", bodies.JSON), *headers)
