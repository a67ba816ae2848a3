"""OpenID tokens: they prove to a third party who a user is, for an hour. Kept in memory. Spec: client-server API,
"OpenID".
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LIFETIME_S: Final = 3600
KEPT: Final = 1000


class OpenIdTokens:
    """Issues tokens and, for GET /_matrix/federation/v1/openid/userinfo, knows whose they are."""

    def __init__(self, server_name: str, now_ms: Callable[[], int]) -> None:
        self._server_name = server_name
        self._now_ms = now_ms
        self._issued: dict[str, tuple[str, int]] = {}

    def issue(self, user_id: str) -> dict[str, Any]:
        """The response to a request for a token."""
        if len(self._issued) >= KEPT:
            del self._issued[next(iter(self._issued))]
        token = secrets.token_urlsafe(18)
        self._issued[token] = (user_id, self._now_ms() + LIFETIME_S * 1000)
        return {
            "access_token": token,
            "token_type": "Bearer",
            "matrix_server_name": self._server_name,
            "expires_in": LIFETIME_S,
        }

    def user_of(self, token: str) -> str | None:
        """The user id, None if the token is unknown or has expired."""
        user_id, expires_at = self._issued.get(token, (None, 0))
        return user_id if expires_at > self._now_ms() else None
