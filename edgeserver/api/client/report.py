"""POST /rooms/{roomId}/report/{eventId}, /rooms/{roomId}/report and /users/{userId}/report. Spec: client-server API, "Reporting Content"
(rooms v1.13, users v1.14; since v1.18 a report has no score, which clients of before may still send).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.rooms.reports import MAX_REASON

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.reports import Reports

V3 = "/_matrix/client/v3"
WORST_SCORE = -100


def routes(reports: Reports) -> list[Route]:
    async def report_event(call: Call) -> dict[str, Any]:
        """POST /rooms/{roomId}/report/{eventId}"""
        body = await call.json(optional=True)
        reason = "" if body.get("reason") is None else _reason(body)
        await reports.report_event(call.user_id, call.path["roomId"], call.path["eventId"], reason, _score(body))
        return {}

    async def report_room(call: Call) -> dict[str, Any]:
        """POST /rooms/{roomId}/report"""
        await reports.report_room(call.user_id, call.path["roomId"], _reason(await call.json()))
        return {}

    async def report_user(call: Call) -> dict[str, Any]:
        """POST /users/{userId}/report"""
        await reports.report_user(call.user_id, call.path["userId"], _reason(await call.json()))
        return {}

    return [
        *endpoint("POST", V3 + "/rooms/{roomId}/report/{eventId}", report_event, rate="report"),
        *endpoint("POST", V3 + "/rooms/{roomId}/report", report_room, rate="report"),
        *endpoint("POST", V3 + "/users/{userId}/report", report_user, rate="report"),
    ]


def _reason(body: dict[str, Any]) -> str:
    """Raises M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM."""
    reason = body.get("reason")
    if reason is None:
        raise errors.MissingParam("reason is missing; it may be blank.")
    if type(reason) is not str:
        raise errors.BadJson("reason is not a string.")
    if len(reason) > MAX_REASON:
        raise errors.InvalidParam(f"A reason has at most {MAX_REASON} characters.")
    return reason


def _score(body: dict[str, Any]) -> int | None:
    score = body.get("score")
    return max(WORST_SCORE, min(score, 0)) if type(score) is int else None
