"""The event stream from before /sync. Spec: client-server API, `GET /events`, `/initialSync`, `/rooms/{roomId}/initialSync`, deprecated.

Its tokens are those of /sync. An answer has at most `MAX_CHUNK` events; what it leaves out comes with the next, so nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver.matrix import errors
from edgeserver.rooms import client_view, history, tokens
from edgeserver.store import account_data, events, old_stream, receipts, rooms, state
from edgeserver.store.account_data import ignored_users
from edgeserver.sync.since import Since
from edgeserver.users.receipts import edu_content

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.rooms.client_view import Viewer
    from edgeserver.rooms.history import View
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Membership
    from edgeserver.sync.classic import PresenceFeed
    from edgeserver.users.ephemeral import Typing
    from edgeserver.wakeups import Wakeups

MAX_CHUNK: Final = 100
MAX_MESSAGES: Final = 100
DEFAULT_MESSAGES: Final = 10
MAX_TIMEOUT_MS: Final = 600_000
PEEKED_THROUGH: Final = 5
"""A wake-up for so many members of a room is taken as one for who peeks into it."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """`more`: it ends before all that there is."""

    events: list[Json]
    end: Since
    more: bool


class OldStream:
    """Answers. One for the program."""

    def __init__(self, db: Database, wakeups: Wakeups, typing: Typing, presence: PresenceFeed | None = None) -> None:
        self._db = db
        self._wakeups = wakeups
        self._typing = typing
        self._presence = presence

    def _now(self) -> Since:
        return Since(self._db.position, self._typing.version, self._db.position)

    # GET /events

    async def listen(self, viewer: Viewer, since: Since | None, timeout_ms: int) -> Json:
        """What is new to the user; returns once there is something or the timeout is over."""
        start = since or self._now()
        deadline = trio.current_time() + min(timeout_ms, MAX_TIMEOUT_MS) / 1000
        reached = start
        with self._wakeups.listening(viewer.user_id) as listener:
            while True:
                found = await self._news(viewer, reached)
                reached = found.end
                if found.events:
                    break
                if found.more:
                    continue  # so much was not for this user's eyes
                with trio.move_on_at(deadline) as waiting:
                    await listener.wait()
                if waiting.cancelled_caught:
                    break
        return {"start": str(start), "end": str(reached), "chunk": found.events}

    async def _news(self, viewer: Viewer, since: Since) -> _Chunk:
        version = self._typing.version
        typing = self._typing.changed(since.typing)
        presence = {} if self._presence is None else self._presence.changed(self._typing.in_this_run(since.typing))
        return await self._db.read(lambda tx: self._read(tx, viewer, since, version, typing, presence))

    def _read(
        self,
        tx: Transaction,
        viewer: Viewer,
        since: Since,
        version: int,
        typing: Mapping[str, list[str]],
        presence: Mapping[str, Mapping[str, Any]],
    ) -> _Chunk:
        user_id, stream = viewer.user_id, min(since.stream, tx.position)
        rows = old_stream.arrived(tx, user_id, stream, tx.position, MAX_CHUNK)
        upto = rows[-1][0] if len(rows) == MAX_CHUNK else tx.position
        chunk = client_view.timeline(tx, _may_see(tx, user_id, rows), viewer)
        shown = {event["event_id"] for event in chunk}
        asked = events.many_by_number(tx, old_stream.asked(tx, user_id, stream, upto)).values()
        chunk += client_view.timeline(tx, [one for one in asked if one.event.event_id not in shown], viewer)
        for room_id, user_ids in typing.items():
            if _is_joined(tx, user_id, room_id):
                chunk.append({"type": "m.typing", "room_id": room_id, "content": {"user_ids": user_ids}})
        by_room: dict[int, list[Any]] = {}
        for receipt in receipts.changed(tx, user_id, stream, upto):
            by_room.setdefault(receipt.room, []).append(receipt)
        for number, found in by_room.items():
            room = rooms.by_number(tx, number)
            if _is_joined(tx, user_id, room.room_id):
                chunk.append({"type": "m.receipt", "room_id": room.room_id, "content": edu_content(found)})
        chunk += _presence_events(tx, user_id, presence)
        return _Chunk(chunk, Since(upto, version, upto), upto < tx.position)

    async def peek(self, viewer: Viewer, room_id: str, since: Since | None, timeout_ms: int) -> Json:
        """What is new in a room that the user may read, joined or not. Raises M_FORBIDDEN."""
        start = since or self._now()
        deadline = trio.current_time() + min(timeout_ms, MAX_TIMEOUT_MS) / 1000

        def watched(tx: Transaction) -> list[str]:
            return rooms.local_members(tx, history.view(tx, room_id, viewer.user_id).room.number)[:PEEKED_THROUGH]

        reached = start
        while True:
            with self._wakeups.listening(viewer.user_id, *await self._db.read(watched)) as listener:
                found = await self._db.read(lambda tx: self._peeked(tx, viewer, room_id, reached))  # noqa: B023
                reached = found.end
                if found.events:
                    break
                if found.more:
                    continue
                with trio.move_on_at(deadline) as waiting:
                    await listener.wait()
                if waiting.cancelled_caught:
                    break
        return {"start": str(start), "end": str(found.end), "chunk": found.events}

    def _peeked(self, tx: Transaction, viewer: Viewer, room_id: str, since: Since) -> _Chunk:
        at = history.view(tx, room_id, viewer.user_id)
        stream, last = min(since.stream, tx.position), min(at.upto, tx.position)
        rows = old_stream.arrived_in(tx, at.room.number, stream, last, MAX_CHUNK)
        upto = rows[-1][0] if len(rows) == MAX_CHUNK else tx.position
        chunk = client_view.timeline(tx, _may_see(tx, viewer.user_id, rows), viewer)
        return _Chunk(chunk, Since(upto, since.typing, upto), upto < tx.position)

    # GET /events/{eventId}

    async def event(self, viewer: Viewer, event_id: str) -> Json:
        """One event that the user may see, of whatever room. Raises M_NOT_FOUND."""

        def read(tx: Transaction) -> Json:
            stored = events.get(tx, event_id)
            seen = [] if stored is None or stored.stream is None else _may_see(tx, viewer.user_id, [(stored.stream, stored.room)])
            if not seen:
                raise errors.NotFound("There is no such event, or you may not see it.")
            return client_view.timeline(tx, seen, viewer)[0]

        return await self._db.read(read)

    # GET /initialSync, GET /rooms/{roomId}/initialSync

    async def begin(self, viewer: Viewer, limit: int, *, archived: bool) -> Json:
        """All rooms of the user, and what they have set."""
        end = self._now()
        presence = {} if self._presence is None else self._presence.changed(0)

        def start(tx: Transaction) -> tuple[list[Membership], Json]:
            wanted = ("join", "invite", "leave", "ban") if archived else ("join", "invite")
            found = [one for one in rooms.memberships_of(tx, viewer.user_id) if one.membership in wanted and not one.forgotten]
            items = account_data.changed(tx, viewer.user_id, 0, tx.position)
            data = [{"type": item.type, "content": item.content} for item in items if item.room_id == ""]
            return found, {"account_data": data, "presence": _presence_events(tx, viewer.user_id, presence)}

        found, answer = await self._db.read(start)
        listed = [await self._db.read(lambda tx, one=one: _of_membership(tx, viewer, one, limit)) for one in found]  # type: ignore[misc]
        return {"end": str(end), "rooms": listed, **answer}

    async def room(self, viewer: Viewer, room_id: str, limit: int) -> Json:
        """One room that the user may read. Raises M_FORBIDDEN."""

        def read(tx: Transaction) -> Json:
            at = history.view(tx, room_id, viewer.user_id)
            return {**_room(tx, viewer, at, limit), "presence": []}

        return await self._db.read(read)


def _may_see(tx: Transaction, user_id: str, rows: Sequence[tuple[int, int]]) -> list[StoredEvent]:
    """Those of the events at these positions that the user may see, in order."""
    ignored = ignored_users(tx, user_id)
    kept: dict[int | None, StoredEvent] = {}
    found = events.at_streams(tx, [stream for stream, _ in rows])
    for room in {room for _, room in rows}:
        try:
            at = history.view(tx, rooms.by_number(tx, room).room_id, user_id)
        except errors.Forbidden:
            continue
        own = [one for one in found.values() if one.room == room and (one.stream or 0) <= at.upto]
        own = [one for one in own if one.event.state_key is not None or one.event.sender not in ignored]
        kept |= {one.stream: one for one in history.visible(tx, user_id, at.membership, own)}
    return [kept[stream] for stream, _ in rows if stream in kept]


def _is_joined(tx: Transaction, user_id: str, room_id: str) -> bool:
    member = rooms.membership_in(tx, user_id, room_id)
    return member is not None and member.membership == "join"


def _presence_events(tx: Transaction, user_id: str, presence: Mapping[str, Mapping[str, Any]]) -> list[Json]:
    near = [other for other in presence if other == user_id or rooms.share_a_room(tx, user_id, other)]
    return [{"type": "m.presence", "sender": other, "content": {"user_id": other, **presence[other]}} for other in near]


def _of_membership(tx: Transaction, viewer: Viewer, member: Membership, limit: int) -> Json:
    if member.membership == "invite":
        own = events.by_number(tx, member.event)
        invite = [] if own is None else client_view.timeline(tx, [own], viewer)
        return {"room_id": member.room_id, "membership": "invite", **({"invite": invite[0]} if invite else {})}
    try:
        at = history.view(tx, member.room_id, viewer.user_id)
    except errors.Forbidden:  # an invite that was declined, say: there is nothing to read
        return {"room_id": member.room_id, "membership": member.membership}
    return _room(tx, viewer, at, limit)


def _room(tx: Transaction, viewer: Viewer, at: View, limit: int) -> Json:
    raw = events.page_backwards(tx, at.room.number, history.place_of(tx, at.room.number, None, at.upto, backwards=True), limit, at.upto)
    shown = history.visible(tx, viewer.user_id, at.membership, raw)[::-1]
    start = {"start": tokens.write_place(history.before(raw[-1]))} if raw else {}
    items = account_data.of_room(tx, viewer.user_id, at.room.room_id)
    membership = None if at.membership is None else at.membership.membership
    return {
        "room_id": at.room.room_id,
        **({"membership": membership} if membership in ("join", "invite", "leave", "ban") else {}),
        "messages": {"chunk": client_view.timeline(tx, shown, viewer), "end": tokens.write_stream(at.upto), **start},
        "state": client_view.state_events(tx, state.whole_events(tx, at.snapshot).values(), viewer),
        "visibility": "public" if at.room.published else "private",
        "account_data": [{"type": item.type, "content": item.content} for item in items],
    }
