"""The rooms of one user, as lists of rooms are made of: one row each, without reading an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.store.database import Transaction


class ListedRoom(NamedTuple):
    """A room and what the user is in it. Stream positions: `since` of the membership, `newest` and `bumped` of the room.

    `by_self`: who left did so themselves.
    """

    room: int
    room_id: str
    membership: str
    since: int
    newest: int
    bumped: int
    type: str | None
    encrypted: bool
    forgotten: bool
    has_state: bool
    by_self: bool

    @property
    def activity(self) -> int:
        """Where the room stands in a list: its newest event, for as long as that is the user's business."""
        return max(self.newest, self.since) if self.membership == "join" else self.since

    @property
    def stamp(self) -> int:
        """`bump_stamp` of MSC4186."""
        return (self.bumped or self.since) if self.membership == "join" else self.since


_ROWS = (
    "SELECT m.room, r.room_id, m.membership, m.stream, r.newest, r.bumped, r.type, r.encrypted, m.forgotten, r.snapshot IS NOT NULL,"
    " CASE m.membership WHEN 'leave' THEN"
    "  (SELECT json_extract(CAST(e.pdu AS TEXT), '$.sender') = m.user_id FROM events e WHERE e.event = m.event) ELSE 0 END"
    " FROM memberships m JOIN rooms r ON r.room = m.room WHERE m.user_id = ?"
)


def all_rooms(tx: Transaction, user_id: str) -> list[ListedRoom]:
    """All rooms of the user, whatever the membership."""
    return list(map(ListedRoom._make, tx.all(_ROWS, (user_id,))))


def some_rooms(tx: Transaction, user_id: str, numbers: Iterable[int]) -> list[ListedRoom]:
    """Those of these rooms that the user has a membership in."""
    rows = (tx.one(f"{_ROWS} AND m.room = ?", (user_id, number)) for number in numbers)
    return [ListedRoom._make(row) for row in rows if row is not None]


def tagged(tx: Transaction, user_id: str) -> dict[str, frozenset[str]]:
    """Room id → the user's tags of the room."""
    found: dict[str, frozenset[str]] = {}
    for room_id, content in tx.all(
        "SELECT room_id, content FROM account_data WHERE user_id = ? AND room_id <> '' AND type = 'm.tag'", (user_id,)
    ):
        tags = canonical_json.decode_exact(content).get("tags")
        found[room_id] = frozenset(tags) if isinstance(tags, dict) else frozenset()
    return found


def stripped(tx: Transaction, user_id: str, room: int) -> dict[tuple[str, str], dict[str, object]]:
    """The contents of the stripped state that came with an invite to a room that we are not in."""
    row = tx.one("SELECT stripped FROM memberships WHERE user_id = ? AND room = ?", (user_id, room))
    given = [] if row is None or row[0] is None else canonical_json.decode_exact(row[0])
    return {
        (one["type"], one["state_key"]): one["content"]
        for one in given
        if isinstance(one, dict)
        and isinstance(one.get("type"), str)
        and isinstance(one.get("state_key"), str)
        and isinstance(one.get("content"), dict)
    }


def invited_by(tx: Transaction, user_id: str, senders: frozenset[str]) -> set[int]:
    """The rooms to which one of these users has invited the user."""
    rows = tx.all(
        "SELECT m.room, json_extract(CAST(e.pdu AS TEXT), '$.sender') FROM memberships m JOIN events e ON e.event = m.event"
        " WHERE m.user_id = ? AND m.membership = 'invite'",
        (user_id,),
    )
    return {room for room, sender in rows if sender in senders}
