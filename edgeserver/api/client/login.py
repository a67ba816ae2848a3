"""GET and POST /login, POST /logout, POST /logout/all, POST /refresh. Spec: client-server API, "Legacy login",
"Refreshing access tokens".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.user_interactive import PASSWORD, user_named
from edgeserver.matrix import errors
from edgeserver.users.accounts import DeviceWish

if TYPE_CHECKING:
    from edgeserver.api.authentication import AppserviceTable
    from edgeserver.api.endpoint import Call, Limiter, Route
    from edgeserver.users.accounts import Accounts
    from edgeserver.users.devices import Devices
    from edgeserver.users.tokens import Tokens

APPSERVICE = "m.login.application_service"


class Login:
    """The handlers."""

    def __init__(
        self, accounts: Accounts, tokens: Tokens, devices: Devices, limiter: Limiter | None, appservices: AppserviceTable | None
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._devices = devices
        self._limiter = limiter
        self._appservices = appservices
        self._flows = [{"type": PASSWORD}] + [{"type": APPSERVICE}] * (appservices is not None)

    async def flows(self, call: Call) -> dict[str, Any]:
        """GET /login"""
        return {"flows": self._flows}

    async def login(self, call: Call) -> dict[str, Any]:
        """POST /login"""
        body = await call.json()
        kind = body.get("type")
        if kind == PASSWORD:
            user_id = await self._by_password(body)
        elif kind == APPSERVICE:
            user_id = self._by_appservice(call, body)
        else:
            raise errors.Unknown("That login type is not known.", status=400)
        session = await self._accounts.log_in(user_id, device_wish(body))
        return session.as_json()

    async def _by_password(self, body: dict[str, Any]) -> str:
        name, password = user_named(body), body.get("password")
        if name is None or type(password) is not str:
            raise errors.BadJson("A user and a password are needed.")
        try:
            user_id = self._accounts.user_id(name)
        except errors.CodedError:
            raise errors.Forbidden("Wrong user name or password.") from None
        if self._limiter is not None:
            self._limiter.check("login_account", user_id)
        if not await self._accounts.check_password(user_id, password):
            account = await self._accounts.account(user_id)
            if account is not None and account.deactivated_at is not None:
                raise errors.UserDeactivated
            raise errors.Forbidden("Wrong user name or password.")
        return user_id

    def _by_appservice(self, call: Call, body: dict[str, Any]) -> str:
        requester = call.requester
        if requester.appservice_id is None or self._appservices is None:
            raise errors.UnknownToken("That is not the token of an application service.")
        name = user_named(body)
        if name is None:
            raise errors.MissingParam("identifier is missing.")
        user_id = self._accounts.user_id(name)
        if not self._appservices.may_have(requester.appservice_id, user_id):
            raise errors.Exclusive("That user is not in your namespaces.")
        return user_id

    async def logout(self, call: Call) -> dict[str, Any]:
        """POST /logout"""
        device_id = call.requester.device_id
        if device_id is not None:
            await self._devices.delete(call.user_id, [device_id])
        return {}

    async def logout_all(self, call: Call) -> dict[str, Any]:
        """POST /logout/all"""
        await self._devices.delete_all(call.user_id)
        return {}

    async def refresh(self, call: Call) -> dict[str, Any]:
        """POST /refresh"""
        token = (await call.json()).get("refresh_token")
        if type(token) is not str:
            raise errors.MissingParam("refresh_token is missing.")
        return (await self._tokens.refresh(token)).as_json()


def device_wish(body: dict[str, Any]) -> DeviceWish:
    """What a body says of the device for a new session. Raises M_BAD_JSON for wrong types, M_INVALID_PARAM for wrong
    sizes.
    """
    for key in ("device_id", "initial_device_display_name"):
        check_text(body, key)
    wish = DeviceWish(body.get("device_id"), body.get("initial_device_display_name"), refreshable=body.get("refresh_token") is True)
    wish.check()
    return wish


def check_text(body: dict[str, Any], key: str) -> None:
    """Raises M_BAD_JSON if `body[key]` is there and is no string."""
    if body.get(key) is not None and type(body[key]) is not str:
        raise errors.BadJson(f"{key} must be a string.")


def routes(
    accounts: Accounts,
    tokens: Tokens,
    devices: Devices,
    *,
    limiter: Limiter | None = None,
    appservices: AppserviceTable | None = None,
) -> list[Route]:
    """`limiter` counts attempts at each account, beside the endpoint's own limit for each address."""
    handlers = Login(accounts, tokens, devices, limiter, appservices)
    base = "/_matrix/client/v3"
    # Only application services log in with a token: who brings an old one with the password is not refused for it.
    who = Auth.NONE if appservices is None else Auth.OPTIONAL
    return [
        *endpoint("GET", f"{base}/login", handlers.flows, auth=Auth.NONE),
        *endpoint("POST", f"{base}/login", handlers.login, auth=who, rate="login"),
        *endpoint("POST", f"{base}/logout", handlers.logout),
        *endpoint("POST", f"{base}/logout/all", handlers.logout_all),
        *endpoint("POST", f"{base}/refresh", handlers.refresh, auth=Auth.NONE, rate="login"),
    ]
