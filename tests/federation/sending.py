"""A sender of transactions on a bench: a real outbox, and peers that take what they are told to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio

from edgeserver import wakeups as topics
from edgeserver.federation.errors import FederationError, PeerError, PeerUnreachable
from edgeserver.federation.peers import Peers
from edgeserver.federation.sender import Sender
from edgeserver.store import outbox
from edgeserver.store.database import Database, Transaction
from edgeserver.wakeups import Wakeups
from transports.exchange import LinkProfile, Priority, Request, Response


class Recorder:
    """Takes transactions; `fail` and `refuse` decide which, and those `hanging` answer after 90 seconds, and badly;
    those that are `slow` well, after 20.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[float, str, str, Mapping[str, Any]]] = []
        self.taken: list[tuple[float, str, Mapping[str, Any]]] = []
        self.fail: Callable[[str], FederationError | None] = lambda server: None
        self.refuse: Callable[[Mapping[str, Any]], int | None] = lambda transaction: None
        self.hanging: set[str] = set()
        self.slow: set[str] = set()
        self.under_way: set[str] = set()

    async def send(self, server: str, txn_id: str, transaction: Mapping[str, Any], *, priority: Priority) -> dict[str, Any]:
        assert server not in self.under_way
        self.under_way.add(server)
        self.sent.append((trio.current_time(), server, txn_id, transaction))
        await trio.sleep(90 if server in self.hanging else 20 if server in self.slow else 0.01)
        self.under_way.discard(server)
        failure = PeerUnreachable(server, "no answer") if server in self.hanging else self.fail(server)
        status = self.refuse(transaction)
        if status is not None:
            failure = PeerError(server, status, "M_BAD_JSON", "no")
        if failure is not None:
            raise failure
        self.taken.append((trio.current_time(), server, transaction))
        return {}

    def numbers(self, server: str) -> list[Any]:
        """What a server has taken."""
        return [edu["content"]["n"] for _, name, sent in self.taken if name == server for edu in sent["edus"]]

    def edus(self, server: str) -> list[Any]:
        """What a server was sent, whether it took it or not."""
        return [edu["content"]["n"] for _, name, _, sent in self.sent if name == server for edu in sent["edus"]]


class Line:
    """A way that carries nothing; its profile is all that is asked of it."""

    profile = LinkProfile("line")

    async def exchange(self, request: Request) -> Response:
        raise NotImplementedError


class Bench:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.wakeups = Wakeups()
        self.calls = Recorder()
        self.peers = Peers("us.test", Line(), internet_up=True)
        self.neighbours: list[str] = []
        self.sender = self.new_sender()

    def new_sender(self) -> Sender:
        sender = Sender(
            self.db,
            self.wakeups,
            self.calls,
            server_name="us.test",
            now_ms=lambda: int(trio.current_time() * 1000) + 1_700_000_000_000,
            random=lambda: 1.0,
            neighbours=lambda tx: self.neighbours,
            ways_to=self.peers.ways_to,
        )
        self.peers.on_return(sender.route_returned)
        return sender

    async def queue(self, *numbers: int, to: tuple[str, ...] = ("a.test",)) -> None:
        def write(tx: Transaction) -> None:
            for number in numbers:
                outbox.queue_edu(tx, to, "m.test", {"n": number})
            tx.on_commit(lambda: self.wakeups.notify([topics.OUTBOX]))

        await self.db.write(write)

    async def left(self) -> int:
        return len(await self.db.read(outbox.waiting))
