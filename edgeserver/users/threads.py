"""Which thread an event belongs to. Spec: client-server API, "Threading", and "Threaded read receipts"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeserver.matrix.relations import THREAD, may_root_thread, relation_of
from edgeserver.store import events

if TYPE_CHECKING:
    from edgeserver.matrix.event import Event
    from edgeserver.store.database import Transaction

MAIN: Final = "main"
MAX_STEPS: Final = 3
"""So many relations are followed to find an event's thread: a reaction to an edit of a message in it."""


def thread_of(tx: Transaction, event: Event) -> str:
    """The event id of the thread's root, `main` if the event is in no thread.

    A root of another room, or one that relates to another event itself, makes none. One that is not here yet (the thread is older than
    our part in the room) does.
    """
    at = event
    for _ in range(MAX_STEPS):
        relation = relation_of(at.content)
        if relation is None:
            return MAIN
        stored = events.get(tx, relation.event_id)
        if stored is not None and stored.event.room_id != event.room_id:
            return MAIN
        if relation.rel_type == THREAD:
            return relation.event_id if stored is None or may_root_thread(stored.event) else MAIN
        if stored is None:
            return MAIN
        at = stored.event
    return MAIN


def is_in_thread(tx: Transaction, event: Event, thread: str) -> bool:
    """Whether a receipt for this thread may name the event: a root belongs to its own thread and to the main one."""
    return event.event_id == thread or thread_of(tx, event) == thread
