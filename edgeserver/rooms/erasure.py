"""Events of people who had themselves erased: who comes into a room later is given them redacted.

Client-server API, POST /account/deactivate, `erase`. Whoever was in the room when the event was sent, or when the erasure was asked for,
goes on seeing it. What is redacted are messages and the person's own memberships (with their name and picture); other state stays whole,
for a room without its name or its topic would be the others' loss. To other servers this goes for history; what a join or a state has to
prove (auth events) they are given whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeserver.matrix.visibility import membership_of
from edgeserver.store import departures, events, state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent

    WasIn = Callable[[Transaction, int, int], bool]
    """Whether whoever looks had joined the room (number) in the state (snapshot)."""


def as_seen_by(tx: Transaction, user_id: str, found: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The events as a user may have them, who may see them as far as the history's visibility goes."""

    def was_in(tx: Transaction, room: int, snapshot: int) -> bool:
        stored = state.lookup_event(tx, snapshot, "m.room.member", user_id)
        return membership_of(None if stored is None else stored.event) == "join"

    return _as_seen(tx, found, was_in)


def as_given_to(tx: Transaction, server_name: str, found: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The events as another server may have them."""

    def was_in(tx: Transaction, room: int, snapshot: int) -> bool:
        return any(membership_of(one.event) == "join" for one in state.members_of(tx, room, snapshot, server_name))

    return _as_seen(tx, found, was_in)


def _as_seen(tx: Transaction, found: Sequence[StoredEvent], was_in: WasIn) -> list[StoredEvent]:
    since = departures.erased(tx, {stored.event.sender for stored in found})
    if not since:
        return list(found)
    known: dict[int, bool] = {}  # by snapshot

    def was_in_at(room: int, snapshot: int | None) -> bool:
        if snapshot is None:
            return False
        if snapshot not in known:
            known[snapshot] = was_in(tx, room, snapshot)
        return known[snapshot]

    def seen(stored: StoredEvent) -> StoredEvent:
        event = stored.event
        if event.sender not in since or (event.is_state and event.state_key != event.sender):
            return stored
        if was_in_at(stored.room, stored.before) or was_in_at(stored.room, _snapshot_at(tx, stored.room, since[event.sender])):
            return stored
        return replace(stored, event=event.redacted())

    return [seen(stored) for stored in found]


def _snapshot_at(tx: Transaction, room: int, stream: int) -> int | None:
    """The state of the room as it was at a position of the stream."""
    newest = events.newest_stream(tx, room, stream)
    stored = None if newest is None else events.at_stream(tx, room, newest)
    return None if stored is None else stored.after
