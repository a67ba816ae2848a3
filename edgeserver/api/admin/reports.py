"""/v1/event_reports, /v1/room_reports and /v1/user_reports. Synapse's admin API, "Show reported events"; it lists reports of users in the
same way and those of rooms not at all, which are shaped here like those of users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.admin.admission import admin_endpoint, backwards, page
from edgeserver.matrix import errors
from edgeserver.rooms import room_names
from edgeserver.store import events, reports

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.reports import Report

    Teller = Callable[[Transaction, Report], dict[str, Any]]


class ReportsSection:
    """The handlers for reports of one kind, each told by `tell`, and by `tell_whole` when it is asked for by itself."""

    def __init__(self, db: Database, kind: str, tell: Teller, tell_whole: Teller) -> None:
        self._db = db
        self._kind = kind
        self._tell = tell
        self._tell_whole = tell_whole

    async def list_all(self, call: Call) -> dict[str, Any]:
        """GET /v1/…_reports"""
        start, limit = page(call)
        query, newest_first = call.query, backwards(call, "b")
        against = query.get("event_sender_user_id") or query.get("target_user_id")
        wanted = reports.Wanted(self._kind, query.get("user_id"), query.get("room_id"), against)

        def read(tx: Transaction) -> tuple[list[dict[str, Any]], int]:
            found, total = reports.page(tx, wanted, start, limit, newest_first=newest_first)
            return [self._tell(tx, one) for one in found], total

        found, total = await self._db.read(read)
        answer: dict[str, Any] = {f"{self._kind}_reports": found, "total": total}
        if start + limit < total:
            answer["next_token"] = start + len(found)
        return answer

    async def get(self, call: Call) -> dict[str, Any]:
        """GET /v1/…_reports/{report_id}"""
        number = _number(call)

        def read(tx: Transaction) -> dict[str, Any]:
            found = reports.get(tx, self._kind, number)
            if found is None:
                raise _missing(self._kind)
            return self._tell_whole(tx, found)

        return await self._db.read(read)

    async def delete(self, call: Call) -> dict[str, Any]:
        """DELETE /v1/…_reports/{report_id}"""
        number = _number(call)
        if not await self._db.write(lambda tx: reports.delete(tx, self._kind, number)):
            raise _missing(self._kind)
        return {}

    def routes(self) -> list[Route]:
        path = f"/v1/{self._kind}_reports"
        return [
            *admin_endpoint("GET", path, self.list_all),
            *admin_endpoint("GET", f"{path}/{{report_id}}", self.get),
            *admin_endpoint("DELETE", f"{path}/{{report_id}}", self.delete),
        ]


def _number(call: Call) -> int:
    given = call.path["report_id"]
    if not (given.isascii() and given.isdecimal() and len(given) <= 16):
        raise errors.InvalidParam("The report_id parameter must be a string representing a positive integer.")
    return int(given)


def _missing(kind: str) -> errors.NotFound:
    return errors.NotFound(f"{kind.capitalize()} report not found")


def _event(tx: Transaction, report: Report) -> dict[str, Any]:
    return {
        "id": report.number,
        "received_ts": report.received_at,
        "room_id": report.room_id,
        "event_id": report.target,
        "user_id": report.user_id,
        "score": report.score,
        "reason": report.reason,
        "sender": report.sender,
        **room_names.named(tx, report.room_id or ""),
    }


def _whole_event(tx: Transaction, report: Report) -> dict[str, Any]:
    """With the event as other servers get it: null once it is purged, redacted if it has been."""
    stored = events.get(tx, report.target)
    return {**_event(tx, report), "event_json": None if stored is None else stored.event.pdu}


def _room(tx: Transaction, report: Report) -> dict[str, Any]:
    return {**_user(tx, report, "room_id"), **room_names.named(tx, report.target)}


def _user(tx: Transaction, report: Report, target: str = "target_user_id") -> dict[str, Any]:
    return {
        "id": report.number,
        "received_ts": report.received_at,
        target: report.target,
        "user_id": report.user_id,
        "reason": report.reason,
    }


def routes(db: Database) -> list[Route]:
    return [
        *ReportsSection(db, reports.EVENT, _event, _whole_event).routes(),
        *ReportsSection(db, reports.ROOM, _room, _room).routes(),
        *ReportsSection(db, reports.USER, _user, _user).routes(),
    ]
