"""Accounts: registering, logging in and out, passwords, deactivation. Used by the client API and by the command line
alike.

Spec: client-server API, "Account registration and management", "Legacy login".
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors, identifiers
from edgeserver.store import accounts as table
from edgeserver.store import departures
from edgeserver.store import devices as device_table
from edgeserver.store import profiles as profile_table
from edgeserver.store import registration_tokens as token_table
from edgeserver.users.devices import check_name
from edgeserver.users.passwords import MAX_LENGTH
from edgeserver.users.profiles import check_value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from edgeserver.store.accounts import Account
    from edgeserver.store.database import Database, Transaction
    from edgeserver.users.devices import Devices
    from edgeserver.users.passwords import Passwords
    from edgeserver.users.tokens import Issued, Tokens

    Claim = Callable[[Transaction, str], None]

DEVICE_ID_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_DEVICE_ID: Final = 255
MIN_PASSWORD: Final = 8


@dataclass(frozen=True, slots=True)
class DeviceWish:
    """What a client asks for its new session; without a device id it gets a fresh one."""

    device_id: str | None = None
    display_name: str | None = None
    refreshable: bool = False

    def check(self) -> None:
        """Raises M_INVALID_PARAM for an id or a name that is too long or no text."""
        check_name(self.display_name)
        if self.device_id is not None and not (self.device_id and identifiers.fits(self.device_id, MAX_DEVICE_ID)):
            raise errors.InvalidParam(f"A device id has 1 to {MAX_DEVICE_ID} bytes.")


@dataclass(frozen=True, slots=True)
class Session:
    """A session that has just begun."""

    user_id: str
    device_id: str
    tokens: Issued

    def as_json(self) -> dict[str, Any]:
        """The body of a response to a log-in or a registration."""
        return {"user_id": self.user_id, "device_id": self.device_id, **self.tokens.as_json()}


class Accounts:
    """The accounts of this server. `on_deactivate` is told after an account is gone: its rooms are left from then on
    (`rooms.departing`). `registration_tokens` are those of the configuration, good for any number of people beside those in the store.
    """

    def __init__(
        self,
        db: Database,
        server_name: str,
        now_ms: Callable[[], int],
        *,
        tokens: Tokens,
        devices: Devices,
        passwords: Passwords,
        min_password: int = MIN_PASSWORD,
        on_deactivate: Callable[[str], Awaitable[None]] | None = None,
        registration_tokens: Collection[str] = (),
    ) -> None:
        self._db = db
        self._server_name = server_name
        self._now_ms = now_ms
        self._tokens = tokens
        self._devices = devices
        self._passwords = passwords
        self._min_password = min_password
        self._on_deactivate = on_deactivate
        self._configured_tokens = frozenset(registration_tokens)

    def user_id(self, name: str) -> str:
        """The id of one of our users from a local part or a whole id, in lower case.

        Raises M_INVALID_USERNAME outside the grammar, M_INVALID_PARAM for a user of another server.
        """
        name = name.lower()
        if name.startswith("@"):
            name, _, domain = name[1:].partition(":")
            if domain != self._server_name.lower():
                raise errors.InvalidParam("That is not a user of this server.")
        try:
            return identifiers.user_id(name, self._server_name)
        except ValueError:
            raise errors.InvalidUsername("A user name consists of a-z, 0-9 and ._=-/+") from None

    async def check_available(self, name: str) -> str:
        """The user id of a free name. Raises M_USER_IN_USE, and what `user_id` raises."""
        user_id = self.user_id(name)
        if await self._db.read(lambda tx: table.exists(tx, user_id)):
            raise errors.UserInUse
        return user_id

    async def account(self, user_id: str) -> Account | None:
        """The account, deactivated ones included; None for a user of another server."""
        return await self._db.read(lambda tx: table.account(tx, user_id))

    async def people(self) -> list[Account]:
        """All accounts, deactivated ones included."""
        return await self._db.read(table.all_accounts)

    async def create_person(
        self,
        localpart: str,
        password: str | None,
        *,
        admin: bool = False,
        displayname: str | None = None,
        appservice_id: str | None = None,
        registration_token: str | None = None,
        device: DeviceWish | None = None,
        claim: Claim | None = None,
    ) -> tuple[str, Session | None]:
        """Creates an account, and a session with `device`. One use of `registration_token` is taken if it is given; `claim(tx,
        user_id)` is called in the transaction (an email address comes with the account) and may refuse.

        Raises M_USER_IN_USE, M_INVALID_USERNAME, M_WEAK_PASSWORD, M_INVALID_PARAM for a display name that is too long, and M_FORBIDDEN
        for a registration token that is used up.
        """
        user_id = await self.check_available(localpart)
        if displayname is not None:
            check_value("displayname", displayname)
        if device is not None:
            device.check()
        hashed = None if password is None else await self._hash(password)
        new = table.Account(user_id, hashed, admin, appservice_id, self._now_ms(), None)

        def work(tx: Transaction) -> Session | None:
            if table.exists(tx, user_id):
                raise errors.UserInUse
            self._use_registration_token(tx, registration_token)
            table.insert(tx, new)
            if claim is not None:
                claim(tx, user_id)
            if displayname:
                profile_table.set_field(tx, user_id, "displayname", displayname)
            return None if device is None else self._begin(tx, user_id, device)

        return user_id, await self._db.write(work)

    async def create_guest(self, displayname: str | None, *, at_most: int) -> Session:
        """Creates a guest's account with its one session; `displayname` is the device's.

        Raises M_GUEST_ACCESS_FORBIDDEN if there are `at_most` guests already, M_INVALID_PARAM for a bad name.
        """
        device = DeviceWish(None, displayname)
        device.check()
        user_id = self.user_id(await self.create_random_name())

        def work(tx: Transaction) -> Session:
            if table.count_guests(tx) >= at_most:
                raise errors.GuestForbidden("This server takes no more guests.")
            table.insert(tx, table.Account(user_id, None, False, None, self._now_ms(), None, guest=True))
            return self._begin(tx, user_id, device)

        return await self._db.write(work)

    async def upgrade_guest(
        self,
        user_id: str,
        password: str,
        *,
        registration_token: str | None = None,
        device: DeviceWish | None = None,
        claim: Claim | None = None,
    ) -> Session | None:
        """Makes a guest's account a whole one, with its rooms and its session, and begins a session with `device`.

        Raises M_FORBIDDEN if that is no guest (any more) or the registration token is used up, M_WEAK_PASSWORD.
        """
        if device is not None:
            device.check()
        hashed = await self._hash(password)

        def work(tx: Transaction) -> Session | None:
            account = table.account(tx, user_id)
            if account is None or not account.guest or account.deactivated_at is not None:
                raise errors.Forbidden("That is no guest.")
            self._use_registration_token(tx, registration_token)
            table.end_guest(tx, user_id, hashed)
            if claim is not None:
                claim(tx, user_id)
            tx.on_commit(lambda: self._tokens.forget(user_id))
            return None if device is None else self._begin(tx, user_id, device)

        return await self._db.write(work)

    async def create_random_name(self) -> str:
        """A local part that is free, for whoever registers without a name."""
        while True:
            name = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(10))
            user_id = identifiers.user_id(name, self._server_name)
            if not await self._db.read(lambda tx, user_id=user_id: table.exists(tx, user_id)):  # type: ignore[misc]
                return name

    async def check_password(self, user_id: str, password: str) -> bool:
        """Whether an active account has this password. Takes as long if there is no such account."""
        account = await self.account(user_id)
        return await self._passwords.verify(None if account is None else account.password, password)

    async def log_in(self, user_id: str, device: DeviceWish) -> Session:
        """Begins a session for somebody who has been authenticated. A known device id's older session ends.

        Raises M_FORBIDDEN if there is no such account, M_USER_DEACTIVATED if it is no longer active, M_USER_LOCKED.
        """
        device.check()

        def work(tx: Transaction) -> Session:
            account = table.account(tx, user_id)
            if account is None:
                raise errors.Forbidden("There is no such account.")
            if account.deactivated_at is not None:
                raise errors.UserDeactivated
            if account.locked:
                raise errors.UserLocked
            return self._begin(tx, user_id, device)

        return await self._db.write(work)

    def _begin(self, tx: Transaction, user_id: str, wish: DeviceWish) -> Session:
        device_id = wish.device_id or "".join(secrets.choice(DEVICE_ID_LETTERS) for _ in range(10))
        table.drop_tokens(tx, user_id, device_id)
        device_table.ensure(tx, user_id, device_id, wish.display_name)
        tx.on_commit(lambda: self._tokens.forget(user_id, [device_id]))
        return Session(user_id, device_id, self._tokens.issue(tx, user_id, device_id, refreshable=wish.refreshable))

    async def set_password(
        self, user_id: str, password: str, *, log_out: bool = True, but: str | None = None, claim: Claim | None = None
    ) -> None:
        """Changes a password and, with `log_out`, deletes all devices except `but`. `claim`: see `create_person`.

        Raises M_WEAK_PASSWORD, and M_NOT_FOUND if there is no such active account.
        """
        hashed = await self._hash(password)

        def work(tx: Transaction) -> None:
            _must_be_active(tx, user_id)
            if claim is not None:
                claim(tx, user_id)
            table.set_password(tx, user_id, hashed)
            if log_out:
                self._devices.delete_all_in(tx, user_id, but=but)

        await self._db.write(work)

    async def set_admin(self, user_id: str, admin: bool) -> None:
        """Raises M_NOT_FOUND if there is no such active account, 400 M_UNKNOWN for a guest who is to be an administrator."""

        def change(tx: Transaction) -> None:
            account = table.account(tx, user_id)
            if admin and account is not None and account.guest:
                raise errors.Unknown("A guest cannot administer the server: let them register first.", status=400)
            table.set_admin(tx, user_id, admin)

        await self._set(user_id, change)

    async def set_locked(self, user_id: str, locked: bool) -> None:
        """Locks or unlocks an account; its sessions stay. Raises M_NOT_FOUND if there is no such active account."""
        await self._set(user_id, lambda tx: table.set_locked(tx, user_id, locked))

    async def set_suspended(self, user_id: str, suspended: bool) -> None:
        """Suspends an account, or ends that. Raises M_NOT_FOUND if there is no such active account."""
        await self._set(user_id, lambda tx: table.set_suspended(tx, user_id, suspended))

    async def _set(self, user_id: str, change: Callable[[Transaction], None]) -> None:
        def work(tx: Transaction) -> None:
            _must_be_active(tx, user_id)
            change(tx)
            tx.on_commit(lambda: self._tokens.forget(user_id))

        await self._db.write(work)

    async def deactivate(self, user_id: str, *, erase: bool = False) -> None:
        """Ends an account for good: no session, no password, no profile, no data; the name stays taken. That it is to leave its
        rooms is stored with it. `erase`: who comes into a room later is given its events redacted.

        Raises M_NOT_FOUND if there is no such account.
        """

        def work(tx: Transaction) -> None:
            if not table.exists(tx, user_id):
                raise _unknown(user_id)
            self._devices.delete_all_in(tx, user_id)
            table.deactivate(tx, user_id, self._now_ms())
            departures.begin(tx, user_id)
            if erase:
                departures.erase(tx, user_id, tx.stream())
            tx.on_commit(lambda: self._tokens.forget(user_id))

        await self._db.write(work)
        if self._on_deactivate is not None:
            await self._on_deactivate(user_id)

    async def registration_token_is_valid(self, token: str) -> bool:
        """Whether somebody may register with it now."""
        if token in self._configured_tokens:
            return True
        return await self._db.read(lambda tx: token_table.is_valid(tx, token, self._now_ms()))

    def _use_registration_token(self, tx: Transaction, token: str | None) -> None:
        """Takes one use of the token by which somebody registers. Raises M_FORBIDDEN if there is none left."""
        if token is None or token in self._configured_tokens or token_table.use(tx, token, self._now_ms()):
            return
        raise errors.Forbidden("The registration token has been used up.")

    def check_strength(self, password: str) -> None:
        """Raises M_WEAK_PASSWORD for a password that is too short, or longer than anybody needs."""
        if len(password) < self._min_password:
            raise errors.WeakPassword(f"A password needs at least {self._min_password} characters.")
        if len(password) > MAX_LENGTH:
            raise errors.WeakPassword(f"A password has at most {MAX_LENGTH} characters.")

    async def _hash(self, password: str) -> str:
        self.check_strength(password)
        return await self._passwords.hash(password)


def _must_be_active(tx: Transaction, user_id: str) -> None:
    """Raises M_NOT_FOUND."""
    account = table.account(tx, user_id)
    if account is None:
        raise _unknown(user_id)
    if account.deactivated_at is not None:
        raise errors.NotFound(f"The account {user_id} has been deactivated.")


def _unknown(user_id: str) -> errors.NotFound:
    return errors.NotFound(f"There is no account {user_id}.")
