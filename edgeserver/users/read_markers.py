"""The fully read marker, alone or with receipts. Spec: client-server API, "Fully read markers"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeserver.store import account_data, events
from edgeserver.store.receipts import PRIVATE, READ
from edgeserver.users.receipts import event_of_member

if TYPE_CHECKING:
    from edgeserver.store.database import Database, Transaction
    from edgeserver.users.receipts import Receipts
    from edgeserver.wakeups import Wakeups

FULLY_READ: Final = "m.fully_read"


class ReadMarkers:
    """Sets fully read markers, which only move forward."""

    def __init__(self, db: Database, wakeups: Wakeups, receipts: Receipts) -> None:
        self._db = db
        self._wakeups = wakeups
        self._receipts = receipts

    async def set(
        self,
        user_id: str,
        room_id: str,
        *,
        fully_read: str | None = None,
        read: str | None = None,
        read_private: str | None = None,
    ) -> None:
        """Each is an event id; all are set or none. Raises M_FORBIDDEN (not in the room), M_INVALID_PARAM."""

        def run(tx: Transaction) -> None:
            if fully_read is not None:
                self._mark(tx, user_id, room_id, fully_read)
            if read is not None:
                self._receipts.put(tx, user_id, room_id, READ, read)
            if read_private is not None:
                self._receipts.put(tx, user_id, room_id, PRIVATE, read_private)

        await self._db.write(run)

    def _mark(self, tx: Transaction, user_id: str, room_id: str, event_id: str) -> None:
        _, stored = event_of_member(tx, user_id, room_id, event_id)
        marked = account_data.get(tx, user_id, room_id, FULLY_READ) or {}
        before = events.get(tx, str(marked.get("event_id")))
        if before is not None and (before.stream or 0) >= (stored.stream or 0):
            return
        if account_data.put(tx, user_id, room_id, FULLY_READ, {"event_id": event_id}):
            tx.on_commit(lambda: self._wakeups.notify([user_id]))
