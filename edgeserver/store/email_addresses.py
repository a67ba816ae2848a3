"""Email addresses of accounts, and those that are being validated: the tables `email_addresses` and `email_validations`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Address:
    """One row of `email_addresses`; times in ms since the epoch."""

    address: str
    user_id: str
    validated_at: int
    added_at: int


@dataclass(frozen=True, slots=True)
class Validation:
    """One row of `email_validations` (without the hash of its link); times in ms since the epoch."""

    sid: str
    address: str
    purpose: str
    secret_hash: bytes
    attempt: int
    next_link: str | None
    expires_at: int
    validated_at: int | None


_VALIDATION = "SELECT sid, address, purpose, secret_hash, attempt, next_link, expires_at, validated_at FROM email_validations"


def owner(tx: Transaction, address: str) -> str | None:
    """The user id of the account that has this address."""
    row = tx.one("SELECT user_id FROM email_addresses WHERE address = ?", (address,))
    return None if row is None else str(row[0])


def of_user(tx: Transaction, user_id: str) -> list[Address]:
    rows = tx.all(
        "SELECT address, user_id, validated_at, added_at FROM email_addresses WHERE user_id = ? ORDER BY added_at, address",
        (user_id,),
    )
    return [Address(*row) for row in rows]


def add(tx: Transaction, new: Address) -> None:
    tx.execute(
        "INSERT INTO email_addresses (address, user_id, validated_at, added_at) VALUES (?, ?, ?, ?)",
        (new.address, new.user_id, new.validated_at, new.added_at),
    )


def remove(tx: Transaction, user_id: str, address: str) -> None:
    tx.execute("DELETE FROM email_addresses WHERE user_id = ? AND address = ?", (user_id, address))


def validation(tx: Transaction, sid: str) -> Validation | None:
    return _validation(tx.one(f"{_VALIDATION} WHERE sid = ?", (sid,)))


def validation_by_secret(tx: Transaction, secret_hash: bytes, address: str, purpose: str) -> Validation | None:
    """The validation that this client has asked for already."""
    return _validation(tx.one(f"{_VALIDATION} WHERE secret_hash = ? AND address = ? AND purpose = ?", (secret_hash, address, purpose)))


def validation_by_token(tx: Transaction, token_hash: bytes) -> Validation | None:
    return _validation(tx.one(f"{_VALIDATION} WHERE token_hash = ?", (token_hash,)))


def _validation(row: tuple[Any, ...] | None) -> Validation | None:
    return None if row is None else Validation(*row)


def put_validation(tx: Transaction, new: Validation, token_hash: bytes) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO email_validations"
        " (sid, address, purpose, secret_hash, token_hash, attempt, next_link, expires_at, validated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (new.sid, new.address, new.purpose, new.secret_hash, token_hash, new.attempt, new.next_link, new.expires_at, new.validated_at),
    )


def set_attempt(tx: Transaction, sid: str, attempt: int) -> None:
    tx.execute("UPDATE email_validations SET attempt = ? WHERE sid = ?", (attempt, sid))


def set_validated(tx: Transaction, sid: str, now: int) -> None:
    tx.execute("UPDATE email_validations SET validated_at = coalesce(validated_at, ?) WHERE sid = ?", (now, sid))


def drop_validation(tx: Transaction, sid: str) -> None:
    tx.execute("DELETE FROM email_validations WHERE sid = ?", (sid,))


def drop_validations_of(tx: Transaction, address: str) -> None:
    tx.execute("DELETE FROM email_validations WHERE address = ?", (address,))


def tidy_validations(tx: Transaction, now: int, keep: int) -> None:
    """Drops what has expired, and of the rest all but the `keep` that expire last."""
    tx.execute("DELETE FROM email_validations WHERE expires_at <= ?", (now,))
    tx.execute(
        "DELETE FROM email_validations WHERE sid IN (SELECT sid FROM email_validations ORDER BY expires_at DESC LIMIT -1 OFFSET ?)",
        (keep,),
    )
