"""Accounts, access and refresh tokens, registration tokens: the tables `accounts`, `tokens`, `registration_tokens`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Account:
    """One row of `accounts`; times in ms since the epoch."""

    user_id: str
    password: str | None
    admin: bool
    appservice_id: str | None
    created_at: int
    deactivated_at: int | None
    guest: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """One row of `tokens`, with what its account says. `expires_at` in ms since the epoch."""

    token: int
    user_id: str
    device_id: str
    expires_at: int | None
    refreshable: bool
    replaces: int | None
    admin: bool
    guest: bool


_ACCOUNT = "user_id, password, admin, appservice_id, created_at, deactivated_at, guest"
_TOKEN = (
    "SELECT t.token, t.user_id, t.device_id, t.expires_at, t.refresh_hash IS NOT NULL, t.replaces, a.admin, a.guest"
    " FROM tokens t JOIN accounts a USING (user_id)"
)


def account(tx: Transaction, user_id: str) -> Account | None:
    """The account, deactivated ones included."""
    row = tx.one(f"SELECT {_ACCOUNT} FROM accounts WHERE user_id = ?", (user_id,))
    return None if row is None else _account(row)


def all_accounts(tx: Transaction) -> list[Account]:
    rows = tx.all(f"SELECT {_ACCOUNT} FROM accounts ORDER BY user_id")
    return [_account(row) for row in rows]


def _account(row: tuple[Any, ...]) -> Account:
    user_id, password, admin, appservice_id, created_at, deactivated_at, guest = row
    return Account(user_id, password, bool(admin), appservice_id, created_at, deactivated_at, bool(guest))


def exists(tx: Transaction, user_id: str) -> bool:
    """Whether the name is taken, by a deactivated account too."""
    return tx.one("SELECT 1 FROM accounts WHERE user_id = ?", (user_id,)) is not None


def insert(tx: Transaction, new: Account) -> None:
    tx.execute(
        f"INSERT INTO accounts ({_ACCOUNT}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (new.user_id, new.password, new.admin, new.appservice_id, new.created_at, new.deactivated_at, new.guest),
    )


def count_guests(tx: Transaction) -> int:
    row = tx.one("SELECT count(*) FROM accounts WHERE guest = 1 AND deactivated_at IS NULL")
    return row[0] if row else 0


def guests_in(tx: Transaction, room: int) -> list[str]:
    """The guests of this server who have joined the room."""
    rows = tx.all(
        "SELECT m.user_id FROM memberships m JOIN accounts a USING (user_id)"
        " WHERE m.room = ? AND m.local = 1 AND m.membership = 'join' AND a.guest = 1",
        (room,),
    )
    return [user_id for (user_id,) in rows]


def end_guest(tx: Transaction, user_id: str, password: str) -> None:
    """The guest has registered: an account like any other from now on."""
    tx.execute("UPDATE accounts SET guest = 0, password = ? WHERE user_id = ?", (password, user_id))


def set_password(tx: Transaction, user_id: str, password: str) -> None:
    tx.execute("UPDATE accounts SET password = ? WHERE user_id = ?", (password, user_id))


def set_admin(tx: Transaction, user_id: str, admin: bool) -> None:
    tx.execute("UPDATE accounts SET admin = ? WHERE user_id = ?", (admin, user_id))


def deactivate(tx: Transaction, user_id: str, now: int) -> None:
    """Keeps the row, so that the name stays taken, and nothing else of the person."""
    tx.execute(
        "UPDATE accounts SET deactivated_at = ?, password = NULL, admin = 0 WHERE user_id = ? AND deactivated_at IS NULL",
        (now, user_id),
    )
    for table in ("profiles", "account_data", "filters", "pushers", "thread_subscriptions", "tokens", "devices"):
        tx.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))


def insert_token(
    tx: Transaction,
    user_id: str,
    device_id: str,
    access_hash: bytes,
    *,
    refresh_hash: bytes | None = None,
    expires_at: int | None = None,
    replaces: int | None = None,
) -> int:
    """Returns the new row's id."""
    return tx.insert(
        "INSERT INTO tokens (user_id, device_id, access_hash, refresh_hash, expires_at, replaces) VALUES (?, ?, ?, ?, ?, ?)",
        (user_id, device_id, access_hash, refresh_hash, expires_at, replaces),
    )


def token_by_access(tx: Transaction, access_hash: bytes) -> Token | None:
    return _token(tx, "access_hash", access_hash)


def token_by_refresh(tx: Transaction, refresh_hash: bytes) -> Token | None:
    return _token(tx, "refresh_hash", refresh_hash)


def _token(tx: Transaction, column: str, value: bytes) -> Token | None:
    row = tx.one(f"{_TOKEN} WHERE t.{column} = ?", (value,))
    if row is None:
        return None
    token, user_id, device_id, expires_at, refreshable, replaces, admin, guest = row
    return Token(token, user_id, device_id, expires_at, bool(refreshable), replaces, bool(admin), bool(guest))


def drop_replaced(tx: Transaction, token: int, replaced: int) -> None:
    """The pair `token` has been used: the pair that it replaces is gone."""
    tx.execute("DELETE FROM tokens WHERE token = ?", (replaced,))
    tx.execute("UPDATE tokens SET replaces = NULL WHERE token = ?", (token,))


def drop_replacement(tx: Transaction, token: int) -> None:
    """Drops the pair that `token` was refreshed to and that nobody has used."""
    tx.execute("DELETE FROM tokens WHERE replaces = ?", (token,))


def drop_tokens(tx: Transaction, user_id: str, device_id: str) -> None:
    tx.execute("DELETE FROM tokens WHERE user_id = ? AND device_id = ?", (user_id, device_id))


def insert_registration_token(tx: Transaction, token: str, uses: int | None, expires_at: int | None) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO registration_tokens (token, uses_left, expires_at) VALUES (?, ?, ?)",
        (token, uses, expires_at),
    )


def registration_token_is_valid(tx: Transaction, token: str, now: int) -> bool:
    return (
        tx.one(
            "SELECT 1 FROM registration_tokens WHERE token = ? AND coalesce(uses_left, 1) > 0 AND coalesce(expires_at, ?) >= ?",
            (token, now, now),
        )
        is not None
    )


def use_registration_token(tx: Transaction, token: str, now: int) -> bool:
    """Takes one use of the token; False if it has none left or has expired."""
    if not registration_token_is_valid(tx, token, now):
        return False
    tx.execute("UPDATE registration_tokens SET uses_left = uses_left - 1 WHERE token = ?", (token,))
    return True
