"""Requests and responses as CoAP messages, as MSC3079 maps them.

- A method is its code, each segment of the path a Uri-Path and each `k=v` a Uri-Query, percent-decoded. A first segment of one
  character is a code of the path table, its parameters follow; full paths stay valid.
- JSON travels as CBOR (Content-Format 60). Keys are integers for who has asked for a version of the key table (option 257) or has used
  integer keys itself; who sends or accepts JSON (50) gets JSON.
- The access token (option 256) and the version hold until the connection ends or others are sent.
- The status is a response code. Where that leaves open which status it is, the elective option 2076 carries it as an integer. MSC3079
  has none for it; the number is from the range 2048 … 64999, which RFC 7252 §12.2 leaves to private options by expert review, for those
  above are for experiments alone. As 2076 & 0x1e = 0x1c it is no part of a cache key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

import orjson

from transports.coap.message import Code, Option, uint
from transports.exchange import Request, Response
from transports.lowband import body as bodies
from transports.lowband import cbor, tables, targets
from transports.lowband.fields import FieldError

if TYPE_CHECKING:
    from transports.coap.message import Message, Options

ACCESS_TOKEN: Final = 256
CBOR_VERSION: Final = 257
HTTP_STATUS: Final = 2076
UNDERSTOOD: Final = {ACCESS_TOKEN: (0, 255), CBOR_VERSION: (0, 4)}
"""Options of requests beyond those of CoAP: the shortest and longest value."""
VERSION: Final = 1
"""Of the key table."""

TEXT, OCTETS, JSON, CBOR = 0, 42, 50, 60
_TYPES: Final = {"text/plain": TEXT, "application/octet-stream": OCTETS, "application/json": JSON, "application/cbor": CBOR}
_NAMES: Final = {number: name for name, number in _TYPES.items()}
_METHODS: Final = {int(Code.GET): "GET", int(Code.POST): "POST", int(Code.PUT): "PUT", int(Code.DELETE): "DELETE"}
_CODES: Final = {name: code for code, name in _METHODS.items()}

_STATUSES: Final[dict[int, Code]] = {
    200: Code.CONTENT, 201: Code.CREATED, 304: Code.VALID, 400: Code.BAD_REQUEST, 401: Code.UNAUTHORIZED, 403: Code.FORBIDDEN,
    404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 406: Code.NOT_ACCEPTABLE, 409: Code.CONFLICT, 412: Code.PRECONDITION_FAILED,
    413: Code.REQUEST_ENTITY_TOO_LARGE, 415: Code.UNSUPPORTED_CONTENT_FORMAT, 422: Code.UNPROCESSABLE_ENTITY,
    429: Code.TOO_MANY_REQUESTS, 500: Code.INTERNAL_SERVER_ERROR, 501: Code.NOT_IMPLEMENTED, 502: Code.BAD_GATEWAY,
    503: Code.SERVICE_UNAVAILABLE, 504: Code.GATEWAY_TIMEOUT,
}  # fmt: skip
"""RFC 8075 §7 and RFC 8516. A 200 is 2.05 whatever the method: the clients that there are know no other success."""
_BY_CODE: Final = {int(code): status for status, code in _STATUSES.items()} | {int(Code.CHANGED): 200, int(Code.DELETED): 200}
_BY_CLASS: Final = {2: Code.CONTENT, 3: Code.BAD_GATEWAY, 4: Code.BAD_REQUEST}

_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,255}")
_QUERY_SAFE: Final = "!$'()*,/:;@~"
_SEGMENT_SAFE: Final = "!$'()*,:;@~"


class Refused(Exception):
    """A request that is answered here: `code` and a sentence for its author."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(slots=True)
class Memory:
    """What holds for a connection. `version` of the key table: 0 is none."""

    token: str | None = None
    version: int = 0

    @property
    def vocabulary(self) -> cbor.Vocabulary:
        return tables.msc3079().vocabulary if self.version else cbor.PLAIN


@dataclass(frozen=True, slots=True)
class Asking:
    """A request, and whether its author wants JSON."""

    request: Request
    wants_json: bool = False


# — the answering end


def request_of(message: Message, memory: Memory) -> Asking:
    """The request in a whole message; remembers what holds on. Raises Refused."""
    method = _METHODS.get(message.code)
    if method is None:
        raise Refused(Code.METHOD_NOT_ALLOWED, "no method of HTTP")
    version = message.number(CBOR_VERSION)
    if version is not None:
        memory.version = min(version, VERSION)  # tables only grow: who knows a later one knows this
    token = message.value(ACCESS_TOKEN)
    if token is not None:
        memory.token = _token(token)
    accept = message.number(Option.ACCEPT)
    if accept not in (None, JSON, CBOR):
        raise Refused(Code.NOT_ACCEPTABLE, "answers are CBOR or JSON")
    form = message.number(Option.CONTENT_FORMAT)
    body, headers = _body(message.payload, form, memory)
    if memory.token is not None:
        headers = (*headers, ("authorization", f"Bearer {memory.token}"))
    host = message.value(Option.URI_HOST)
    authority = "" if host is None else host.decode("ascii", "replace")
    if authority and not _HOST.fullmatch(authority):
        raise Refused(Code.BAD_REQUEST, "Uri-Host is not a host")
    request = Request(method, _target(message), authority, headers, body)
    return Asking(request, wants_json=accept == JSON or (accept is None and form == JSON))


def _token(value: bytes) -> str | None:
    text = value.decode("ascii", "replace").removeprefix("Bearer ").strip()
    if not text:
        return None
    if not _TOKEN.fullmatch(text):
        raise Refused(Code.BAD_REQUEST, "not an access token")
    return text


def _body(payload: bytes, form: int | None, memory: Memory) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    if form is not None and form not in _NAMES:
        raise Refused(Code.UNSUPPORTED_CONTENT_FORMAT, "bodies are CBOR or JSON")
    if form != CBOR:
        return payload, () if form is None or not payload else (("content-type", _NAMES[form]),)
    if not payload:
        return b"", ()
    json_type = (("content-type", "application/json"),)
    try:
        return bodies.to_json(payload, cbor.PLAIN), json_type
    except cbor.CborError:
        pass  # integer keys, most likely
    try:
        found = bodies.to_json(payload, tables.msc3079().vocabulary)
    except (cbor.CborError, ValueError, TypeError) as error:
        raise Refused(Code.BAD_REQUEST, f"the body is not a JSON value in CBOR: {error}") from error
    memory.version = VERSION
    return found, json_type


def _target(message: Message) -> str:
    try:
        segments = [value.decode() for value in message.values(Option.URI_PATH)]
        queries = [value.decode() for value in message.values(Option.URI_QUERY)]
        path = targets.from_segments(segments, tables.msc3079_path_codes())
    except UnicodeDecodeError as error:
        raise Refused(Code.BAD_REQUEST, "path and query are UTF-8") from error
    except FieldError as error:
        raise Refused(Code.BAD_REQUEST, str(error)) from error
    return f"{path}?{'&'.join(map(_quoted, queries))}" if queries else path


def _quoted(pair: str) -> str:
    key, mark, value = pair.partition("=")
    return quote(key, safe=_QUERY_SAFE) + mark + quote(value, safe=_QUERY_SAFE)


def message_of(response: Response, memory: Memory, *, wants_json: bool = False) -> tuple[int, Options, bytes]:
    """Code, options and whole payload of the answer."""
    code = _STATUSES.get(response.status) or _BY_CLASS.get(response.status // 100, Code.INTERNAL_SERVER_ERROR)
    options: list[tuple[int, bytes]] = []
    form = _TYPES.get((response.header("content-type") or "").partition(";")[0].strip().lower())
    payload = response.body
    if form == JSON and not wants_json:
        packed = _packed(payload, memory)
        form, payload = (form, payload) if packed is None else (CBOR, packed)
    if form is not None and payload:
        options.append((Option.CONTENT_FORMAT, uint(form)))
    if response.status in (429, 503) and (wait := response.header("retry-after") or "").isdecimal():
        options.append((Option.MAX_AGE, uint(min(int(wait[:9]), 0xFFFFFFFF))))
    if _BY_CODE.get(code) != response.status:
        options.append((HTTP_STATUS, uint(response.status)))
    return code, tuple(options), payload


def _packed(body: bytes, memory: Memory) -> bytes | None:
    try:
        return cbor.encode(orjson.loads(body), memory.vocabulary)
    except (ValueError, TypeError):
        return None


# — the asking end


@dataclass(slots=True)
class Told:
    """What the other end has been told on this connection and is known to have heard."""

    token: str | None = None
    version: bool = False

    def heard(self, request: Request) -> None:
        """That request has been answered."""
        self.token, self.version = _bearer(request) or self.token, True


def _bearer(request: Request) -> str | None:
    scheme, _, token = (request.header("authorization") or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def ask_of(request: Request, told: Told) -> tuple[int, Options, bytes]:
    """Code, options and whole payload of a request: the path as a code where it has one, the body as CBOR. Raises ValueError on a
    method that CoAP has not.
    """
    code = _CODES.get(request.method)
    if code is None:
        raise ValueError(f"CoAP has no {request.method}")
    path, _, query = request.target.partition("?")
    options: list[tuple[int, bytes]] = [(Option.URI_PATH, segment.encode()) for segment in _segments(path)]
    options += [(Option.URI_QUERY, unquote(pair.replace("+", " ")).encode()) for pair in query.split("&") if pair]
    if request.authority:
        options.append((Option.URI_HOST, request.authority.encode()))
    token = _bearer(request)
    if token is not None and token != told.token:
        options.append((ACCESS_TOKEN, token.encode()))
    if not told.version:
        options.append((CBOR_VERSION, uint(VERSION)))
    payload = request.body
    if payload:
        packed = bodies.to_cbor(payload, tables.msc3079().vocabulary)
        options.append((Option.CONTENT_FORMAT, uint(JSON if packed is None else CBOR)))
        payload = payload if packed is None else packed
    return code, tuple(options), payload


def _segments(path: str) -> list[str]:
    found = tables.msc3079().paths.match(path.replace("/_matrix/client/v3/", "/_matrix/client/r0/", 1))
    if found is None:
        return [unquote(segment) for segment in path.split("/")[1:]]
    index, parameters = found
    return [list(tables.msc3079_path_codes())[index], *map(unquote, parameters)]


def response_from(code: int, options: Options, payload: bytes) -> Response:
    """The response in an answer. Raises CborError on a body that is not a JSON value."""
    numbers = {number: int.from_bytes(value, "big") for number, value in options if number != Option.ETAG}
    status = numbers.get(HTTP_STATUS) or _BY_CODE.get(code) or (code >> 5) * 100
    form = numbers.get(Option.CONTENT_FORMAT)
    headers: tuple[tuple[str, str], ...] = ()
    if form == CBOR:
        payload, form = bodies.to_json(payload, tables.msc3079().vocabulary), JSON
    if form in _NAMES:
        headers = (("content-type", _NAMES[form]),)
    if status in (429, 503) and Option.MAX_AGE in numbers:
        headers = (*headers, ("retry-after", str(numbers[Option.MAX_AGE])))
    return Response(status, headers, payload)
