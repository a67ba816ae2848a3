"""Which thread an event belongs to. Spec: client-server API, "Threading", and "Threaded read receipts"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.store import events

if TYPE_CHECKING:
    from edgeserver.matrix.event import Event
    from edgeserver.store.database import Transaction

MAIN: Final = "main"
MAX_STEPS: Final = 3
"""So many relations are followed to find an event's thread: a reaction to an edit of a message in it."""


def thread_of(tx: Transaction, event: Event) -> str:
    """The event id of the thread's root, `main` if the event is in no thread.

    A root that is not an event of the room, or is itself in a thread, makes none.
    """
    at: Event | None = event
    for _ in range(MAX_STEPS):
        relation = _relation(at)
        if relation is None:
            return MAIN
        rel_type, event_id = relation
        stored = events.get(tx, event_id)
        related = None if stored is None or stored.event.room_id != event.room_id else stored.event
        if rel_type == "m.thread":
            return event_id if related is not None and _is_root(related) else MAIN
        at = related
    return MAIN


def is_in_thread(tx: Transaction, event: Event, thread: str) -> bool:
    """Whether a receipt for this thread may name the event: a root belongs to its own thread and to the main one."""
    return event.event_id == thread or thread_of(tx, event) == thread


def _is_root(event: Event) -> bool:
    relation = _relation(event)
    return relation is None or relation[0] != "m.thread"


def _relation(event: Event | None) -> tuple[str, str] | None:
    relation: Any = None if event is None else event.content.get("m.relates_to")
    if not isinstance(relation, dict):
        return None
    rel_type, event_id = relation.get("rel_type"), relation.get("event_id")
    return (rel_type, event_id) if isinstance(rel_type, str) and isinstance(event_id, str) else None
