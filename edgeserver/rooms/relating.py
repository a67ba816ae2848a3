"""What a local user may not relate to what: the same annotation twice, and a thread from an event that is itself related to another.

Spec: client-server API, "Avoiding duplicate annotations" and "Validation of m.thread relationships". What comes from other servers is
not refused for it; aggregations leave it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors
from edgeserver.matrix.relations import ANNOTATION, THREAD, may_root_thread, relation_of
from edgeserver.store import events, relations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.matrix.relations import Relation
    from edgeserver.store.database import Transaction


COMPARED: Final = 200
"""So many annotations of one event by one user, the newest, are looked at for the same one."""


def check(tx: Transaction, room: int, sender: str, event_type: str, content: Mapping[str, Any]) -> None:
    """Raises M_DUPLICATE_ANNOTATION, or M_UNKNOWN (400) for a thread that cannot be."""
    relation = relation_of(content)
    if relation is None:
        return
    if relation.rel_type == ANNOTATION and relation.key is not None:
        _check_annotation(tx, room, sender, event_type, relation)
    elif relation.rel_type == THREAD:
        root = events.get(tx, relation.event_id)
        if root is not None and root.room == room and not may_root_thread(root.event):
            raise errors.Unknown("A thread cannot start from an event that relates to another one.", status=400)


def _check_annotation(tx: Transaction, room: int, sender: str, event_type: str, relation: Relation) -> None:
    numbers = relations.by_sender(tx, room, relation.event_id, ANNOTATION, sender, COMPARED)
    for stored in events.many_by_number(tx, numbers).values():
        if stored.event.type == event_type and relation_of(stored.event.content) == relation:
            raise errors.DuplicateAnnotation
