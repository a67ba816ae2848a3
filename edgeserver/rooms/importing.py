"""Rooms that come from elsewhere: the state of a join through another server, invites to local users, and their end.

A join may come with all of the room's state or, faster, without its members: then the room is partial until `completing.py` has fetched
the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver import wakeups as topics
from edgeserver.matrix import auth, canonical_json, errors
from edgeserver.matrix.auth_events import CREATE, auth_types_of
from edgeserver.matrix.verdicts import Accepted
from edgeserver.rooms.outliers import Both
from edgeserver.rooms.persist import Placement
from edgeserver.rooms.placing import auth_state
from edgeserver.rooms.verifying import WITNESSES
from edgeserver.store import events, partial_rooms, rooms, state
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.rooms.outliers import OutlierIntake, Pdus, Taken
    from edgeserver.rooms.persist import Persister
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room
    from edgeserver.store.state import StateKey
    from edgeserver.wakeups import Wakeups

KEY_PAUSES: Final = (5.0, 15.0, 40.0)
"""Seconds between attempts to have the keys of a room's creator."""


@dataclass(frozen=True, slots=True)
class GivenRoom:
    """What `server` answered to a join: PDUs, unverified, of the state before the join and of what authorises both.

    `servers` are the others in the room, as far as the server told; all of them if `members_omitted`: then the state lacks members.
    """

    server: str
    state: Pdus
    auth_chain: Pdus
    members_omitted: bool = False
    servers: tuple[str, ...] = ()


class Importer:
    """Takes rooms in. `invited(tx, stream, user_id)` is called inside the transaction for an invite to a room that we need not be in."""

    def __init__(self, db: Database, persister: Persister, outliers: OutlierIntake, wakeups: Wakeups) -> None:
        self._db = db
        self._persister = persister
        self._outliers = outliers
        self._wakeups = wakeups
        self.invited: Callable[[Transaction, int, str], None] = lambda tx, stream, user_id: None

    async def join(self, rules: RoomVersion, join: Event, given: GivenRoom) -> None:
        """A join of ours, verified, that another server accepted.

        Raises M_FORBIDDEN if the state that it gives does not allow the join, 502 M_UNKNOWN if it is no state of that room: the other
        server has told a tale.
        """
        room = await self._db.write(lambda tx: rooms.by_number(tx, self._room(tx, join.room_id, rules)))
        taken = await self._take_in(room, given)
        state_ids = [event_id for event_id in taken.ids[: len(given.state)] if event_id is not None]
        lacking = given.members_omitted or any(place < len(given.state) for place in taken.unready)

        def run(tx: Transaction) -> None:
            entries = self._entries(tx, join, state_ids)
            if lacking:
                partial_rooms.begin(tx, room.number, given.server, given.servers)
                tx.on_commit(lambda: self._wakeups.notify([topics.PARTIAL_ROOMS]))
            elif rooms.by_number(tx, room.number).is_partial:
                partial_rooms.end(tx, room.number, tx.stream())
            self._place(tx, rooms.by_number(tx, room.number), join, state.root(tx, room.number, entries))

        await self._db.write(run)

    async def _take_in(self, room: Room, given: GivenRoom) -> Taken:
        """What became of the given events. Without the room's create event nothing can be judged, so for a while its sender's keys are
        asked for again: a line that was cut just now may be back soon. Raises 504 M_UNKNOWN if they cannot be had.
        """
        pdus = Both(given.state, given.auth_chain)
        for pause in (*KEY_PAUSES, None):
            taken = await self._outliers.take_in(room, pdus, [given.server, *given.servers][:WITNESSES])
            if not any(_is_create(pdus[place]) for place in taken.unready):
                return taken
            if pause is not None:
                await trio.sleep(pause)
        raise errors.Unknown("The keys of the server that made the room cannot be had at the moment: try again later.", status=504)

    def _entries(self, tx: Transaction, join: Event, state_ids: Sequence[str]) -> dict[StateKey, int]:
        """The state map, as event numbers."""
        entries: dict[StateKey, int] = {}
        for one in events.described(tx, state_ids):
            if one.key is None or one.standing is Standing.REJECTED or one.event_id == join.event_id:
                continue
            if entries.setdefault(one.key, one.number) != one.number:
                raise errors.Unknown(f"The other server gave a state with two {one.key[0]} events under one key.", status=502)
        create = events.by_number(tx, entries.get(CREATE, 0))
        if create is None or create.event.content.get("room_version", "1") != join.rules.version:
            raise errors.Unknown("The other server gave a state without the room's m.room.create event.", status=502)
        return entries

    def _place(self, tx: Transaction, room: Room, join: Event, snapshot: int) -> None:
        wanted = [CREATE, *auth_types_of(join)]
        verdict = auth.check(join, auth_state(tx, join, snapshot, wanted, is_partial=room.is_partial))
        if not isinstance(verdict, Accepted):
            raise errors.Forbidden(f"The state of the room does not allow the join: {verdict.why}.")
        held = events.get(tx, join.event_id)
        if held is None or held.is_outlier:
            self._persister.persist(tx, room, join, Placement(snapshot, (join.event_id,)), deliver=False)
        if room.is_partial:
            partial_rooms.set_join(tx, room.number, events.numbers_by_id(tx, [join.event_id])[join.event_id])

    def _room(self, tx: Transaction, room_id: str, rules: RoomVersion) -> int:
        """The room's number. Of a room that we are not in, the last word on its version counts: that of the server that lets us join."""
        room = rooms.get(tx, room_id)
        if room is None:
            return rooms.add(tx, room_id, rules)
        if room.snapshot is None and room.rules is not rules:
            rooms.set_version(tx, room.number, rules)
        return room.number

    async def invite(self, rules: RoomVersion, event: Event, stripped: Sequence[Mapping[str, Any]]) -> None:
        """An invite to (or a knock by) a local user in a room that we need not be in. `stripped` is shown to the user."""

        def run(tx: Transaction) -> None:
            number = self._room(tx, event.room_id, rules)
            room = rooms.by_number(tx, number)
            self._out_of_band(tx, number, event, canonical_json.encode_loose(list(stripped)), joined=room.snapshot is not None)

        await self._db.write(run)

    async def left(self, event: Event) -> None:
        """The end of such an invite: the user declined it, or it was withdrawn. Of who has joined meanwhile the room itself tells."""

        def run(tx: Transaction) -> None:
            room = rooms.get(tx, event.room_id)
            if room is not None:
                self._out_of_band(tx, room.number, event, None, joined=room.snapshot is not None)

        await self._db.write(run)

    def _out_of_band(
        self, tx: Transaction, room: int, event: Event, stripped: bytes | None, *, joined: bool
    ) -> None:
        user_id = event.state_key
        assert user_id is not None
        known = events.numbers_by_id(tx, [event.event_id])
        number = known.get(event.event_id) or self._persister.outlier(tx, room, event, Standing.ACCEPTED)
        before = rooms.membership(tx, user_id, room)
        if before is not None and before.membership == "join" and joined:
            return  # the room itself tells us of this user
        membership = str(event.content.get("membership"))
        stream = tx.stream()
        rooms.set_membership(tx, user_id, room, membership, number, stream, local=True, stripped=stripped)
        if membership == "invite":
            self.invited(tx, stream, user_id)
        tx.on_commit(lambda: self._wakeups.notify([user_id]))


def _is_create(pdu: Any) -> bool:
    return isinstance(pdu, dict) and pdu.get("type") == CREATE[0] and pdu.get("state_key") == CREATE[1]
