"""Deactivated accounts that have rooms to leave, and whose events have been erased: the tables `departures` and `erasures`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgeserver.store.database import Transaction


def begin(tx: Transaction, user_id: str) -> None:
    """The user is to leave all rooms."""
    tx.execute("INSERT OR IGNORE INTO departures (user_id) VALUES (?)", (user_id,))


def pending(tx: Transaction) -> list[tuple[str, int]]:
    """(user_id, rounds that have failed) of those who have not left everything."""
    return [(user_id, tries) for user_id, tries in tx.all("SELECT user_id, tries FROM departures ORDER BY tries, user_id")]


def failed(tx: Transaction, user_id: str) -> None:
    tx.execute("UPDATE departures SET tries = tries + 1 WHERE user_id = ?", (user_id,))


def done(tx: Transaction, user_id: str) -> None:
    tx.execute("DELETE FROM departures WHERE user_id = ?", (user_id,))


def erase(tx: Transaction, user_id: str, stream: int) -> None:
    """From this stream position on, newcomers to a room are given the user's events redacted."""
    tx.execute("INSERT OR IGNORE INTO erasures (user_id, stream) VALUES (?, ?)", (user_id, stream))


def erased(tx: Transaction, user_ids: Collection[str]) -> dict[str, int]:
    """Those of the users whose events have been erased, with the stream position since when."""
    if tx.one("SELECT 1 FROM erasures LIMIT 1") is None:
        return {}
    return dict(tx.all_in("SELECT user_id, stream FROM erasures WHERE user_id IN", user_ids))
