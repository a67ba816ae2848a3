"""Access and refresh tokens.

Spec: client-server API, "Using access tokens", "Refreshing access tokens" (MSC2918), "Soft logout".

Tokens are random and only their hashes are stored. A token that has been seen lately is answered from memory, so that
a request costs no database hop. A pair (access, refresh) lives until the pair that it was refreshed to is used for the
first time: a client that lost the answer to its refresh asks again with the same refresh token and gets another pair.

When a device was last seen is kept in memory and written seldom: each write wears the SD card.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver.matrix import errors
from edgeserver.store import accounts as table
from edgeserver.store import devices as device_table
from edgeserver.users.requester import Requester

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from edgeserver.store.database import Database, Transaction

CACHED: Final = 1024
TOKEN_BYTES: Final = 18
SEEN_EVERY_MS: Final = 10 * 60 * 1000
ACCESS_LIFETIME_MS: Final = 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Issued:
    """A new pair. Without a refresh token the access token does not expire."""

    access_token: str
    refresh_token: str | None = None
    expires_in_ms: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The members of a response to a log-in, a registration or a refresh."""
        body: dict[str, Any] = {"access_token": self.access_token}
        if self.refresh_token is not None:
            body |= {"refresh_token": self.refresh_token, "expires_in_ms": self.expires_in_ms}
        return body


class Tokens:
    """Issues tokens and knows whose they are. `lifetime_ms` is that of an access token which can be refreshed."""

    def __init__(
        self,
        db: Database,
        now_ms: Callable[[], int],
        *,
        lifetime_ms: int = ACCESS_LIFETIME_MS,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._db = db
        self._now_ms = now_ms
        self._lifetime_ms = lifetime_ms
        self._random_bytes = random_bytes
        self._cache: dict[bytes, tuple[Requester, int | None]] = {}
        self._forgotten = 0
        self._seen: dict[tuple[str, str], tuple[int, str]] = {}

    async def requester(self, token: str, address: str = "") -> Requester:
        """Whose access token this is; `address` is where it was seen.

        Raises M_UNKNOWN_TOKEN, with soft_logout when it has expired and can be refreshed.
        """
        digest = token_hash(token)
        cached = self._cache.get(digest)
        if cached is None:
            cached = await self._look_up(digest)
        requester, expires_at = cached
        now = self._now_ms()
        if expires_at is not None and expires_at <= now:
            self._cache.pop(digest, None)
            raise errors.UnknownToken("The access token has expired.", soft_logout=True)
        if requester.device_id is not None:
            self._seen[requester.user_id, requester.device_id] = (now, address)
        return requester

    async def _look_up(self, digest: bytes) -> tuple[Requester, int | None]:
        forgotten = self._forgotten
        found = await self._db.read(lambda tx: table.token_by_access(tx, digest))
        if found is None:
            raise errors.UnknownToken
        replaced = found.replaces
        if replaced is not None:
            await self._db.write(lambda tx: self._drop_replaced(tx, found.token, replaced))
        entry = (
            Requester(
                found.user_id, found.device_id, is_guest=found.guest, is_admin=found.admin, token_id=found.token,
                is_locked=found.locked, is_suspended=found.suspended,
            ),
            found.expires_at,
        )  # fmt: skip
        if forgotten == self._forgotten:  # else it may have been revoked while we read
            if len(self._cache) >= CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[digest] = entry
        return entry

    def _drop_replaced(self, tx: Transaction, token: int, replaced: int) -> None:
        table.drop_replaced(tx, token, replaced)
        tx.on_commit(lambda: self._forget(lambda requester: requester.token_id == replaced))

    def issue(self, tx: Transaction, user_id: str, device_id: str, *, refreshable: bool = False) -> Issued:
        """A new pair for a device, inside the caller's transaction."""
        return self._insert(tx, user_id, device_id, refreshable=refreshable)

    def _insert(self, tx: Transaction, user_id: str, device_id: str, *, refreshable: bool, replaces: int | None = None) -> Issued:
        access = self._new("esa")
        if not refreshable:
            table.insert_token(tx, user_id, device_id, token_hash(access))
            return Issued(access)
        refresh = self._new("esr")
        table.insert_token(
            tx, user_id, device_id, token_hash(access),
            refresh_hash=token_hash(refresh), expires_at=self._now_ms() + self._lifetime_ms, replaces=replaces,
        )  # fmt: skip
        return Issued(access, refresh, self._lifetime_ms)

    async def refresh(self, refresh_token: str) -> Issued:
        """A new pair for a refresh token.

        Raises M_UNKNOWN_TOKEN if it is unknown or its successor has been used, M_USER_LOCKED while the account is locked.
        """
        digest = token_hash(refresh_token)

        def work(tx: Transaction) -> Issued:
            found = table.token_by_refresh(tx, digest)
            if found is None:
                raise errors.UnknownToken("The refresh token is not valid.")
            if found.locked:
                raise errors.UserLocked
            if found.replaces is not None:
                self._drop_replaced(tx, found.token, found.replaces)
            table.drop_replacement(tx, found.token)
            return self._insert(tx, found.user_id, found.device_id, refreshable=True, replaces=found.token)

        return await self._db.write(work)

    def forget(self, user_id: str, device_ids: Collection[str] | None = None) -> None:
        """Drops what memory holds of a user's devices (all of them without `device_ids`): call it once their tokens
        are gone.
        """
        for key in [k for k in self._seen if k[0] == user_id and (device_ids is None or k[1] in device_ids)]:
            del self._seen[key]
        self._forget(lambda r: r.user_id == user_id and (device_ids is None or r.device_id in device_ids))

    def _forget(self, gone: Callable[[Requester], bool]) -> None:
        self._forgotten += 1
        for digest in [digest for digest, (requester, _) in self._cache.items() if gone(requester)]:
            del self._cache[digest]

    def last_seen(self, user_id: str, device_id: str) -> tuple[int, str] | None:
        """(ms since the epoch, address), if it has not been written yet."""
        return self._seen.get((user_id, device_id))

    async def write_last_seen(self) -> None:
        """Writes what `run` would write next."""
        seen, self._seen = self._seen, {}
        if seen:
            rows = [(user_id, device_id, at, address) for (user_id, device_id), (at, address) in seen.items()]
            await self._db.write(lambda tx: device_table.seen(tx, rows))

    async def run(self) -> None:
        """Writes when devices were last seen, every ten minutes. One task for the life of the server."""
        while True:
            await trio.sleep(SEEN_EVERY_MS / 1000)
            await self.write_last_seen()

    def _new(self, prefix: str) -> str:
        return f"{prefix}_{urlsafe_b64encode(self._random_bytes(TOKEN_BYTES)).decode('ascii')}"


def token_hash(token: str) -> bytes:
    """What is kept of a token, in the store and in memory."""
    return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=32).digest()
