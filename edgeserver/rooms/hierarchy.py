"""The tree of a space, page by page.

GET /_matrix/client/v1/rooms/{roomId}/hierarchy. Spec: client-server API, "Spaces": depth first, children in their order, each room once
however often the tree names it, and only rooms that the user is told of (`rooms.summaries`). Rooms that we are not in are asked for at
the servers of their `via`.

Work is bounded for each page (rooms, requests, seconds) and for a whole walk (rooms, depth). A walk that is not done is remembered under
the token for its next page, as it was there: a page that is asked for twice is the same twice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver.matrix import errors
from edgeserver.rooms import summaries
from edgeserver.rooms.remote_summaries import Budget, ways_to
from edgeserver.rooms.space_children import Child, children
from edgeserver.store import rooms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeserver.rooms.remote_summaries import RemoteSummaries, Told
    from edgeserver.store.database import Database, Transaction

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 100
MAX_DEPTH: Final = 20
"""The depth of a walk that asks for none, and the most that one may ask for."""
MAX_ROOMS: Final = 1000
"""So many rooms are looked at in one walk, those that the user is not told of included."""
MAX_WAITING: Final = 5000
"""So many children are remembered to be looked at: spaces that name many others may name any number of them again and again."""
STEPS: Final = 300
REQUESTS: Final = 30
SECONDS: Final = 30.0
"""After so many rooms looked at, requests made or seconds, a page ends, however few rooms it has."""
WALKS: Final = 16
"""So many walks are remembered; the one that was left alone longest is forgotten."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A room to look at; `told_by` is (server, parent) if a server told of the parent and so, perhaps, of it."""

    room_id: str
    via: tuple[str, ...]
    depth: int
    told_by: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Walk:
    """A walk between two pages. The last of `waiting` is next."""

    user_id: str
    room_id: str
    suggested_only: bool
    max_depth: int
    waiting: tuple[_Waiting, ...]
    seen: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Found:
    """A room that is shown, with its children; `told_by` is the server whose word that is."""

    summary: dict[str, Any]
    children: Sequence[Child]
    told_by: str | None = None

    def shown(self) -> dict[str, Any]:
        return {**self.summary, "children_state": [child.shown for child in self.children]}


class Hierarchy:
    """Walks spaces for local users."""

    def __init__(self, db: Database, remote: RemoteSummaries, new_token: Callable[[], str]) -> None:
        self._db = db
        self._remote = remote
        self._new_token = new_token
        self._walks: OrderedDict[str, _Walk] = OrderedDict()

    async def page(
        self,
        user_id: str,
        room_id: str,
        *,
        since: str | None = None,
        limit: int | None = None,
        max_depth: int | None = None,
        suggested_only: bool | None = None,
        via: Sequence[str] = (),
    ) -> dict[str, Any]:
        """`{rooms, next_batch?}`. `via` are servers that know the space itself (MSC4235).

        Raises M_FORBIDDEN if the user is not told of the space, M_INVALID_PARAM for a token that is not known or that was given for
        another question.
        """
        if since is None:
            depth = MAX_DEPTH if max_depth is None else min(max_depth, MAX_DEPTH)
            walk = _Walk(user_id, room_id, bool(suggested_only), depth, (_Waiting(room_id, tuple(via), 0),))
        else:
            walk = self._resumed(since, user_id, room_id, max_depth, suggested_only)
        found, rest = await self._go_on(walk, min(limit or DEFAULT_LIMIT, MAX_LIMIT))
        if since is None and not found:
            raise errors.Forbidden(f"You cannot view the room {room_id}, or it is not known.")
        answer: dict[str, Any] = {"rooms": [one.shown() for one in found]}
        if rest is not None:
            answer["next_batch"] = self._remember(rest)
        return answer

    def _resumed(self, token: str, user_id: str, room_id: str, max_depth: int | None, suggested_only: bool | None) -> _Walk:
        walk = self._walks.get(token)
        if walk is None or (walk.user_id, walk.room_id) != (user_id, room_id):
            raise errors.InvalidParam("The token is not known here (any more).")
        same_depth = max_depth is None or min(max_depth, MAX_DEPTH) == walk.max_depth
        if not same_depth or suggested_only not in (None, walk.suggested_only):
            raise errors.InvalidParam("suggested_only and max_depth must stay the same from page to page.")
        self._walks.move_to_end(token)
        return walk

    def _remember(self, walk: _Walk) -> str:
        token = self._new_token()
        self._walks[token] = walk
        while len(self._walks) > WALKS:
            self._walks.popitem(last=False)
        return token

    async def _go_on(self, walk: _Walk, limit: int) -> tuple[list[_Found], _Walk | None]:
        """The next rooms, and what is left of the walk (None: nothing)."""
        waiting, seen, found = list(walk.waiting), set(walk.seen), list[_Found]()
        budget, until = Budget(REQUESTS), trio.current_time() + SECONDS
        steps = 0
        while waiting and len(found) < limit and len(seen) < MAX_ROOMS:
            if steps >= STEPS or budget.requests <= 0 or trio.current_time() > until:
                break
            at = waiting.pop()
            if at.room_id in seen:
                continue
            seen.add(at.room_id)
            steps += 1
            one = await self._room(walk, at, budget)
            if one is None:
                continue
            found.append(one)
            if at.depth < walk.max_depth:
                waiting += _following(at, one, seen)
                del waiting[:-MAX_WAITING]
        waiting = [one for one in waiting if one.room_id not in seen][-MAX_WAITING:]
        is_done = not waiting or len(seen) >= MAX_ROOMS
        return found, None if is_done else replace(walk, waiting=tuple(waiting), seen=frozenset(seen))

    async def _room(self, walk: _Walk, at: _Waiting, budget: Budget) -> _Found | None:
        """The room, if the user is told of it: out of our own store if we are in it, else by another server's word."""

        def local(tx: Transaction) -> _Found | bool:
            room = rooms.get(tx, at.room_id)
            if room is None or not summaries.participates(tx, room):
                return False
            if not summaries.shown_to_user(tx, room, walk.user_id):
                return True
            assert room.snapshot is not None
            shown = summaries.summary(tx, room)
            is_space = shown.get("room_type") == summaries.SPACE
            return _Found(shown, children(tx, room.snapshot, suggested_only=walk.suggested_only) if is_space else ())

        ours = await self._db.read(local)
        if isinstance(ours, _Found):
            return ours
        return None if ours else await self._elsewhere(walk, at, budget)

    async def _elsewhere(self, walk: _Walk, at: _Waiting, budget: Budget) -> _Found | None:
        only = walk.suggested_only
        parent = None if at.told_by is None else self._remote.told_before(*at.told_by, suggested_only=only)
        if parent is not None and at.room_id in parent.inaccessible:
            return None
        summary = None if parent is None else parent.summaries.get(at.room_id)
        told: Told | None = None
        if summary is None or summary.get("room_type") == summaries.SPACE:
            known = await self._db.read(lambda tx: ways_to(tx, at.room_id, walk.user_id))
            servers = [*([] if at.told_by is None else [at.told_by[0]]), *at.via, *known]
            told = await self._remote.ask(at.room_id, servers, budget, suggested_only=only)
        if told is not None:
            summary = told.room
        if summary is None:
            return None
        if not await self._db.read(lambda tx: summaries.shown_by_its_word(tx, summary, walk.user_id)):
            return None
        below = () if told is None else [child for child in told.children if child.suggested or not only]
        return _Found(summary, below, None if told is None else told.server)


def _following(at: _Waiting, found: _Found, seen: set[str]) -> list[_Waiting]:
    """The children to look at after this room, the first of them last."""
    by = None if found.told_by is None else (found.told_by, at.room_id)
    return [_Waiting(child.room_id, child.via, at.depth + 1, by) for child in reversed(found.children) if child.room_id not in seen]


class RoomSummaries:
    """One room in short, for whoever may be told of it."""

    def __init__(self, db: Database, remote: RemoteSummaries) -> None:
        self._db = db
        self._remote = remote

    async def summary(self, user_id: str | None, room_id: str, servers: Sequence[str] = ()) -> dict[str, Any]:
        """A RoomSummary, with the user's `membership` if there is one to ask (`user_id` is None: nobody has logged in, and then no
        other server is asked). Raises M_NOT_FOUND if the room is not known or not theirs to know of.
        """
        missing = errors.NotFound("There is no such room, or you may not know of it.")

        def local(tx: Transaction) -> dict[str, Any] | bool:
            room = rooms.get(tx, room_id)
            if room is None or not summaries.participates(tx, room):
                return False
            return summaries.summary(tx, room) if summaries.shown_to_user(tx, room, user_id) else True

        ours = await self._db.read(local)
        if ours is True or (ours is False and user_id is None):
            raise missing
        shown = ours if isinstance(ours, dict) else await self._elsewhere(str(user_id), room_id, servers)
        if shown is None:
            raise missing
        return shown if user_id is None else {**shown, "membership": await self._db.read(lambda tx: _membership(tx, user_id, room_id))}

    async def _elsewhere(self, user_id: str, room_id: str, servers: Sequence[str]) -> dict[str, Any] | None:
        known = await self._db.read(lambda tx: ways_to(tx, room_id, user_id))
        told = await self._remote.ask(room_id, [*servers, *known], Budget(REQUESTS), suggested_only=True)
        if told is None or not await self._db.read(lambda tx: summaries.shown_by_its_word(tx, told.room, user_id)):
            return None
        return told.room


def _membership(tx: Transaction, user_id: str, room_id: str) -> str:
    membership = rooms.membership_in(tx, user_id, room_id)
    return "leave" if membership is None else membership.membership
