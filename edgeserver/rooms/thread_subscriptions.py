"""Subscribing to threads (MSC4306) and reading which subscriptions changed (MSC4308).

A subscription that a client makes by itself names the event that moved it to: one that the user had seen when they unsubscribed brings
nothing back ("Server-side automatic subscription ordering").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeserver.matrix import errors
from edgeserver.matrix.relations import may_root_thread
from edgeserver.rooms import history
from edgeserver.store import thread_subscriptions as table

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.matrix.event import Event
    from edgeserver.rooms.history import View
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.thread_subscriptions import Change, Subscription
    from edgeserver.wakeups import Wakeups

MAX_LIMIT: Final = 500
_FAR: Final = 2**62


class ThreadSubscriptions:
    """Local users' subscriptions. `thread_of` tells the root of the thread that an event is in."""

    def __init__(self, db: Database, wakeups: Wakeups, thread_of: Callable[[Transaction, Event], str]) -> None:
        self._db = db
        self._wakeups = wakeups
        self._thread_of = thread_of

    async def subscribe(self, user_id: str, room_id: str, root: str, cause: str | None) -> None:
        """Subscribes; `cause` is the event because of which a client does so by itself (None: the user did).

        Raises M_NOT_FOUND (no such thread for this user), M_NOT_IN_THREAD, M_CONFLICTING_UNSUBSCRIPTION.
        """

        def run(tx: Transaction) -> None:
            at, _ = _root(tx, room_id, root, user_id)
            because = None if cause is None else self._cause(tx, at, root, cause, user_id)
            known = table.get(tx, at.room.number, root, user_id)
            if known is not None and known.automatic is not None and (because is not None or not known.automatic):
                return
            if because is not None and known is not None and _was_known(because, known):
                raise errors.ConflictingUnsubscription
            self._put(tx, at.room.number, root, user_id, because is not None)

        await self._db.write(run)

    async def unsubscribe(self, user_id: str, room_id: str, root: str) -> None:
        """Ends a subscription, if there is one. Raises M_NOT_FOUND."""

        def run(tx: Transaction) -> None:
            at, _ = _root(tx, room_id, root, user_id)
            known = table.get(tx, at.room.number, root, user_id)
            if known is not None and known.automatic is not None:
                self._put(tx, at.room.number, root, user_id, None)

        await self._db.write(run)

    async def is_automatic(self, user_id: str, room_id: str, root: str) -> bool:
        """Whether the user's subscription was made by a client by itself. Raises M_NOT_FOUND if there is no subscription."""

        def read(tx: Transaction) -> bool:
            at, _ = _root(tx, room_id, root, user_id)
            known = table.get(tx, at.room.number, root, user_id)
            if known is None or known.automatic is None:
                raise errors.NotFound("You are not subscribed to the thread.")
            return known.automatic

        return await self._db.read(read)

    async def page(self, user_id: str, start: int | None, stop: int, limit: int) -> tuple[list[Change], int | None]:
        """The newest changes up to the stream position `start` (None: the end), after `stop`; and the position to go on from, if there
        may be more.
        """
        limit = min(limit, MAX_LIMIT)
        upto = _FAR if start is None else start
        found = await self._db.read(lambda tx: table.changes(tx, user_id, stop, upto, limit + 1))
        return found[:limit], found[limit].stream if len(found) > limit else None

    def _cause(self, tx: Transaction, at: View, root: str, cause: str, user_id: str) -> StoredEvent:
        try:
            _, stored = history.visible_event(tx, at.room.room_id, cause, user_id)
        except errors.NotFound as error:
            raise errors.NotInThread from error
        if self._thread_of(tx, stored.event) != root:
            raise errors.NotInThread
        return stored

    def _put(self, tx: Transaction, room: int, root: str, user_id: str, automatic: bool | None) -> None:
        table.put(tx, room, root, user_id, automatic)
        tx.on_commit(lambda: self._wakeups.notify([user_id]))


def _root(tx: Transaction, room_id: str, root: str, user_id: str) -> tuple[View, StoredEvent]:
    """The root of a thread, which may have no events yet. Raises M_NOT_FOUND."""
    at, stored = history.visible_event(tx, room_id, root, user_id)
    if not may_root_thread(stored.event):
        raise errors.NotFound("There is no such thread.")
    return at, stored


def _was_known(cause: StoredEvent, ended: Subscription) -> bool:
    """Whether the event was here when the subscription ended; of one that was fetched later, whether its place is before that moment."""
    if ended.automatic is not None or cause.stream is None:
        return False
    return cause.stream <= ended.stream if cause.stream > 0 else cause.depth <= (ended.depth or 0)
