"""Asking an application service: PUT /_matrix/app/v1/transactions/{txnId}, GET /users/{userId}, /rooms/{roomAlias} and /thirdparty/…,
POST /ping.

Spec: application service API, "Homeserver -> Application Service API"; each request carries the `hs_token` in its Authorization header.
"Legacy routes": a service that does not know a path is asked under the older one, and again under the newer one after a while.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

import trio

from edgeserver.matrix import canonical_json
from edgeserver.matrix.errors import MatrixError
from transports.exchange import ExchangeError, Request, TimedOut

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeserver.bridges.services import Service
    from transports.exchange import Exchange, Response

log = logging.getLogger(__name__)

BASE: Final = "/_matrix/app/v1"
LEGACY: Final = {"/transactions/": "", "/users/": "", "/rooms/": "", "/thirdparty/": "/_matrix/app/unstable"}
LEGACY_SECONDS: Final = 3600.0
"""So long a service that knows the older path alone is asked under that one at once."""
ATTEMPTS: Final = 3
RETRY_PAUSE: Final = 1.0
"""Of a query that brings no answer at all."""
TRANSACTION_TIMEOUT: Final = 60.0
QUERY_TIMEOUT: Final = 15.0
PING_TIMEOUT: Final = 30.0
MAX_RESPONSE: Final = 1024 * 1024
MAX_SHOWN: Final = 2000
"""Characters of a service's answer that a failed ping shows."""
PARALLEL: Final = 4
MAX_WAITING: Final = 16
"""Queries that a service has to answer at the same time, and that may wait for their turn: strangers choose how many there are."""


class ServiceFailed(Exception):
    """The service did not answer as it should; the text says why. `took_long`: and that took so long that once is enough."""

    def __init__(self, why: str, *, took_long: bool = False) -> None:
        super().__init__(why)
        self.took_long = took_long


class _BadStatus(MatrixError):
    """A service that answers a ping with a status that is none of success, and what it says."""

    def __init__(self, response: Response) -> None:
        super().__init__(502, "M_BAD_STATUS", f"The application service answers the ping with status {response.status}.")
        shown = response.body[: 4 * MAX_SHOWN].decode("utf-8", "replace")[:MAX_SHOWN]
        self._answer = {"status": response.status, "body": shown}

    def as_json(self) -> dict[str, Any]:
        return {**super().as_json(), **self._answer}


class ServiceCalls:
    """The requests to one service. `exchange` None: it has no URL and is asked nothing."""

    def __init__(self, service: Service, exchange: Exchange | None) -> None:
        self.service = service
        self._exchange = exchange
        self._root = urlsplit(service.registration.url or "").path.rstrip("/")
        self._legacy_until: dict[str, float] = {}
        self._limit = trio.CapacityLimiter(PARALLEL)

    @property
    def can_be_asked(self) -> bool:
        return self._exchange is not None

    async def send(self, txn_id: str, body: Mapping[str, Any]) -> None:
        """Puts a transaction. Raises `ServiceFailed` unless the service takes it."""
        response = await self._request("PUT", f"/transactions/{quote(txn_id, safe='')}", body, timeout=TRANSACTION_TIMEOUT)
        if response.status != 200:
            raise ServiceFailed(f"it answers {response.status}")

    async def knows_user(self, user_id: str) -> bool:
        """Whether the service wants this user to be, and has registered it by now. Raises `ServiceFailed` if it does not answer."""
        return await self._knows(f"/users/{quote(user_id, safe='')}")

    async def knows_alias(self, alias: str) -> bool:
        """Whether the service wants this alias to be, and has made its room by now. Raises `ServiceFailed` if it does not answer."""
        return await self._knows(f"/rooms/{quote(alias, safe='')}")

    async def _knows(self, path: str) -> bool:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return (await self._query(path)).status == 200
            except ServiceFailed as error:
                if error.took_long or attempt == ATTEMPTS:
                    raise
            await trio.sleep(RETRY_PAUSE)
        raise AssertionError("not reached")

    async def third_party(self, path: str, fields: Iterable[tuple[str, str]] = ()) -> Any:
        """The answer of GET /thirdparty/<path>, whatever JSON it is; None if the service knows nothing of it, or fails."""
        query = urlencode(list(fields))
        try:
            response = await self._query("/thirdparty/" + path + (f"?{query}" if query else ""))
        except ServiceFailed as error:
            log.warning("the application service %s could not be asked: %s", self.service.id, error)
            return None
        if response.status != 200:
            return None
        try:
            return canonical_json.decode_exact(response.body)
        except canonical_json.CanonicalJSONError:
            return None

    async def ping(self, txn_id: str | None) -> int:
        """How long a ping took, in ms.

        Raises 400 M_URL_NOT_SET, 502 M_BAD_STATUS or M_CONNECTION_FAILED, 504 M_CONNECTION_TIMEOUT.
        """
        if self._exchange is None:
            raise MatrixError(400, "M_URL_NOT_SET", "The application service has no URL.")
        began = trio.current_time()
        try:
            body = {} if txn_id is None else {"transaction_id": txn_id}
            response = await self._exchange.exchange(self._made("POST", BASE + "/ping", body, PING_TIMEOUT))
        except TimedOut as error:
            raise MatrixError(504, "M_CONNECTION_TIMEOUT", f"The application service did not answer: {error}.") from error
        except ExchangeError as error:
            raise MatrixError(502, "M_CONNECTION_FAILED", f"The application service cannot be reached: {error}.") from error
        if not 200 <= response.status < 300:
            raise _BadStatus(response)
        return round((trio.current_time() - began) * 1000)

    async def _query(self, path: str) -> Response:
        if self._limit.statistics().tasks_waiting >= MAX_WAITING:
            raise ServiceFailed("too many queries wait for it", took_long=True)
        async with self._limit:
            return await self._request("GET", path, None, timeout=QUERY_TIMEOUT)

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None, *, timeout: float) -> Response:
        kind = next(prefix for prefix in LEGACY if path.startswith(prefix))
        older = LEGACY[kind] + path
        if self._legacy_until.get(kind, 0.0) > trio.current_time():
            return await self._exchanged(self._made(method, older, body, timeout))
        response = await self._exchanged(self._made(method, BASE + path, body, timeout))
        if not _is_unknown_path(response):
            return response
        second = await self._exchanged(self._made(method, older, body, timeout))
        if _is_unknown_path(second):
            return response
        self._legacy_until[kind] = trio.current_time() + LEGACY_SECONDS
        return second

    async def _exchanged(self, request: Request) -> Response:
        if self._exchange is None:
            raise ServiceFailed("it has no URL", took_long=True)
        try:
            return await self._exchange.exchange(request)
        except ExchangeError as error:
            raise ServiceFailed(str(error), took_long=isinstance(error, TimedOut)) from error

    def _made(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> Request:
        headers: Sequence[tuple[str, str]] = [("Authorization", f"Bearer {self.service.registration.hs_token}")]
        if body is not None:
            headers = [*headers, ("Content-Type", "application/json")]
        encoded = b"" if body is None else canonical_json.encode_loose(body)
        return Request(
            method, self._root + path, headers=tuple(headers), body=encoded, timeout=timeout, max_response=MAX_RESPONSE
        )


def _is_unknown_path(response: Response) -> bool:
    """Whether it is the path that the service does not know, and not what is asked for: its answer has no words of its own for that."""
    if response.status not in (404, 405, 501):
        return False
    try:
        body = canonical_json.decode(response.body)
    except canonical_json.CanonicalJSONError:
        return True
    return not isinstance(body, dict) or body.get("errcode") == "M_UNRECOGNIZED"
