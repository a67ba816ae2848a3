"""PUT /sendToDevice/{eventType}/{txnId}. Spec: client-server API, "Send-to-Device messaging"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.to_device import ToDevice


class ToDeviceSection:
    """The handler."""

    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    async def send(self, call: Call) -> dict[str, Any]:
        """PUT /sendToDevice/{eventType}/{txnId}"""
        messages = (await call.json()).get("messages")
        if call.requester.is_suspended and isinstance(messages, dict) and messages.keys() - {call.user_id}:
            raise errors.UserSuspended("While suspended you can send messages to your own devices only.")
        event_type, txn_id = call.path["eventType"], call.path["txnId"]
        await self._to_device.send(call.user_id, call.requester.device_id or "", event_type, txn_id, messages)
        return {}


def routes(to_device: ToDevice) -> list[Route]:
    handlers = ToDeviceSection(to_device)
    return endpoint("PUT", "/_matrix/client/v3/sendToDevice/{eventType}/{txnId}", handlers.send, rate="message")
