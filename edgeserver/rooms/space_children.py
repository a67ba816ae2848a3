"""The children of a space, as its m.space.child events state them: which count, in which order, and how they are shown.

Spec: client-server API, "m.space.child" and "Ordering of children within a space".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.matrix.identifiers import MAX_BYTES, is_room_id
from edgeserver.store import events, state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.store.database import Transaction

CHILD = "m.space.child"
MAX_CHILDREN = 500
"""So many children of one space are looked at, the first in order."""
MAX_VIA = 10
MAX_CONTENT = 2048
"""Characters of an event's content that are passed on as they are."""
_ORDER = re.compile(r"[\x20-\x7E]{1,50}")


@dataclass(frozen=True, slots=True)
class Child:
    """One child. `shown` is its event as stripped state with its `origin_server_ts`."""

    room_id: str
    via: tuple[str, ...]
    suggested: bool
    shown: dict[str, Any]


def children(tx: Transaction, snapshot: int, *, suggested_only: bool) -> list[Child]:
    """The children that a space's state names, in their order."""
    found = events.many_by_number(tx, state.of_type(tx, snapshot, CHILD).values()).values()
    stripped = (
        {
            "type": CHILD,
            "state_key": stored.event.state_key,
            "sender": stored.event.sender,
            "content": stored.event.content,
            "origin_server_ts": stored.event.origin_server_ts,
        }
        for stored in found
    )
    return in_order(stripped, suggested_only=suggested_only)


def in_order(stripped: Iterable[Any], *, suggested_only: bool) -> list[Child]:
    """Those of the events, stripped and of unknown shape, that make a room a child, in the order in which children are shown."""
    found = [child for one in stripped if (child := _child(one)) is not None]
    unique = {child.room_id: child for child in found if child.suggested or not suggested_only}
    return sorted(unique.values(), key=_place)[:MAX_CHILDREN]


def _child(one: Any) -> Child | None:
    if not isinstance(one, dict) or one.get("type") != CHILD or not isinstance(one.get("content"), dict):
        return None
    room_id, sender, at, content = one.get("state_key"), one.get("sender"), one.get("origin_server_ts"), one["content"]
    if not is_room_id(room_id) or not isinstance(sender, str) or type(at) is not int:
        return None
    via = content.get("via")
    servers = [name for name in via if isinstance(name, str) and len(name) <= MAX_BYTES] if isinstance(via, list) else []
    if not servers:
        return None  # absent or invalid: no child
    kept = {"type": CHILD, "state_key": room_id, "sender": sender, "content": _shown(content), "origin_server_ts": at}
    return Child(room_id, tuple(servers[:MAX_VIA]), content.get("suggested") is True, kept)


def _shown(content: dict[str, Any]) -> dict[str, Any]:
    """The content; of one that is far larger than it needs to be, what the specification names."""
    if len(repr(content)) <= MAX_CONTENT:
        return content
    via = [name for name in content["via"] if isinstance(name, str) and len(name) <= MAX_BYTES][:MAX_VIA]
    order, suggested = content.get("order"), content.get("suggested")
    ordered = {"order": order} if isinstance(order, str) and len(order) <= MAX_BYTES else {}
    return {"via": via, **ordered, **({"suggested": suggested} if isinstance(suggested, bool) else {})}


def _place(child: Child) -> tuple[Any, ...]:
    """Those with a valid `order` first, by it; then by the time of the event, then by the room's id."""
    content: Mapping[str, Any] = child.shown["content"]
    order = content.get("order")
    valid = isinstance(order, str) and _ORDER.fullmatch(order) is not None
    return (not valid, order if valid else "", child.shown["origin_server_ts"], child.room_id)
