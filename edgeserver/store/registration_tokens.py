"""Registration tokens: the table `registration_tokens`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

_COLUMNS: Final = "token, uses_allowed, completed, expires_at"
_VALID: Final = "(uses_allowed IS NULL OR completed < uses_allowed) AND (expires_at IS NULL OR expires_at >= ?)"


@dataclass(frozen=True, slots=True)
class RegistrationToken:
    """`completed` people have registered with it, of `uses_allowed` (None: any number), until `expires_at` (ms; None: for ever)."""

    token: str
    uses_allowed: int | None
    completed: int
    expires_at: int | None


def insert(tx: Transaction, token: str, uses_allowed: int | None, expires_at: int | None) -> bool:
    """False if there is such a token already."""
    sql = "INSERT OR IGNORE INTO registration_tokens (token, uses_allowed, expires_at) VALUES (?, ?, ?)"
    return tx.execute(sql, (token, uses_allowed, expires_at)).rowcount > 0


def get(tx: Transaction, token: str) -> RegistrationToken | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM registration_tokens WHERE token = ?", (token,))
    return None if row is None else RegistrationToken(*row)


def listed(tx: Transaction, now: int, valid: bool | None = None) -> list[RegistrationToken]:
    """All, or only those that are (or are not) good for a registration at this time."""
    if valid is None:
        rows = tx.all(f"SELECT {_COLUMNS} FROM registration_tokens ORDER BY token")
    else:
        wanted = _VALID if valid else f"NOT ({_VALID})"
        rows = tx.all(f"SELECT {_COLUMNS} FROM registration_tokens WHERE {wanted} ORDER BY token", (now,))
    return [RegistrationToken(*row) for row in rows]


def count(tx: Transaction) -> int:
    """How many there are, whether they are good for anything or not."""
    row = tx.one("SELECT count(*) FROM registration_tokens")
    return row[0] if row else 0


def change(tx: Transaction, token: str, uses_allowed: int | None, expires_at: int | None) -> None:
    tx.execute("UPDATE registration_tokens SET uses_allowed = ?, expires_at = ? WHERE token = ?", (uses_allowed, expires_at, token))


def delete(tx: Transaction, token: str) -> bool:
    """Whether it was there."""
    return tx.execute("DELETE FROM registration_tokens WHERE token = ?", (token,)).rowcount > 0


def is_valid(tx: Transaction, token: str, now: int) -> bool:
    """Whether somebody may register with it at this time."""
    return tx.one(f"SELECT 1 FROM registration_tokens WHERE token = ? AND {_VALID}", (token, now)) is not None


def use(tx: Transaction, token: str, now: int) -> bool:
    """Somebody registers with it; False if it has no use left or has expired."""
    sql = f"UPDATE registration_tokens SET completed = completed + 1 WHERE token = ? AND {_VALID}"
    return tx.execute(sql, (token, now)).rowcount > 0
