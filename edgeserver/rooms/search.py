"""Searching what was said. Spec: client-server API, "Server Side Search".

`Indexer` keeps the full-text index up with the stream, in batches; `window` reads it. Nobody finds what they may not read: hits are
looked at newest first, and each goes through what /messages goes through. The work of one request is bounded: a window holds at most
`WINDOW` hits, for which at most `MAX_SCANNED` matching events are looked at; whoever wants more pages on.

Rooms that are encrypted are left out. An edit is found by its new text, and what is shown is the message that it edits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import errors, search_text
from edgeserver.matrix.auth_events import CREATE
from edgeserver.matrix.relations import REPLACE, is_replacement, relation_of
from edgeserver.rooms import history
from edgeserver.rooms.event_filter import EventFilter
from edgeserver.rooms.succession import predecessor_of
from edgeserver.store import events, rooms, search_index, state

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from edgeserver.rooms.history import View
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent

WINDOW: Final = 200
MAX_SCANNED: Final = 5000
CHUNK: Final = 100
MAX_PREDECESSORS: Final = 50
BACKLOG: Final = 200
"""With so many positions behind, the indexer works although nobody searches."""
EVERY_S: Final = 600.0
PAUSE_S: Final = 1.0
BACK_AT_ONCE: Final = 4
"""Batches of older events that a search waits for."""
ENCRYPTION: Final = ("m.room.encryption", "")


class Indexer:
    """Follows the stream. `catch_up` before each search; `run` works off what has gathered, and what was there before."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._upto = 0
        self._turn = trio.Lock()

    async def catch_up(self) -> None:
        """Everything that has been sent is found from now on. Of older history it does a part."""
        async with self._turn:
            await self._forwards()
            for _ in range(BACK_AT_ONCE):
                if not await self._backwards():
                    break

    async def run(self) -> None:
        """Until cancelled. Most of the time it sleeps; a box on which little is said is never written to but for searches."""
        while True:
            async with self._turn:
                if self._db.position - self._upto >= BACKLOG:
                    await self._forwards()
                is_more = await self._backwards()
            await trio.sleep(PAUSE_S if is_more else EVERY_S)

    async def _forwards(self) -> None:
        position = self._db.position
        if position == self._upto:
            return
        if await self._db.read(search_index.progress) is None:
            await self._db.write(lambda tx: search_index.begin(tx, position))
        while await self._db.write(_forwards):
            pass
        self._upto = position

    async def _backwards(self) -> bool:
        if not await self._db.read(_has_older):
            return False
        return await self._db.write(_backwards)


def _forwards(tx: Transaction) -> bool:
    done = search_index.progress(tx)
    return done is not None and search_index.forwards(tx, done)


def _backwards(tx: Transaction) -> bool:
    done = search_index.progress(tx)
    return done is not None and search_index.backwards(tx, done)


def _has_older(tx: Transaction) -> bool:
    done = search_index.progress(tx)
    return done is not None and events.is_any_at_or_before(tx, done.low)


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for: all the phrases, in the columns of these names. `group` is ("room_id" or "sender", value) or None."""

    phrases: Sequence[search_text.Phrase]
    names: Sequence[str]
    filter: EventFilter = field(default_factory=EventFilter)
    by_rank: bool = True
    group: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One result: the event to show, the stream position of the one that matched, and how well (higher is better)."""

    shown: StoredEvent
    stream: int
    rank: float
    texts: tuple[str, ...]
    view: View


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of a window in the order asked for. `next` is the position below which there may be more; None: there is none."""

    hits: list[Hit]
    next: int | None


def window(
    tx: Transaction, user_id: str, query: Query, below: int, bottom: int | None, ignored: Collection[str]
) -> Found:
    """The newest hits below a position, down to `bottom` if it is given, that the user may see."""
    looker = _Looker(tx, user_id, query, ignored)
    expression = search_text.expression(query.phrases, query.names)
    found: dict[str, Hit] = {}
    going_on, scanned = below, 0
    while scanned < MAX_SCANNED:
        streams = search_index.hits(tx, expression, going_on, CHUNK)
        kept = [stream for stream in streams if bottom is None or stream >= bottom]
        for stream, hit in looker.hits(kept):
            going_on = stream
            found.setdefault(hit.shown.event.event_id, hit)
            if len(found) == WINDOW:
                return _sorted(query, found.values(), going_on)
        if len(kept) < len(streams):
            return _sorted(query, found.values(), bottom)
        if len(streams) < CHUNK:
            return _sorted(query, found.values(), bottom)
        scanned, going_on = scanned + len(streams), streams[-1]
    return _sorted(query, found.values(), going_on)


def _sorted(query: Query, hits: Iterable[Hit], following: int | None) -> Found:
    ordered = sorted(hits, key=lambda hit: (-hit.rank if query.by_rank else 0, -hit.stream))
    return Found(ordered, following)


class _Looker:
    """Looks at matching events for one user and query."""

    def __init__(self, tx: Transaction, user_id: str, query: Query, ignored: Collection[str]) -> None:
        self._tx = tx
        self._user_id = user_id
        self._query = query
        self._ignored = ignored
        self._views: dict[int, View | None] = {}
        self._rooms = _rooms(tx, user_id, query)

    def hits(self, streams: Sequence[int]) -> list[tuple[int, Hit]]:
        """Those of the positions that are hits, in the same order."""
        of_rooms = events.rooms_at(self._tx, streams)
        stored = events.at_streams(self._tx, [one for one in streams if of_rooms.get(one) in self._rooms])
        by_room: dict[int, list[StoredEvent]] = {}
        for one in stored.values():
            if self._wants(one):
                by_room.setdefault(one.room, []).append(one)
        seen = {one.stream: one for room, found in by_room.items() for one in self._visible(room, found)}
        hits = [(stream, self._hit(seen[stream])) for stream in streams if stream in seen]
        return [(stream, hit) for stream, hit in hits if hit is not None]

    def _wants(self, stored: StoredEvent) -> bool:
        sender = stored.event.sender
        if self._query.group is not None and self._query.group[0] == "sender" and sender != self._query.group[1]:
            return False
        return sender not in self._ignored and stored.redacted_by is None and self._query.filter.takes(stored.event)

    def _visible(self, room: int, found: list[StoredEvent]) -> list[StoredEvent]:
        view = self._view(room)
        if view is None:
            return []
        read = [one for one in found if one.stream is not None and one.stream <= view.upto]
        return history.visible(self._tx, self._user_id, view.membership, read)

    def _view(self, room: int) -> View | None:
        """None for rooms that are encrypted or not the user's to read."""
        if room not in self._views:
            view: View | None
            try:
                view = history.view(self._tx, rooms.by_number(self._tx, room).room_id, self._user_id)
            except errors.Forbidden:
                view = None
            if view is not None and state.lookup(self._tx, view.snapshot, ENCRYPTION) is not None:
                view = None
            self._views[room] = view
        return self._views[room]

    def _hit(self, matched: StoredEvent) -> Hit | None:
        view = self._view(matched.room)
        shown = self._edited(matched)
        if view is None or shown is None or matched.stream is None:
            return None
        texts = search_text.texts_of(matched.event.type, matched.event.content)
        searched = tuple(texts[name] for name in self._query.names if name in texts)
        if not searched:
            return None  # its sender had themselves erased: this user is not to learn what it said
        rank = max(search_text.score(self._query.phrases, search_text.words(text)) for text in searched)
        return Hit(shown, matched.stream, rank, searched, view)

    def _edited(self, matched: StoredEvent) -> StoredEvent | None:
        """The message that this one edits, or itself; None for an edit that is none, or of what has been redacted."""
        relation = relation_of(matched.event.content)
        original = events.get(self._tx, relation.event_id) if relation is not None and relation.rel_type == REPLACE else None
        if original is None or original.stream is None:
            return matched
        if original.redacted_by is not None or not is_replacement(matched.event, original.event):
            return None
        return next(iter(self._visible(original.room, [original])), matched)


def _rooms(tx: Transaction, user_id: str, query: Query) -> set[int]:
    """The rooms to look in: those that the user is in or was in, of which a filter may name some, with those that they replace."""
    mine = {
        one.room_id: one.room
        for one in rooms.memberships_of(tx, user_id)
        if one.membership in ("join", "leave", "ban") and not one.forgotten
    }
    if query.filter.rooms is not None:
        named = {*query.filter.rooms, *_predecessors(tx, [one for one in query.filter.rooms if one in mine])}
        mine = {room_id: number for room_id, number in mine.items() if room_id in named}
    if query.group is not None and query.group[0] == "room_id":
        mine = {room_id: number for room_id, number in mine.items() if room_id == query.group[1]}
    return {number for room_id, number in mine.items() if room_id not in query.filter.not_rooms}


def _predecessors(tx: Transaction, named: Sequence[str]) -> set[str]:
    found: set[str] = set()
    todo = list(named)
    while todo and len(found) < MAX_PREDECESSORS:
        room = rooms.get(tx, todo.pop())
        create = None if room is None or room.snapshot is None else state.lookup_event(tx, room.snapshot, *CREATE)
        older = predecessor_of(None if create is None else create.event)
        if older is not None and older not in found:
            found.add(older)
            todo.append(older)
    return found
