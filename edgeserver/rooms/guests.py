"""Guests in rooms: where they may join, and that they leave when that ends.

Client-server API, "Guest access", server behaviour. Who is a guest only the guest's own server knows, so each server
sees to its own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgeserver.matrix import errors
from edgeserver.store import accounts, rooms, state

if TYPE_CHECKING:
    from edgeserver.rooms.persist import PersistedEvent
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Transaction

log = logging.getLogger(__name__)

GUEST_ACCESS = "m.room.guest_access"


def can_join(tx: Transaction, snapshot: int | None) -> bool:
    """Whether guests may be in a room of this state: only where it says so."""
    stored = None if snapshot is None else state.lookup_event(tx, snapshot, GUEST_ACCESS)
    return stored is not None and stored.event.content.get("guest_access") == "can_join"


def leave_where_unwanted(tx: Transaction, composer: Composer, written: PersistedEvent) -> None:
    """After an event that took guest access away, in whatever way: our guests leave, in the same transaction."""
    if written.snapshot == written.room.snapshot or not written.is_news:
        return
    guests = accounts.guests_in(tx, written.room.number)
    if not guests or can_join(tx, written.snapshot) or not can_join(tx, written.room.snapshot):
        return
    for user_id in guests:
        room = rooms.by_number(tx, written.room.number)
        try:
            composer.compose(tx, room, user_id, "m.room.member", {"membership": "leave"}, state_key=user_id)
        except errors.MatrixError as error:  # the event that took the access away is not to be lost for it
            log.warning("the guest %s could not leave %s: %s", user_id, room.room_id, error)
