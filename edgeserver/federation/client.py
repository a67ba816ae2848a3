"""Asking other servers: one signed request, by the best way there is, and its answer checked for size and shape.

Spec: server-server API, "Request Authentication". `FederationClient.request` is the whole of it; the endpoints are
in `calls.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver.federation.errors import BadAnswer, PeerError, PeerUnreachable
from edgeserver.federation.peers import Via
from edgeserver.matrix import canonical_json, signatures
from transports.exchange import ExchangeError, Interrupted, Priority, Request, TimedOut, TooLarge, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.federation.peers import Peers, Way
    from edgeserver.matrix.signatures import SigningKey
    from transports.exchange import BodySink, Exchange, LinkProfile, Response

MAX_ANSWER: Final = 4 * 1024 * 1024
MAX_STATE_ANSWER: Final = 256 * 1024 * 1024
MAX_PART_OF_STATE: Final = 32 * 1024 * 1024
"""Of a room that we are in already: a peer's word on its state costs several times its size in memory."""
MAX_CHAIN_ANSWER: Final = 8 * 1024 * 1024
TIMEOUT: Final = 60.0
MAX_TIMEOUT: Final = 3600.0
REPEATS: Final = 2
"""So often is a request made again whose link went down under it, if the link is soon back."""
_REPEATABLE: Final = frozenset(("GET", "PUT"))  # every PUT of the API names its event or its transaction
_SETTLING: Final = 0.05  # until a link that is down is known to be


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to another server.

    `target` is the path and query, percent-encoded; `content` the JSON body, None where there is none. `timeout` is
    in seconds on a fast line; `expected` is how many bytes may come back at an ordinary time, `max_answer` how many
    at most. The body of a success goes to `sink`, if there is one, and the response has none.
    """

    method: str
    target: str
    content: Mapping[str, Any] | None = None
    priority: Priority = Priority.MESSAGE
    timeout: float = TIMEOUT
    expected: int = 4096
    max_answer: int = MAX_ANSWER
    sink: BodySink | None = None


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why no way brought a response; `on` is the link, if there was one, that may have gone down under the request."""

    reason: str
    on: Exchange | None = None
    may_be_done: bool = False
    error: ExchangeError | None = None


class FederationClient:
    """Signs, sends and reads. Errors are those of `errors.py`."""

    def __init__(self, server_name: str, key: SigningKey, peers: Peers) -> None:
        self._server_name = server_name
        self._key = key
        self._peers = peers
        self._awaited: dict[str, trio.Event] = {}
        peers.on_return(self._returned)

    def _returned(self, server_name: str | None) -> None:
        awaited = None if server_name is None else self._awaited.pop(server_name, None)
        if awaited is not None:
            awaited.set()

    async def json(self, server_name: str, ask: Ask) -> dict[str, Any]:
        """The JSON object that a server answers with 200."""
        response = await self.response(server_name, ask)
        try:
            answer = canonical_json.decode_exact(response.body)
        except canonical_json.CanonicalJSONError as error:
            raise BadAnswer(server_name, f"the answer to {ask.target} is not JSON") from error
        if not isinstance(answer, dict):
            raise BadAnswer(server_name, f"the answer to {ask.target} is not an object")
        return answer

    async def response(self, server_name: str, ask: Ask) -> Response:
        """The response, if it is a success. The next way is tried only where nothing was delivered.

        A link that went down under the request and is soon back gets it once more, if repeating does no harm.
        """
        if server_name == self._server_name:
            raise PeerUnreachable(server_name, "that is this server")
        try:
            body = b"" if ask.content is None else canonical_json.encode_lenient(ask.content)
        except canonical_json.CanonicalJSONError as error:
            raise PeerUnreachable(server_name, f"the request cannot be signed: {error}") from error
        may_be_done = False
        for repeats_left in reversed(range(REPEATS + 1)):
            answer = await self._try_ways(server_name, ask, body)
            if not isinstance(answer, _Failed):
                return await _poured(ask, _checked(server_name, ask, answer))
            may_be_done |= answer.may_be_done
            harmless = not answer.may_be_done or ask.method in _REPEATABLE
            if not (repeats_left and harmless and answer.on and await self._link_returns(server_name, answer.on)):
                raise PeerUnreachable(server_name, answer.reason, may_be_done=may_be_done) from answer.error
        raise AssertionError("the last try either answers or raises")

    async def _try_ways(self, server_name: str, ask: Ask, body: bytes) -> Response | _Failed:
        failed = _Failed("there is no way to it now")
        for way in self._peers.ways_to(server_name):
            link = way.exchange if way.via is Via.LINK else failed.on
            try:
                return await way.exchange.exchange(self._request(server_name, ask, body, way))
            except TooLarge as error:
                failed = _Failed(str(error) or "it cannot be reached", on=failed.on, error=error)
            except Unreachable as error:
                failed = _Failed(str(error) or "it cannot be reached", on=link, error=error)
            except ExchangeError as error:
                broke = isinstance(error, Interrupted) and not isinstance(error, TimedOut)
                return _Failed(str(error), on=way.exchange if broke and way.via is Via.LINK else None, may_be_done=True, error=error)
        return failed

    async def _link_returns(self, server_name: str, broken: Exchange) -> bool:
        """Whether, after `broken` went down, a link to that server is up within some seconds (more on a slow line). False at
        once if `broken` is not down: then the request failed for another reason."""
        await trio.sleep(_SETTLING)
        with trio.move_on_after(5 + 24_000 / (broken.profile.bit_rate or 1_000_000)):
            while True:
                links = [way.exchange for way in self._peers.ways_to(server_name) if way.via is Via.LINK]
                if links:
                    return broken not in links
                await self._awaited.setdefault(server_name, trio.Event()).wait()
        return False

    def _request(self, server_name: str, ask: Ask, body: bytes, way: Way) -> Request:
        headers: list[tuple[str, str]] = []
        if ask.content is not None:
            headers.append(("Content-Type", "application/json"))
        if way.needs_signature:
            authorization = signatures.sign_request(ask.method, ask.target, self._server_name, server_name, self._key, ask.content)
            headers.append(("Authorization", authorization))
        timeout = timeout_on(way.exchange.profile, len(body) + ask.expected, ask.timeout)
        return Request(ask.method, ask.target, server_name, tuple(headers), body, ask.priority, timeout, ask.max_answer, ask.sink)


def timeout_on(profile: LinkProfile, expected_bytes: int, timeout: float) -> float:
    """Seconds to wait on this line: twice the time that the bytes take is added, ten bit times a byte; an hour at
    most.
    """
    if profile.bit_rate is None:
        return timeout
    return min(2 * timeout + expected_bytes * 20 / max(profile.bit_rate, 1), MAX_TIMEOUT)


def _checked(server_name: str, ask: Ask, response: Response) -> Response:
    if len(response.body) > ask.max_answer:
        raise BadAnswer(server_name, f"the answer to {ask.target} is larger than {ask.max_answer} bytes")
    if 200 <= response.status < 300:
        return response
    raise _error_of(server_name, response)


async def _poured(ask: Ask, response: Response) -> Response:
    """A body that came whole goes to the sink, too."""
    if ask.sink is None or not response.body:
        return response
    await ask.sink.begin(response.headers)
    await ask.sink.write(response.body)
    return replace(response, body=b"")


def _error_of(server_name: str, response: Response) -> PeerError:
    try:
        body = canonical_json.decode(response.body)
    except canonical_json.CanonicalJSONError:
        body = None
    told = body if isinstance(body, dict) else {}
    errcode, error, after = told.get("errcode"), told.get("error"), told.get("retry_after_ms")
    header = response.header("retry-after") or ""
    if header.isdecimal() and len(header) <= 9:
        after = int(header) * 1000
    return PeerError(
        server_name,
        response.status,
        errcode[:255] if isinstance(errcode, str) else "M_UNKNOWN",
        error[:1000] if isinstance(error, str) else "",
        retry_after_ms=after if type(after) is int and after >= 0 else None,
    )
