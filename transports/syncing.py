"""How a sync goes on: the next poll after an answer, and whether an answer holds news. Sans-io.

Whoever observes a sync (RFC 7641 in spirit; MSC3079, "CoAP OBSERVE") asks once; from then on the end that answers polls in their place
and tells only of news (`transports.observing`). A sync is one of

    GET /v3/sync                                  `since` in the query, `next_batch` in the answer
    POST /unstable/org.matrix.simplified_msc3575/sync, and others of that form
                                                  `pos` and `timeout` in the query, `pos` in the answer
    POST /v4/sync                                 `pos` and `timeout` in the body, `pos` in the answer

of the client-server API and MSC4186.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote

import orjson

if TYPE_CHECKING:
    from transports.exchange import Request

CLASSIC: Final = ("/_matrix/client/r0/sync", "/_matrix/client/v3/sync")
SLIDING: Final = ("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", "/_matrix/client/unstable/org.edgeserver.screen/sync")
ACCEPTED: Final = "/_matrix/client/v4/sync"
POLL_MS: Final = 300_000
_ONCE: Final = ("since", "timeout", "full_state")
_COUNTS: Final = ("device_one_time_keys_count", "device_unused_fallback_key_types", "org.matrix.msc2732.device_unused_fallback_key_types")
"""Sections that are always there, and news only if they are not as before."""
_POSITIONS: Final = ("next_batch", "pos")
"""Say how far an answer goes, and nothing else."""


class Form(Enum):
    """Where a request has its position and its timeout."""

    CLASSIC = "since"
    IN_QUERY = "pos"
    IN_BODY = "body"


def form_of(request: Request) -> Form | None:
    """None if it cannot be observed."""
    path = request.target.partition("?")[0]
    if request.method == "GET":
        return Form.CLASSIC if path in CLASSIC else None
    if request.method != "POST":
        return None
    return Form.IN_QUERY if path in SLIDING else Form.IN_BODY if path == ACCEPTED else None


def position_of(request: Request, form: Form) -> str | None:
    """Where the request goes on from; None if it begins."""
    if form is Form.IN_BODY:
        return _position(_object(request.body).get("pos"))
    pairs = dict(parse_qsl(request.target.partition("?")[2]))
    return pairs.get("since" if form is Form.CLASSIC else "pos") or None


def _position(told: object) -> str | None:
    whole = isinstance(told, int) and not isinstance(told, bool)
    return str(told) if whole or isinstance(told, str) else None


def is_sync(request: Request) -> bool:
    """Whether it is the sync that MSC3079 lets clients observe."""
    return form_of(request) is Form.CLASSIC


def at_once(request: Request) -> Request:
    """The same classic sync, which does not wait."""
    return _with(request, ("timeout",), "timeout=0")


def patient(request: Request, form: Form) -> Request:
    """The same sync, which waits for news for `POLL_MS`."""
    if form is Form.IN_BODY:
        return replace(request, body=orjson.dumps(_object(request.body) | {"timeout": POLL_MS}))
    return _with(request, ("timeout",), f"timeout={POLL_MS}")


def at(request: Request, form: Form, position: str | None) -> Request:
    """The sync that goes on from an answer's position (None: that begins), without a timeout."""
    if form is Form.IN_BODY:
        kept = {name: value for name, value in _object(request.body).items() if name not in ("pos", "timeout")}
        return replace(request, body=orjson.dumps(kept if position is None else kept | {"pos": position}))
    name = "since" if form is Form.CLASSIC else "pos"
    return _with(request, (*_ONCE, "pos"), "" if position is None else f"{name}={quote(position, safe='')}")


def after(request: Request, form: Form, position: str) -> Request:
    """The sync that goes on from an answer's position and waits for news."""
    return patient(at(request, form, position), form)


def _with(request: Request, without: tuple[str, ...], more: str) -> Request:
    path, _, query = request.target.partition("?")
    pairs = [pair for pair in (*query.split("&"), more) if pair and (pair is more or pair.partition("=")[0] not in without)]
    return replace(request, target=f"{path}?{'&'.join(pairs)}" if pairs else path)


class Answer:
    """What the body of a sync's answer says. One that is none has no position."""

    def __init__(self, body: bytes, form: Form) -> None:
        self._found = _object(body)
        self.position = _position(self._found.get("next_batch" if form is Form.CLASSIC else "pos"))

    @property
    def counts(self) -> dict[str, Any]:
        """What is told whether it has changed or not: it is news only when it changes."""
        counts: dict[str, Any] = {name: self._found[name] for name in _COUNTS if name in self._found}
        e2ee = _inner(_inner(self._found, "extensions"), "e2ee")
        counts |= {name: e2ee[name] for name in _COUNTS if name in e2ee}
        return counts | ({"lists": self._found["lists"]} if "lists" in self._found else {})

    def has_news(self, counts: dict[str, Any]) -> bool:
        """Whether it tells more than that time has passed; `counts` are those of the answers before."""
        if any(value != counts.get(name) for name, value in self.counts.items()):
            return True
        return _is_filled({name: value for name, value in self._found.items() if name not in _POSITIONS})

    @property
    def has_to_device(self) -> bool:
        """Whether it holds messages to the device, which the next sync acknowledges for good: so that must be the client's own."""
        of_extension = _inner(_inner(self._found, "extensions"), "to_device")
        return bool(_inner(self._found, "to_device").get("events") or of_extension.get("events"))


def _is_filled(value: Any) -> bool:
    """Whether there is anything in it; what stands there every time is nothing, but a count of zero tells that all has been read."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return True
    if isinstance(value, dict):
        always = (*_COUNTS, "lists", *_POSITIONS)
        return any(_is_filled(one) for name, one in value.items() if name not in always)
    return bool(value)


def _inner(table: dict[str, Any], key: str) -> dict[str, Any]:
    found = table.get(key)
    return found if isinstance(found, dict) else {}


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
