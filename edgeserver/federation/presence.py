"""Telling other servers who is there: the EDU `m.presence`. Spec: server-server API, "Presence".

Changes of some seconds go together. Nothing of it is stored: a server that cannot be reached is not told, and left alone for a while.
It never goes over a thin line, where what people say needs the time.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver import wakeups as topics
from edgeserver.federation.errors import FederationError
from edgeserver.store import rooms
from transports.exchange import Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.federation.peers import Way
    from edgeserver.federation.sender import SendCall
    from edgeserver.store.database import Database, Transaction
    from edgeserver.wakeups import Wakeups

log = logging.getLogger(__name__)

GATHER_S: Final = 5.0
SEND_S: Final = 30.0
QUIET_S: Final = 600.0
"""A server that could not be told is left alone for so long."""
AT_ONCE: Final = 4
MAX_PUSH: Final = 100
"""Users in one EDU."""


class Untold(Protocol):
    """See `users.presence.Presence`."""

    def take_untold(self) -> Mapping[str, Mapping[str, Any]]: ...


class PresenceSender:
    """Runs as one task. `ways_to` is `peers.Peers.ways_to`."""

    def __init__(
        self,
        db: Database,
        wakeups: Wakeups,
        calls: SendCall,
        presence: Untold,
        *,
        server_name: str,
        now_ms: Callable[[], int],
        ways_to: Callable[[str], Sequence[Way]],
    ) -> None:
        self._db = db
        self._wakeups = wakeups
        self._calls = calls
        self._presence = presence
        self._server_name = server_name
        self._now_ms = now_ms
        self._ways_to = ways_to
        self._quiet: dict[str, float] = {}
        self._waiting: dict[str, dict[str, Mapping[str, Any]]] = {}
        self._slots = trio.CapacityLimiter(AT_ONCE)
        self._sent = 0

    async def run(self) -> None:
        """Follows what is untold until cancelled."""
        with self._wakeups.listening(topics.PRESENCE) as listener:
            async with trio.open_nursery() as nursery:
                while True:
                    await listener.wait()
                    await trio.sleep(GATHER_S)
                    for server in await self._gather(self._presence.take_untold()):
                        nursery.start_soon(self._tell, server)

    async def _gather(self, untold: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Sorts what is untold by the servers that are to be told; returns those that nobody is telling yet."""

        def read(tx: Transaction) -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            for user_id in untold:
                for server in rooms.servers_of_user(tx, user_id):
                    found.setdefault(server, []).append(user_id)
            return found

        by_server = await self._db.read(read)
        now = trio.current_time()
        self._quiet = {server: until for server, until in self._quiet.items() if until > now}
        begun = []
        for server, users in by_server.items():
            if server == self._server_name or server in self._quiet or not self._is_broad(server):
                continue
            if server not in self._waiting:
                self._waiting[server] = {}
                begun.append(server)
            self._waiting[server] |= {user_id: untold[user_id] for user_id in users}
        return begun

    async def _tell(self, server: str) -> None:
        """Tells a server what waits for it, and what comes meanwhile: one that is slow keeps nobody but itself waiting."""
        try:
            while self._waiting[server] and server not in self._quiet:
                async with self._slots:
                    push, self._waiting[server] = list(self._waiting[server].values()), {}
                    await self._send(server, push)
        finally:
            del self._waiting[server]

    def _is_broad(self, server: str) -> bool:
        ways = self._ways_to(server)
        return bool(ways) and not ways[0].exchange.profile.is_thin

    async def _send(self, server: str, push: list[Mapping[str, Any]]) -> None:
        parts = [push[start : start + MAX_PUSH] for start in range(0, len(push), MAX_PUSH)]
        edus = [{"edu_type": "m.presence", "content": {"push": part}} for part in parts]
        now = self._now_ms()
        self._sent += 1
        txn_id = hashlib.sha256(f"presence {self._server_name} {server} {now} {self._sent}".encode()).hexdigest()[:24]
        transaction = {"origin": self._server_name, "origin_server_ts": now, "pdus": [], "edus": edus}
        with trio.move_on_after(SEND_S) as scope:
            try:
                await self._calls.send(server, txn_id, transaction, priority=Priority.RECEIPT)
            except FederationError as error:
                log.info("%s is not told who is there: %s", server, error.why)
                self._quiet[server] = trio.current_time() + QUIET_S
        if scope.cancelled_caught:
            self._quiet[server] = trio.current_time() + QUIET_S
