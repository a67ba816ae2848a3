"""Filters of a sync. Spec: client-server API, "Filtering"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json, errors
from edgeserver.matrix.push_evaluation import parse_path
from edgeserver.rooms.event_filter import EventFilter, matches_type
from edgeserver.users.filters import check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.users.filters import Filters

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 100
CACHED: Final = 256
UNBROKEN: Final = "org.edgeserver.unbroken"
"""Of a room's timeline, beside `limit`: true where the client has not said that limit (see `SyncFilter.unbroken`)."""


@dataclass(frozen=True, slots=True)
class SyncFilter:
    """A filter whose shape has been checked. `fields` are dot-separated paths; None: the whole event.

    A `limit` holds for each section but the state, of which a client needs all that it asks for.
    """

    rooms: EventFilter = field(default_factory=EventFilter)
    timeline: EventFilter = field(default_factory=EventFilter)
    state: EventFilter = field(default_factory=EventFilter)
    ephemeral: EventFilter = field(default_factory=EventFilter)
    room_account_data: EventFilter = field(default_factory=EventFilter)
    account_data: EventFilter = field(default_factory=EventFilter)
    presence: EventFilter = field(default_factory=EventFilter)
    include_leave: bool = False
    threads: bool = False
    federation_format: bool = False
    fields: tuple[tuple[str, ...], ...] | None = None
    unbroken: bool = True
    """The client has set no limit, and gets up to `MAX_LIMIT` events rather than a gap before something that it has sent itself."""

    @classmethod
    def of(cls, definition: Mapping[str, Any]) -> SyncFilter:
        room = definition.get("room", {})
        timeline = room.get("timeline", {})
        fields = definition.get("event_fields")
        return cls(
            EventFilter.parse({key: room[key] for key in ("rooms", "not_rooms") if key in room}),
            EventFilter.parse(timeline),
            EventFilter.parse(room.get("state", {})),
            EventFilter.parse(room.get("ephemeral", {})),
            EventFilter.parse(room.get("account_data", {})),
            EventFilter.parse(definition.get("account_data", {})),
            EventFilter.parse(definition.get("presence", {})),
            room.get("include_leave") is True,
            timeline.get("unread_thread_notifications") is True,
            definition.get("event_format") == "federation",
            None if fields is None else tuple(parse_path(path) for path in fields),
            "limit" not in timeline or timeline.get(UNBROKEN) is True,
        )

    @property
    def limit(self) -> int:
        """Events of a room's timeline."""
        limit = self.timeline.limit
        return DEFAULT_LIMIT if limit is None else min(limit, MAX_LIMIT)

    def fitted(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event with the fields that were asked for."""
        if self.fields is None:
            return event
        kept: dict[str, Any] = {}
        for path in self.fields:
            _copy(event, kept, path)
        return kept


def takes(part: EventFilter, event: Mapping[str, Any], room_id: str | None = None) -> bool:
    """Whether a filter lets through something that is not an event of a room: {type, content, sender?}."""
    if room_id is not None and not part.takes_room(room_id):
        return False
    kind, sender = event["type"], event.get("sender")
    if (part.senders is not None and sender not in part.senders) or sender in part.not_senders:
        return False
    if part.types is not None and not any(matches_type(pattern, kind) for pattern in part.types):
        return False
    return not any(matches_type(pattern, kind) for pattern in part.not_types)


def kept(part: EventFilter, items: Iterable[dict[str, Any]], room_id: str | None = None) -> list[dict[str, Any]]:
    """Those that the filter lets through; of more than its `limit` the last ones."""
    found = [item for item in items if takes(part, item, room_id)]
    return found if part.limit is None else found[max(0, len(found) - part.limit) :]


def _copy(source: Mapping[str, Any], target: dict[str, Any], path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        inner = source.get(name)
        if not isinstance(inner, dict):
            return
        made = target.setdefault(name, {})
        if made is inner:
            return  # the whole of it is there already
        source, target = inner, made
    if path[-1] in source:
        target[path[-1]] = source[path[-1]]


class FilterReader:
    """Turns the `filter` parameter of a request into a filter; the stored ones are remembered, they never change."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._known: dict[tuple[str, str], SyncFilter] = {}

    async def read(self, user_id: str, parameter: str | None) -> SyncFilter:
        """Raises M_INVALID_PARAM or M_BAD_JSON."""
        if not parameter:
            return SyncFilter()
        if parameter.startswith("{"):
            return SyncFilter.of(_inline(parameter))
        key = (user_id, parameter)
        if key not in self._known:
            try:
                definition = await self._filters.get(user_id, parameter)
            except errors.NotFound as error:
                raise errors.InvalidParam("You have no such filter.") from error
            if len(self._known) >= CACHED:
                self._known.pop(next(iter(self._known)))
            self._known[key] = SyncFilter.of(definition)
        return self._known[key]


def _inline(parameter: str) -> dict[str, Any]:
    try:
        definition = canonical_json.decode(parameter.encode())
    except (canonical_json.CanonicalJSONError, UnicodeEncodeError) as error:
        raise errors.InvalidParam("filter is not JSON.") from error
    if type(definition) is not dict:
        raise errors.InvalidParam("filter is not an object.")
    check(definition)
    return definition
