"""Whose request it is: access tokens of users and of application services.

Spec: client-server API, "Using access tokens"; application service API, "Identity assertion".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call
    from edgeserver.users.requester import Requester


REGISTER: Final = ("/_matrix/client/v3/register", "/_matrix/client/r0/register")


class TokenTable(Protocol):
    """Where access tokens are known; see `edgeserver.users.tokens.Tokens`."""

    async def requester(self, token: str, address: str = "") -> Requester:
        """Raises M_UNKNOWN_TOKEN."""
        ...


class AppserviceTable(Protocol):
    """Where the tokens and the namespaces of application services are known."""

    async def requester(
        self, token: str, as_user: str | None, device_id: str | None = None, *, registering: bool = False
    ) -> Requester | None:
        """The application service's sender, or the user of its namespaces whom it asserts to be, from the device that it
        names; None if the token is none of theirs.

        Raises M_FORBIDDEN if `as_user` is outside its namespaces or has no account (which one that is `registering` needs not
        have), M_UNKNOWN_DEVICE if the user has no such device.
        """
        ...

    def exclusive_to(self, user_id: str) -> str | None:
        """The id of the application service that alone may have this user id."""
        ...

    def alias_exclusive_to(self, alias: str) -> str | None:
        """The id of the application service that alone may make this alias."""
        ...

    def has_alias(self, appservice_id: str, alias: str) -> bool:
        """Whether the alias is in one of that application service's namespaces."""
        ...

    def may_have(self, appservice_id: str, user_id: str) -> bool:
        """Whether the user id is that application service's sender or in one of its namespaces."""
        ...


def controls_alias(appservices: AppserviceTable | None, alias: str, requester: Requester) -> bool:
    """Whether the requester is an application service and the alias in its namespaces, so that it may do with it what it likes.

    Raises M_EXCLUSIVE for an alias that another application service alone may have.
    """
    if appservices is None:
        return False
    if appservices.alias_exclusive_to(alias) not in (None, requester.appservice_id):
        raise errors.Exclusive("That alias is reserved by an application service.")
    return requester.appservice_id is not None and appservices.has_alias(requester.appservice_id, alias)


def check_new_alias(appservices: AppserviceTable | None, alias: str, requester: Requester) -> bool:
    """As `controls_alias`. Raises M_EXCLUSIVE for an application service that makes one outside of its namespaces too."""
    found = controls_alias(appservices, alias, requester)
    if appservices is not None and requester.appservice_id is not None and not found:
        raise errors.Exclusive("That alias is not in your namespaces.")
    return found


class AccessTokens:
    """Reads the access token from the Authorization header (and, with `in_query`, from the deprecated `access_token`
    parameter).
    """

    def __init__(self, tokens: TokenTable, *, appservices: AppserviceTable | None = None, in_query: bool = False) -> None:
        self._tokens = tokens
        self._appservices = appservices
        self._in_query = in_query

    async def requester(self, call: Call) -> Requester | None:
        """See `endpoint.Authenticator`."""
        token = self._token(call)
        if token is None:
            return None
        if self._appservices is not None:
            as_user = call.query.get("user_id")
            device_id = call.query.get("device_id") or call.query.get("org.matrix.msc3202.device_id")
            is_registering = call.scope["path"] in REGISTER
            found = await self._appservices.requester(token, as_user, device_id, registering=is_registering)
            if found is not None:
                return found
        return await self._tokens.requester(token, call.address)

    def _token(self, call: Call) -> str | None:
        header = call.headers.get("authorization")
        if header is None:
            return call.query.get("access_token") if self._in_query else None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not (token := token.strip()):
            raise errors.MissingToken("The Authorization header carries no Bearer token.")
        return token


class FixedTokens:
    """A table of tokens that are known beforehand: for tests of single sections, and for tools that run in this
    process.
    """

    def __init__(self, requesters: dict[str, Requester]) -> None:
        self._requesters = requesters

    async def requester(self, token: str, address: str = "") -> Requester:
        """See `TokenTable`."""
        found = self._requesters.get(token)
        if found is None:
            raise errors.UnknownToken
        return found
