"""What relates to an event, and a room's threads, page by page.

Spec: client-server API, "Relationships API" and "Querying threads in a room". Events of ignored users are left out. Tokens are places in
the room's timeline, as those of `/messages`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edgeserver.matrix.relations import may_root_thread
from edgeserver.rooms import history
from edgeserver.rooms.tokens import write_place
from edgeserver.store import account_data, events, relations
from edgeserver.store.events import Place
from edgeserver.store.relations import Stretch, Wanted

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent

MAX_DEPTH: Final = 3
"""Levels of relations that are followed, as the specification suggests."""
MAX_LIMIT: Final = 500
ROUNDS: Final = 5
"""So many pages are looked through for one request, if the user may not see what is on them."""
_START: Final = Place(-history.FAR, -history.FAR)
_END: Final = Place(history.FAR, history.FAR)


@dataclass(frozen=True, slots=True)
class Found:
    """Events in the order asked for, and the token to go on from (None: there are no more)."""

    chunk: list[StoredEvent]
    next_batch: str | None


@dataclass(frozen=True, slots=True)
class Paging:
    """Where a page begins and where it ends at the latest (tokens; None: at the end of what there is), and how much it holds."""

    start: str | None
    stop: str | None
    limit: int
    backwards: bool = True


def children(tx: Transaction, room_id: str, event_id: str, user_id: str, wanted: Wanted, paging: Paging) -> Found:
    """The events that relate to an event. Raises M_NOT_FOUND for an event that is not there or not for this user, M_INVALID_PARAM."""
    at, parent = history.visible_event(tx, room_id, event_id, user_id)
    ignored = account_data.ignored_users(tx, user_id)
    stretch = _stretch(tx, at, paging)
    limit = max(1, min(paging.limit, MAX_LIMIT))
    chunk: list[StoredEvent] = []
    for _ in range(ROUNDS):
        rows = relations.page(tx, parent, wanted, stretch, limit - len(chunk) + 1, without=ignored, upto=at.upto)
        more, rows = len(rows) > limit - len(chunk), rows[: limit - len(chunk)]
        loaded = events.many_by_number(tx, [row.number for row in rows])
        chunk += history.visible(tx, user_id, at.membership, [loaded[row.number] for row in rows])
        if not more:
            return Found(chunk, None)
        last = rows[-1].place
        stretch = replace(stretch, high=_before(last)) if paging.backwards else replace(stretch, low=last)
        if len(chunk) == limit:
            break
    return Found(chunk, write_place(stretch.high if paging.backwards else stretch.low))


def threads(tx: Transaction, room_id: str, user_id: str, token: str | None, limit: int, *, participated: bool) -> Found:
    """The roots of a room's threads, that with the newest event first. A root by an ignored user is redacted.

    Raises M_FORBIDDEN (the room is not for this user), M_INVALID_PARAM.
    """
    at = history.view(tx, room_id, user_id)
    ignored = account_data.ignored_users(tx, user_id)
    before = history.place_of(tx, at.room.number, token, at.upto, backwards=True)
    limit = min(limit, MAX_LIMIT)
    chunk: list[StoredEvent] = []
    for _ in range(ROUNDS):
        missing = limit - len(chunk)
        participant = user_id if participated else None
        rows = relations.threads(tx, at.room.number, before, missing + 1, participant=participant, without=ignored, upto=at.upto)
        more, rows = len(rows) > missing, rows[:missing]
        loaded = events.many_by_number(tx, [row.root for row in rows])
        roots = [loaded[row.root] for row in rows if may_root_thread(loaded[row.root].event)]
        chunk += history.visible(tx, user_id, at.membership, roots)
        if not more:
            return Found([_masked(root, ignored) for root in chunk], None)
        before = _before(rows[-1].place)
        if len(chunk) == limit:
            break
    return Found([_masked(root, ignored) for root in chunk], write_place(before))


def _stretch(tx: Transaction, at: history.View, paging: Paging) -> Stretch:
    def place(token: str | None, default: Place) -> Place:
        return default if token is None else history.place_of(tx, at.room.number, token, at.upto, backwards=True)

    if paging.backwards:
        return Stretch(place(paging.stop, _START), place(paging.start, _END))
    return Stretch(place(paging.start, _START), place(paging.stop, _END), backwards=False)


def _before(place: Place) -> Place:
    return Place(place.depth, place.tie - 1)


def _masked(root: StoredEvent, ignored: frozenset[str]) -> StoredEvent:
    return replace(root, event=root.event.redacted()) if root.event.sender in ignored else root
