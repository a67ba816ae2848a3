"""Tokens that log one further device in. Spec: client-server API, "Login", `POST /login/get_token` and `m.login.token`.

They live for two minutes and in memory only: a restart ends them, and whoever still waits asks for another. Hashes are kept, not tokens.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Callable

LIFETIME_MS: Final = 2 * 60 * 1000
KEPT: Final = 200


class LoginTokens:
    """Issues tokens and takes each back once."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._issued: dict[bytes, tuple[str, int]] = {}

    def issue(self, user_id: str) -> str:
        """A token for that user. Beyond 200 the oldest goes."""
        if len(self._issued) >= KEPT:
            del self._issued[next(iter(self._issued))]
        token = secrets.token_urlsafe(24)
        self._issued[_hash(token)] = (user_id, self._now_ms() + LIFETIME_MS)
        return token

    def take(self, token: str) -> str:
        """Whose token it was: it is none any more. Raises M_FORBIDDEN if it is unknown, used or has expired."""
        user_id, expires_at = self._issued.pop(_hash(token), ("", 0))
        if expires_at <= self._now_ms():
            raise errors.Forbidden("That login token is not valid.")
        return user_id


def _hash(token: str) -> bytes:
    return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=32).digest()
