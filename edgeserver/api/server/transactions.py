"""PUT /_matrix/federation/v1/send/{txnId}. Spec: server-server API, "Transactions"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.api.server.authentication import origin_of

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Guard, Route
    from edgeserver.federation.inbound import Inbound

MAX_BODY = 12 * 1024 * 1024
"""Bytes: fifty of the largest PDUs, and a hundred EDUs that are as large."""


def routes(guard: Guard, inbound: Inbound) -> list[Route]:
    async def send_transaction(call: Call) -> dict[str, Any]:
        return await inbound.transaction(origin_of(call), call.path["txnId"], await call.json())

    return endpoint("PUT", "/_matrix/federation/v1/send/{txnId}", send_transaction, auth=guard, max_body=MAX_BODY)
