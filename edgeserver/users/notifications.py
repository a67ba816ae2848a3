"""The events that a user has been notified of. Spec: client-server API, "Listing Notifications" and "Receiving notifications".

Nothing is stored for this: the newest events of the user's rooms are held to the push rules as they are now. What is read follows the
unread counts: a receipt reads what is before it, in its thread or in all, and so does whatever the user says, in its thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix.event import client_event
from edgeserver.store import events, receipts, room_views, state
from edgeserver.users.push import PushRules
from edgeserver.users.threads import thread_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.matrix.push_evaluation import Outcome
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent

MAX_LIMIT: Final = 100
MAX_SCANNED: Final = 500
"""Events that are looked at for one page; the page may then hold fewer than asked for."""
MAX_LOOKED_AT, MAX_SAID = 1000, 100
"""So many of a room's newest events are looked at for what the user has said there, and so many of these are read."""
_FAR: Final = 2**62


class Notifications:
    """Pages of notifications, newest first."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def page(
        self, user_id: str, before: int | None, limit: int, *, highlights_only: bool = False
    ) -> tuple[list[dict[str, Any]], int | None]:
        """At most `limit` notifications before a stream position, and the position to go on from (None: no more)."""
        limit = max(1, min(limit, MAX_LIMIT))
        start = _FAR if before is None else before
        return await self._db.read(lambda tx: _page(tx, user_id, start, limit, highlights_only))


def _page(
    tx: Transaction, user_id: str, before: int, limit: int, highlights_only: bool
) -> tuple[list[dict[str, Any]], int | None]:
    rules = PushRules()
    recent = room_views.recent_events(tx, user_id, before, MAX_SCANNED)
    loaded = events.many_by_number(tx, [number for _, number in recent])
    found: list[tuple[StoredEvent, Outcome]] = []
    for stream, number in recent:
        stored = loaded[number]
        outcome = outcome_for(tx, rules, stored, user_id)
        if outcome is not None and (outcome.highlight or not highlights_only):
            found.append((stored, outcome))
            if len(found) == limit:
                return _listed(tx, user_id, found), stream
    more = recent[-1][0] if len(recent) == MAX_SCANNED else room_views.looked_at_from(tx, before)
    return _listed(tx, user_id, found), more


def _listed(tx: Transaction, user_id: str, found: list[tuple[StoredEvent, Outcome]]) -> list[dict[str, Any]]:
    read = read_to(tx, user_id, [stored for stored, _ in found])
    return [_notification(tx, stored, outcome, read[stored.room]) for stored, outcome in found]


def outcome_for(tx: Transaction, rules: PushRules, stored: StoredEvent, user_id: str) -> Outcome | None:
    """What the event did to the user, if it notified and the user was in the room."""
    if stored.before is None or stored.after is None or stored.event.sender == user_id:
        return None
    outcome = rules.outcomes(tx, stored.room, stored.event, stored.after, [user_id]).get(user_id)
    if outcome is None or not outcome.notify:
        return None
    member = state.lookup_event(tx, stored.before, "m.room.member", user_id)
    return outcome if member is not None and member.event.content.get("membership") == "join" else None


def read_to(tx: Transaction, user_id: str, found: Iterable[StoredEvent]) -> dict[int, dict[str, int]]:
    """Of each room of these events: up to which stream position the user has read it, by thread ('': everywhere), as far as the events
    need it. What the user has said is looked for only where receipts leave something unread.
    """
    read: dict[int, dict[str, int]] = {}
    waiting: dict[int, int] = {}
    for stored in found:
        if stored.room not in read:
            read[stored.room] = receipts.floors(tx, stored.room, user_id)
        if not is_read(tx, stored, read[stored.room]):
            waiting[stored.room] = min(waiting.get(stored.room, _FAR), stored.stream or 0)
    for room, since in waiting.items():
        for said in events.said_by(tx, room, user_id, since, MAX_LOOKED_AT, MAX_SAID):
            thread = thread_of(tx, said.event)
            read[room][thread] = max(read[room].get(thread, -_FAR), said.stream or 0)
    return read


def is_read(tx: Transaction, stored: StoredEvent, read: dict[str, int]) -> bool:
    """Whether the user, who has read the room up to these positions (`read_to`), has read the event."""
    everywhere = read.get(receipts.UNTHREADED, -_FAR)
    return (stored.stream or 0) <= max(everywhere, read.get(thread_of(tx, stored.event), -_FAR))


def _notification(tx: Transaction, stored: StoredEvent, outcome: Outcome, read: dict[str, int]) -> dict[str, Any]:
    return {
        "actions": list(outcome.actions),
        "event": client_event(stored.event, with_room_id=False),
        "read": is_read(tx, stored, read),
        "room_id": stored.event.room_id,
        "ts": stored.event.origin_server_ts,
    }
