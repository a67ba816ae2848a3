"""Rooms, who is in them, which servers take part, aliases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from edgeserver.matrix import canonical_json
from edgeserver.matrix.room_versions import ROOM_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.store.database import Transaction


LOADING = 1
"""`rooms.partial`: the room's members are being fetched."""


@dataclass(frozen=True, slots=True)
class Room:
    """A room that we know of. `snapshot` is its current state: None if nothing but an invite or a knock is known.

    `is_partial`: the state lacks members (`store/partial_rooms.py`); `is_loading`: and they are being fetched, not only those whose
    servers' keys cannot be had.
    """

    number: int
    room_id: str
    rules: RoomVersion
    snapshot: int | None
    heads: tuple[str, ...]
    published: bool
    is_partial: bool = False
    is_loading: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """What is true now of one user in one room."""

    user_id: str
    room: int
    room_id: str
    membership: str
    event: int
    stream: int
    forgotten: bool
    stripped: list[dict[str, Any]] | None


_ROOM = "SELECT room, room_id, version, snapshot, heads, published, partial FROM rooms"
_MEMBERSHIP = (
    "SELECT m.user_id, m.room, r.room_id, m.membership, m.event, m.stream, m.forgotten, m.stripped"
    " FROM memberships m JOIN rooms r ON r.room = m.room"
)


def _room(row: tuple[Any, ...]) -> Room:
    number, room_id, version, snapshot, heads, published, partial = row
    rules = ROOM_VERSIONS[version]
    return Room(number, room_id, rules, snapshot, tuple(orjson.loads(heads)), bool(published), partial > 0, partial == LOADING)


def _membership(row: tuple[Any, ...]) -> Membership:
    user_id, room, room_id, membership, event, stream, forgotten, stripped = row
    parsed = None if stripped is None else canonical_json.decode_exact(stripped)
    return Membership(user_id, room, room_id, membership, event, stream, bool(forgotten), parsed)


def get(tx: Transaction, room_id: str) -> Room | None:
    row = tx.one(f"{_ROOM} WHERE room_id = ?", (room_id,))
    return None if row is None else _room(row)


def by_number(tx: Transaction, number: int) -> Room:
    row = tx.one(f"{_ROOM} WHERE room = ?", (number,))
    if row is None:
        raise LookupError(f"no room {number}")
    return _room(row)


def id_of(tx: Transaction, number: int) -> str | None:
    row = tx.one("SELECT room_id FROM rooms WHERE room = ?", (number,))
    return None if row is None else row[0]


def add(tx: Transaction, room_id: str, rules: RoomVersion) -> int:
    """Returns the room's number, which no other room ever had, purged ones included."""
    return tx.insert(
        "INSERT INTO rooms (room, room_id, version) VALUES ("
        " 1 + max((SELECT coalesce(max(room), 0) FROM rooms), coalesce((SELECT value FROM meta WHERE key = 'purged_room'), 0)), ?, ?)",
        (room_id, rules.version),
    )


def set_version(tx: Transaction, room: int, rules: RoomVersion) -> None:
    """A room of which only an invite was known is of another version than the inviting server told."""
    tx.execute("UPDATE rooms SET version = ? WHERE room = ?", (rules.version, room))


def move(tx: Transaction, room: int, heads: Sequence[str], snapshot: int) -> None:
    """Sets the forward extremities and the current state."""
    tx.execute(
        "UPDATE rooms SET heads = ?, snapshot = ? WHERE room = ?", (orjson.dumps(list(heads)).decode(), snapshot, room)
    )


def note_news(tx: Transaction, room: int, stream: int, *, bumps: bool) -> None:
    """The newest event of the room's timeline lies at this stream position; `bumps`: it is activity (MSC4186, `bump_stamp`)."""
    tx.execute("UPDATE rooms SET newest = ?1, bumped = CASE ?2 WHEN 1 THEN ?1 ELSE bumped END WHERE room = ?3", (stream, int(bumps), room))


def describe(tx: Transaction, room: int, kind: str | None, *, encrypted: bool) -> None:
    """What lists of rooms are filtered by: the type in m.room.create, and whether the state has m.room.encryption."""
    tx.execute("UPDATE rooms SET type = ?, encrypted = ? WHERE room = ?", (kind, int(encrypted), room))


def set_published(tx: Transaction, room: int, published: bool) -> None:
    tx.execute("UPDATE rooms SET published = ? WHERE room = ?", (int(published), room))


def published(tx: Transaction) -> list[Room]:
    return [_room(row) for row in tx.all(f"{_ROOM} WHERE published = 1 AND snapshot IS NOT NULL")]


# Memberships


def set_membership(
    tx: Transaction,
    user_id: str,
    room: int,
    membership: str,
    event: int,
    stream: int,
    *,
    local: bool,
    stripped: bytes | None = None,
) -> None:
    """What is true of the user from now on. Forgetting ends when the user joins, is invited or knocks; being banned, or no longer,
    brings nothing back (client-server API, "Leaving rooms").
    """
    tx.execute(
        "INSERT INTO memberships (user_id, room, membership, event, stream, local, stripped) VALUES (?,?,?,?,?,?,?)"
        " ON CONFLICT (user_id, room) DO UPDATE SET membership = excluded.membership, event = excluded.event,"
        " stream = excluded.stream, stripped = excluded.stripped,"
        " forgotten = CASE WHEN excluded.membership IN ('leave', 'ban') THEN forgotten ELSE 0 END",
        (user_id, room, membership, event, stream, int(local), stripped),
    )


def drop_membership(tx: Transaction, user_id: str, room: int) -> None:
    """The room's state has no membership of this user any more (a resolution took it away)."""
    tx.execute("DELETE FROM memberships WHERE user_id = ? AND room = ?", (user_id, room))


def membership(tx: Transaction, user_id: str, room: int) -> Membership | None:
    row = tx.one(f"{_MEMBERSHIP} WHERE m.user_id = ? AND m.room = ?", (user_id, room))
    return None if row is None else _membership(row)


def membership_in(tx: Transaction, user_id: str, room_id: str) -> Membership | None:
    row = tx.one(f"{_MEMBERSHIP} WHERE m.user_id = ? AND r.room_id = ?", (user_id, room_id))
    return None if row is None else _membership(row)


def memberships_of(tx: Transaction, user_id: str) -> list[Membership]:
    """All rooms of a user, whatever the membership, forgotten ones included."""
    return [_membership(row) for row in tx.all(f"{_MEMBERSHIP} WHERE m.user_id = ?", (user_id,))]


def members(tx: Transaction, room: int, membership: str = "join") -> list[str]:
    """User ids with this membership."""
    return [
        user_id
        for (user_id,) in tx.all(
            "SELECT user_id FROM memberships WHERE room = ? AND membership = ? ORDER BY user_id", (room, membership)
        )
    ]


def member_events(tx: Transaction, room: int, membership: str) -> list[int]:
    """The numbers of the member events of those with this membership, by user id."""
    rows = tx.all("SELECT event FROM memberships WHERE room = ? AND membership = ? ORDER BY user_id", (room, membership))
    return [event for (event,) in rows]


def count(tx: Transaction, room: int, membership: str) -> int:
    row = tx.one("SELECT count(*) FROM memberships WHERE room = ? AND membership = ?", (room, membership))
    return row[0] if row else 0


def local_members(tx: Transaction, room: int) -> list[str]:
    """Joined users of this server."""
    return [
        user_id
        for (user_id,) in tx.all(
            "SELECT user_id FROM memberships WHERE room = ? AND local = 1 AND membership = 'join'", (room,)
        )
    ]


def local_people(tx: Transaction, room: int) -> list[str]:
    """Users of this server who are in the room, invited to it or knocking."""
    return [
        user_id
        for (user_id,) in tx.all(
            "SELECT user_id FROM memberships WHERE room = ? AND local = 1 AND membership IN ('join', 'invite', 'knock')", (room,)
        )
    ]


def forget(tx: Transaction, user_id: str, room: int, stream: int) -> None:
    tx.execute(
        "UPDATE memberships SET forgotten = 1, stream = ? WHERE user_id = ? AND room = ?", (stream, user_id, room)
    )


def changed_members(tx: Transaction, room: int, since: int, upto: int) -> list[str]:
    """Users whose membership row in the room changed in (since, upto]."""
    return [
        user_id
        for (user_id,) in tx.all(
            "SELECT user_id FROM memberships WHERE room = ? AND stream > ? AND stream <= ?", (room, since, upto)
        )
    ]


def share_a_room(tx: Transaction, one: str, other: str) -> bool:
    row = tx.one(
        "SELECT 1 FROM memberships a JOIN memberships b ON b.room = a.room"
        " WHERE a.user_id = ? AND b.user_id = ? AND a.membership = 'join' AND b.membership = 'join' LIMIT 1",
        (one, other),
    )
    return row is not None


def local_users_near(tx: Transaction, user_id: str) -> list[str]:
    """Our users who share a room with this one, who is among them if they are ours and in any room."""
    rows = tx.all(
        "SELECT DISTINCT o.user_id FROM memberships m JOIN memberships o ON o.room = m.room"
        " WHERE m.user_id = ? AND m.membership = 'join' AND o.local = 1 AND o.membership = 'join'",
        (user_id,),
    )
    return [near for (near,) in rows]


def is_joined(tx: Transaction, user_id: str, room: int) -> bool:
    row = tx.one("SELECT 1 FROM memberships WHERE user_id = ? AND room = ? AND membership = 'join'", (user_id, room))
    return row is not None


_SHARED = (
    " FROM memberships a JOIN memberships b ON b.room = a.room JOIN rooms r ON r.room = a.room"
    " WHERE a.user_id = ? AND b.user_id = ? AND a.membership = 'join' AND b.membership = 'join'"
)


def shared_by(tx: Transaction, one: str, other: str, after: str, limit: int) -> list[str]:
    """Rooms that both are joined to, in order of their ids, from the one after `after` on."""
    rows = tx.all(f"SELECT r.room_id {_SHARED} AND r.room_id > ? ORDER BY r.room_id LIMIT ?", (one, other, after, limit))
    return [room_id for (room_id,) in rows]


def count_shared_by(tx: Transaction, one: str, other: str) -> int:
    row = tx.one(f"SELECT count(*) {_SHARED}", (one, other))
    return row[0] if row else 0


# Servers


def server_joined(tx: Transaction, room: int, server_name: str, difference: int) -> None:
    tx.execute(
        "INSERT INTO room_servers (room, server_name, joined) VALUES (?,?,max(0, ?))"
        " ON CONFLICT (room, server_name) DO UPDATE SET joined = max(0, joined + ?)",
        (room, server_name, difference, difference),
    )
    if difference < 0:
        tx.execute("DELETE FROM room_servers WHERE room = ? AND server_name = ? AND joined <= 0", (room, server_name))


def servers(tx: Transaction, room: int) -> list[str]:
    """Servers with joined members, the one with most first."""
    return [
        name
        for (name,) in tx.all(
            "SELECT server_name FROM room_servers WHERE room = ? ORDER BY joined DESC, server_name", (room,)
        )
    ]


def server_is_in(tx: Transaction, room: int, server_name: str) -> bool:
    row = tx.one("SELECT 1 FROM room_servers WHERE room = ? AND server_name = ?", (room, server_name))
    return row is not None


def has_user_of(tx: Transaction, room: int, server_name: str, memberships: Sequence[str]) -> bool:
    """Whether any user of that server has one of these memberships."""
    marks = ",".join("?" * len(memberships))
    row = tx.one(
        f"SELECT 1 FROM memberships WHERE room = ? AND membership IN ({marks})"
        " AND substr(user_id, instr(user_id, ':') + 1) = ? LIMIT 1",
        (room, *memberships, server_name),
    )
    return row is not None


def all_servers(tx: Transaction) -> list[str]:
    """Every server that shares a room with us (ours among them)."""
    return [name for (name,) in tx.all("SELECT DISTINCT server_name FROM room_servers")]


def servers_of_user(tx: Transaction, user_id: str) -> list[str]:
    """Servers that share a room with the user (for device lists, presence, receipts)."""
    return [
        name
        for (name,) in tx.all(
            "SELECT DISTINCT s.server_name FROM memberships m JOIN room_servers s ON s.room = m.room"
            " WHERE m.user_id = ? AND m.membership = 'join'",
            (user_id,),
        )
    ]


# Aliases


def alias_target(tx: Transaction, alias: str) -> str | None:
    row = tx.one("SELECT room_id FROM aliases WHERE alias = ?", (alias,))
    return row[0] if row else None


def alias_creator(tx: Transaction, alias: str) -> str | None:
    row = tx.one("SELECT creator FROM aliases WHERE alias = ?", (alias,))
    return row[0] if row else None


def aliases_of(tx: Transaction, room_id: str) -> list[str]:
    return [alias for (alias,) in tx.all("SELECT alias FROM aliases WHERE room_id = ? ORDER BY alias", (room_id,))]


def add_alias(tx: Transaction, alias: str, room_id: str, creator: str) -> None:
    tx.execute("INSERT INTO aliases (alias, room_id, creator) VALUES (?,?,?)", (alias, room_id, creator))


def move_aliases(tx: Transaction, from_room: str, to_room: str) -> None:
    """Every alias of the one room is the other's from now on."""
    tx.execute("UPDATE aliases SET room_id = ? WHERE room_id = ?", (to_room, from_room))


def remove_alias(tx: Transaction, alias: str) -> None:
    tx.execute("DELETE FROM aliases WHERE alias = ?", (alias,))
