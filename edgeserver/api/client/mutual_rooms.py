"""GET /_matrix/client/v1/mutual_rooms. Spec: client-server API, "Mutual rooms" (v1.19, MSC2666)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import is_room_id, is_user_id
from edgeserver.store import rooms

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.store.database import Database, Transaction

PAGE: Final = 100
UNSTABLE: Final = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"


def routes(db: Database) -> list[Route]:
    """The rooms that both are joined to, by room id, a page at a time; a page's token is the last room of the one before."""

    async def mutual_rooms(call: Call) -> dict[str, Any]:
        other, after = call.query.get("user_id"), call.query.get("from") or None
        if other is None or not is_user_id(other):
            raise errors.InvalidParam("user_id is missing or not a user id.")
        if other == call.user_id:
            raise errors.InvalidParam("You share all your rooms with yourself.")
        if after is not None and not is_room_id(after):
            raise errors.InvalidParam("from is no token of this list.")

        def read(tx: Transaction) -> tuple[list[str], int]:
            return rooms.shared_by(tx, call.user_id, other, after or "", PAGE + 1), rooms.count_shared_by(tx, call.user_id, other)

        found, count = await db.read(read)
        answer: dict[str, Any] = {"joined": found[:PAGE], "count": count}
        if len(found) > PAGE:
            answer["next_batch"] = found[PAGE - 1]
        return answer

    return [
        *endpoint("GET", "/_matrix/client/v1/mutual_rooms", mutual_rooms, rate="other"),
        *endpoint("GET", UNSTABLE, mutual_rooms, rate="other"),
    ]
