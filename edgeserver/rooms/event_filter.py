"""Filters on events. Client-server API, "Filtering": EventFilter and RoomEventFilter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.matrix.event import Event


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A RoomEventFilter whose shape has been checked (`users.filters.check`). None: that part leaves nothing out."""

    types: tuple[str, ...] | None = None
    not_types: tuple[str, ...] = ()
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()
    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    contains_url: bool | None = None
    limit: int | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False

    @classmethod
    def parse(cls, definition: Mapping[str, Any]) -> EventFilter:
        def names(key: str) -> frozenset[str] | None:
            return frozenset(definition[key]) if key in definition else None

        return cls(
            tuple(definition["types"]) if "types" in definition else None,
            tuple(definition.get("not_types", ())),
            names("senders"),
            names("not_senders") or frozenset(),
            names("rooms"),
            names("not_rooms") or frozenset(),
            definition.get("contains_url"),
            definition.get("limit"),
            definition.get("lazy_load_members") is True,
            definition.get("include_redundant_members") is True,
        )

    @property
    def leaves_out(self) -> bool:
        """Whether there are events that `takes` does not let through."""
        named = self.types is not None or self.senders is not None or self.contains_url is not None
        return named or bool(self.not_types or self.not_senders)

    def takes_room(self, room_id: str) -> bool:
        return (self.rooms is None or room_id in self.rooms) and room_id not in self.not_rooms

    def takes(self, event: Event) -> bool:
        """Whether the filter lets this event through (its room aside). What is excluded is so even if it is included too."""
        if (self.senders is not None and event.sender not in self.senders) or event.sender in self.not_senders:
            return False
        if self.contains_url is not None and ("url" in event.content) != self.contains_url:
            return False
        if self.types is not None and not any(matches_type(pattern, event.type) for pattern in self.types):
            return False
        return not any(matches_type(pattern, event.type) for pattern in self.not_types)


def matches_type(pattern: str, event_type: str) -> bool:
    """Whether an event type matches a pattern in which `*` stands for any characters. Linear in the type for each part."""
    if "*" not in pattern:
        return pattern == event_type
    first, *middle, last = pattern.split("*")
    if len(event_type) < len(first) + len(last) or not (event_type.startswith(first) and event_type.endswith(last)):
        return False
    at, end = len(first), len(event_type) - len(last)
    for part in middle:
        found = event_type.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
