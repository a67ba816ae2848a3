"""GET /_matrix/client/v3/notifications. Spec: client-server API, "Listing Notifications"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api import query
from edgeserver.api.endpoint import endpoint

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.notifications import Notifications

DEFAULT_LIMIT = 20


def routes(notifications: Notifications) -> list[Route]:
    async def get(call: Call) -> dict[str, Any]:
        before, limit = query.number_if_any(call, "from"), query.number_if_any(call, "limit")
        page, more = await notifications.page(
            call.user_id,
            before,
            DEFAULT_LIMIT if limit is None else limit,
            highlights_only=call.query.get("only") == "highlight",
        )
        return {"notifications": page, **({} if more is None else {"next_token": str(more)})}

    return endpoint("GET", "/_matrix/client/v3/notifications", get)
