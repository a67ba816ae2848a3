"""GET and POST /login, POST /login/get_token, POST /logout, POST /logout/all, POST /refresh. Spec: client-server API, "Legacy login",
"Refreshing access tokens".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.body import text
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.user_interactive import PASSWORD, account_named, user_named
from edgeserver.matrix import errors
from edgeserver.users.accounts import DeviceWish
from edgeserver.users.login_tokens import LIFETIME_MS, LoginTokens

if TYPE_CHECKING:
    from edgeserver.api.authentication import AppserviceTable
    from edgeserver.api.endpoint import Call, Limiter, Route
    from edgeserver.api.user_interactive import UserInteractive
    from edgeserver.users.accounts import Accounts
    from edgeserver.users.devices import Devices
    from edgeserver.users.emails import Emails
    from edgeserver.users.tokens import Tokens

APPSERVICE = "m.login.application_service"
TOKEN = "m.login.token"


class Login:
    """The handlers."""

    def __init__(
        self,
        accounts: Accounts,
        tokens: Tokens,
        devices: Devices,
        limiter: Limiter | None,
        appservices: AppserviceTable | None,
        login_tokens: LoginTokens | None,
        emails: Emails | None,
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._devices = devices
        self._limiter = limiter
        self._appservices = appservices
        self._login_tokens = login_tokens
        self._emails = emails
        self._flows: list[dict[str, Any]] = [
            {"type": PASSWORD},
            *[{"type": TOKEN, "get_login_token": True}] * (login_tokens is not None),
            *[{"type": APPSERVICE}] * (appservices is not None),
        ]

    async def flows(self, call: Call) -> dict[str, Any]:
        """GET /login"""
        return {"flows": self._flows}

    async def login(self, call: Call) -> dict[str, Any]:
        """POST /login"""
        body = await call.json()
        kind, wish = body.get("type"), device_wish(body)
        if kind == PASSWORD:
            user_id = await self._by_password(body)
        elif kind == APPSERVICE:
            user_id = self._by_appservice(call, body)
        elif kind == TOKEN and self._login_tokens is not None:
            user_id = self._by_token(body, self._login_tokens)
        else:
            raise errors.Unknown("That login type is not known.", status=400)
        session = await self._accounts.log_in(user_id, wish)
        return session.as_json()

    async def _by_password(self, body: dict[str, Any]) -> str:
        password = body.get("password")
        try:
            user_id = await account_named(body, self._accounts, self._emails)
        except (errors.InvalidUsername, errors.InvalidParam):
            raise errors.Forbidden("Wrong user name or password.") from None
        if user_id is None or type(password) is not str:
            raise errors.BadJson("A user and a password are needed.")
        if self._limiter is not None:
            self._limiter.check("login_account", user_id)
        if not await self._accounts.check_password(user_id, password):
            account = await self._accounts.account(user_id)
            if account is not None and account.deactivated_at is not None:
                raise errors.UserDeactivated
            raise errors.Forbidden("Wrong user name or password.")
        return user_id

    def _by_token(self, body: dict[str, Any], login_tokens: LoginTokens) -> str:
        token = body.get("token")
        if type(token) is not str:
            raise errors.MissingParam("token is missing.")
        return login_tokens.take(token)

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
    names = text(body, "device_id"), text(body, "initial_device_display_name")
    wish = DeviceWish(*names, refreshable=body.get("refresh_token") is True)
    wish.check()
    return wish


def token_routes(interactive: UserInteractive, login_tokens: LoginTokens, limiter: Limiter | None = None) -> list[Route]:
    """POST /login/get_token. The password is asked for each time, and `limiter` counts the tokens of each user."""

    async def get_token(call: Call) -> dict[str, Any]:
        if call.requester.appservice_id is not None:
            raise errors.InvalidParam("An application service logs in as its users by itself.")
        await interactive.authenticate(await call.json(optional=True), "POST /login/get_token", [[PASSWORD]], user_id=call.user_id)
        if limiter is not None:
            limiter.check("login_token", call.user_id)
        return {"login_token": login_tokens.issue(call.user_id, call.requester.device_id), "expires_in_ms": LIFETIME_MS}

    return endpoint("POST", "/_matrix/client/v1/login/get_token", get_token, rate="account", max_body=16 * 1024)


def routes(
    accounts: Accounts,
    tokens: Tokens,
    devices: Devices,
    *,
    limiter: Limiter | None = None,
    appservices: AppserviceTable | None = None,
    login_tokens: LoginTokens | None = None,
    emails: Emails | None = None,
) -> list[Route]:
    """`limiter` counts attempts at each account, beside the endpoint's own limit for each address. Without `login_tokens` there is
    no m.login.token; with `emails` an email address is as good as a user name.
    """
    handlers = Login(accounts, tokens, devices, limiter, appservices, login_tokens, emails)
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
