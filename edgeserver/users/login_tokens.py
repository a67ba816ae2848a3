"""Tokens that log one further device in. Spec: client-server API, "Login", `POST /login/get_token` and `m.login.token`.

They live for two minutes and in memory only: a restart ends them, and whoever still waits asks for another. They are void when the
device that asked for them is deleted, so that nobody who is logged out everywhere has kept a way in. Hashes are kept, not tokens.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeserver.matrix import errors
from edgeserver.users.tokens import token_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeserver.store.database import Transaction

LIFETIME_MS: Final = 2 * 60 * 1000
KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class _Issued:
    user_id: str
    device_id: str | None
    expires_at: int


class LoginTokens:
    """Issues tokens and takes each back once."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._issued: dict[bytes, _Issued] = {}

    def issue(self, user_id: str, device_id: str | None) -> str:
        """A token for that user, for which this device of theirs asks. Beyond 200 the oldest goes."""
        if len(self._issued) >= KEPT:
            del self._issued[next(iter(self._issued))]
        token = secrets.token_urlsafe(24)
        self._issued[token_hash(token)] = _Issued(user_id, device_id, self._now_ms() + LIFETIME_MS)
        return token

    def take(self, token: str) -> str:
        """Whose token it was: it is none any more. Raises M_FORBIDDEN if it is unknown, used or has expired."""
        issued = self._issued.pop(token_hash(token), None)
        if issued is None or issued.expires_at <= self._now_ms():
            raise errors.Forbidden("That login token is not valid: ask for another on the device that is logged in.")
        return issued.user_id

    def devices_deleted(self, tx: Transaction, user_id: str, device_ids: Sequence[str]) -> None:
        """A hook of `Devices`: with the devices go the tokens for which they have asked."""

        def forget() -> None:
            gone = {digest for digest, one in self._issued.items() if one.user_id == user_id and one.device_id in device_ids}
            for digest in gone:
                del self._issued[digest]

        tx.on_commit(forget)
