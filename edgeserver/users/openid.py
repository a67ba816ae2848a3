"""OpenID tokens: they prove to a third party who a user is, for an hour, and for as long as the account is open. In memory only, and of
them only hashes. Spec: client-server API, "OpenID".
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from edgeserver.store import accounts as table
from edgeserver.users.tokens import token_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.store.database import Database

LIFETIME_S: Final = 3600
KEPT: Final = 1000
OF_ONE: Final = 50
"""Tokens of one user that are good at a time: nobody pushes out those of others."""


class OpenIdTokens:
    """Issues tokens and, for GET /_matrix/federation/v1/openid/userinfo, knows whose they are."""

    def __init__(self, db: Database, server_name: str, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._server_name = server_name
        self._now_ms = now_ms
        self._issued: dict[bytes, tuple[str, int]] = {}

    def issue(self, user_id: str) -> dict[str, Any]:
        """The response to a request for a token. Beyond 50 of the user, or 1,000 of all, the oldest goes."""
        theirs = [digest for digest, (owner, _) in self._issued.items() if owner == user_id]
        if len(theirs) >= OF_ONE:
            del self._issued[theirs[0]]
        elif len(self._issued) >= KEPT:
            del self._issued[next(iter(self._issued))]
        token = secrets.token_urlsafe(18)
        self._issued[token_hash(token)] = (user_id, self._now_ms() + LIFETIME_S * 1000)
        return {
            "access_token": token,
            "token_type": "Bearer",
            "matrix_server_name": self._server_name,
            "expires_in": LIFETIME_S,
        }

    async def user_of(self, token: str) -> str | None:
        """The user id; None if the token is unknown or has expired, and while the account is locked or after it has ended."""
        user_id, expires_at = self._issued.get(token_hash(token), ("", 0))
        if expires_at <= self._now_ms():
            return None
        account = await self._db.read(lambda tx: table.account(tx, user_id))
        return user_id if account is not None and account.deactivated_at is None and not account.locked else None
