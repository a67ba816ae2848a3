"""POST /register, GET /register/available, GET /register/m.login.registration_token/validity.

Spec: client-server API, "Account registration and management", "Token-authenticated Registration"; application service
API, "Server admin style permissions"; "Guest access" for `kind=guest` and `guest_access_token`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.api.body import text
from edgeserver.api.client.login import device_wish
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.user_interactive import DUMMY, EMAIL, REGISTRATION_TOKEN, credentials
from edgeserver.matrix import errors
from edgeserver.users.emails import Purpose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeserver.api.authentication import AppserviceTable, TokenTable
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.api.user_interactive import UserInteractive
    from edgeserver.store.database import Transaction
    from edgeserver.users.accounts import Accounts
    from edgeserver.users.emails import Emails


@dataclass(frozen=True, slots=True)
class RegistrationPolicy:
    """Who may make an account: anybody (`open`), or whoever has a registration token (`with_token`). Neither: nobody.

    `guests` is how many guests there may be. `email`: whether one gives an email address: no, optional or required.
    """

    open: bool = False
    with_token: bool = False
    guests: int = 0
    email: str = "no"

    @property
    def takes_email(self) -> bool:
        """Whether somebody may register with an email address."""
        return self.email != "no" and (self.open or self.with_token)

    @property
    def flows(self) -> list[list[str]]:
        without = [[DUMMY]] * self.open + [[REGISTRATION_TOKEN]] * self.with_token
        if self.email == "no":
            return without
        with_email = [[EMAIL]] * self.open + [[REGISTRATION_TOKEN, EMAIL]] * self.with_token
        return with_email if self.email == "required" else [*without, *with_email]


class Registration:
    """The handlers."""

    def __init__(
        self,
        accounts: Accounts,
        interactive: UserInteractive,
        policy: RegistrationPolicy,
        appservices: AppserviceTable | None,
        tokens: TokenTable | None,
        emails: Emails | None,
    ) -> None:
        self._accounts = accounts
        self._interactive = interactive
        self._policy = policy
        self._appservices = appservices
        self._tokens = tokens
        self._emails = emails

    async def register(self, call: Call) -> dict[str, Any]:
        """POST /register"""
        kind = call.query.get("kind", "user")
        if kind == "guest":
            return await self._register_guest(call)
        if kind != "user":
            raise errors.InvalidParam("kind is user or guest.")
        body = await call.json()
        if body.get("type") == "m.login.application_service":
            return await self._for_appservice(call, body)
        if not self._policy.flows:
            raise errors.Forbidden("Registration is not open here.")
        await self._check(body)
        proven = await self._interactive.authenticate(body, "POST /register", self._policy.flows, bound=False)
        body = proven.body
        await self._check(body)
        password = body.get("password")
        if password is None:
            raise errors.MissingParam("password is missing.")
        token = proven.proofs.get(REGISTRATION_TOKEN, {}).get("token")
        return await self._create(body, password, registration_token=token, claim=self._claim(proven.proofs))

    def _claim(self, proofs: Mapping[str, dict[str, Any]]) -> Callable[[Transaction, str], None] | None:
        """Gives the new account the email address that has been proven."""
        emails = self._emails
        if emails is None or EMAIL not in proofs:
            return None
        sid, secret = credentials(proofs[EMAIL])
        return lambda tx, user_id: emails.add(tx, user_id, sid, secret, Purpose.REGISTER)

    async def _register_guest(self, call: Call) -> dict[str, Any]:
        """kind=guest: of the body the device's name counts, and nothing else."""
        if not self._policy.guests:
            raise errors.GuestForbidden("This server has no guests.")
        name = text(await call.json(optional=True), "initial_device_display_name")
        session = await self._accounts.create_guest(name, at_most=self._policy.guests)
        return session.as_json()

    async def _guest(self, body: dict[str, Any]) -> str | None:
        """The guest who registers by this request. Raises M_FORBIDDEN unless `username` is the guest's own."""
        token = text(body, "guest_access_token")
        if token is None or self._tokens is None:
            return None
        if body.get("username") is None:
            raise errors.MissingParam("username is missing: a guest keeps their own.")
        try:
            requester = await self._tokens.requester(token)
        except errors.UnknownToken as error:  # a 401 here asks for proofs
            raise errors.Forbidden("That access token is not a guest's.") from error
        if not requester.is_guest or self._accounts.user_id(body["username"]) != requester.user_id:
            raise errors.Forbidden("That access token is not that guest's.")
        return requester.user_id

    async def _check(self, body: dict[str, Any]) -> None:
        """What can be refused before anything is proven: names that cannot be had, passwords that are too weak."""
        username, password = text(body, "username"), text(body, "password")
        device_wish(body)
        if username is not None and await self._guest(body) is None:
            user_id = await self._accounts.check_available(username)
            if self._appservices is not None and self._appservices.exclusive_to(user_id) is not None:
                raise errors.Exclusive
        if password is not None:
            self._accounts.check_strength(password)

    async def _for_appservice(self, call: Call, body: dict[str, Any]) -> dict[str, Any]:
        requester = call.requester
        if requester.appservice_id is None or self._appservices is None:
            raise errors.UnknownToken("That is not the token of an application service.")
        username = body.get("username")
        if type(username) is not str:
            raise errors.MissingParam("username is missing.")
        user_id = self._accounts.user_id(username)
        if not self._appservices.may_have(requester.appservice_id, user_id):
            raise errors.Exclusive("That name is not in your namespaces.")
        return await self._create(body, None, appservice_id=requester.appservice_id)

    async def _create(self, body: dict[str, Any], password: str | None, **options: Any) -> dict[str, Any]:
        inhibited = body.get("inhibit_login") is True
        guest = None if password is None else await self._guest(body)
        if guest is not None and password is not None:
            wish = None if inhibited else device_wish(body)
            begun = await self._accounts.upgrade_guest(guest, password, device=wish, **options)
            return {"user_id": guest} if begun is None else begun.as_json()
        name = body.get("username") or await self._accounts.create_random_name()
        user_id, session = await self._accounts.create_person(name, password, device=None if inhibited else device_wish(body), **options)
        return {"user_id": user_id} if session is None else session.as_json()

    async def available(self, call: Call) -> dict[str, Any]:
        """GET /register/available"""
        name = call.query.get("username")
        if name is None:
            raise errors.MissingParam("username is missing.")
        await self._check({"username": name})
        return {"available": True}

    async def token_validity(self, call: Call) -> dict[str, Any]:
        """GET /register/m.login.registration_token/validity"""
        if not self._policy.with_token:
            raise errors.Forbidden("Registration by token is not open here.")
        token = call.query.get("token")
        if token is None:
            raise errors.MissingParam("token is missing.")
        return {"valid": await self._accounts.registration_token_is_valid(token)}


def routes(
    accounts: Accounts,
    interactive: UserInteractive,
    policy: RegistrationPolicy,
    *,
    appservices: AppserviceTable | None = None,
    tokens: TokenTable | None = None,
    emails: Emails | None = None,
) -> list[Route]:
    """`tokens`: where the token of a guest who registers is known."""
    handlers = Registration(accounts, interactive, policy, appservices, tokens, emails)
    base = "/_matrix/client/v3/register"
    validity = "/_matrix/client/v1/register/m.login.registration_token/validity"
    # Only application services register with a token: who brings an old one is not refused for it.
    who = Auth.NONE if appservices is None else Auth.OPTIONAL
    return [
        *endpoint("POST", base, handlers.register, auth=who, rate="registration"),
        *endpoint("GET", f"{base}/available", handlers.available, auth=Auth.NONE, rate="account"),
        *endpoint("GET", validity, handlers.token_validity, auth=Auth.NONE, rate="login"),
    ]
