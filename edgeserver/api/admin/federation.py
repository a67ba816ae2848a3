"""/v1/federation/destinations. Synapse's admin API, "Federation API".

`retry_last_ts` is worked out: when the last attempt failed is not kept, but when it is to be repeated and how long peers are
given in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.admin.admission import admin_endpoint, backwards, one_of, page
from edgeserver.matrix import errors
from edgeserver.store import outbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.outbox import Destination

PATH = "/v1/federation/destinations"
ORDERS = ("destination", "retry_last_ts", "retry_interval", "failure_ts", "last_successful_stream_ordering")


class FederationSection:
    """The handlers. `retry(server_name)` ends a pause before a server."""

    def __init__(self, db: Database, server_name: str, now_ms: Callable[[], int], retry: Callable[[str], Awaitable[None]]) -> None:
        self._db = db
        self._server_name = server_name
        self._now_ms = now_ms
        self._retry = retry

    async def list_all(self, call: Call) -> dict[str, Any]:
        """GET /v1/federation/destinations"""
        start, limit = page(call)
        order, turned, part = one_of(call, "order_by", ORDERS, "destination"), backwards(call), call.query.get("destination", "")
        known = await self._db.read(lambda tx: outbox.known(tx, self._server_name))
        told = [self._told(one) for one in known if part.lower() in one.server_name]
        told.sort(key=lambda one: one["destination"])
        told.sort(key=lambda one: (one[order] is not None, one[order]) if order != "destination" else one[order], reverse=turned)
        answer: dict[str, Any] = {"destinations": told[start : start + limit], "total": len(told)}
        if start + limit < len(told):
            answer["next_token"] = str(start + limit)
        return answer

    async def get(self, call: Call) -> dict[str, Any]:
        """GET /v1/federation/destinations/{destination}"""
        return self._told(await self._found(call))

    async def rooms(self, call: Call) -> dict[str, Any]:
        """GET /v1/federation/destinations/{destination}/rooms"""
        start, limit = page(call)
        found, turned = await self._found(call), backwards(call)

        def read(tx: Transaction) -> list[tuple[str, int]]:
            return outbox.rooms_with(tx, found.server_name)

        listed = sorted(await self._db.read(read), reverse=turned)
        shown = [{"room_id": room_id, "stream_ordering": stream} for room_id, stream in listed[start : start + limit]]
        answer: dict[str, Any] = {"rooms": shown, "total": len(listed)}
        if start + limit < len(listed):
            answer["next_token"] = str(start + limit)
        return answer

    async def reset(self, call: Call) -> dict[str, Any]:
        """POST /v1/federation/destinations/{destination}/reset_connection"""
        found = await self._found(call)
        if found.failing_since is None:
            raise errors.Unknown("The retry timing does not need to be reset for this destination.", status=400)
        await self._retry(found.server_name)
        return {}

    async def _found(self, call: Call) -> Destination:
        name = call.path["destination"]
        found = await self._db.read(lambda tx: outbox.known_one(tx, name))
        if found is None or name == self._server_name:
            raise errors.NotFound("Unknown destination")
        return found

    def _told(self, one: Destination) -> dict[str, Any]:
        now = self._now_ms()
        until = one.retry_at if one.failing_since is not None and one.retry_at is not None else 0
        last = min(now, until) if until else 0
        return {
            "destination": one.server_name,
            "retry_last_ts": last,
            "retry_interval": max(0, until - last),
            "failure_ts": one.failing_since,
            "last_successful_stream_ordering": None,
        }


def routes(
    db: Database, server_name: str, now_ms: Callable[[], int], retry: Callable[[str], Awaitable[None]]
) -> list[Route]:
    """`retry(server_name)` ends the pause before that server."""
    section = FederationSection(db, server_name, now_ms, retry)
    return [
        *admin_endpoint("GET", PATH, section.list_all),
        *admin_endpoint("GET", f"{PATH}/{{destination}}", section.get),
        *admin_endpoint("GET", f"{PATH}/{{destination}}/rooms", section.rooms),
        *admin_endpoint("POST", f"{PATH}/{{destination}}/reset_connection", section.reset),
    ]
