"""Signing keys of other servers, and their key responses. Times are ms since epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.store.database import Transaction

THROUGH_NOTARY: Final = 0
FROM_ITSELF: Final = 1
PINNED: Final = 2


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key of a server. `valid_until` of an old key is when it expired; `trust` is how it came to us."""

    key_id: str
    verify_key: bytes
    valid_until: int
    trust: int


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A server's key response: canonical JSON, as it was signed."""

    response: bytes
    fetched_at: int
    valid_until: int


def of_server(tx: Transaction, server_name: str) -> dict[str, StoredKey]:
    """All keys that are known of a server, by key id."""
    rows = tx.all("SELECT key_id, verify_key, valid_until, trust FROM server_keys WHERE server_name = ?", (server_name,))
    return {row[0]: StoredKey(*row) for row in rows}


def put(tx: Transaction, server_name: str, keys: Iterable[StoredKey]) -> None:
    """Store keys, over what is known under the same key id."""
    tx.executemany(
        "INSERT OR REPLACE INTO server_keys (server_name, key_id, verify_key, valid_until, trust) VALUES (?, ?, ?, ?, ?)",
        [(server_name, key.key_id, key.verify_key, key.valid_until, key.trust) for key in keys],
    )


def forget(tx: Transaction, server_name: str) -> None:
    """Forget everything of a server: before it is paired anew."""
    tx.execute("DELETE FROM server_keys WHERE server_name = ?", (server_name,))
    tx.execute("DELETE FROM server_key_responses WHERE server_name = ?", (server_name,))


def forget_strangers(tx: Transaction, kept: int) -> None:
    """Forget what was fetched longest ago of servers that are in no room of ours and not pinned, beyond so many of them."""
    rows = tx.all(
        "SELECT server_name FROM server_key_responses r WHERE NOT EXISTS"
        " (SELECT 1 FROM room_servers s WHERE s.server_name = r.server_name) AND NOT EXISTS"
        " (SELECT 1 FROM server_keys k WHERE k.server_name = r.server_name AND k.trust = ?)"
        " ORDER BY fetched_at DESC, server_name LIMIT -1 OFFSET ?",
        (PINNED, kept),
    )
    for (server_name,) in rows:
        forget(tx, server_name)


def response_of(tx: Transaction, server_name: str) -> StoredResponse | None:
    """The newest key response of a server."""
    row = tx.one("SELECT response, fetched_at, valid_until FROM server_key_responses WHERE server_name = ?", (server_name,))
    return None if row is None else StoredResponse(*row)


def put_response(tx: Transaction, server_name: str, response: bytes, fetched_at: int, valid_until: int) -> None:
    """Keep a server's key response, over an older one."""
    tx.execute(
        "INSERT OR REPLACE INTO server_key_responses (server_name, response, fetched_at, valid_until) VALUES (?, ?, ?, ?)",
        (server_name, response, fetched_at, valid_until),
    )
