"""Application services: how far each has been served, what is new since then, and the rooms that they list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edgeserver.matrix import canonical_json
from edgeserver.store.receipts import Receipt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.store.database import Transaction

MAX_LISTED: Final = 10_000
"""Rooms that one service may list."""


# Positions


def position(tx: Transaction, service: str) -> tuple[int, int | None] | None:
    """(up to where the service has taken everything, the end of a transaction that failed); None for one that is new."""
    row = tx.one("SELECT position, pending FROM bridge_positions WHERE service = ?", (service,))
    return None if row is None else (row[0], row[1])


def set_position(tx: Transaction, service: str, upto: int, pending: int | None = None) -> None:
    tx.execute("INSERT OR REPLACE INTO bridge_positions (service, position, pending) VALUES (?,?,?)", (service, upto, pending))


# What is new


class NewEvent(NamedTuple):
    """An event that has come in: its number, its room's, the stream position at which it did, the bytes of its PDU."""

    number: int
    room: int
    stream: int
    size: int


def new_events(tx: Transaction, since: int, upto: int, limit: int) -> list[NewEvent]:
    """The oldest `limit` events of timelines that arrived in (since, upto], in order."""
    rows = tx.all(
        "SELECT event, room, stream, length(pdu) FROM events WHERE stream > ? AND stream <= ? ORDER BY stream LIMIT ?",
        (since, upto, limit),
    )
    return [NewEvent(*row) for row in rows]


def new_memberships_outside(tx: Transaction, since: int, upto: int, limit: int) -> list[NewEvent]:
    """The same of member events of this server's users that are in no timeline here: invites to rooms that we are not in, and their end."""
    rows = tx.all(
        "SELECT m.event, m.room, m.stream, length(e.pdu) FROM memberships m JOIN events e ON e.event = m.event"
        " WHERE m.stream > ? AND m.stream <= ? AND m.local = 1 AND e.stream IS NULL ORDER BY m.stream LIMIT ?",
        (since, upto, limit),
    )
    return [NewEvent(*row) for row in rows]


def local_memberships(tx: Transaction, room: int) -> list[tuple[str, str, int]]:
    """(user id, membership, stream position of the last change) of this server's users in a room."""
    return [
        (user_id, membership, stream)
        for user_id, membership, stream in tx.all(
            "SELECT user_id, membership, stream FROM memberships WHERE room = ? AND local = 1", (room,)
        )
    ]


def new_receipts(tx: Transaction, since: int, upto: int, limit: int) -> list[tuple[int, Receipt]]:
    """(stream position, receipt) of the oldest `limit` receipts in (since, upto], private ones too, in order."""
    rows = tx.all(
        "SELECT stream, room, user_id, type, thread, event_id, place, ts FROM receipts WHERE stream > ? AND stream <= ?"
        " ORDER BY stream LIMIT ?",
        (since, upto, limit),
    )
    return [(row[0], Receipt(*row[1:])) for row in rows]


class ToDeviceMessage(NamedTuple):
    """A message for a device of one of the service's users; `message` has sender, type and content."""

    stream: int
    user_id: str
    device_id: str
    message: dict[str, Any]


def new_to_device(tx: Transaction, service: str, since: int, upto: int, limit: int, most: int) -> tuple[list[ToDeviceMessage], int]:
    """The oldest messages to devices of the service's own users in (since, upto], in order, and up to where that is all of them:
    at most `limit`, and no more once they have `most` bytes together.
    """
    # CROSS JOIN: what is new comes first, and each row looks its owner up
    rows = tx.all(
        "SELECT t.stream, t.user_id, t.device_id, t.message FROM to_device t CROSS JOIN accounts a ON a.user_id = t.user_id"
        " WHERE t.stream > ? AND t.stream <= ? AND a.appservice_id = ? ORDER BY t.stream LIMIT ?",
        (since, upto, service, limit),
    )
    found: list[ToDeviceMessage] = []
    size = 0
    for stream, user_id, device_id, message in rows:
        size += len(message)
        found.append(ToDeviceMessage(stream, user_id, device_id, canonical_json.decode_exact(message)))
        if size >= most or len(found) == limit:
            return found, stream
    return found, upto


def taken_to_device(tx: Transaction, service: str, since: int, upto: int) -> None:
    """The service has the messages of (since, upto]: they wait for their devices no longer."""
    tx.execute(
        "DELETE FROM to_device WHERE stream IN (SELECT t.stream FROM to_device t CROSS JOIN accounts a ON a.user_id = t.user_id"
        " WHERE a.appservice_id = ? AND t.stream > ? AND t.stream <= ?)",
        (service, since, upto),
    )


def devices_with_keys(tx: Transaction, service: str) -> list[tuple[str, str]]:
    """(user id, device id) of the service's own users' devices that have keys."""
    rows = tx.all(
        "SELECT d.user_id, d.device_id FROM accounts a JOIN device_keys d ON d.user_id = a.user_id WHERE a.appservice_id = ?"
        " ORDER BY d.user_id, d.device_id",
        (service,),
    )
    return [(user_id, device_id) for user_id, device_id in rows]


def with_sessions(tx: Transaction, user_ids: Sequence[str]) -> set[str]:
    """Those of the users who are logged in somewhere."""
    return {user_id for (user_id,) in tx.all_in("SELECT DISTINCT user_id FROM tokens WHERE user_id IN", user_ids)}


# Listed rooms


def list_room(tx: Transaction, service: str, network_id: str, room_id: str, *, listed: bool) -> bool:
    """Lists a room in a network of the service, or does so no more; False if it lists too many already."""
    key = (service, network_id, room_id)
    if not listed:
        tx.execute("DELETE FROM bridge_rooms WHERE service = ? AND network_id = ? AND room_id = ?", key)
        return True
    row = tx.one("SELECT count(*) FROM bridge_rooms WHERE service = ?", (service,))
    if row is not None and row[0] >= MAX_LISTED:
        return False
    tx.execute("INSERT OR IGNORE INTO bridge_rooms (service, network_id, room_id) VALUES (?,?,?)", key)
    return True


def listed_rooms(tx: Transaction, service: str | None = None, network_id: str | None = None) -> list[str]:
    """The ids of the rooms that are listed in a network of a service; with no service, in any."""
    if service is None:
        return [room_id for (room_id,) in tx.all("SELECT DISTINCT room_id FROM bridge_rooms")]
    rows = tx.all("SELECT room_id FROM bridge_rooms WHERE service = ? AND network_id = ?", (service, network_id))
    return [room_id for (room_id,) in rows]
