"""Transactions made in advance and pushed at a homeserver over its federation listener as fast as it takes them."""

from __future__ import annotations

import http.client
import itertools
import sqlite3
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import orjson

from edgeserver.matrix import canonical_json, signatures
from edgeserver.matrix.event import Event
from edgeserver.matrix.signatures import SigningKey
from tests.bench.load import Refused
from tests.bench.servers import Server

PDUS = 50
"""In one transaction: as many as the spec allows."""
STAGED = 49
"""Synapse answers when it has put a transaction aside and works on it later; with a hundred events of a room put aside it throws
most of them away. So it gets the next transaction when no more than this are left: it never waits, and nothing is lost."""

PATIENCE = 60.0


@dataclass(frozen=True)
class Transaction:
    target: str
    headers: dict[str, str]
    body: bytes
    pdus: int


class Pusher:
    """One origin's connection to one homeserver, over TLS whose certificate is not checked."""

    def __init__(self, server: Server, origin: str, key: SigningKey) -> None:
        self._server, self._origin, self._key = server, origin, key
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._connection = http.client.HTTPSConnection(server.name, context=context, timeout=300)
        self._numbers = itertools.count()
        self._inside = sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) if server.kind == "synapse" else None

    def prepare(self, events: Sequence[Event]) -> list[Transaction]:
        """The events in signed transactions of `PDUS`, in the order given."""
        return [self._transaction(events[start : start + PDUS]) for start in range(0, len(events), PDUS)]

    def _transaction(self, events: Sequence[Event]) -> Transaction:
        target = f"/_matrix/federation/v1/send/push{time.time_ns()}-{next(self._numbers)}"
        pdus = [event.pdu for event in events]
        content = {"origin": self._origin, "origin_server_ts": int(time.time() * 1000), "pdus": pdus, "edus": []}
        authorization = signatures.sign_request("PUT", target, self._origin, self._server.name, self._key, content)
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        return Transaction(target, headers, canonical_json.encode(content), len(events))

    def push(self, transactions: Sequence[Transaction]) -> float:
        """Sends them one after the other; returns the seconds until all their events are taken in. Raises `Refused`."""
        began = time.perf_counter()
        for transaction in transactions:
            self._wait_for_staged(STAGED)
            self._send(transaction)
        self._wait_for_staged(0)
        return time.perf_counter() - began

    def _send(self, transaction: Transaction) -> None:
        self._connection.request("PUT", transaction.target, transaction.body, transaction.headers)
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise Refused(f"{self._server.kind}: {response.status} {data[:300].decode(errors='replace')}")
        answers = orjson.loads(data)["pdus"]
        errors = [f"{event_id}: {answer['error']}" for event_id, answer in answers.items() if "error" in answer]
        if errors or len(answers) != transaction.pdus:
            raise Refused(f"{self._server.kind} took {len(answers)} of {transaction.pdus} events, {len(errors)} with errors: {errors[:3]}")

    def wait_until_whole(self) -> None:
        """Until Synapse has the whole state of the rooms that it has joined, which it fetches after the join."""
        self._wait_for("partial_state_rooms", 0, 0.05)

    def _wait_for_staged(self, count: int) -> None:
        """Until Synapse has no more than so many events of a transaction before it."""
        self._wait_for("federation_inbound_events_staging", count, 0.003)

    def _wait_for(self, table: str, rows: int, pause: float) -> None:
        """Until that table of Synapse's has no more than so many rows. Raises `Refused` if it takes minutes."""
        deadline = time.monotonic() + PATIENCE
        while self._inside is not None and self._inside.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > rows:
            if time.monotonic() > deadline:
                raise Refused(f"Synapse still has more than {rows} {table} after {PATIENCE:.0f} s")
            time.sleep(pause)

    def close(self) -> None:
        self._connection.close()
        if self._inside is not None:
            self._inside.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
