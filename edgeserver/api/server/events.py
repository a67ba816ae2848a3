"""backfill, get_missing_events, state, state_ids, event, event_auth and timestamp_to_event.

Spec: server-server API, "Backfilling and retrieving missing events", "Retrieving events", "PDUs".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.api.server.authentication import origin_of
from edgeserver.api.server.parameters import MAX_LIST, body_integer, body_strings, direction, integer, required
from edgeserver.matrix.errors import MissingParam

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.api.endpoint import Call, Guard, Route
    from edgeserver.federation.history import History

V1 = "/_matrix/federation/v1"


def routes(guard: Guard, history: History, server_name: str, now_ms: Callable[[], int]) -> list[Route]:
    def transaction(pdus: list[dict[str, Any]]) -> dict[str, Any]:
        return {"origin": server_name, "origin_server_ts": now_ms(), "pdus": pdus}

    async def backfill(call: Call) -> dict[str, Any]:
        from_ids = call.query.getlist("v")[:MAX_LIST]
        if not from_ids:
            raise MissingParam("v is missing.")
        limit = integer(call, "limit", 10)
        return transaction(await history.backfill(origin_of(call), call.path["roomId"], from_ids, limit))

    async def missing_events(call: Call) -> dict[str, Any]:
        body = await call.json()
        found = await history.missing_events(
            origin_of(call),
            call.path["roomId"],
            body_strings(body, "earliest_events"),
            body_strings(body, "latest_events"),
            body_integer(body, "limit", 10),
            body_integer(body, "min_depth", 0),
        )
        return {"events": found}

    async def state(call: Call) -> dict[str, Any]:
        pdus, chain = await history.state(origin_of(call), call.path["roomId"], required(call, "event_id"))
        return {"pdus": pdus, "auth_chain": chain}

    async def state_ids(call: Call) -> dict[str, Any]:
        pdu_ids, chain_ids = await history.state_ids(origin_of(call), call.path["roomId"], required(call, "event_id"))
        return {"pdu_ids": pdu_ids, "auth_chain_ids": chain_ids}

    async def event(call: Call) -> dict[str, Any]:
        return transaction([await history.event(origin_of(call), call.path["eventId"])])

    async def event_auth(call: Call) -> dict[str, Any]:
        chain = await history.event_auth(origin_of(call), call.path["roomId"], call.path["eventId"])
        return {"auth_chain": chain}

    async def timestamp_to_event(call: Call) -> dict[str, Any]:
        required(call, "ts")
        ts, backwards = integer(call, "ts", 0), direction(call)
        found = await history.timestamp_to_event(origin_of(call), call.path["roomId"], ts, backwards=backwards)
        return {"event_id": found.event.event_id, "origin_server_ts": found.event.origin_server_ts}

    return [
        *endpoint("GET", V1 + "/backfill/{roomId}", backfill, auth=guard),
        *endpoint("POST", V1 + "/get_missing_events/{roomId}", missing_events, auth=guard),
        *endpoint("GET", V1 + "/state/{roomId}", state, auth=guard),
        *endpoint("GET", V1 + "/state_ids/{roomId}", state_ids, auth=guard),
        *endpoint("GET", V1 + "/event/{eventId}", event, auth=guard),
        *endpoint("GET", V1 + "/event_auth/{roomId}/{eventId}", event_auth, auth=guard),
        *endpoint("GET", V1 + "/timestamp_to_event/{roomId}", timestamp_to_event, auth=guard),
    ]
