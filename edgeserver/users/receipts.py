"""Read receipts. Spec: client-server API, "Receipts" and "Threaded read receipts"; server-server API, the EDU `m.receipt`.

A receipt only moves forward. Public ones go to the other servers of the room, private ones to nobody but the user's own devices;
both end what is unread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeserver import wakeups as topics
from edgeserver.matrix import errors, identifiers
from edgeserver.store import events, outbox, relations, rooms
from edgeserver.store import receipts as table
from edgeserver.store.receipts import MAIN, PRIVATE, READ, UNTHREADED, Receipt
from edgeserver.users.threads import is_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Membership
    from edgeserver.users.push import UnreadCounts
    from edgeserver.wakeups import Wakeups

TYPES: Final = frozenset({READ, PRIVATE})


class RemoteReceipt(Protocol):
    """A public receipt of a user of another server, who belongs to its origin and is in the room; `ts` in ms."""

    @property
    def room_id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def event_id(self) -> str: ...
    @property
    def ts(self) -> int: ...
    @property
    def thread_id(self) -> str | None: ...


class Receipts:
    """Takes receipts of local and remote users."""

    def __init__(
        self, db: Database, wakeups: Wakeups, counts: UnreadCounts, server_name: str, now_ms: Callable[[], int]
    ) -> None:
        self._db = db
        self._wakeups = wakeups
        self._counts = counts
        self._server_name = server_name
        self._now_ms = now_ms

    async def send(
        self, user_id: str, room_id: str, receipt_type: str, event_id: str, thread_id: str | None = None
    ) -> None:
        """A local user has read up to the event. Raises M_FORBIDDEN (not in the room), M_INVALID_PARAM."""
        await self._db.write(lambda tx: self.put(tx, user_id, room_id, receipt_type, event_id, thread_id))

    def put(
        self,
        tx: Transaction,
        user_id: str,
        room_id: str,
        receipt_type: str,
        event_id: str,
        thread_id: str | None = None,
    ) -> None:
        """`send` inside the caller's transaction."""
        if receipt_type not in TYPES:
            raise errors.InvalidParam("There is no such type of receipt.")
        membership, stored = event_of_member(tx, user_id, room_id, event_id)
        if thread_id is not None and not _may_be_read_in(tx, stored, thread_id):
            raise errors.InvalidParam("The event is not in that thread.")
        thread = UNTHREADED if thread_id is None else thread_id
        receipt = Receipt(membership.room, user_id, receipt_type, thread, event_id, stored.stream, self._now_ms())
        if not table.put(tx, receipt):
            return
        self._counts.read(tx, membership.room, user_id, thread)
        if receipt_type == PRIVATE:
            tx.on_commit(lambda: self._wakeups.notify([user_id]))
            return
        self._wake_members(tx, membership.room)
        self._tell(tx, receipt, room_id)

    async def received(self, receipts: Sequence[RemoteReceipt]) -> None:
        """Receipts from other servers. What is malformed, or names a thread that is not known here, is dropped."""
        if receipts:
            await self._db.write(lambda tx: self._received(tx, receipts))

    def _received(self, tx: Transaction, receipts: Iterable[RemoteReceipt]) -> None:
        for one in receipts:
            room = rooms.get(tx, one.room_id)
            thread = UNTHREADED if one.thread_id is None else one.thread_id
            if room is None or not identifiers.is_event_id(one.event_id):
                continue
            if thread not in (UNTHREADED, MAIN) and not (relations.has_thread(tx, room.number, thread) or events.held(tx, [thread])):
                continue
            stored = events.get(tx, one.event_id)
            if stored is not None and stored.room != room.number:
                continue
            place = None if stored is None else stored.stream
            ts = min(max(one.ts, 0), self._now_ms())
            if table.put(tx, Receipt(room.number, one.user_id, READ, thread, one.event_id, place, ts)):
                self._wake_members(tx, room.number)

    def _wake_members(self, tx: Transaction, room: int) -> None:
        members = rooms.local_members(tx, room)
        tx.on_commit(lambda: self._wakeups.notify(members))

    def _tell(self, tx: Transaction, receipt: Receipt, room_id: str) -> None:
        servers = [name for name in rooms.servers(tx, receipt.room) if name != self._server_name]
        if not servers:
            return
        data: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread != UNTHREADED:
            data["thread_id"] = receipt.thread
        content = {room_id: {READ: {receipt.user_id: {"data": data, "event_ids": [receipt.event_id]}}}}
        outbox.queue_edu(tx, servers, "m.receipt", content, key=f"{room_id} {receipt.user_id} {receipt.thread}")
        tx.on_commit(lambda: self._wakeups.notify([topics.OUTBOX]))


def _may_be_read_in(tx: Transaction, stored: StoredEvent, thread_id: str) -> bool:
    """Whether a receipt for the thread may name the event; a redacted one does not tell any more which it was in."""
    if stored.redacted_by is not None:
        root = events.get(tx, thread_id)
        return thread_id == MAIN or (root is not None and root.room == stored.room)
    return is_in_thread(tx, stored.event, thread_id)


def event_of_member(tx: Transaction, user_id: str, room_id: str, event_id: str) -> tuple[Membership, StoredEvent]:
    """The event, for a user who is in its room. Raises M_FORBIDDEN, M_INVALID_PARAM for an event that is not of the room."""
    membership = rooms.membership_in(tx, user_id, room_id)
    if membership is None or membership.membership != "join":
        raise errors.Forbidden(f"You are not in the room {room_id}.")
    stored = events.get(tx, event_id)
    if stored is None or stored.room != membership.room:
        raise errors.InvalidParam("There is no such event in the room.")
    return membership, stored


def edu_content(receipts: Iterable[Receipt]) -> dict[str, Any]:
    """The content of m.receipt for clients. An unthreaded receipt goes before a threaded one of the same event (MSC4102)."""
    content: dict[str, Any] = {}
    for one in sorted(receipts, key=lambda receipt: receipt.thread, reverse=True):
        value: dict[str, Any] = {"ts": one.ts}
        if one.thread != UNTHREADED:
            value["thread_id"] = one.thread
        content.setdefault(one.event_id, {}).setdefault(one.type, {})[one.user_id] = value
    return content
