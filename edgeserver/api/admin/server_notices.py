"""POST /v1/send_server_notice and PUT /v1/send_server_notice/{txn_id}. Synapse's admin API, "Server Notices"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.admin.admission import admin_endpoint
from edgeserver.api.body import needed_text, text
from edgeserver.matrix import errors, identifiers
from edgeserver.rooms.server_notices import MESSAGE

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.server_notices import ServerNotices

PATH = "/v1/send_server_notice"
MAX_TXN_ID = 255


def routes(notices: ServerNotices, server_name: str) -> list[Route]:
    async def send(call: Call) -> dict[str, Any]:
        return await _send(call, None)

    async def send_once(call: Call) -> dict[str, Any]:
        txn_id = call.path["txn_id"]
        if not identifiers.fits(txn_id, MAX_TXN_ID):
            raise errors.InvalidParam(f"A transaction id has at most {MAX_TXN_ID} bytes.")
        return await _send(call, (call.user_id, txn_id))

    async def _send(call: Call, transaction: tuple[str, str] | None) -> dict[str, Any]:
        body = await call.json()
        user_id, content = needed_text(body, "user_id"), body.get("content")
        if content is None:
            raise errors.MissingParam("content is missing")
        if type(content) is not dict:
            raise errors.BadJson("content must be an object")
        if not identifiers.is_user_id(user_id) or identifiers.domain_of(user_id) != server_name:
            raise errors.Unknown("Server notices can only be sent to local users", status=400)
        event_id = await notices.send(
            user_id, content, event_type=text(body, "type") or MESSAGE, state_key=text(body, "state_key"), transaction=transaction
        )
        return {"event_id": event_id}

    return [*admin_endpoint("POST", PATH, send), *admin_endpoint("PUT", f"{PATH}/{{txn_id}}", send_once)]
