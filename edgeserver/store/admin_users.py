"""Accounts as lists for administrators show them: read together with profiles and devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class ListedUser:
    """One account. Times in ms; `last_seen_at` None: never, or not written yet."""

    user_id: str
    guest: bool
    admin: bool
    deactivated: bool
    displayname: str | None
    avatar_url: str | None
    created_at: int
    last_seen_at: int | None
    appservice_id: str | None
    locked: bool
    suspended: bool
    erased: bool


@dataclass(frozen=True, slots=True)
class WantedUsers:
    """Which accounts: `user_id` is found in the id, `name` in the local part or the display name, whatever their case; of the
    flags None takes both kinds.
    """

    user_id: str | None = None
    name: str | None = None
    guests: bool | None = None
    admins: bool | None = None
    deactivated: bool | None = None
    locked: bool | None = None


ORDERS: Final = {
    "name": "a.user_id",
    "is_guest": "a.guest",
    "admin": "a.admin",
    "user_type": "a.user_id",
    "deactivated": "a.deactivated_at IS NOT NULL",
    "shadow_banned": "a.user_id",
    "displayname": "displayname",
    "avatar_url": "avatar_url",
    "creation_ts": "a.created_at",
    "last_seen_ts": "last_seen_at",
}
"""What accounts can be ordered by, as administrators name it. Nobody has a type or is shadow-banned."""

_FROM: Final = (
    " FROM accounts a LEFT JOIN profiles n ON n.user_id = a.user_id AND n.field = 'displayname'"
    " LEFT JOIN profiles p ON p.user_id = a.user_id AND p.field = 'avatar_url'"
)
_COLUMNS: Final = (
    "SELECT a.user_id, a.guest, a.admin, a.deactivated_at IS NOT NULL, CAST(n.value AS TEXT) AS displayname,"
    " CAST(p.value AS TEXT) AS avatar_url, a.created_at,"
    " (SELECT max(d.last_seen_at) FROM devices d WHERE d.user_id = a.user_id) AS last_seen_at, a.appservice_id,"
    " a.locked, a.suspended, EXISTS (SELECT 1 FROM erasures e WHERE e.user_id = a.user_id)"
)


def _load(row: tuple[Any, ...]) -> ListedUser:
    user_id, guest, admin, deactivated, displayname, avatar_url, created_at, last_seen_at, appservice_id, *moderated = row
    locked, suspended, erased = map(bool, moderated)
    return ListedUser(
        user_id,
        bool(guest),
        bool(admin),
        bool(deactivated),
        text(displayname),
        text(avatar_url),
        created_at,
        last_seen_at,
        appservice_id,
        locked,
        suspended,
        erased,
    )


def text(encoded: str | None) -> str | None:
    """The text that a field of a profile is stored as; None for what is none."""
    value = None if encoded is None else canonical_json.decode_exact(encoded)
    return value if type(value) is str else None


def get(tx: Transaction, user_id: str) -> ListedUser | None:
    row = tx.one(f"{_COLUMNS}{_FROM} WHERE a.user_id = ?", (user_id,))
    return None if row is None else _load(row)


def page(
    tx: Transaction, wanted: WantedUsers, order_by: str, start: int, limit: int, *, backwards: bool
) -> tuple[list[ListedUser], int]:
    """Some of the accounts in the order of one of `ORDERS` (then of their ids), and how many there are in all."""
    where, values = _where(wanted)
    direction = "DESC" if backwards else "ASC"
    rows = tx.all(
        f"{_COLUMNS}{_FROM} WHERE {where} ORDER BY {ORDERS[order_by]} {direction}, a.user_id ASC LIMIT ? OFFSET ?",
        (*values, limit, start),
    )
    total: Any = tx.one(f"SELECT count(*){_FROM} WHERE {where}", values)
    return [_load(row) for row in rows], total[0]


def has_name(column: str) -> str:
    """SQL: the local part of the user id in this column, or the display name `n.value`, holds a text, which is bound twice."""
    return (
        f"(instr(lower(substr({column}, 2, instr({column}, ':') - 2)), lower(?)) > 0"
        " OR instr(lower(CAST(n.value AS TEXT)), lower(?)) > 0)"
    )


def _where(wanted: WantedUsers) -> tuple[str, list[Any]]:
    parts, values = ["1"], list[Any]()
    if wanted.name is not None:
        parts.append(has_name("a.user_id"))
        values += [wanted.name, wanted.name]
    elif wanted.user_id is not None:
        parts.append("instr(lower(a.user_id), lower(?)) > 0")
        values.append(wanted.user_id)
    flags = {"a.guest": wanted.guests, "a.admin": wanted.admins, "(a.deactivated_at IS NOT NULL)": wanted.deactivated}
    flags["a.locked"] = wanted.locked
    for column, flag in flags.items():
        if flag is not None:
            parts.append(f"{column} = ?")
            values.append(int(flag))
    return " AND ".join(parts), values
