"""Sliding sync connections: what each has been told, so that it is told only what is new.

MSC4186, "Connections". A connection is one user's, one device's and has an id of the client's choosing. What an answer tells counts as
told only when the client comes back with the `pos` of that answer; until then a repeated `pos` is answered from what was told before.

Connections live in memory: they are expired freely (M_UNKNOWN_POS, and the client begins anew), by a restart too.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trio

    from edgeserver.sync.sliding.wanted import RequiredState

PER_DEVICE: Final = 8
"""Connections of one device; beyond that the one used longest ago is expired."""
MAX_ROOMS: Final = 200_000
"""Rooms that all connections together remember."""
MAX_CONNECTIONS: Final = 4096
MAX_CONN_ID: Final = 255
SHORT_POSITIONS: Final = 1 << 20

NOTHING: Final = (0, 0)
"""Of notifications and highlights."""
LIVE: Final = -1
"""In place of a stream position: up to that of the connection itself."""


class Sent(NamedTuple):
    """What a connection has been told of a room: everything up to `upto`, of the timeline at least the newest `limit` events then.

    `members`: membership events that were told for laziness: user id → event number. `counts`: notifications and highlights.
    """

    upto: int
    limit: int
    parts: frozenset[RequiredState]
    members: Mapping[str, int]
    is_dm: bool
    counts: tuple[int, int] = NOTHING


@dataclass(frozen=True, slots=True)
class Told:
    """All that a connection has been told; never changed, only replaced.

    `receipts` and `data` (room account data): room → up to where, as in `Sent.upto`.
    `extensions`: up to which position each extension has told. `typing`: room → who types there, as it was told last, if anybody.
    `devices`: device lists are being told up to this position, in the order of user ids, and have been to this one; None: all of them.
    """

    position: int = 0
    rooms: dict[int, Sent] = field(default_factory=dict)
    receipts: dict[int, int] = field(default_factory=dict)
    data: dict[int, int] = field(default_factory=dict)
    typing: dict[int, tuple[str, ...]] = field(default_factory=dict)
    extensions: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    devices: tuple[int, str] | None = None

    def since(self, sent: int | None) -> int | None:
        """A stream position; None if nothing was told."""
        return self.position if sent == LIVE else sent


@dataclass(slots=True)
class Changes:
    """What an answer adds to that."""

    position: int
    rooms: dict[int, Sent] = field(default_factory=dict)
    receipts: dict[int, int] = field(default_factory=dict)
    data: dict[int, int] = field(default_factory=dict)
    typing: dict[int, tuple[str, ...]] = field(default_factory=dict)
    extensions: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    devices: tuple[int, str] | None = None

    def applied(self, told: Told) -> Told:
        """What has been told then. `told` stays as it is: a request that has been given up may be reading it on another thread."""
        return Told(
            self.position,
            {**told.rooms, **self.rooms} if self.rooms else told.rooms,
            {**told.receipts, **self.receipts} if self.receipts else told.receipts,
            {**told.data, **self.data} if self.data else told.data,
            {room: users for room, users in {**told.typing, **self.typing}.items() if users},
            self.extensions,
            self.counts,
            self.devices,
        )


class Connection:
    """One connection. At most one request is under way in it: a newer one ends the older.

    `is_short`: its `pos` is a number alone. It begins anywhere, so that the positions of another connection are not taken for its own.
    """

    __slots__ = ("_first", "_number", "_offered", "is_short", "told", "under_way", "unique")

    def __init__(self, *, is_short: bool = False) -> None:
        self.is_short = is_short
        self.unique = "" if is_short else secrets.token_hex(4)
        self.told = Told()
        self.under_way: trio.CancelScope | None = None
        self._first = self._number = secrets.randbelow(SHORT_POSITIONS) if is_short else 0
        self._offered: Changes | None = None

    def resume(self, number: int) -> bool:
        """The client has come back with this number: False if it is neither that of the last answer nor of the one before it."""
        if self._offered is not None and number == self._number + 1:
            self.told = self._offered.applied(self.told)
            self._number, self._offered = number, None
            return True
        return number == self._number > self._first

    def offer(self, changes: Changes) -> str:
        """An answer is about to be given; returns its `pos`, which begins as a pagination token does (`rooms.tokens`)."""
        self._offered = changes
        return str(self._number + 1) if self.is_short else f"s{changes.position}_{self.unique}_{self._number + 1}"

    def is_read(self, room: int) -> None:
        """The client has read the room and knows that nothing in it is unread now."""
        sent = self.told.rooms.get(room)
        if sent is not None and sent.counts != NOTHING:
            self.told = replace(self.told, rooms={**self.told.rooms, room: sent._replace(counts=NOTHING)})
        offered = None if self._offered is None else self._offered.rooms.get(room)
        if self._offered is not None and offered is not None:
            self._offered.rooms[room] = offered._replace(counts=NOTHING)


class Connections:
    """All of them."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str, str], Connection] = OrderedDict()

    def enter(self, user_id: str, device_id: str, conn_id: str, pos: str | None, *, is_short: bool = False) -> Connection:
        """The connection of a request, a new one without `pos`. Raises M_UNKNOWN_POS."""
        key = (user_id, device_id, conn_id)
        if pos is None:
            self._drop(key)
            connection = Connection(is_short=is_short)
            self._make_room(user_id, device_id)
        else:
            known = self._open.get(key)
            unique, number = _parsed(pos, is_short=is_short)
            if known is None or (known.is_short, known.unique) != (is_short, unique) or not known.resume(number):
                raise errors.UnknownPos
            connection = known
        self._open[key] = connection
        self._open.move_to_end(key)
        return connection

    def known(self, user_id: str, device_id: str, conn_id: str) -> Connection | None:
        """The connection, if there is one."""
        return self._open.get((user_id, device_id, conn_id))

    def forget(self, user_id: str, device_ids: frozenset[str] | None = None) -> None:
        """The devices (all of the user without `device_ids`) are gone."""
        for key in [key for key in self._open if key[0] == user_id and (device_ids is None or key[1] in device_ids)]:
            self._drop(key)

    def _make_room(self, user_id: str, device_id: str) -> None:
        of_device = [key for key in self._open if key[:2] == (user_id, device_id)]
        for key in of_device[: max(0, len(of_device) - PER_DEVICE + 1)]:
            self._drop(key)
        remembered = sum(len(one.told.rooms) for one in self._open.values())
        while self._open and (remembered > MAX_ROOMS or len(self._open) >= MAX_CONNECTIONS):
            oldest = next(iter(self._open))
            remembered -= len(self._open[oldest].told.rooms)
            self._drop(oldest)

    def _drop(self, key: tuple[str, str, str]) -> None:
        gone = self._open.pop(key, None)
        if gone is not None and gone.under_way is not None:
            gone.under_way.cancel()


def _parsed(pos: str, *, is_short: bool) -> tuple[str, int]:
    parts = ["", "", pos] if is_short else pos.split("_")
    if len(parts) != 3 or not (parts[2].isascii() and parts[2].isdecimal()) or len(parts[2]) > 15:
        raise errors.UnknownPos
    return parts[1], int(parts[2])
