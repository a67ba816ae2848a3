"""The events that a user has been notified of. Spec: client-server API, "Listing Notifications".

Nothing is stored for this: the newest events of the user's rooms are held to the push rules as they are now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix.event import client_event
from edgeserver.store import events, receipts, room_views, state
from edgeserver.users.push import PushRules
from edgeserver.users.threads import thread_of

if TYPE_CHECKING:
    from edgeserver.matrix.push_evaluation import Outcome
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent

MAX_LIMIT: Final = 100
MAX_SCANNED: Final = 500
"""Events that are looked at for one page; the page may then hold fewer than asked for."""
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
    found: list[dict[str, Any]] = []
    floors: dict[int, dict[str, int]] = {}
    for stream, number in recent:
        stored = loaded[number]
        outcome = outcome_for(tx, rules, stored, user_id)
        if outcome is not None and (outcome.highlight or not highlights_only):
            if stored.room not in floors:
                floors[stored.room] = receipts.floors(tx, stored.room, user_id)
            found.append(_notification(tx, stored, outcome, floors[stored.room]))
            if len(found) == limit:
                return found, stream
    return found, recent[-1][0] if len(recent) == MAX_SCANNED else room_views.looked_at_from(tx, before)


def outcome_for(tx: Transaction, rules: PushRules, stored: StoredEvent, user_id: str) -> Outcome | None:
    """What the event did to the user, if it notified and the user was in the room."""
    if stored.before is None or stored.after is None or stored.event.sender == user_id:
        return None
    outcome = rules.outcomes(tx, stored.room, stored.event, stored.after, [user_id]).get(user_id)
    if outcome is None or not outcome.notify:
        return None
    member = state.lookup_event(tx, stored.before, "m.room.member", user_id)
    return outcome if member is not None and member.event.content.get("membership") == "join" else None


def is_read(tx: Transaction, stored: StoredEvent, floors: dict[str, int]) -> bool:
    """Whether a receipt of the user, whose `receipts.floors` in the room these are, covers the event."""
    everywhere = floors.get(receipts.UNTHREADED, -_FAR)
    return (stored.stream or 0) <= max(everywhere, floors.get(thread_of(tx, stored.event), -_FAR))


def _notification(tx: Transaction, stored: StoredEvent, outcome: Outcome, floors: dict[str, int]) -> dict[str, Any]:
    return {
        "actions": list(outcome.actions),
        "event": client_event(stored.event, with_room_id=False),
        "read": is_read(tx, stored, floors),
        "room_id": stored.event.room_id,
        "ts": stored.event.origin_server_ts,
    }
