"""Passing on other servers' keys, signed by us as well.

GET /_matrix/key/v2/query/{serverName} and POST /_matrix/key/v2/query. Spec: server-server API, "Querying Keys
Through Another Server".

Anybody may ask, for any names, so all of it is bounded: names in a request, requests that make us ask others, the time that these
take, and how many servers that share no room with us have their keys kept here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver.matrix import canonical_json, server_names
from edgeserver.matrix.errors import InvalidParam, LimitExceeded
from edgeserver.store import server_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeserver.federation.keyring import Keyring
    from edgeserver.store.database import Database

MAX_SERVERS: Final = 50
MAX_UNDER_WAY: Final = 4
GROUP: Final = 10
"""So many servers are asked about together; who is slow holds up no more than these."""
PATIENCE: Final = 45.0
"""Seconds after which what has not come is left out."""
MAX_STRANGERS: Final = 2_000


class Notary:
    """Answers from the store; fetches what is missing or has outlived half of its validity, a few requests at a
    time.
    """

    def __init__(self, db: Database, keyring: Keyring, *, server_name: str, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._keyring = keyring
        self._server_name = server_name
        self._now_ms = now_ms
        self._under_way = 0

    async def query(self, wanted: Mapping[str, int]) -> list[dict[str, Any]]:
        """Key responses of these servers, each wanted valid until at least that time (ms), with our signature added.

        Servers whose keys cannot be had are left out. Raises M_INVALID_PARAM for more than 50 names, or one that is
        none.
        """
        if len(wanted) > MAX_SERVERS:
            raise InvalidParam(f"At most {MAX_SERVERS} servers may be asked for at once.")
        if not all(server_names.is_valid(name) for name in wanted):
            raise InvalidParam("A server name is malformed.")
        others = [name for name in wanted if name != self._server_name]
        stored = await self._stored(others)
        stale = [name for name in others if name not in stored or self._is_stale(stored[name], wanted[name])]
        if stale:
            if self._under_way >= MAX_UNDER_WAY:
                raise LimitExceeded(5_000)
            self._under_way += 1
            try:
                await self._refresh(stale)
            finally:
                self._under_way -= 1
            stored = await self._stored(others)
        answers = [self._keyring.sign(canonical_json.decode(stored[name].response)) for name in others if name in stored]
        return [self._keyring.own_response(), *answers] if self._server_name in wanted else answers

    async def _refresh(self, stale: list[str]) -> None:
        with trio.move_on_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for start in range(0, len(stale), GROUP):
                    nursery.start_soon(self._keyring.refresh, stale[start : start + GROUP])
        await self._db.write(lambda tx: server_keys.forget_strangers(tx, MAX_STRANGERS))

    async def _stored(self, servers: list[str]) -> dict[str, server_keys.StoredResponse]:
        found = await self._db.read(lambda tx: {name: server_keys.response_of(tx, name) for name in servers})
        return {name: response for name, response in found.items() if response is not None}

    def _is_stale(self, response: server_keys.StoredResponse, minimum_valid_until: int) -> bool:
        half = response.fetched_at + (response.valid_until - response.fetched_at) // 2
        return response.valid_until < minimum_valid_until or self._now_ms() >= half
