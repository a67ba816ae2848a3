"""User-interactive authentication: some requests are answered with what is still to be proven, and are sent again with
the proof.

Spec: client-server API, "User-Interactive Authentication API". Sessions live in memory, for an hour, and only so many
of them: a client whose session is gone is given a new one and begins again. A session serves one operation of one user
with one body; only a registration may change its mind about the name in the middle.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json, errors, identifiers
from edgeserver.matrix.errors import MatrixError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from edgeserver.users.accounts import Accounts
    from edgeserver.users.emails import Emails

    Stage = Callable[[dict[str, Any], str | None], Awaitable[None]]

PASSWORD: Final = "m.login.password"
DUMMY: Final = "m.login.dummy"
REGISTRATION_TOKEN: Final = "m.login.registration_token"
EMAIL: Final = "m.login.email.identity"

LIFETIME_MS: Final = 60 * 60 * 1000
SESSIONS: Final = 200
MAX_KEPT_BODY: Final = 16 * 1024


class AuthenticationNeeded(MatrixError):
    """401 with the flows; an errcode only when a stage has been tried and has failed."""

    def as_json(self) -> dict[str, Any]:
        return super().as_json() if self.errcode else dict(self.extra)


@dataclass(slots=True)
class _Session:
    user_id: str | None
    operation: str
    body: dict[str, Any]
    expires_at: int
    digest: bytes | None = None
    flows: Sequence[Sequence[str]] = ()
    proofs: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A request that has been proven: its body (without `auth`), and what the client sent for each stage."""

    body: dict[str, Any]
    proofs: Mapping[str, dict[str, Any]]


class UserInteractive:
    """Holds the sessions. `stages` maps a stage's type to what checks it: it gets the `auth` object and the user id,
    and raises `MatrixError` if the proof is not good. `standard_stages` makes the usual ones.
    """

    def __init__(self, now_ms: Callable[[], int], stages: Mapping[str, Stage]) -> None:
        self._now_ms = now_ms
        self._stages = stages
        self._sessions: dict[str, _Session] = {}

    async def authenticate(
        self,
        body: dict[str, Any],
        operation: str,
        flows: Sequence[Sequence[str]],
        *,
        user_id: str | None = None,
        bound: bool = True,
    ) -> Authenticated:
        """Returns once some flow is complete; until then raises the 401 that tells the client what to do next.

        `operation` names the endpoint: a session serves one operation of one user, and if it is `bound` of one body: the
        first that is more than `auth`. A request whose last round brings nothing but `auth` stands for the body that opened
        the session. Raises M_FORBIDDEN for a session of another request.
        """
        auth = body.get("auth")
        rest = {key: value for key, value in body.items() if key != "auth"}
        if auth is None:
            raise self._challenge(self._open(user_id, operation, rest), flows)
        if type(auth) is not dict:
            raise errors.BadJson("auth must be an object.")
        session_id, session = self._find(auth.get("session"), user_id, operation, rest)
        if bound and rest:
            session.digest = session.digest or _digest(rest)
            if session.digest != _digest(rest):
                raise errors.Forbidden("That session belongs to another request: its body was different.")
        if auth.get("type") is not None:
            try:
                await self._try(auth, session, flows)
            except MatrixError as error:
                if isinstance(error, errors.LimitExceeded):
                    raise
                raise self._challenge((session_id, session), flows, error) from error
        if not any(session.proofs.keys() >= set(flow) for flow in flows):
            raise self._challenge((session_id, session), flows)
        self._sessions.pop(session_id, None)
        return Authenticated(rest or session.body, session.proofs)

    def offers(self, session_id: str, kind: str) -> bool:
        """Whether that stage is among what the session's client has been told of: a web page may be shown for it."""
        session = self._sessions.get(session_id)
        return session is not None and session.expires_at > self._now_ms() and any(kind in flow for flow in session.flows)

    def operation_of(self, session_id: str) -> str | None:
        """The operation that a session serves, as `authenticate` was told it."""
        session = self._sessions.get(session_id)
        return None if session is None else session.operation

    async def prove(self, session_id: str, kind: str, auth: dict[str, Any]) -> None:
        """Completes a stage from outside the request, as the fallback page does. Raises M_NOT_FOUND if it is not offered, and
        what the stage raises.
        """
        if not self.offers(session_id, kind):
            raise errors.NotFound("That session is not known any more.")
        session = self._sessions[session_id]
        await self._try({**auth, "type": kind}, session, session.flows)

    async def _try(self, auth: dict[str, Any], session: _Session, flows: Sequence[Sequence[str]]) -> None:
        kind = auth["type"]
        stage = self._stages.get(kind) if type(kind) is str and any(kind in flow for flow in flows) else None
        if stage is None:
            raise errors.InvalidParam("That authentication type is not offered.")
        await stage(auth, session.user_id)
        session.proofs[kind] = auth

    def _open(self, user_id: str | None, operation: str, body: dict[str, Any]) -> tuple[str, _Session]:
        now = self._now_ms()
        for session_id in [each for each, session in self._sessions.items() if session.expires_at <= now]:
            del self._sessions[session_id]
        if len(self._sessions) >= SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session_id = secrets.token_urlsafe(12)
        kept = body if len(canonical_json.encode_loose(body)) <= MAX_KEPT_BODY else {}
        session = self._sessions[session_id] = _Session(user_id, operation, kept, now + LIFETIME_MS, _digest(body))
        return session_id, session

    def _find(self, session_id: Any, user_id: str | None, operation: str, body: dict[str, Any]) -> tuple[str, _Session]:
        session = self._sessions.get(session_id) if type(session_id) is str else None
        if session is None or session.expires_at <= self._now_ms():
            return self._open(user_id, operation, body)
        if (session.user_id, session.operation) != (user_id, operation):
            raise errors.Forbidden("That session belongs to another request.")
        return session_id, session

    def _challenge(
        self, opened: tuple[str, _Session], flows: Sequence[Sequence[str]], failed: MatrixError | None = None
    ) -> AuthenticationNeeded:
        session_id, session = opened
        session.flows = flows
        errcode, error = (failed.errcode, failed.error) if failed is not None else ("", "")
        stages = [{"stages": list(flow)} for flow in flows]
        completed = list(session.proofs)
        return AuthenticationNeeded(401, errcode, error, session=session_id, flows=stages, params={}, completed=completed)


def _digest(body: dict[str, Any]) -> bytes | None:
    return hashlib.blake2b(canonical_json.encode_loose(body), digest_size=16).digest() if body else None


def standard_stages(
    accounts: Accounts, limit_failures: Callable[[str], None] | None = None, emails: Emails | None = None
) -> dict[str, Stage]:
    """The stages for a password, for nothing at all, for a registration token and, with `emails`, for an email address.

    `limit_failures(user_id)` is called before a password is checked and raises M_LIMIT_EXCEEDED.
    """

    async def password(auth: dict[str, Any], user_id: str | None) -> None:
        given, named = auth.get("password"), await account_named(auth, accounts, emails)
        if user_id is None or type(given) is not str:
            raise errors.BadJson("password is missing.")
        if named is not None and named != user_id:
            raise errors.Forbidden("That is not your user id.")
        if limit_failures is not None:
            limit_failures(user_id)
        if not await accounts.check_password(user_id, given):
            raise errors.Forbidden("Wrong password.")

    async def dummy(auth: dict[str, Any], user_id: str | None) -> None:
        pass

    async def registration_token(auth: dict[str, Any], user_id: str | None) -> None:
        token = auth.get("token")
        if type(token) is not str or not await accounts.registration_token_is_valid(token):
            raise errors.Unauthorized("That registration token is not valid.")

    async def email(auth: dict[str, Any], user_id: str | None) -> None:
        assert emails is not None
        await emails.check(*credentials(auth))

    stages: dict[str, Stage] = {PASSWORD: password, DUMMY: dummy, REGISTRATION_TOKEN: registration_token}
    return stages if emails is None else {**stages, EMAIL: email}


def credentials(proof: Mapping[str, Any]) -> tuple[Any, Any]:
    """(sid, client_secret) of an m.login.email.identity stage, by its present or its old key. Raises M_BAD_JSON."""
    given = proof.get("threepid_creds", proof.get("threepidCreds"))
    if not isinstance(given, dict):
        raise errors.BadJson("threepid_creds is missing.")
    return given.get("sid"), given.get("client_secret")


async def account_named(body: dict[str, Any], accounts: Accounts, emails: Emails | None) -> str | None:
    """The user id that an `identifier` of type m.id.user, an email address in one of type m.id.thirdparty, or the deprecated
    `user`, names; None if there is none. Raises as `user_named` and `Accounts.user_id` do.
    """
    identifier = body.get("identifier")
    if emails is not None and isinstance(identifier, dict) and identifier.get("type") == "m.id.thirdparty":
        address = identifier.get("address")
        if identifier.get("medium") != "email" or not isinstance(address, str):
            raise errors.Forbidden("Log in with your user name or your email address.")
        owner = await emails.owner(address)
        if owner is None:
            raise errors.Forbidden("Wrong user name or password.")
        return owner
    named = user_named(body)
    return None if named is None else accounts.user_id(named)


def user_named(body: dict[str, Any]) -> str | None:
    """The local part or user id in an `identifier` of type m.id.user, or in the deprecated `user`; None if there is
    none.

    Raises M_FORBIDDEN for a third-party identifier or a phone number: see `account_named`; M_BAD_JSON for
    anything else.
    """
    identifier = body.get("identifier")
    if identifier is None:
        user = body.get("user")
    elif type(identifier) is not dict:
        raise errors.BadJson("identifier must be an object.")
    elif identifier.get("type") in ("m.id.thirdparty", "m.id.phone"):
        raise errors.Forbidden("Log in with your user name.")
    elif identifier.get("type") != "m.id.user":
        raise errors.Unknown("That identifier type is not known.", status=400)
    else:
        user = identifier.get("user")
        if user is None:
            raise errors.MissingParam("identifier.user is missing.")
    if user is not None and (type(user) is not str or not identifiers.fits(user, 512)):
        raise errors.BadJson("The user name must be a string.")
    return user
