"""GET /_matrix/client/v3/sync. Spec: client-server API, "Syncing"."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeserver.api import query
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.rooms.event_filter import EventFilter
from edgeserver.sync import since
from edgeserver.sync.classic import SyncRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.sync.classic import ClassicSync
    from edgeserver.sync.filters import FilterReader

PRESENCE = frozenset({"online", "unavailable", "offline"})
NOTHING = EventFilter.parse({"not_types": ["*"]})
"""Of presence, for who syncs over a thin line."""
_UNSTABLE_STATE_AFTER = "org.matrix.msc4222.use_state_after"


def routes(
    sync: ClassicSync,
    filters: FilterReader,
    syncing: Callable[[str, str | None, str], AbstractContextManager[None]] | None = None,
) -> list[Route]:
    """`syncing(user_id, device_id, set_presence)` is entered for as long as a sync takes."""

    async def answer(call: Call) -> dict[str, Any]:
        token = call.query.get("since")
        presence = call.query.get("set_presence", "online")
        if presence not in PRESENCE:
            raise errors.InvalidParam("set_presence is one of online, unavailable, offline.")
        wanted = await filters.read(call.user_id, call.query.get("filter"))
        if call.link is not None and call.link.is_thin:
            wanted = replace(wanted, presence=NOTHING)
        request = SyncRequest(
            call.user_id,
            call.requester.device_id,
            since.parse(token) if token else None,
            wanted,
            _flag(call, "full_state"),
            _flag(call, "use_state_after") or _flag(call, _UNSTABLE_STATE_AFTER),
            query.number(call, "timeout", 0),
        )
        with nullcontext() if syncing is None else syncing(call.user_id, call.requester.device_id, presence):
            return await sync.sync(request)

    return endpoint("GET", "/_matrix/client/v3/sync", answer, rate="sync", long_poll=True)


def _flag(call: Call, name: str) -> bool:
    value = call.query.get(name, "false")
    if value not in ("true", "false"):
        raise errors.InvalidParam(f"{name} is true or false.")
    return value == "true"
