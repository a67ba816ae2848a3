"""Sliding sync: what a connection is told now, and when. MSC4186.

The steps of one answer: the user's list of rooms; the windows of the client's lists and its subscriptions; of each room in them what is
new to the connection; the extensions. Whoever has nothing to hear waits for a wake-up and costs nothing meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.rooms.client_view import Viewer
from edgeserver.store import account_data, partial_rooms, receipts, rooms, to_device, unread
from edgeserver.sync.sliding.budget import Budget
from edgeserver.sync.sliding.connections import LIVE, Changes, Connections
from edgeserver.sync.sliding.extensions import ExtensionsOfAnswer, InScope
from edgeserver.sync.sliding.room_list import RoomLists, Windows
from edgeserver.sync.sliding.room_result import Composer
from edgeserver.sync.sliding.wanted import SlidingAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.room_list import ListedRoom
    from edgeserver.sync.sliding.connections import Connection, Sent, Told
    from edgeserver.sync.sliding.wanted import RoomResult, RoomWish, SlidingRequest
    from edgeserver.users.ephemeral import Typing
    from edgeserver.wakeups import Wakeups

MAX_TIMEOUT_MS: Final = 600_000
ROOMS_AT_ONCE: Final = 500
"""Rooms in one answer; the rest comes with the next request."""


@dataclass(slots=True)
class _Matched:
    """A room that the request is about."""

    room: ListedRoom
    wish: RoomWish
    lists: list[str] = field(default_factory=list)
    subscribed: bool = False


@dataclass(slots=True)
class _Round:
    """One attempt at an answer."""

    answer: SlidingAnswer
    changes: Changes
    is_news: bool = False
    acknowledged: int | None = None


class SlidingSync:
    """Answers sliding sync requests. One for the program. `size` tells how many bytes a room's result takes on the wire."""

    def __init__(
        self, db: Database, wakeups: Wakeups, typing: Typing, now_ms: Callable[[], int], size: Callable[[RoomResult], int]
    ) -> None:
        self._db = db
        self._wakeups = wakeups
        self._typing = typing
        self._now_ms = now_ms
        self._size = size
        self.connections = Connections()
        self._lists = RoomLists()

    async def sync(self, request: SlidingRequest) -> SlidingAnswer:
        """Returns once there is news or the timeout is over. A newer request of the same connection ends this one with an empty answer.

        Raises M_UNKNOWN_POS.
        """
        connection = self.connections.enter(
            request.user_id, request.device_id, request.conn_id, request.pos, is_short=request.short_pos
        )
        if connection.under_way is not None:
            connection.under_way.cancel()
        with trio.CancelScope() as scope:
            connection.under_way = scope
            try:
                return await self._answer_in(connection, request)
            finally:
                if connection.under_way is scope:
                    connection.under_way = None
        return SlidingAnswer(pos=request.pos or "")

    async def _answer_in(self, connection: Connection, request: SlidingRequest) -> SlidingAnswer:
        deadline = trio.current_time() + min(max(0, request.timeout_ms), MAX_TIMEOUT_MS) / 1000
        with self._wakeups.listening(request.user_id) as listener:
            while True:
                found = await self._round(connection.told, request)
                if found.is_news or request.pos is None:
                    break
                with trio.move_on_at(deadline) as waiting:
                    await listener.wait()
                if waiting.cancelled_caught:
                    break
        if found.acknowledged is not None:
            upto = found.acknowledged
            await self._db.write(lambda tx: to_device.acknowledge(tx, request.user_id, request.device_id, upto))
        await trio.lowlevel.checkpoint_if_cancelled()  # reads are shielded: what was given up must not undo what the newer request offers
        found.answer.pos = connection.offer(found.changes)
        return found.answer

    async def _round(self, told: Told, request: SlidingRequest) -> _Round:
        typing = {} if request.extensions.typing is None else self._typing.everywhere()
        return await self._db.read(lambda tx: self._read(tx, told, request, typing))

    def _read(self, tx: Transaction, told: Told, request: SlidingRequest, typing: Mapping[str, list[str]]) -> _Round:
        changes = Changes(tx.position, extensions=dict(told.extensions), devices=told.devices)
        found = _Round(SlidingAnswer(), changes)
        listed = self._lists.of(tx, request.user_id)
        ignored = account_data.ignored_users(tx, request.user_id)
        windows = Windows(tx, request.user_id, listed, told, ignored)
        matched = self._matched(windows, request, found.answer)
        changes.counts = found.answer.lists
        found.is_news = changes.counts != told.counts
        typing_now = {listed.by_id[room_id].room: users for room_id, users in typing.items() if room_id in listed.by_id}
        extensions = ExtensionsOfAnswer(tx, request, told, changes, found.answer, typing_now, ignored)
        spent = extensions.compose_device()
        self._rooms(tx, told, request, windows, matched, ignored, found, spent)
        told_of = {number: one for number, one in matched.items() if number in changes.rooms or number in told.rooms}
        extensions.compose_rooms(InScope({number: (one.room, one.lists, one.subscribed) for number, one in told_of.items()}))
        found.is_news = found.is_news or extensions.is_news
        found.acknowledged = self._acknowledged(tx, request)
        return found

    def _acknowledged(self, tx: Transaction, request: SlidingRequest) -> int | None:
        wish = request.extensions.to_device
        if wish is None or wish.since is None:
            return None
        upto = min(wish.since, tx.position)
        return upto if to_device.has_acknowledged(tx, request.user_id, request.device_id, upto) else None

    # Rooms

    def _matched(self, windows: Windows, request: SlidingRequest, answer: SlidingAnswer) -> dict[int, _Matched]:
        """The rooms that the request is about, the most wanted first: what is subscribed to, then the lists in their order."""
        found: dict[int, _Matched] = {}
        for room_id, wish in request.subscriptions.items():
            room = windows.by_id.get(room_id)
            if room is not None and room.room not in windows.hidden:
                found[room.room] = _Matched(room, wish, subscribed=True)
        for name, wanted in request.lists.items():
            answer.lists[name], rooms = windows.window(wanted)
            for room in rooms:
                known = found.get(room.room)
                if known is None:
                    known = found[room.room] = _Matched(room, wanted.wish)
                else:
                    known.wish = known.wish.together_with(wanted.wish)
                known.lists.append(name)
        return found

    def _rooms(
        self,
        tx: Transaction,
        told: Told,
        request: SlidingRequest,
        windows: Windows,
        matched: Mapping[int, _Matched],
        ignored: frozenset[str],
        found: _Round,
        spent: int,
    ) -> None:
        """`spent`: so much of the budget is gone."""
        oldest = min((told.position if sent.upto == LIVE else sent.upto for sent in told.rooms.values()), default=tx.position)
        whole = partial_rooms.became_whole(tx, oldest, tx.position)
        composer = Composer(
            Viewer(request.user_id, request.device_id, self._now_ms()),
            ignored,
            windows.direct,
            windows.instead,
            whole,
            upto=tx.position,
            live_since=tx.position if request.pos is None else told.position,
        )
        budget = Budget(request.budget)
        budget.spend(spent)
        for number, one, since in self._with_news(tx, told, request, windows.direct, whole, matched):
            if budget.is_full or len(found.answer.rooms) >= ROOMS_AT_ONCE:
                found.is_news = True
                self._hold_back(told, found.changes, number)
                continue
            sent = told.rooms.get(number)
            result, found.changes.rooms[number] = composer.compose(tx, one.room, one.wish, one.lists, sent, since)
            if result is not None:
                found.answer.rooms[one.room.room_id] = result
                found.is_news = found.is_news or request.echoes or not _is_known(result, sent)
                budget.spend(0 if request.budget is None else (request.size or self._size)(result))
            elif rooms.membership(tx, request.user_id, number) is None:
                self._lists.drop(request.user_id)
        for number, sent in told.rooms.items():
            if sent.upto == LIVE and (number not in matched or (number in windows.instead and number not in found.changes.rooms)):
                found.changes.rooms[number] = sent._replace(upto=told.position)

    def _hold_back(self, told: Told, changes: Changes, number: int) -> None:
        """The room has news that are told with a later answer."""
        sent = told.rooms.get(number)
        if sent is not None and sent.upto == LIVE:
            changes.rooms[number] = sent._replace(upto=told.position)

    def _with_news(
        self,
        tx: Transaction,
        told: Told,
        request: SlidingRequest,
        direct: frozenset[str],
        whole: Mapping[int, int],
        matched: Mapping[int, _Matched],
    ) -> Iterator[tuple[int, _Matched, int | None]]:
        """Those of the rooms in which there may be something new to the connection; with the position to which it was told."""
        read = receipts.rooms_read(tx, request.user_id, told.position) if request.counts_reads and told.rooms else set()
        for number, one in self._in_order(tx, request, matched):
            sent = told.rooms.get(number)
            since = None if sent is None else told.since(sent.upto)
            if sent is None or since is None or max(one.room.activity, whole.get(number, 0)) > since or number in read:
                yield number, one, since
                continue
            changed_wish = one.wish.limit > sent.limit or one.wish.parts != sent.parts or sent.is_dm != (one.room.room_id in direct)
            back = sent.upto != LIVE and request.counts_reads  # it was out of sight: whether it was read meanwhile nobody has noted
            if changed_wish or (back and receipts.has_read(tx, number, request.user_id, since)):
                yield number, one, since

    def _in_order(self, tx: Transaction, request: SlidingRequest, matched: Mapping[int, _Matched]) -> list[tuple[int, _Matched]]:
        """On a thin wire rooms where the user is asked for go before others that are not open."""
        if request.budget is None:
            return list(matched.items())

        def urgency(item: tuple[int, _Matched]) -> int:
            number, one = item
            if one.subscribed:
                return 0
            return 1 if any(count.highlights for count in unread.of_user(tx, number, request.user_id).values()) else 2

        return sorted(matched.items(), key=urgency)


def _is_known(result: RoomResult, sent: Sent | None) -> bool:
    """Whether the device that asks has sent all that there is to tell, and nothing is counted otherwise for it."""
    return sent is not None and result.is_echo and (result.notifications, result.highlights) == sent.counts
