"""GET /account/whoami, POST /account/password, POST /account/deactivate, and third-party identifiers, of which there
are none.

Spec: client-server API, "Account management", "Adding Account Administrative Contact Information".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.user_interactive import PASSWORD
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.api.user_interactive import UserInteractive
    from edgeserver.users.accounts import Accounts

BASE = "/_matrix/client/v3"
REFUSED_THIRD_PARTY = (
    "account/3pid",
    "account/3pid/add",
    "account/3pid/bind",
    "account/3pid/email/requestToken",
    "account/3pid/msisdn/requestToken",
    "account/password/email/requestToken",
    "account/password/msisdn/requestToken",
    "register/email/requestToken",
    "register/msisdn/requestToken",
)


class AccountSection:
    """The handlers."""

    def __init__(self, accounts: Accounts, interactive: UserInteractive) -> None:
        self._accounts = accounts
        self._interactive = interactive

    async def whoami(self, call: Call) -> dict[str, Any]:
        """GET /account/whoami"""
        requester = call.requester
        answer: dict[str, Any] = {"user_id": requester.user_id, "is_guest": requester.is_guest}
        if requester.device_id is not None:
            answer["device_id"] = requester.device_id
        return answer

    async def password(self, call: Call) -> dict[str, Any]:
        """POST /account/password"""
        body = await call.json()
        if type(body.get("new_password")) is str:
            self._accounts.check_strength(body["new_password"])
        body = await self._proven(call, body, "POST /account/password")
        new = body.get("new_password")
        if type(new) is not str:
            raise errors.MissingParam("new_password is missing.")
        log_out = body.get("logout_devices", True) is not False
        await self._accounts.set_password(call.user_id, new, log_out=log_out, but=call.requester.device_id)
        return {}

    async def deactivate(self, call: Call) -> dict[str, Any]:
        """POST /account/deactivate"""
        if call.requester.appservice_id is None:
            await self._proven(call, await call.json(optional=True), "POST /account/deactivate")
        await self._accounts.deactivate(call.user_id)
        return {"id_server_unbind_result": "no-support"}

    async def _proven(self, call: Call, body: dict[str, Any], operation: str) -> dict[str, Any]:
        proven = await self._interactive.authenticate(body, operation, [[PASSWORD]], user_id=call.user_id)
        return proven.body


async def third_party_ids(call: Call) -> dict[str, Any]:
    """GET /account/3pid"""
    return {"threepids": []}


async def refuse_third_party_id(call: Call) -> dict[str, Any]:
    """Adding or validating an email address or a telephone number"""
    raise errors.ThreepidDenied("This server takes no email addresses or telephone numbers.")


async def unbind_third_party_id(call: Call) -> dict[str, Any]:
    """POST /account/3pid/{delete,unbind}"""
    body = await call.json()
    if type(body.get("medium")) is not str or type(body.get("address")) is not str:
        raise errors.MissingParam("medium and address are needed.")
    if body["medium"] not in ("email", "msisdn"):
        raise errors.InvalidParam("medium is email or msisdn.")
    return {"id_server_unbind_result": "no-support"}


def routes(accounts: Accounts, interactive: UserInteractive) -> list[Route]:
    handlers = AccountSection(accounts, interactive)
    found = [
        *endpoint("GET", f"{BASE}/account/whoami", handlers.whoami),
        *endpoint("POST", f"{BASE}/account/password", handlers.password, rate="login"),
        *endpoint("POST", f"{BASE}/account/deactivate", handlers.deactivate, rate="login"),
        *endpoint("GET", f"{BASE}/account/3pid", third_party_ids),
        *endpoint("POST", f"{BASE}/account/3pid/delete", unbind_third_party_id),
        *endpoint("POST", f"{BASE}/account/3pid/unbind", unbind_third_party_id),
    ]
    for path in REFUSED_THIRD_PARTY:
        auth = Auth.NONE if path.endswith("requestToken") else Auth.USER
        found += endpoint("POST", f"{BASE}/{path}", refuse_third_party_id, auth=auth)
    return found
