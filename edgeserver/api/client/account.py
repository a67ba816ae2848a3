"""GET /account/whoami, POST /account/password, POST /account/deactivate, and the third-party identifiers that are not taken: all of
them where this box sends no mail, else all but email addresses (`client/email_addresses.py`).

Spec: client-server API, "Account management", "Adding Account Administrative Contact Information".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.body import switch
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.user_interactive import EMAIL, PASSWORD, credentials
from edgeserver.matrix import errors
from edgeserver.users.emails import Purpose

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.api.user_interactive import UserInteractive
    from edgeserver.store.database import Transaction
    from edgeserver.users.accounts import Accounts
    from edgeserver.users.emails import Emails

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
WITH_EMAIL = frozenset({"account/3pid/add", "account/3pid/email/requestToken", "account/password/email/requestToken"})
"""Those of them that are not refused where this box sends mail."""
TO_REGISTER = "register/email/requestToken"
"""Not refused where somebody may register with an address."""


class AccountSection:
    """The handlers."""

    def __init__(self, accounts: Accounts, interactive: UserInteractive, emails: Emails | None) -> None:
        self._accounts = accounts
        self._interactive = interactive
        self._emails = emails

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
        if call.requester_if_any is None:
            if self._emails is None:
                raise errors.MissingToken
            return await self._forgotten_password(body, self._emails)
        body = await self._proven(call, body, "POST /account/password")
        new, log_out = _new_password(body)
        await self._accounts.set_password(call.user_id, new, log_out=log_out, but=call.requester.device_id)
        return {}

    async def _forgotten_password(self, body: dict[str, Any], emails: Emails) -> dict[str, Any]:
        """A new password for whoever has proven that an address of the account is theirs."""
        proven = await self._interactive.authenticate(body, "POST /account/password by email", [[EMAIL]])
        new, log_out = _new_password(proven.body)
        sid, secret = credentials(proven.proofs[EMAIL])
        validation = await emails.check(sid, secret)
        user_id = await emails.owner(validation.address)
        account = None if user_id is None else await self._accounts.account(user_id)
        if account is None:
            raise errors.ThreepidNotFound
        if account.locked:
            raise errors.UserLocked

        def claim(tx: Transaction, user_id: str) -> None:
            emails.spend(tx, sid, secret, Purpose.PASSWORD)

        await self._accounts.set_password(account.user_id, new, log_out=log_out, claim=claim)
        return {}

    async def deactivate(self, call: Call) -> dict[str, Any]:
        """POST /account/deactivate"""
        body = await call.json(optional=True)
        if call.requester.appservice_id is None:
            body = await self._proven(call, body, "POST /account/deactivate")
        await self._accounts.deactivate(call.user_id, erase=bool(switch(body, "erase")))
        return {"id_server_unbind_result": "no-support"}

    async def _proven(self, call: Call, body: dict[str, Any], operation: str) -> dict[str, Any]:
        proven = await self._interactive.authenticate(body, operation, [[PASSWORD]], user_id=call.user_id)
        return proven.body


def _new_password(body: dict[str, Any]) -> tuple[str, bool]:
    """(the new password, whether other devices are logged out)."""
    new = body.get("new_password")
    if type(new) is not str:
        raise errors.MissingParam("new_password is missing.")
    return new, body.get("logout_devices", True) is not False


async def third_party_ids(call: Call) -> dict[str, Any]:
    """GET /account/3pid"""
    return {"threepids": []}


async def refuse_third_party_id(call: Call) -> dict[str, Any]:
    """Adding or validating an email address or a telephone number"""
    raise errors.ThreepidDenied("This server does not take that email address or telephone number in this way.")


async def unbind_third_party_id(call: Call) -> dict[str, Any]:
    """POST /account/3pid/{delete,unbind}"""
    body = await call.json()
    if type(body.get("medium")) is not str or type(body.get("address")) is not str:
        raise errors.MissingParam("medium and address are needed.")
    if body["medium"] not in ("email", "msisdn"):
        raise errors.InvalidParam("medium is email or msisdn.")
    return {"id_server_unbind_result": "no-support"}


def routes(
    accounts: Accounts, interactive: UserInteractive, emails: Emails | None = None, *, registering: bool = False
) -> list[Route]:
    """With `emails` what concerns them is served by `email_addresses.routes`; `registering`: registering with one, too."""
    handlers = AccountSection(accounts, interactive, emails)
    who = Auth.USER if emails is None else Auth.OPTIONAL
    found = [
        *endpoint("GET", f"{BASE}/account/whoami", handlers.whoami),
        *endpoint("POST", f"{BASE}/account/password", handlers.password, auth=who, rate="login"),
        *endpoint("POST", f"{BASE}/account/deactivate", handlers.deactivate, rate="login"),
        *endpoint("POST", f"{BASE}/account/3pid/unbind", unbind_third_party_id),
    ]
    if emails is None:
        found += endpoint("GET", f"{BASE}/account/3pid", third_party_ids)
        found += endpoint("POST", f"{BASE}/account/3pid/delete", unbind_third_party_id)
    for path in REFUSED_THIRD_PARTY:
        is_served = path in WITH_EMAIL or (path == TO_REGISTER and registering)
        if emails is None or not is_served:
            auth = Auth.NONE if path.endswith("requestToken") else Auth.USER
            found += endpoint("POST", f"{BASE}/{path}", refuse_third_party_id, auth=auth)
    return found
