"""/v1/rooms/{room_id}/messages, /context/{event_id} and /timestamp_to_event: what the client API has under these names, of any room that
this server holds and whatever its history visibility: for looking into reports. Synapse's admin API, "Rooms".

Only what is held is shown: an administrator's look makes no other server be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api import query
from edgeserver.api.admin.admission import admin_endpoint, backwards, number, number_needed
from edgeserver.api.admin.rooms import ROOM, known_room
from edgeserver.matrix import errors
from edgeserver.rooms import client_view, history
from edgeserver.rooms.around import all_around
from edgeserver.rooms.client_view import Viewer
from edgeserver.rooms.tokens import write_place
from edgeserver.store import events, state, timestamps

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.store.database import Database, Transaction

MAX_CONTEXT: Final = 100


class RoomHistorySection:
    """The handlers."""

    def __init__(self, db: Database, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._now_ms = now_ms

    def _viewer(self, call: Call) -> Viewer:
        return Viewer(call.user_id, None, self._now_ms())

    async def messages(self, call: Call) -> dict[str, Any]:
        """GET /v1/rooms/{room_id}/messages"""
        turned, wanted, viewer = backwards(call), query.room_filter(call), self._viewer(call)
        limit = max(1, min(number(call, "limit", 10), history.MAX_PAGE))
        token, to = call.query.get("from") or None, call.query.get("to") or None

        def read(tx: Transaction) -> dict[str, Any]:
            room = known_room(tx, call.path["room_id"]).number
            start = history.place_of(tx, room, token, tx.position, backwards=turned)
            stop = None if to is None else history.place_of(tx, room, to, tx.position, backwards=turned)
            found = history.stretch(tx, room, start, stop, limit, tx.position, backwards=turned)
            shown = [one for one in found.chunk if wanted.takes(one.event)]
            answer = {"start": write_place(found.start), "chunk": client_view.timeline(tx, shown, viewer)}
            return answer if found.end is None else {**answer, "end": write_place(found.end)}

        return await self._db.read(read)

    async def context(self, call: Call) -> dict[str, Any]:
        """GET /v1/rooms/{room_id}/context/{event_id}"""
        wanted, viewer, event_id = query.room_filter(call), self._viewer(call), call.path["event_id"]
        limit = min(number(call, "limit", 10), MAX_CONTEXT)

        def read(tx: Transaction) -> dict[str, Any]:
            room = known_room(tx, call.path["room_id"]).number
            stored = events.get(tx, event_id)
            if stored is None or stored.room != room or stored.after is None:
                raise errors.NotFound("Event not found.")
            near = all_around(tx, tx.position, stored, limit // 2, limit - limit // 2)
            known = state.whole_events(tx, (near.after[-1] if near.after else stored).after or stored.after)
            return {
                "start": write_place(near.start),
                "end": write_place(near.end),
                "events_before": client_view.timeline(tx, [one for one in near.before if wanted.takes(one.event)], viewer),
                "event": client_view.timeline(tx, [stored], viewer)[0],
                "events_after": client_view.timeline(tx, [one for one in near.after if wanted.takes(one.event)], viewer),
                "state": client_view.state_events(tx, [one for one in known.values() if wanted.takes(one.event)], viewer),
            }

        return await self._db.read(read)

    async def timestamp_to_event(self, call: Call) -> dict[str, Any]:
        """GET /v1/rooms/{room_id}/timestamp_to_event"""
        ts, turned = number_needed(call, "ts"), backwards(call)

        def read(tx: Transaction) -> dict[str, Any]:
            room = known_room(tx, call.path["room_id"]).number
            nearest = timestamps.nearest(tx, room, ts, 1, backwards=turned)
            found = events.by_number(tx, nearest[0]) if nearest else None
            if found is None:
                raise errors.NotFound(f"Unable to find event from {ts} in direction {'b' if turned else 'f'}")
            return {"event_id": found.event.event_id, "origin_server_ts": found.event.origin_server_ts}

        return await self._db.read(read)


def routes(db: Database, now_ms: Callable[[], int]) -> list[Route]:
    section = RoomHistorySection(db, now_ms)
    return [
        *admin_endpoint("GET", f"{ROOM}/messages", section.messages),
        *admin_endpoint("GET", f"{ROOM}/context/{{event_id}}", section.context),
        *admin_endpoint("GET", f"{ROOM}/timestamp_to_event", section.timestamp_to_event),
    ]
