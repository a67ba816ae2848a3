"""Asking other servers: one signed request, by the best way there is, and its answer checked for size and shape.

Spec: server-server API, "Request Authentication". `FederationClient.request` is the whole of it; the endpoints are
in `calls.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.federation.errors import BadAnswer, PeerError, PeerUnreachable
from edgeserver.matrix import canonical_json, signatures
from transports.exchange import ExchangeError, Priority, Request, TooLarge, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.federation.peers import Peers, Way
    from edgeserver.matrix.signatures import SigningKey
    from transports.exchange import LinkProfile, Response

MAX_ANSWER: Final = 4 * 1024 * 1024
MAX_STATE_ANSWER: Final = 256 * 1024 * 1024
TIMEOUT: Final = 60.0
MAX_TIMEOUT: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to another server.

    `target` is the path and query, percent-encoded; `content` the JSON body, None where there is none. `timeout` is
    in seconds on a fast line; `expected` is how many bytes may come back at an ordinary time, `max_answer` how many
    at most.
    """

    method: str
    target: str
    content: Mapping[str, Any] | None = None
    priority: Priority = Priority.MESSAGE
    timeout: float = TIMEOUT
    expected: int = 4096
    max_answer: int = MAX_ANSWER


class FederationClient:
    """Signs, sends and reads. Errors are those of `errors.py`."""

    def __init__(self, server_name: str, key: SigningKey, peers: Peers) -> None:
        self._server_name = server_name
        self._key = key
        self._peers = peers

    async def json(self, server_name: str, ask: Ask) -> dict[str, Any]:
        """The JSON object that a server answers with 200."""
        response = await self.response(server_name, ask)
        try:
            answer = canonical_json.decode(response.body)
        except canonical_json.CanonicalJSONError as error:
            raise BadAnswer(server_name, f"the answer to {ask.target} is not JSON") from error
        if not isinstance(answer, dict):
            raise BadAnswer(server_name, f"the answer to {ask.target} is not an object")
        return answer

    async def response(self, server_name: str, ask: Ask) -> Response:
        """The response, if it is a success. The next way is tried only where nothing was delivered."""
        if server_name == self._server_name:
            raise PeerUnreachable(server_name, "that is this server")
        try:
            body = b"" if ask.content is None else canonical_json.encode(ask.content)
        except canonical_json.CanonicalJSONError as error:
            raise PeerUnreachable(server_name, f"the request cannot be signed: {error}") from error
        reason = "there is no way to it now"
        for way in self._peers.ways_to(server_name):
            try:
                response = await way.exchange.exchange(self._request(server_name, ask, body, way))
            except (Unreachable, TooLarge) as error:
                reason = str(error) or "it cannot be reached"
                continue
            except ExchangeError as error:
                raise PeerUnreachable(server_name, str(error), may_be_done=True) from error
            return _checked(server_name, ask, response)
        raise PeerUnreachable(server_name, reason)

    def _request(self, server_name: str, ask: Ask, body: bytes, way: Way) -> Request:
        headers: list[tuple[str, str]] = []
        if ask.content is not None:
            headers.append(("Content-Type", "application/json"))
        if way.needs_signature:
            authorization = signatures.sign_request(ask.method, ask.target, self._server_name, server_name, self._key, ask.content)
            headers.append(("Authorization", authorization))
        timeout = timeout_on(way.exchange.profile, len(body) + ask.expected, ask.timeout)
        return Request(ask.method, ask.target, server_name, tuple(headers), body, ask.priority, timeout)


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
