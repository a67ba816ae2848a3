"""Registration tokens as operators make, change and delete them. Spec: client-server API, "Token-authenticated Registration"."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

from edgeserver.matrix import errors
from edgeserver.store import registration_tokens as table

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.registration_tokens import RegistrationToken

MAX_LENGTH: Final = 64
DEFAULT_LENGTH: Final = 16
MAX_TOKENS: Final = 10_000
KEPT: Final = object()
"""What `change` is given for what stays as it is."""

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_TOKEN = re.compile(rf"[A-Za-z0-9._~-]{{1,{MAX_LENGTH}}}")


class RegistrationTokens:
    """The tokens of the store, `at_most` so many; those of the configuration are not among them."""

    def __init__(self, db: Database, now_ms: Callable[[], int], *, at_most: int = MAX_TOKENS) -> None:
        self._at_most = at_most
        self._db = db
        self._now_ms = now_ms

    async def list(self, valid: bool | None = None) -> list[RegistrationToken]:
        """All, or only those that are (or are not) good for a registration now."""
        return await self._db.read(lambda tx: table.listed(tx, self._now_ms(), valid))

    async def get(self, token: str) -> RegistrationToken:
        """Raises M_NOT_FOUND."""
        return await self._db.read(lambda tx: _found(tx, token))

    async def create(
        self, token: str | None = None, *, uses: int | None = None, expires_at: int | None = None, length: int = DEFAULT_LENGTH
    ) -> RegistrationToken:
        """A token that lets `uses` people register (None: any number) until `expires_at` (ms). Without `token` one of that
        length is made up.

        Raises M_INVALID_PARAM: a token outside its grammar, one that exists, a time that has passed, more tokens than there may be.
        """
        self._check(uses, expires_at)
        if token is not None and _TOKEN.fullmatch(token) is None:
            raise errors.InvalidParam(f"A token has 1 to {MAX_LENGTH} characters of A-Z, a-z, 0-9 and ._~-")
        if not 1 <= length <= MAX_LENGTH:
            raise errors.InvalidParam(f"The length is 1 to {MAX_LENGTH}.")

        def work(tx: Transaction) -> RegistrationToken:
            if table.count(tx) >= self._at_most:
                raise errors.InvalidParam(f"There are {self._at_most} registration tokens already.")
            made = token or _made_up(tx, length)
            if not table.insert(tx, made, uses, expires_at):
                raise errors.InvalidParam(f"Token already exists: {made}")
            return _found(tx, made)

        return await self._db.write(work)

    async def change(self, token: str, *, uses: object = KEPT, expires_at: object = KEPT) -> RegistrationToken:
        """Sets what is not `KEPT`, to a number or None. Raises M_NOT_FOUND, M_INVALID_PARAM."""
        self._check(None if uses is KEPT else uses, None if expires_at is KEPT else expires_at)

        def work(tx: Transaction) -> RegistrationToken:
            found = _found(tx, token)
            allowed = uses if isinstance(uses, int) or uses is None else found.uses_allowed
            until = expires_at if isinstance(expires_at, int) or expires_at is None else found.expires_at
            table.change(tx, token, allowed, until)
            return _found(tx, token)

        return await self._db.write(work)

    async def delete(self, token: str) -> None:
        """Raises M_NOT_FOUND."""
        if not await self._db.write(lambda tx: table.delete(tx, token)):
            raise _unknown(token)

    def _check(self, uses: object, expires_at: object) -> None:
        if uses is not None and not (type(uses) is int and 0 <= uses < 2**53):
            raise errors.InvalidParam("uses_allowed must be a non-negative integer or null")
        if expires_at is None:
            return
        if type(expires_at) is not int or expires_at >= 2**53:
            raise errors.InvalidParam("expiry_time must be an integer or null")
        if expires_at < self._now_ms():
            raise errors.InvalidParam("expiry_time must not be in the past")


def _made_up(tx: Transaction, length: int) -> str:
    """A token that is not there yet. Raises M_INVALID_PARAM if none of that length is to be found."""
    for _ in range(10):
        made = "".join(secrets.choice(_LETTERS) for _ in range(length))
        if table.get(tx, made) is None:
            return made
    raise errors.InvalidParam("The tokens of that length are used up: take a longer one.")


def _found(tx: Transaction, token: str) -> RegistrationToken:
    found = table.get(tx, token)
    if found is None:
        raise _unknown(token)
    return found


def _unknown(token: str) -> errors.NotFound:
    return errors.NotFound(f"No such registration token: {token}")
