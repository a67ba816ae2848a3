"""Device lists: whose keys changed when, who has come or ceased to share an encrypted room, what remote lists are held.

Clients keep the keys of users with whom they share an encrypted room, and are told of changes by `device_lists` in sync
and by /keys/changes (client-server API, "Tracking the device list for a user"). Nothing of that is stored but the time
of the last change: who shares rooms with whom since when is read from memberships and from the state before the
membership events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeserver.matrix.identifiers import domain_of
from edgeserver.store import device_keys, events, rooms, state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.store.database import Transaction

MAX_STEPS: Final = 32
"""So many membership events of one user are followed back; beyond that the user counts as newly joined."""

_ENCRYPTION = ("m.room.encryption", "")
_END = 2**62


# Changes


def last_change(tx: Transaction, user_id: str) -> int | None:
    """When the user's keys last changed: a stream position."""
    row = tx.one("SELECT stream FROM device_list_changes WHERE user_id = ?", (user_id,))
    return row[0] if row else None


def note_change(tx: Transaction, user_id: str) -> int:
    """The user's devices or cross-signing keys have changed; returns the position."""
    stream = tx.stream()
    tx.execute(
        "INSERT INTO device_list_changes (user_id, stream) VALUES (?, ?)"
        " ON CONFLICT (user_id) DO UPDATE SET stream = excluded.stream",
        (user_id, stream),
    )
    return stream


def note_update(tx: Transaction, user_id: str) -> tuple[int | None, int]:
    """A change that other servers are told as an m.device_list_update: (stream id of the one before, its stream id)."""
    previous, stream = stream_id(tx, user_id), note_change(tx, user_id)
    tx.execute("UPDATE device_list_changes SET stream_id = ? WHERE user_id = ?", (stream, user_id))
    return previous, stream


def stream_id(tx: Transaction, user_id: str) -> int | None:
    """The stream id of the newest m.device_list_update of one of our users; None if there was none."""
    row = tx.one("SELECT stream_id FROM device_list_changes WHERE user_id = ?", (user_id,))
    return row[0] if row else None


def note_private_change(tx: Transaction, user_id: str, target: str) -> None:
    """What `user_id` sees of `target`'s keys has changed, and nobody else sees it."""
    tx.execute(
        "INSERT OR REPLACE INTO private_key_changes (user_id, target, stream) VALUES (?,?,?)",
        (user_id, target, tx.stream()),
    )


def local_sharers(tx: Transaction, user_id: str) -> list[str]:
    """Users of this server who share a room with the user, the user too if local: whom a change may wake."""
    rows = tx.all(
        "SELECT DISTINCT o.user_id FROM memberships m JOIN memberships o ON o.room = m.room AND o.local = 1"
        " WHERE m.user_id = ? AND m.membership = 'join' AND o.membership = 'join'",
        (user_id,),
    )
    return [row[0] for row in rows]


# What a client is told


def changed(tx: Transaction, user_id: str, since: int, upto: int) -> tuple[list[str], list[str]]:
    """Since a sync token: (whose keys the user has to ask for again, with whom no encrypted room is shared any more).

    `changed`: who shares an encrypted room (or is the user) and changed keys in (since, upto], and who shares one now
    and did not do so all the time since `since`. Memberships are those of this snapshot: what came after `upto` may be
    told twice, but is never lost.
    """
    if not _anything_new(tx, since):
        return [], []
    sharing = _Sharing(tx, user_id, since)
    found = _key_changes(tx, user_id, since, upto, sharing)
    started, stopped = sharing.started(), sharing.stopped()
    return sorted(found | started), sorted(stopped - found - started)


def _anything_new(tx: Transaction, since: int) -> bool:
    """Most syncs are about messages alone."""
    row = tx.one(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM device_list_changes WHERE stream > ?)"
        " OR EXISTS (SELECT 1 FROM memberships WHERE stream > ?)"
        " OR EXISTS (SELECT 1 FROM private_key_changes WHERE stream > ?)",
        (since, since, since),
    )
    return row is not None or bool(_newly_encrypted(tx, since))


def _newly_encrypted(tx: Transaction, since: int) -> set[int]:
    """Rooms with an m.room.encryption event that arrived after `since`."""
    rows = tx.all(
        "SELECT room FROM events WHERE stream > ?"
        " AND key = (SELECT key FROM state_keys WHERE type = ? AND state_key = ?)",
        (since, *_ENCRYPTION),
    )
    return {room for (room,) in rows}


def _key_changes(tx: Transaction, user_id: str, since: int, upto: int, sharing: _Sharing) -> set[str]:
    rows = tx.all("SELECT user_id FROM device_list_changes WHERE stream > ? AND stream <= ?", (since, upto))
    found = {other for (other,) in rows if other == user_id or sharing.shares_with(other)}
    rows = tx.all(
        "SELECT target FROM private_key_changes WHERE user_id = ? AND stream > ? AND stream <= ?",
        (user_id, since, upto),
    )
    return found | {target for (target,) in rows}


def share_encrypted_room(tx: Transaction, user_id: str, other: str) -> bool:
    """Whether both are in an encrypted room now."""
    return _Sharing(tx, user_id, _END).shares_with(other)


class _Sharing:
    """With whom a user shares encrypted rooms now, and whether that is new since a stream position."""

    def __init__(self, tx: Transaction, user_id: str, since: int) -> None:
        self._tx = tx
        self._user_id = user_id
        self._since = since
        self._encryption: dict[int, bool] = {}
        rows = tx.all("SELECT room, membership, event, stream FROM memberships WHERE user_id = ?", (user_id,))
        self._joined: set[int] = {room for room, membership, _, _ in rows if membership == "join"}
        self._news = [(room, membership, event) for room, membership, event, stream in rows if stream > since]

    def shares_with(self, other: str) -> bool:
        """Whether both are in an encrypted room now."""
        rows = self._tx.all("SELECT room FROM memberships WHERE user_id = ? AND membership = 'join'", (other,))
        return any(room in self._joined and self._is_encrypted(room) for (room,) in rows)

    def started(self) -> set[str]:
        """Who shares an encrypted room now and did not share one all the time."""
        new_rooms = _newly_encrypted(self._tx, self._since) & self._joined
        new_rooms |= {
            room
            for room, membership, event in self._news
            if membership == "join" and not self._stayed(event, self._user_id)
        }
        candidates: set[str] = set()
        for room in new_rooms:
            if self._is_encrypted(room):
                candidates.update(rooms.members(self._tx, room))
        for other, room, membership, event in self._others():
            if membership != "join" or other in candidates or not self._is_encrypted(room):
                continue
            if not self._stayed(event, other):
                candidates.add(other)
        candidates.discard(self._user_id)
        for room in self._joined - new_rooms:
            if not candidates:
                break
            if self._is_encrypted(room):
                candidates -= self._old_members(room)
        return candidates

    def stopped(self) -> set[str]:
        """Who shared an encrypted room and shares none now."""
        candidates: set[str] = set()
        for room, membership, event in self._news:
            if membership != "join" and self._was_joined(event, self._user_id) and self._is_encrypted(room):
                candidates.update(rooms.members(self._tx, room))
                candidates.update(rooms.changed_members(self._tx, room, self._since, _END))
        for other, room, membership, event in self._others():
            if membership != "join" and self._is_encrypted(room) and self._was_joined(event, other):
                candidates.add(other)
        candidates.discard(self._user_id)
        for room in self._joined:
            if not candidates:
                break
            if self._is_encrypted(room):
                candidates.difference_update(rooms.members(self._tx, room))
        return candidates

    def _others(self) -> list[tuple[str, int, str, int]]:
        """Rows of others in the user's rooms, newer than `since`: (user id, room, membership, event)."""
        rows = self._tx.all(
            "SELECT user_id, room, membership, event FROM memberships WHERE stream > ? AND user_id <> ?",
            (self._since, self._user_id),
        )
        return [(other, room, membership, event) for other, room, membership, event in rows if room in self._joined]

    def _old_members(self, room: int) -> set[str]:
        rows = self._tx.all(
            "SELECT user_id FROM memberships WHERE room = ? AND membership = 'join' AND stream <= ?",
            (room, self._since),
        )
        return {user_id for (user_id,) in rows}

    def _is_encrypted(self, room: int) -> bool:
        if room not in self._encryption:
            self._encryption[room] = _is_encrypted(self._tx, room)
        return self._encryption[room]

    def _stayed(self, event: int, user_id: str) -> bool:
        """Whether the user, whose newest membership event is a join, has been joined all the time since `since`."""
        return _walk(self._tx, event, user_id, self._since, through_joins=True)

    def _was_joined(self, event: int, user_id: str) -> bool:
        """Whether the user, whose newest membership event this is, was joined at `since`."""
        return _walk(self._tx, event, user_id, self._since, through_joins=False)


def _is_encrypted(tx: Transaction, room: int) -> bool:
    row = tx.one("SELECT snapshot FROM rooms WHERE room = ?", (room,))
    return row is not None and row[0] is not None and state.lookup(tx, row[0], _ENCRYPTION) is not None


def _walk(tx: Transaction, number: int, user_id: str, since: int, *, through_joins: bool) -> bool:
    """Follows a user's membership events back until one that was there at `since`: was it a join?

    `through_joins`: an event on the way that is none says no. If the newest event is itself that old, then its row is
    newer because the room is newly known or a state resolution brought it back: the user counts as newly joined, and
    not as having been there.
    """
    at: int | None = number
    for step in range(MAX_STEPS):
        stored = None if at is None else events.by_number(tx, at)
        if stored is None:
            return False
        joined = stored.event.content.get("membership") == "join"
        if stored.stream is None or stored.stream <= since:
            return joined and step > 0
        if (through_joins and not joined) or stored.before is None:
            return False
        at = state.lookup(tx, stored.before, ("m.room.member", user_id))
    return False


# Lists of remote users


def remote_list(tx: Transaction, user_id: str) -> tuple[int | None, bool] | None:
    """(stream id of the owner's server, stale) of a remote list that is held; None if none is."""
    row = tx.one("SELECT stream_id, stale FROM remote_lists WHERE user_id = ?", (user_id,))
    return None if row is None else (row[0], bool(row[1]))


def set_remote_list(tx: Transaction, user_id: str, stream_id: int | None, *, stale: bool = False) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO remote_lists (user_id, stream_id, stale) VALUES (?,?,?)",
        (user_id, stream_id, int(stale)),
    )


def mark_stale(tx: Transaction, user_id: str) -> None:
    """An update was missed: the list has to be asked for again."""
    tx.execute("UPDATE remote_lists SET stale = 1 WHERE user_id = ?", (user_id,))


def forget_unshared(tx: Transaction, user_ids: Iterable[str]) -> None:
    """Drops the lists of remote users with whom no local user shares a room: no updates will come for them."""
    for user_id in user_ids:
        if remote_list(tx, user_id) is not None and not local_sharers(tx, user_id):
            device_keys.remove_user(tx, user_id)
            tx.execute("DELETE FROM remote_lists WHERE user_id = ?", (user_id,))


def shares_another_room(tx: Transaction, user_id: str, room: int) -> bool:
    """Whether a local user shares a room other than this one with the user."""
    row = tx.one(
        "SELECT 1 FROM memberships m JOIN memberships o ON o.room = m.room AND o.local = 1"
        " WHERE m.user_id = ? AND m.room <> ? AND m.membership = 'join' AND o.membership = 'join' LIMIT 1",
        (user_id, room),
    )
    return row is not None


def remote_members_held(tx: Transaction, room: int) -> list[str]:
    """Joined members of a room whose remote lists are held."""
    rows = tx.all(
        "SELECT m.user_id FROM memberships m JOIN remote_lists l ON l.user_id = m.user_id"
        " WHERE m.room = ? AND m.membership = 'join'",
        (room,),
    )
    return [row[0] for row in rows]


def new_servers(tx: Transaction, user_id: str, room: int) -> list[str]:
    """Servers in this room that share no other room with the user."""
    rows = tx.all(
        "SELECT server_name FROM room_servers WHERE room = ? AND server_name <> ? AND server_name NOT IN ("
        " SELECT s.server_name FROM memberships m JOIN room_servers s ON s.room = m.room"
        " WHERE m.user_id = ? AND m.membership = 'join' AND m.room <> ?)",
        (room, domain_of(user_id), user_id, room),
    )
    return [row[0] for row in rows]


def was_joined_before(tx: Transaction, number: int, user_id: str) -> bool:
    """Whether the user was joined in the state before this event."""
    stored = events.by_number(tx, number)
    if stored is None or stored.before is None:
        return False
    before = state.lookup_event(tx, stored.before, "m.room.member", user_id)
    return before is not None and before.event.content.get("membership") == "join"
