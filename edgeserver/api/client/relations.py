"""GET /_matrix/client/v1/rooms/{}/relations/{} and /threads. Spec: client-server API, "Relationships API", "Querying threads in a room"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api import query
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.rooms import client_view, related
from edgeserver.rooms.client_view import Viewer
from edgeserver.rooms.related import MAX_DEPTH, Paging
from edgeserver.store.relations import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.store.database import Database, Transaction

ROOM: Final = "/_matrix/client/v1/rooms/{roomId}"
DEFAULT_LIMIT: Final = 50


class RelationsSection:
    """The handlers."""

    def __init__(self, db: Database, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._now_ms = now_ms

    async def children(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]]"""
        room_id, event_id, viewer = call.path["roomId"], call.path["eventId"], self._viewer(call)
        recurse = _choice(call, "recurse", ("true", "false"), "false") == "true"
        wanted = Wanted(call.path.get("relType"), call.path.get("eventType"), MAX_DEPTH if recurse else 1)
        start = call.query.get("from") or None
        backwards = _choice(call, "dir", ("b", "f"), "b") == "b"
        paging = Paging(start, call.query.get("to") or None, _limit(call), backwards)

        def read(tx: Transaction) -> dict[str, Any]:
            found = related.children(tx, room_id, event_id, viewer.user_id, wanted, paging)
            answer: dict[str, Any] = {"chunk": client_view.timeline(tx, found.chunk, viewer)}
            if found.next_batch is not None:
                answer["next_batch"] = found.next_batch
            if start is not None:
                answer["prev_batch"] = start
            if "recurse" in call.query:
                answer["recursion_depth"] = wanted.levels if recurse else 0
            return answer

        return await self._db.read(read)

    async def threads(self, call: Call) -> dict[str, Any]:
        """GET /rooms/{roomId}/threads"""
        room_id, viewer, limit, token = call.path["roomId"], self._viewer(call), _limit(call), call.query.get("from") or None
        participated = _choice(call, "include", ("all", "participated"), "all") == "participated"

        def read(tx: Transaction) -> dict[str, Any]:
            found = related.threads(tx, room_id, viewer.user_id, token, limit, participated=participated)
            answer: dict[str, Any] = {"chunk": client_view.timeline(tx, found.chunk, viewer)}
            if found.next_batch is not None:
                answer["next_batch"] = found.next_batch
            return answer

        return await self._db.read(read)

    def _viewer(self, call: Call) -> Viewer:
        return Viewer(call.user_id, call.requester.device_id, self._now_ms())


def _limit(call: Call) -> int:
    """Greater than zero. Raises M_INVALID_PARAM."""
    return query.number_if_any(call, "limit", at_least=1) or DEFAULT_LIMIT


def _choice(call: Call, name: str, allowed: tuple[str, ...], default: str) -> str:
    given = call.query.get(name, default)
    if given not in allowed:
        raise errors.InvalidParam(f"{name} is none of {', '.join(allowed)}.")
    return given


def routes(db: Database, now_ms: Callable[[], int]) -> list[Route]:
    section = RelationsSection(db, now_ms)
    of_event = f"{ROOM}/relations/{{eventId}}"
    return [
        *endpoint("GET", of_event, section.children),
        *endpoint("GET", of_event + "/{relType}", section.children),
        *endpoint("GET", of_event + "/{relType}/{eventType}", section.children),
        *endpoint("GET", f"{ROOM}/threads", section.threads, rate="other"),
    ]
