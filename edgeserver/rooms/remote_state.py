"""The state of a room before an event, by another server's word: ids first, then only the events that are not held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeserver.rooms.event_source import Allowance, SourceFailed
from edgeserver.rooms.outliers import Both
from edgeserver.store import events
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from edgeserver.rooms.event_source import EventSource
    from edgeserver.rooms.outliers import OutlierIntake
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room
    from edgeserver.store.state import StateKey

ONE_BY_ONE: Final = 50
"""Up to so many events are asked for singly; if more are lacking, the whole state is."""
MAX_STATE: Final = 300_000


@dataclass(frozen=True, slots=True)
class GivenState:
    """A state: `entries` are numbers of held events, `unready` counts those that are left out for want of their authors' keys."""

    entries: dict[StateKey, int]
    unready: int


class RemoteState:
    """Asks other servers for states, and takes in what they consist of."""

    def __init__(self, db: Database, source: EventSource, outliers: OutlierIntake) -> None:
        self._db = db
        self._source = source
        self._outliers = outliers

    async def before(self, server: str, room: Room, event_id: str, allowance: Allowance | None = None) -> GivenState:
        """The state before an event. Raises `SourceFailed`.

        Events of it that fail the checks, are rejected by what they cite, or are of another room, are left out.
        """
        allowance = allowance or Allowance()
        allowance.ask()
        state_ids, auth_ids = await self._source.state_ids(server, room.room_id, event_id)
        wanted = list(dict.fromkeys([*auth_ids, *state_ids]))
        if len(wanted) > MAX_STATE:
            raise SourceFailed(f"{server} says that the state has {len(wanted)} events")
        held = await self._db.read(lambda tx: events.held(tx, wanted))
        lacking = [one for one in wanted if one not in held]
        if len(lacking) > ONE_BY_ONE:
            allowance.ask()
            unready = await self._take_all(server, room, event_id)
        else:
            unready = await self._take_singly(server, room, lacking, allowance)
        return GivenState(await self._db.read(lambda tx: _by_key(tx, room.number, state_ids)), unready)

    async def _take_singly(self, server: str, room: Room, event_ids: list[str], allowance: Allowance) -> int:
        pdus = []
        for event_id in event_ids:
            allowance.ask()
            pdus.append(await self._source.event(server, event_id))
        return len((await self._outliers.take_in(room, pdus, [server])).unready) if pdus else 0

    async def _take_all(self, server: str, room: Room, event_id: str) -> int:
        pdus, chain = await self._source.state(server, room.room_id, event_id)
        if len(pdus) + len(chain) > MAX_STATE:
            raise SourceFailed(f"{server} gave a state of {len(pdus) + len(chain)} events")
        return len((await self._outliers.take_in(room, Both(pdus, chain), [server])).unready)


def _by_key(tx: Transaction, room: int, state_ids: list[str]) -> dict[StateKey, int]:
    found = [one for one in events.described(tx, state_ids) if one.room == room and one.standing is not Standing.REJECTED]
    return {one.key: one.number for one in found if one.key is not None}
