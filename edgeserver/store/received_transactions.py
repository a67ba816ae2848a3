"""Transactions of peers that have been answered: a repeated one gets the same answer (spec: server-server API,
"Transactions").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction


def answer_to(tx: Transaction, origin: str, txn_id: str) -> bytes | None:
    """The answer (canonical JSON) that this transaction got, None if it is new."""
    row = tx.one("SELECT response FROM received_transactions WHERE origin = ? AND txn_id = ?", (origin, txn_id))
    return None if row is None else cast("bytes", row[0])


def put_answer(tx: Transaction, origin: str, txn_id: str, response: bytes, now_ms: int) -> None:
    """Keep the answer to a transaction."""
    tx.execute(
        "INSERT OR IGNORE INTO received_transactions (origin, txn_id, received_at, response) VALUES (?, ?, ?, ?)",
        (origin, txn_id, now_ms, response),
    )


def forget_before(tx: Transaction, received_before_ms: int) -> int:
    """Forget answers older than that; returns how many."""
    return tx.execute("DELETE FROM received_transactions WHERE received_at < ?", (received_before_ms,)).rowcount


def keep_newest(tx: Transaction, origin: str, most: int) -> None:
    """Forget all but the newest answers to an origin: it repeats its last transaction, never one before it."""
    tx.execute(
        "DELETE FROM received_transactions WHERE origin = ? AND received_at < (SELECT received_at FROM received_transactions"
        " WHERE origin = ? ORDER BY received_at DESC LIMIT 1 OFFSET ?)",
        (origin, origin, most),
    )
