"""GET and POST /_synapse/admin/v1/register: whoever knows the registration secret makes accounts, administrators
included.

Synapse, "Shared-Secret Registration": the GET gives a nonce; the POST's `mac` is the HMAC-SHA1 in hexadecimal, keyed
by the secret, of nonce, user name, password and "admin" or "notadmin" (and user_type if there is one), with NUL
between them.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.client.login import device_wish
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors, identifiers

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.accounts import Accounts

NONCE_LIFETIME_MS: Final = 60_000
NONCES: Final = 100


class SharedSecretRegistration:
    """The handlers, and the nonces that are out."""

    def __init__(self, accounts: Accounts, secret: str, now_ms: Callable[[], int]) -> None:
        self._accounts = accounts
        self._secret = secret.encode()
        self._now_ms = now_ms
        self._nonces: dict[str, int] = {}

    async def nonce(self, call: Call) -> dict[str, Any]:
        """GET: a nonce for one registration within a minute"""
        if len(self._nonces) >= NONCES:
            del self._nonces[next(iter(self._nonces))]
        nonce = secrets.token_hex(32)
        self._nonces[nonce] = self._now_ms() + NONCE_LIFETIME_MS
        return {"nonce": nonce}

    async def register(self, call: Call) -> dict[str, Any]:
        """POST: the registration"""
        body = await call.json()
        for key in ("nonce", "username", "password", "mac"):
            if type(body.get(key)) is not str or "\0" in body[key]:
                raise errors.BadJson(f"{key} must be a string.")
        if self._nonces.pop(body["nonce"], 0) <= self._now_ms():
            raise errors.Unknown("unrecognised nonce", status=400)
        admin = body.get("admin") is True
        if not hmac.compare_digest(self._mac(body, admin), body["mac"].encode("utf-8", "replace")):
            raise errors.Forbidden("HMAC incorrect")
        name = body.get("displayname")
        _, session = await self._accounts.create_person(
            body["username"],
            body["password"],
            admin=admin,
            displayname=name if type(name) is str else None,
            device=device_wish(body),
        )
        answer = session.as_json() if session is not None else {}
        return {**answer, "home_server": identifiers.domain_of(answer["user_id"])}

    def _mac(self, body: dict[str, Any], admin: bool) -> bytes:
        parts = [body["nonce"], body["username"], body["password"], "admin" if admin else "notadmin"]
        if type(body.get("user_type")) is str:
            parts.append(body["user_type"])
        message = "\0".join(parts).encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, message, "sha1").hexdigest().encode()


def routes(accounts: Accounts, secret: str, now_ms: Callable[[], int]) -> list[Route]:
    handlers = SharedSecretRegistration(accounts, secret, now_ms)
    path = "/_synapse/admin/v1/register"
    return [
        *endpoint("GET", path, handlers.nonce, auth=Auth.NONE, rate="login"),
        *endpoint("POST", path, handlers.register, auth=Auth.NONE, rate="login"),
    ]
