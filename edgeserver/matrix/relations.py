"""Relations: which event another one points at, and when a replacement is one.

Spec: client-server API, "Forming relationships between events", "Event replacements" (validity), "Threading". What does not fit the
schema is no relation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeGuard

    from edgeserver.matrix.event import Event

ANNOTATION: Final = "m.annotation"
REFERENCE: Final = "m.reference"
REPLACE: Final = "m.replace"
THREAD: Final = "m.thread"
RELATES_TO: Final = "m.relates_to"
ENCRYPTED: Final = "m.room.encrypted"
MAX_LENGTH: Final = 255
"""Of a relation type and of an event id, in characters, all of them printable ASCII."""


class Relation(NamedTuple):
    """A child's relation to its parent; `key` is that of an annotation."""

    rel_type: str
    event_id: str
    key: str | None


def relation_of(content: Mapping[str, Any]) -> Relation | None:
    """The relation that an event's content states. A rich reply (`m.in_reply_to` alone) has no type and is none."""
    stated = content.get(RELATES_TO)
    if not isinstance(stated, dict):
        return None
    rel_type, event_id, key = stated.get("rel_type"), stated.get("event_id"), stated.get("key")
    if not (_is_plain(rel_type) and _is_plain(event_id) and event_id.startswith("$")):
        return None
    return Relation(rel_type, event_id, key if isinstance(key, str) else None)


def may_root_thread(event: Event) -> bool:
    """Whether a thread may start from the event: threads do not nest, nor do they hang on edits or reactions."""
    return relation_of(event.content) is None


def is_replacement(edit: Event, original: Event) -> bool:
    """Whether one event validly replaces the other, to which it relates by `m.replace`: the list of "Validity of replacement events".

    Of an encrypted edit the server cannot know more.
    """
    # The same room, the same sender, the same type
    if (edit.room_id, edit.sender, edit.type) != (original.room_id, original.sender, original.type):
        return False
    # Neither is a state event
    if edit.state_key is not None or original.state_key is not None:
        return False
    # The original is not an edit itself
    of_original = relation_of(original.content)
    if of_original is not None and of_original.rel_type == REPLACE:
        return False
    # It has the new content
    return edit.type == ENCRYPTED or isinstance(edit.content.get("m.new_content"), dict)


def _is_plain(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_LENGTH and value.isascii() and value.isprintable()
