"""What other servers tell of rooms that we are not in: asked for, cut to the shape of the specification, kept for a short time.

Spec: server-server API, GET /hierarchy, which answers for spaces and for rooms alike. Nothing of it is verified: it is shown to people who
think of joining, and never taken for the state of a room that we are in.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver.matrix import server_names
from edgeserver.matrix.identifiers import domain_of
from edgeserver.rooms.event_source import SourceFailed
from edgeserver.rooms.read_summary import read_summary
from edgeserver.rooms.space_children import Child, in_order
from edgeserver.rooms.summaries import SPACE
from edgeserver.store import events, rooms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgeserver.store.database import Transaction

log = logging.getLogger(__name__)

KEPT: Final = 64
"""So many answers are kept; each is at most as large as `federation.calls` takes one in."""
KEPT_MS: Final = 300_000
FAILURE_KEPT_MS: Final = 60_000
SERVERS: Final = 3
"""So many servers are asked for one room."""
PATIENCE: Final = 60.0
"""Seconds for one request; the client of federation gives up sooner on a fast line."""
MAX_CHILDREN: Final = 500


class SummarySource(Protocol):
    """What this needs from the network."""

    async def hierarchy(self, server: str, room_id: str, *, suggested_only: bool) -> dict[str, Any]:
        """That server's answer to GET /hierarchy, of which `room` is an object and `children` a list. Raises `SourceFailed`."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """What a server told of a room: its RoomSummary, its children in their order, summaries of those that the server knows, and those
    that we cannot be shown.
    """

    server: str
    room: dict[str, Any]
    children: tuple[Child, ...]
    summaries: dict[str, dict[str, Any]]
    inaccessible: frozenset[str]


@dataclass(slots=True)
class Budget:
    """How many requests an answer to a client may still cost. The room that spends the last one is asked for to the end all the same, so
    that no room is left out for want of it.
    """

    requests: int


class RemoteSummaries:
    """Asks, and remembers what it was told: successes for five minutes, failures for one."""

    def __init__(self, source: SummarySource, server_name: str, now_ms: Callable[[], int]) -> None:
        self._source = source
        self._server_name = server_name
        self._now_ms = now_ms
        self._kept: OrderedDict[tuple[str, str, bool], tuple[int, Told | None]] = OrderedDict()

    async def ask(self, room_id: str, servers: Iterable[str], budget: Budget, *, suggested_only: bool) -> Told | None:
        """What the first of the servers tells that tells anything; None if nobody does."""
        for server in self._usable(servers):
            key = (server, room_id, suggested_only)
            known = self._remembered(key)
            if known is None:
                budget.requests -= 1
                known = await self._request(*key)
            if known[1] is not None:
                return known[1]
        return None

    def told_before(self, server: str, room_id: str, *, suggested_only: bool) -> Told | None:
        """What that server told, if it is still remembered."""
        known = self._remembered((server, room_id, suggested_only))
        return None if known is None else known[1]

    def _usable(self, servers: Iterable[str]) -> list[str]:
        named = [name for name in dict.fromkeys(servers) if name != self._server_name and server_names.is_valid(name)]
        return named[:SERVERS]

    def _remembered(self, key: tuple[str, str, bool]) -> tuple[int, Told | None] | None:
        known = self._kept.get(key)
        if known is not None and known[0] <= self._now_ms():
            del self._kept[key]
            return None
        return known

    async def _request(self, server: str, room_id: str, suggested_only: bool) -> tuple[int, Told | None]:
        told: Told | None = None
        with trio.move_on_after(PATIENCE):
            try:
                told = read_answer(server, room_id, await self._source.hierarchy(server, room_id, suggested_only=suggested_only))
            except SourceFailed as error:
                log.info("%s does not tell of %s: %s", server, room_id, error)
        kept = (self._now_ms() + (FAILURE_KEPT_MS if told is None else KEPT_MS), told)
        self._kept[server, room_id, suggested_only] = kept
        self._kept.move_to_end((server, room_id, suggested_only))
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return kept


def read_answer(server: str, room_id: str, answer: dict[str, Any]) -> Told | None:
    """What of the answer has the shape of the specification; None if it is not about that room."""
    room = read_summary(answer["room"])
    if room is None or room["room_id"] != room_id:
        return None
    is_space = room.get("room_type") == SPACE
    events_told = answer["room"].get("children_state")
    children = in_order(events_told, suggested_only=False) if is_space and isinstance(events_told, list) else []
    named = {child.room_id for child in children}
    summaries = [read_summary(one) for one in answer["children"][:MAX_CHILDREN]]
    hidden = answer.get("inaccessible_children")
    return Told(
        server,
        room,
        tuple(children),
        {one["room_id"]: one for one in summaries if one is not None and one["room_id"] in named},
        frozenset(one for one in (hidden if isinstance(hidden, list) else []) if isinstance(one, str) and one in named),
    )


def ways_to(tx: Transaction, room_id: str, user_id: str) -> list[str]:
    """Servers that may know a room that we are not in: who invited the user, our memory of the room, and the server in its id."""
    names: list[str] = []
    membership = rooms.membership_in(tx, user_id, room_id)
    stored = None if membership is None else events.by_number(tx, membership.event)
    if stored is not None:
        names.append(domain_of(stored.event.sender))
    room = rooms.get(tx, room_id)
    if room is not None:
        names += rooms.servers(tx, room.number)
    return [*names, domain_of(room_id)]
