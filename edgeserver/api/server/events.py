"""backfill, get_missing_events, state, state_ids, event, event_auth and timestamp_to_event.

Spec: server-server API, "Backfilling and retrieving missing events", "Retrieving events", "PDUs".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from edgeserver.api.endpoint import endpoint
from edgeserver.api.server.authentication import origin_of
from edgeserver.api.server.parameters import MAX_LIST, body_integer, body_strings, direction, integer, required
from edgeserver.matrix.errors import MissingParam

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Guard, Route
    from edgeserver.federation.history import History

MAX_EARLIEST = 1000
"""Ids of events that the asking server has: all of its forward extremities, of which a room may have many."""
PART = 50
"""Events of a state are read and sent in parts of so many."""
V1 = "/_matrix/federation/v1"


def streamed(lists: Mapping[str, Sequence[str]], pdus: Callable[[Sequence[str]], Awaitable[list[bytes]]]) -> StreamingResponse:
    """A JSON object of lists of events, by their ids. A part of them is held at a time, however many there are."""

    async def body() -> AsyncIterator[bytes]:
        opening = b'{"'
        for name, event_ids in lists.items():
            yield opening + name.encode() + b'":['
            separator = b""
            for start in range(0, len(event_ids), PART):
                if part := await pdus(event_ids[start : start + PART]):
                    yield separator + b",".join(part)
                    separator = b","
            opening = b'],"'
        yield b"]}"

    return StreamingResponse(body(), media_type="application/json")


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
            body_strings(body, "earliest_events", MAX_EARLIEST),
            body_strings(body, "latest_events"),
            body_integer(body, "limit", 10),
            body_integer(body, "min_depth", 0),
        )
        return {"events": found}

    async def state(call: Call) -> Response:
        pdu_ids, chain_ids = await history.state_ids(origin_of(call), call.path["roomId"], required(call, "event_id"))
        return streamed({"pdus": pdu_ids, "auth_chain": chain_ids}, history.pdus)

    async def state_ids(call: Call) -> dict[str, Any]:
        pdu_ids, chain_ids = await history.state_ids(origin_of(call), call.path["roomId"], required(call, "event_id"))
        return {"pdu_ids": pdu_ids, "auth_chain_ids": chain_ids}

    async def event(call: Call) -> dict[str, Any]:
        return transaction([await history.event(origin_of(call), call.path["eventId"])])

    async def event_auth(call: Call) -> Response:
        chain_ids = await history.event_auth(origin_of(call), call.path["roomId"], call.path["eventId"])
        return streamed({"auth_chain": chain_ids}, history.pdus)

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
