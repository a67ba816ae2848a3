"""Reading rooms: GET /rooms/{}/messages, context, event, state, members, joined_members.

Spec: client-server API, "Getting events for a room", "Syncing" (pagination), "Event context", "Lazy-loading room members".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api import query
from edgeserver.api.endpoint import endpoint
from edgeserver.api.responses import JsonResponse
from edgeserver.matrix import errors
from edgeserver.rooms import client_view, history
from edgeserver.rooms.around import around as around_event
from edgeserver.rooms.client_view import Viewer
from edgeserver.rooms.erasure import as_seen_by
from edgeserver.rooms.tokens import write_place
from edgeserver.store import events, state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.event_filter import EventFilter
    from edgeserver.rooms.history import History, View
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent

ROOMS = "/_matrix/client/v3/rooms/{roomId}"
MEMBER = "m.room.member"
MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")
MAX_CONTEXT = 100
PAGES = 5
"""With a filter, so many pages of the timeline are looked through for one request."""


class RoomReadingSection:
    """The handlers."""

    def __init__(
        self, db: Database, past: History, now_ms: Callable[[], int], until_whole: Callable[[str], Awaitable[None]]
    ) -> None:
        """`until_whole` waits until all members of a room are known."""
        self._db = db
        self._history = past
        self._now_ms = now_ms
        self._until_whole = until_whole

    def _viewer(self, call: Call) -> Viewer:
        return Viewer(call.user_id, call.requester.device_id, self._now_ms())

    async def messages(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/messages"""
        direction, wanted = call.query.get("dir"), query.room_filter(call)
        if direction not in ("b", "f"):
            raise errors.InvalidParam("dir is neither b nor f.")
        room_id, viewer = call.path["roomId"], self._viewer(call)
        limit = query.number(call, "limit", 10)
        if wanted.limit:
            limit = min(limit, wanted.limit)
        found = await self._pages(call, room_id, wanted, max(1, min(limit, history.MAX_PAGE)), backwards=direction == "b")

        def show(tx: Transaction) -> dict[str, Any]:
            answer: dict[str, Any] = {"start": write_place(found.start), "chunk": client_view.timeline(tx, found.chunk, viewer)}
            if found.end is not None:
                answer["end"] = write_place(found.end)
            if wanted.lazy_load_members and found.chunk:
                senders = [stored.event.sender for stored in found.chunk]
                members = _members_of(tx, found.chunk[0].after, senders, found.chunk)
                answer["state"] = client_view.state_events(tx, members, viewer)
            return answer

        return await self._db.read(show)

    async def _pages(self, call: Call, room_id: str, wanted: EventFilter, limit: int, *, backwards: bool) -> history.Page:
        """What the filter lets through of one page, or of a few until there is enough."""
        token, to = call.query.get("from") or None, call.query.get("to") or None
        page = await self._history.page(call.user_id, room_id, token, to, limit, backwards=backwards)
        if not wanted.takes_room(room_id):
            return history.Page([], page.start, None)
        chunk = [stored for stored in page.chunk if wanted.takes(stored.event)]
        start = page.start
        for _ in range(PAGES - 1 if wanted.leaves_out else 0):
            if page.end is None or len(chunk) >= limit:
                break
            left = limit - len(chunk)
            page = await self._history.page(call.user_id, room_id, write_place(page.end), to, left, backwards=backwards)
            chunk += [stored for stored in page.chunk if wanted.takes(stored.event)]
        return history.Page(chunk, start, page.end)

    async def context(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/context/{eventId}"""
        wanted, viewer = query.room_filter(call), self._viewer(call)
        room_id, event_id = call.path["roomId"], call.path["eventId"]
        limit = min(query.number(call, "limit", 10), MAX_CONTEXT)
        return await self._db.read(lambda tx: _context(tx, room_id, event_id, limit, wanted, viewer))

    async def event(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/event/{eventId}"""
        room_id, event_id, viewer = call.path["roomId"], call.path["eventId"], self._viewer(call)

        def read(tx: Transaction) -> dict[str, Any]:
            stored = events.get(tx, event_id)
            if stored is None or stored.stream is None or stored.event.room_id != room_id or not history.is_for_anybody(tx, stored):
                _, stored = history.visible_event(tx, room_id, event_id, viewer.user_id)
            else:
                [stored] = as_seen_by(tx, viewer.user_id, [stored])
            return client_view.timeline(tx, [stored], viewer)[0]

        return await self._db.read(read)

    async def state(self, call: Call) -> Response:
        """GET /rooms/{roomId}/state"""
        room_id, viewer = call.path["roomId"], self._viewer(call)
        await self._members_known(room_id, viewer.user_id)

        def read(tx: Transaction) -> list[dict[str, Any]]:
            at = history.view(tx, room_id, viewer.user_id)
            return client_view.state_events(tx, state.whole_events(tx, at.snapshot).values(), viewer)

        return JsonResponse(await self._db.read(read))

    async def state_event(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/state/{eventType}[/{stateKey}]"""
        event_type, state_key = call.path["eventType"], call.path.get("stateKey", "")
        room_id, viewer, form = call.path["roomId"], self._viewer(call), call.query.get("format", "content")
        if form not in ("content", "event"):
            raise errors.InvalidParam("format is neither content nor event.")
        if event_type == MEMBER and state_key != viewer.user_id:
            await self._members_known(room_id, viewer.user_id)

        def read(tx: Transaction) -> dict[str, Any]:
            at = history.view(tx, room_id, viewer.user_id)
            stored = state.lookup_event(tx, at.snapshot, event_type, state_key)
            if stored is None:
                raise errors.NotFound("The room has no such state.")
            return stored.event.content if form == "content" else client_view.timeline(tx, [stored], viewer)[0]

        return await self._db.read(read)

    async def members(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/members"""
        room_id, viewer, token = call.path["roomId"], self._viewer(call), call.query.get("at")
        only, without = _membership(call, "membership"), _membership(call, "not_membership")

        def takes(stored: StoredEvent) -> bool:
            membership = stored.event.content.get("membership")
            if only is None and without is None:
                return True
            return (only is not None and membership == only) or (without is not None and membership != without)

        await self._members_known(room_id, viewer.user_id)

        def read(tx: Transaction) -> list[dict[str, Any]]:
            at = history.view(tx, room_id, viewer.user_id)
            snapshot = at.snapshot if token is None else _snapshot_at(tx, at, token)
            found = events.many_by_number(tx, state.of_type(tx, snapshot, MEMBER).values())
            return client_view.state_events(tx, filter(takes, found.values()), viewer)

        return {"chunk": await self._db.read(read)}

    async def joined_members(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/joined_members"""
        room_id, user_id = call.path["roomId"], call.user_id
        await self._members_known(room_id, user_id)

        def read(tx: Transaction) -> dict[str, Any]:
            at = history.view(tx, room_id, user_id)
            if at.membership is None or at.membership.membership != "join":
                raise errors.Forbidden(f"You are not in the room {room_id}.")
            found = events.many_by_number(tx, state.of_type(tx, at.snapshot, MEMBER).values())
            return {
                stored.event.state_key or "": _profile(stored)
                for stored in found.values()
                if stored.event.content.get("membership") == "join"
            }

        return {"joined": await self._db.read(read)}

    async def _members_known(self, room_id: str, user_id: str) -> None:
        """For who may read the room: waits until its members are known. Raises M_FORBIDDEN, 504 M_UNKNOWN."""
        await self._db.read(lambda tx: history.view(tx, room_id, user_id))
        await self._until_whole(room_id)


def _profile(stored: StoredEvent) -> dict[str, str]:
    content = stored.event.content
    shown = {"display_name": content.get("displayname"), "avatar_url": content.get("avatar_url")}
    return {key: value for key, value in shown.items() if isinstance(value, str)}




def _context(
    tx: Transaction, room_id: str, event_id: str, limit: int, wanted: EventFilter, viewer: Viewer
) -> dict[str, Any]:
    at, stored = history.visible_event(tx, room_id, event_id, viewer.user_id)
    around = around_event(tx, at, stored, limit // 2, limit - limit // 2, viewer.user_id)
    before = [one for one in around.before if wanted.takes(one.event)]
    after = [one for one in around.after if wanted.takes(one.event)]
    last = after[-1] if after else stored
    if wanted.lazy_load_members:
        senders = [one.event.sender for one in (*before, stored, *after)]
        known = _state_without_members(tx, last.after) + _members_of(tx, last.after, senders, [*before, stored, *after])
    else:
        known = [] if last.after is None else list(state.whole_events(tx, last.after).values())
    return {
        "start": write_place(around.start),
        "end": write_place(around.end),
        "events_before": client_view.timeline(tx, before, viewer),
        "event": client_view.timeline(tx, [stored], viewer)[0],
        "events_after": client_view.timeline(tx, after, viewer),
        "state": client_view.state_events(tx, (one for one in known if wanted.takes(one.event)), viewer),
    }


def _state_without_members(tx: Transaction, snapshot: int | None) -> list[StoredEvent]:
    if snapshot is None:
        return []
    numbers = [number for key, number in state.whole(tx, snapshot).items() if key[0] != MEMBER]
    return list(events.many_by_number(tx, numbers).values())


def _members_of(tx: Transaction, snapshot: int | None, user_ids: Sequence[str], shown: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The member events of these users in a state; of senders whom a partial state lacks, those that the events shown cite."""
    if snapshot is None:
        return []
    found = state.lookup_events(tx, snapshot, [(MEMBER, user_id) for user_id in dict.fromkeys(user_ids)])
    lacking = [user_id for user_id in dict.fromkeys(user_ids) if (MEMBER, user_id) not in found]
    cited = [number for user_id in lacking if (number := client_view.cited_member(tx, shown, user_id)) is not None]
    return [*found.values(), *events.many_by_number(tx, cited).values()]


def _snapshot_at(tx: Transaction, at: View, token: str) -> int:
    """The state at a pagination token; before all that is held, the state before the first event of that."""
    place = history.place_of(tx, at.room.number, token, at.upto, backwards=True)
    newest = events.page_backwards(tx, at.room.number, place, 1, at.upto)
    if newest:
        known = newest[0].after
    else:
        oldest = events.page_forwards(tx, at.room.number, place, 1, at.upto)
        known = oldest[0].before if oldest else None
    return at.snapshot if known is None else known


def _membership(call: Call, name: str) -> str | None:
    given = call.query.get(name)
    if given is not None and given not in MEMBERSHIPS:
        raise errors.InvalidParam(f"{name} is none of {', '.join(MEMBERSHIPS)}.")
    return given


def routes(
    db: Database, past: History, now_ms: Callable[[], int], until_whole: Callable[[str], Awaitable[None]]
) -> list[Route]:
    section = RoomReadingSection(db, past, now_ms, until_whole)
    state_type = ROOMS + "/state/{eventType}"
    return [
        *endpoint("GET", ROOMS + "/messages", section.messages),
        *endpoint("GET", ROOMS + "/context/{eventId}", section.context),
        *endpoint("GET", ROOMS + "/event/{eventId}", section.event),
        *endpoint("GET", ROOMS + "/state", section.state),
        *endpoint("GET", state_type, section.state_event),
        *endpoint("GET", state_type + "/", section.state_event),
        *endpoint("GET", state_type + "/{stateKey}", section.state_event),
        *endpoint("GET", ROOMS + "/members", section.members),
        *endpoint("GET", ROOMS + "/joined_members", section.joined_members),
    ]
