"""What people report to whoever runs the server: events, rooms, users.

Client-server API, "Reporting Content". Nobody learns by it of what they cannot see: an event or a room that they may not
see is answered as one that does not exist, and a user always as one that does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import is_user_id
from edgeserver.rooms import history
from edgeserver.store import accounts, reports, rooms, state

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.reports import Report

MAX_REASON: Final = 1000
MOST_OF_PERSON: Final = 200
MOST: Final = 10_000
LATER_MS: Final = 60 * 60 * 1000


class Reports:
    """Takes reports: `at_most` of one person and `in_all` that nobody has dealt with; the same thing reported again counts once."""

    def __init__(self, db: Database, now_ms: Callable[[], int], *, at_most: int = MOST_OF_PERSON, in_all: int = MOST) -> None:
        self._db = db
        self._now_ms = now_ms
        self._at_most = at_most
        self._in_all = in_all

    async def report_event(self, user_id: str, room_id: str, event_id: str, reason: str, score: int | None = None) -> None:
        """Raises M_NOT_FOUND if the user is not in the room or may not see such an event, M_LIMIT_EXCEEDED."""

        def work(tx: Transaction) -> None:
            sender = _sender_of(tx, user_id, room_id, event_id)
            self._put(tx, self._report(reports.EVENT, user_id, event_id, reason, room_id=room_id, sender=sender, score=score))

        await self._db.write(work)

    async def report_room(self, user_id: str, room_id: str, reason: str) -> None:
        """Raises M_NOT_FOUND for a room of which the user can know nothing, M_LIMIT_EXCEEDED."""

        def work(tx: Transaction) -> None:
            if not _knows_of(tx, user_id, room_id):
                raise errors.NotFound("The room was not found.")
            self._put(tx, self._report(reports.ROOM, user_id, room_id, reason, room_id=room_id))

        await self._db.write(work)

    async def report_user(self, user_id: str, target: str, reason: str) -> None:
        """A report of a user who is not known here is taken like any other, and not kept. Raises M_LIMIT_EXCEEDED."""

        def work(tx: Transaction) -> None:
            if is_user_id(target) and (accounts.exists(tx, target) or rooms.memberships_of(tx, target)):
                self._put(tx, self._report(reports.USER, user_id, target, reason))

        await self._db.write(work)

    def _report(self, kind: str, user_id: str, target: str, reason: str, **more: Any) -> Report:
        known = {"room_id": None, "sender": None, "score": None, **more}
        return reports.Report(0, kind, user_id, target, reason=reason, received_at=self._now_ms(), **known)

    def _put(self, tx: Transaction, report: Report) -> None:
        if not reports.is_there(tx, report.kind, report.user_id, report.target):
            if reports.count(tx, report.user_id) >= self._at_most:
                raise errors.LimitExceeded(LATER_MS, "You have reported so much that nobody has looked at yet: wait.")
            if reports.count(tx) >= self._in_all:
                raise errors.LimitExceeded(LATER_MS, "There are more reports than this server can keep: tell its operator in another way.")
        reports.put(tx, report)


def _sender_of(tx: Transaction, user_id: str, room_id: str, event_id: str) -> str:
    """Who sent an event that the user, who is in its room, may see. Raises M_NOT_FOUND."""
    membership = rooms.membership_in(tx, user_id, room_id)
    if membership is None or membership.membership != "join":
        raise errors.NotFound("The event was not found or you are not joined to the room.")
    _, stored = history.visible_event(tx, room_id, event_id, user_id)
    return stored.event.sender


def _knows_of(tx: Transaction, user_id: str, room_id: str) -> bool:
    """Whether the room is one that the user is or was in or is invited to, or that anybody may find, read or join."""
    room = rooms.get(tx, room_id)
    if room is None:
        return False
    if room.published or rooms.membership(tx, user_id, room.number) is not None:
        return True
    if room.snapshot is None:
        return False
    rules = state.lookup_event(tx, room.snapshot, "m.room.join_rules")
    is_public = rules is not None and rules.event.content.get("join_rule") == "public"
    return is_public or history.is_world_readable(tx, room.snapshot)
