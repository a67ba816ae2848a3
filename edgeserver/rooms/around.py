"""The events around another, as /context and searches show them. Spec: client-server API, "Event context"."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeserver.rooms import history
from edgeserver.store import events

if TYPE_CHECKING:
    from edgeserver.rooms.history import View
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import Place, StoredEvent


@dataclass(frozen=True, slots=True)
class Around:
    """The events before another (newest first) and after it (oldest first), and where to page on from."""

    before: list[StoredEvent]
    after: list[StoredEvent]
    start: Place
    end: Place


def around(tx: Transaction, at: View, stored: StoredEvent, earlier: int, later: int, user_id: str) -> Around:
    """At most `earlier` events before it and `later` after it, of which those are left out that the user may not see."""
    found = all_around(tx, at.upto, stored, earlier, later)
    return replace(
        found,
        before=history.visible(tx, user_id, at.membership, found.before),
        after=history.visible(tx, user_id, at.membership, found.after),
    )


def all_around(tx: Transaction, upto: int, stored: StoredEvent, earlier: int, later: int) -> Around:
    """At most `earlier` events before it and `later` after it, up to that stream position, whoever may see them."""
    start, end = history.before(stored), history.place(stored)
    before = events.page_backwards(tx, stored.room, start, earlier, upto)
    after = events.page_forwards(tx, stored.room, end, later, upto)
    return Around(before, after, history.before(before[-1]) if before else start, history.place(after[-1]) if after else end)
