"""What a client asks of sliding sync, whichever dialect it speaks: lists, subscriptions, state, extensions. Pure data.

MSC4186. `deployed.py` and `accepted.py` read the two forms of a request into this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgeserver.rooms.event_filter import matches_type

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from edgeserver.store.state import StateKey

MEMBER: Final = "m.room.member"
MAX_TIMELINE: Final = 100
"""Events of one room in one answer."""

Element = tuple[str | None, str | None]
"""A type and a state key; None is any."""


@dataclass(frozen=True, slots=True)
class RequiredState:
    """Which state of a room is to be told: what `include` matches and `exclude` does not, and what `despite` matches in any case.

    `lazy_members`: and those members whom the timeline speaks of.
    """

    include: frozenset[Element] = frozenset()
    exclude: frozenset[Element] = frozenset()
    despite: frozenset[Element] = frozenset()
    lazy_members: bool = False

    def takes(self, key: StateKey) -> bool:
        """Whether this state is wanted (members that are loaded lazily aside)."""
        if _matched(self.despite, key):
            return True
        return _matched(self.include, key) and not _matched(self.exclude, key)


def _matched(elements: frozenset[Element], key: StateKey) -> bool:
    kind, state_key = key
    return bool(elements) and (
        (kind, state_key) in elements or (kind, None) in elements or (None, state_key) in elements or (None, None) in elements
    )


@dataclass(frozen=True, slots=True)
class RoomWish:
    """What of a room is to be told: so many events of its timeline, and the state that any of `parts` takes."""

    limit: int
    parts: frozenset[RequiredState]

    @property
    def lazy_members(self) -> bool:
        return any(part.lazy_members for part in self.parts)

    def takes(self, key: StateKey) -> bool:
        return any(part.takes(key) for part in self.parts)

    def together_with(self, other: RoomWish) -> RoomWish:
        """The superset of both (MSC4186, "Combining room configs")."""
        return self if self == other else RoomWish(max(self.limit, other.limit), self.parts | other.parts)

    @property
    def exact_keys(self) -> list[StateKey] | None:
        """The keys that can match at all, if each is named in full; None if there are wildcards."""
        found: list[StateKey] = []
        for part in self.parts:
            for kind, state_key in (*part.include, *part.despite):
                if kind is None or state_key is None:
                    return None
                found.append((kind, state_key))
        return found


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which rooms are in a list; None does not filter."""

    is_dm: bool | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    room_types: frozenset[str | None] | None = None
    not_room_types: frozenset[str | None] = frozenset()
    tags: frozenset[str] | None = None
    not_tags: frozenset[str] = frozenset()
    spaces: frozenset[str] | None = None
    name_like: str | None = None

    def takes_name(self, name: str) -> bool:
        """Whether a room of this name is in; `name_like` is any part of it, in any case."""
        return self.name_like is None or matches_type(f"*{self.name_like.casefold()}*", name.casefold())


@dataclass(frozen=True, slots=True)
class ListWish:
    """One list. `ranges` are inclusive, in order and apart from each other; None is all of it."""

    wish: RoomWish
    ranges: tuple[tuple[int, int], ...] | None = None
    filter: ListFilter = ListFilter()


@dataclass(frozen=True, slots=True)
class Scope:
    """The rooms that an extension is about: those of these lists and of these subscriptions; None is all."""

    lists: frozenset[str] | None = None
    rooms: frozenset[str] | None = None

    def takes(self, lists: Collection[str], room_id: str, *, subscribed: bool) -> bool:
        if subscribed and (self.rooms is None or room_id in self.rooms):
            return True
        if self.lists is None:
            return bool(lists)
        return not self.lists.isdisjoint(lists)


@dataclass(frozen=True, slots=True)
class ToDeviceWish:
    """`since` is the token of the extension's last answer, and acknowledges what that held."""

    limit: int
    since: int | None


@dataclass(frozen=True, slots=True)
class ThreadsWish:
    """So many changes of thread subscriptions at once (MSC4308)."""

    limit: int


@dataclass(frozen=True, slots=True)
class Extensions:
    """Those that are enabled; the rest is None or False."""

    to_device: ToDeviceWish | None = None
    e2ee: bool = False
    account_data: Scope | None = None
    receipts: Scope | None = None
    typing: Scope | None = None
    threads: ThreadsWish | None = None


@dataclass(frozen=True, slots=True)
class SlidingRequest:
    """One request. `pos` None begins a connection; `timeout_ms` is how long it may wait for news.

    `counts_reads`: the room's unread counts are part of what is told of it. `budget` is how many bytes suit the wire (None: any
    number): rooms have as many, to-device messages half of them and device lists a quarter, which the rooms then lack; account data,
    receipts and thread subscriptions have a quarter each. What does not fit comes with the next request, or is to be paged for. `size`
    tells how many of them a room's result takes, where the dialect is not the usual one.

    Without `echoes` what this very device has sent and read is no news to it. `short_pos`: positions are whole numbers, each one more than
    the last.
    """

    user_id: str
    device_id: str
    conn_id: str
    pos: str | None
    timeout_ms: int = 0
    lists: Mapping[str, ListWish] = field(default_factory=dict)
    subscriptions: Mapping[str, RoomWish] = field(default_factory=dict)
    extensions: Extensions = Extensions()
    counts_reads: bool = False
    budget: int | None = None
    size: Callable[[RoomResult], int] | None = None
    echoes: bool = True
    short_pos: bool = False


@dataclass(slots=True)
class RoomResult:
    """What is told of one room: fields of MSC4186's `RoomResult`. What has not changed is None or not there.

    `name` and `avatar` are '' where they have been removed. `state` holds events as clients see them, `gone` the keys that have left it.
    `number` is the room's in the store, `streams` are the places of the timeline's events in the stream.
    """

    membership: str
    lists: list[str]
    initial: bool = False
    expanded: bool = False
    bump_stamp: int | None = None
    name: str | None = None
    avatar: str | None = None
    heroes: list[dict[str, Any]] | None = None
    is_dm: bool | None = None
    state: list[dict[str, Any]] = field(default_factory=list)
    gone: list[StateKey] = field(default_factory=list)
    timeline: list[dict[str, Any]] = field(default_factory=list)
    prev_batch: str | None = None
    limited: bool = False
    num_live: int = 0
    joined_count: int | None = None
    invited_count: int | None = None
    notifications: int = 0
    highlights: int = 0
    stripped: list[dict[str, Any]] | None = None
    has_timeline: bool = True
    number: int = 0
    streams: list[int] = field(default_factory=list)

    @property
    def is_echo(self) -> bool:
        """Whether it tells of nothing but events that the asking device has sent (counts aside)."""
        told = (self.name, self.avatar, self.heroes, self.is_dm, self.joined_count, self.stripped)
        is_more = self.initial or self.expanded or self.limited or self.state or self.gone or any(one is not None for one in told)
        return not is_more and bool(self.timeline) and all("transaction_id" in event.get("unsigned", {}) for event in self.timeline)


@dataclass(slots=True)
class SlidingAnswer:
    """One answer: how many rooms are in each list; rooms by id, in the order of their importance.

    `extensions` is as on the wire: both dialects have it alike.
    """

    pos: str = ""
    lists: dict[str, int] = field(default_factory=dict)
    rooms: dict[str, RoomResult] = field(default_factory=dict)
    extensions: dict[str, Any] = field(default_factory=dict)
