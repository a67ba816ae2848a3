"""GET and POST /_matrix/push/v1/notify: this box as the push gateway of the phones that listen to its topics.

Spec: Push Gateway API. GET is how apps find out that the gateway is here (UnifiedPush, "Gateways").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors
from edgeserver.push.topic_errors import TopicError

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.push.topics import Topics
    from edgeserver.push.unifiedpush import UnifiedPush

MAX_BODY = 128 * 1024


def routes(gateway: UnifiedPush, topics: Topics) -> list[Route]:
    async def discover(call: Call) -> dict[str, Any]:
        return {"unifiedpush": {"gateway": "matrix"}}

    async def notify(call: Call) -> dict[str, Any]:
        notification = (await call.json()).get("notification")
        if notification is None:
            raise errors.MissingParam("notification is missing.")
        devices = notification.get("devices") if type(notification) is dict else None
        if type(devices) is not list or any(type(one) is not dict or type(one.get("pushkey")) is not str for one in devices):
            raise errors.BadJson("notification.devices must be a list of objects with a pushkey.")
        try:
            rejected = await gateway.notify(notification, call.headers.get("host", ""))
        except TopicError as error:
            raise errors.LimitExceeded((error.retry_after or 60) * 1000) from error
        await topics.settle()
        return {"rejected": rejected}

    path = "/_matrix/push/v1/notify"
    return [
        *endpoint("GET", path, discover, auth=Auth.NONE),
        *endpoint("POST", path, notify, auth=Auth.NONE, rate="push_gateway", max_body=MAX_BODY),
    ]
