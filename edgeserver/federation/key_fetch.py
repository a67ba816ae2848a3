"""Fetching other servers' keys: from themselves, else through a gateway or notary.

Direct: GET /_matrix/key/v2/server over a way that proves whose answer it is. Else: POST /_matrix/key/v2/query, in
one batch for all servers that are asked for. Last, servers of the room that wants the keys are asked likewise: they are
nobody whom we trust, so what two of them tell alike counts. Spec: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver.federation.key_response import BadKeyResponse, KeyResponse, read
from edgeserver.matrix import canonical_json
from transports.exchange import ExchangeError, Interrupted, Priority, Request, TimedOut

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transports.exchange import Exchange

MAX_RESPONSE: Final = 1_048_576
TIMEOUT: Final = 30.0
THIN_TIMEOUT: Final = 180.0
HURRIED_TIMEOUT: Final = 10.0
PARALLEL: Final = 8
PARALLEL_HURRIED: Final = 8
BATCH: Final = 50
MAX_WITNESSED: Final = 1000
"""So many servers' keys are asked of others for one request of ours."""
PAUSES: Final = (2.0, 6.0)
"""Seconds before a request is made again under which the line broke."""


class KeyRoutes(Protocol):
    """The ways to keys; see `peer_keys.PeerKeyRoutes`."""

    def direct(self, server_name: str) -> Sequence[Exchange]:
        """Ways whose answers are sure to come from that server, the best first; none if there are only gateways."""
        ...

    def witness(self, server_name: str) -> Exchange | None:
        """A way to ask that server for others' keys, sure to lead to it; None if there is none."""
        ...

    def notaries(self) -> Sequence[tuple[str, Exchange]]:
        """Gateways and notaries by name, in the order to ask them."""
        ...


class KeyFetcher:
    """Asks. What comes back is signed by the server itself, and `proven` tells whether the way there proved it, too."""

    def __init__(self, routes: KeyRoutes) -> None:
        self._routes = routes
        self._limits = {False: trio.CapacityLimiter(PARALLEL), True: trio.CapacityLimiter(PARALLEL_HURRIED)}

    async def fetch(
        self, servers: Iterable[str], *, witnesses: Sequence[str] = (), hurried: bool = False
    ) -> dict[str, tuple[KeyResponse, bool]]:
        """The key responses that could be had, each with `proven`. `hurried`: strangers, who get less time, a few at once."""
        wanted = list(dict.fromkeys(servers))
        found: dict[str, tuple[KeyResponse, bool]] = {}

        async def ask(server_name: str) -> None:
            async with self._limits[hurried]:
                response = await self._ask_itself(server_name, hurried=hurried)
            if response is not None:
                found[server_name] = (response, True)

        async with trio.open_nursery() as nursery:
            for server_name in wanted:
                nursery.start_soon(ask, server_name)
        for notary, exchange in self._routes.notaries():
            missing = [name for name in wanted if name not in found]
            for start in range(0, len(missing), BATCH):
                for response in await self._ask_notary(notary, exchange, missing[start : start + BATCH]):
                    found[response.server_name] = (response, False)
        missing = [name for name in wanted if name not in found]
        if len(witnesses) > 1:
            for start in range(0, min(len(missing), MAX_WITNESSED), BATCH):
                told = await self._ask_witnesses(witnesses, missing[start : start + BATCH])
                found |= {response.server_name: (response, False) for response in told}
        return found

    async def _ask_witnesses(self, witnesses: Sequence[str], servers: Sequence[str]) -> list[KeyResponse]:
        """The responses whose keys two of the witnesses tell alike."""
        told: dict[tuple[str, tuple[tuple[str, bytes], ...]], dict[str, KeyResponse]] = {}

        async def ask(witness: str, exchange: Exchange) -> None:
            for response in await self._ask_notary(witness, exchange, [name for name in servers if name != witness]):
                told.setdefault((response.server_name, tuple(sorted(response.current.items()))), {})[witness] = response

        async with trio.open_nursery() as nursery:
            for witness in dict.fromkeys(witnesses):
                exchange = self._routes.witness(witness)
                if exchange is not None:
                    nursery.start_soon(ask, witness, exchange)
        return [max(by.values(), key=lambda response: response.valid_until) for by in told.values() if len(by) > 1]

    async def _ask_itself(self, server_name: str, *, hurried: bool) -> KeyResponse | None:
        """Asks again, over whatever ways there are then, if a line broke under the request: joins wait for these keys."""
        for pause in (None,) if hurried else (*PAUSES, None):
            try:
                return await self._ask_directly(server_name, HURRIED_TIMEOUT if hurried else TIMEOUT)
            except _Broken:
                if pause is not None:
                    await trio.sleep(pause)
        return None

    async def _ask_directly(self, server_name: str, timeout: float) -> KeyResponse | None:
        for exchange in self._routes.direct(server_name):
            request = Request("GET", "/_matrix/key/v2/server", server_name, priority=Priority.INTERACTIVE)
            body = await _exchange(exchange, request, timeout)
            try:
                return read(body, server_name)
            except BadKeyResponse:
                continue
        return None

    async def _ask_notary(self, notary: str, exchange: Exchange, servers: Sequence[str]) -> list[KeyResponse]:
        content: dict[str, dict[str, Any]] = {"server_keys": {server_name: {} for server_name in servers}}
        headers = (("Content-Type", "application/json"),)
        request = Request(
            "POST",
            "/_matrix/key/v2/query",
            notary,
            headers,
            canonical_json.encode(content),
            Priority.INTERACTIVE,
        )
        try:
            body = await _exchange(exchange, request)
        except _Broken:
            return []
        answers = body.get("server_keys") if isinstance(body, dict) else None
        found = []
        for answer in answers if isinstance(answers, list) else []:
            name = answer.get("server_name") if isinstance(answer, dict) else None
            if isinstance(name, str) and name in servers:
                try:
                    found.append(read(answer, name))
                except BadKeyResponse:
                    continue
        return found


class _Broken(Exception):
    """The line went down under the request."""


async def _exchange(exchange: Exchange, request: Request, timeout: float = TIMEOUT) -> Any:
    """The decoded JSON of a 200, None for anything else. Raises `_Broken`."""
    request = replace(request, timeout=THIN_TIMEOUT if exchange.profile.is_thin else timeout, max_response=MAX_RESPONSE)
    try:
        response = await exchange.exchange(request)
        if response.status != 200 or len(response.body) > MAX_RESPONSE:
            return None
        return canonical_json.decode(response.body)
    except (ExchangeError, canonical_json.CanonicalJSONError) as error:
        if isinstance(error, Interrupted) and not isinstance(error, TimedOut):
            raise _Broken from error
        return None
