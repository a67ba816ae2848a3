"""Thread subscriptions: MSC4306 (subscribing) and MSC4308 (reading what changed), under their unstable prefixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api import query
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.thread_subscriptions import ThreadSubscriptions

UNSTABLE: Final = "/_matrix/client/unstable"
FEATURE: Final = "org.matrix.msc4306"
DEFAULT_LIMIT: Final = 100


class ThreadSubscriptionsSection:
    """The handlers."""

    def __init__(self, subscriptions: ThreadSubscriptions) -> None:
        self._subscriptions = subscriptions

    async def put(self, call: Call) -> dict[str, Any]:
        """PUT …/rooms/{roomId}/thread/{eventId}/subscription"""
        cause = (await call.json(optional=True)).get("automatic")
        if cause is not None and not isinstance(cause, str):
            raise errors.InvalidParam("automatic is not an event id.")
        await self._subscriptions.subscribe(call.user_id, call.path["roomId"], call.path["eventId"], cause)
        return {}

    async def get(self, call: Call) -> dict[str, Any]:
        """GET …/rooms/{roomId}/thread/{eventId}/subscription"""
        return {"automatic": await self._subscriptions.is_automatic(call.user_id, call.path["roomId"], call.path["eventId"])}

    async def delete(self, call: Call) -> dict[str, Any]:
        """DELETE …/rooms/{roomId}/thread/{eventId}/subscription"""
        await self._subscriptions.unsubscribe(call.user_id, call.path["roomId"], call.path["eventId"])
        return {}

    async def changes(self, call: Call) -> dict[str, Any]:
        """GET …/thread_subscriptions?dir=b"""
        if call.query.get("dir") != "b":
            raise errors.InvalidParam("dir is not b: there is no other direction.")
        limit = query.number_if_any(call, "limit", at_least=1) or DEFAULT_LIMIT
        found, end = await self._subscriptions.page(call.user_id, _position(call, "from"), _position(call, "to") or 0, limit)
        answer: dict[str, Any] = {}
        for one in found:
            if one.automatic is None:
                answer.setdefault("unsubscribed", {}).setdefault(one.room_id, {})[one.root] = {"bump_stamp": one.stream}
            else:
                entry = {"automatic": one.automatic, "bump_stamp": one.stream}
                answer.setdefault("subscribed", {}).setdefault(one.room_id, {})[one.root] = entry
        if end is not None:
            answer["end"] = str(end)
        return answer


def _position(call: Call, name: str) -> int | None:
    """Tokens are stream positions, with or without the `s` of other tokens and what follows the number in those."""
    given = call.query.get(name)
    if given is None:
        return None
    digits = given.removeprefix("s").partition("_")[0]
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
        raise errors.InvalidParam(f"{name} is not a token of this server.")
    return int(digits)


def routes(subscriptions: ThreadSubscriptions) -> list[Route]:
    section = ThreadSubscriptionsSection(subscriptions)
    one = f"{UNSTABLE}/io.element.msc4306/rooms/{{roomId}}/thread/{{eventId}}/subscription"
    return [
        *endpoint("PUT", one, section.put, rate="account", max_body=4096),
        *endpoint("GET", one, section.get),
        *endpoint("DELETE", one, section.delete, rate="account"),
        *endpoint("GET", f"{UNSTABLE}/io.element.msc4308/thread_subscriptions", section.changes),
    ]
