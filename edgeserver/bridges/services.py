"""The application services that are registered here: their tokens, their users, what is theirs alone.

Spec: application service API, "Registration", "Identity assertion", "Server admin style permissions"; MSC4326 for devices.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from edgeserver.bridges.registration import any_takes
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import domain_of, is_user_id, user_id
from edgeserver.store import accounts as account_table
from edgeserver.store import bridges
from edgeserver.store import devices as device_table
from edgeserver.users.requester import Requester

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from edgeserver.bridges.registration import Registration
    from edgeserver.store.database import Database, Transaction

REMEMBERED: Final = 8192
"""User ids of which it is remembered whether they are in a service's namespaces."""


class Service:
    """One application service. `sender` is the user id of its own account."""

    def __init__(self, registration: Registration, server_name: str) -> None:
        self.registration = registration
        self.id = registration.id
        self.sender = user_id(registration.sender_localpart, server_name)
        self._server_name = server_name
        self.has_user: Callable[[str], bool] = lru_cache(REMEMBERED)(self._has_user)
        self.alone_has_user: Callable[[str], bool] = lru_cache(REMEMBERED)(self._alone_has_user)

    def _has_user(self, user: str) -> bool:
        """Whether that is its sender or a user of this server in its namespaces."""
        if user == self.sender:
            return True
        return domain_of(user) == self._server_name and any_takes(self.registration.users, user)

    def has_alias(self, alias: str) -> bool:
        return any_takes(self.registration.aliases, alias)

    def has_room(self, room_id: str) -> bool:
        return any_takes(self.registration.rooms, room_id)

    def _alone_has_user(self, user: str) -> bool:
        """Whether nobody else may have this user id."""
        return user == self.sender or (self.has_user(user) and any_takes(self.registration.users, user, exclusive=True))

    def alone_has_alias(self, alias: str) -> bool:
        return domain_of(alias) == self._server_name and any_takes(self.registration.aliases, alias, exclusive=True)


class Services:
    """All of them: the `AppserviceTable` of `api/authentication.py`. `heard(id)` is told of each request with a service's token."""

    def __init__(self, registrations: Iterable[Registration], server_name: str, db: Database, now_ms: Callable[[], int]) -> None:
        self._services = {one.id: Service(one, server_name) for one in registrations}
        self._tokens = {_digest(one.registration.as_token): one for one in self._services.values()}
        self._db = db
        self._now_ms = now_ms
        self.heard: Callable[[str], None] = lambda service_id: None

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    def get(self, service_id: str) -> Service | None:
        return self._services.get(service_id)

    async def ensure_senders(self) -> None:
        """Makes the account of each service's sender that is not there."""

        def work(tx: Transaction) -> None:
            for one in self:
                if not account_table.exists(tx, one.sender):
                    account_table.insert(tx, account_table.Account(one.sender, None, False, one.id, self._now_ms(), None))

        if not await self._db.read(lambda tx: all(account_table.exists(tx, one.sender) for one in self)):
            await self._db.write(work)

    async def requester(
        self, token: str, as_user: str | None, device_id: str | None = None, *, registering: bool = False
    ) -> Requester | None:
        """See `api.authentication.AppserviceTable`."""
        service = self._tokens.get(_digest(token))
        if service is None:
            return None
        self.heard(service.id)
        user = service.sender if as_user is None else as_user
        if not (is_user_id(user) and service.has_user(user)):
            raise errors.Forbidden("That user is not in the namespaces of the application service.")
        if not registering and (user != service.sender or device_id is not None):
            await self._db.read(lambda tx: _check(tx, user, device_id))
        is_limited = service.registration.rate_limited and user != service.sender
        return Requester(user, device_id, appservice_id=service.id, is_rate_limited=is_limited)

    def exclusive_to(self, user: str) -> str | None:
        """The id of the service that alone may have this user id."""
        return next((one.id for one in self if one.alone_has_user(user)), None)

    def alias_exclusive_to(self, alias: str) -> str | None:
        """The id of the service that alone may make this alias."""
        return next((one.id for one in self if one.alone_has_alias(alias)), None)

    def has_alias(self, appservice_id: str, alias: str) -> bool:
        """Whether the alias is in one of that service's namespaces."""
        service = self.get(appservice_id)
        return service is not None and service.has_alias(alias)

    def may_have(self, appservice_id: str, user: str) -> bool:
        """Whether the user id is that service's to register: in its namespaces, and in nobody else's exclusive ones."""
        service = self.get(appservice_id)
        return service is not None and service.has_user(user) and self.exclusive_to(user) in (None, appservice_id)

    def readers(self, tx: Transaction, users: Sequence[str]) -> list[str]:
        """The users without those who stand for nobody that reads here: ghosts that are logged in nowhere."""
        ghosts = [user for user in users if self.exclusive_to(user) is not None]
        if not ghosts:
            return list(users)
        hidden = set(ghosts) - bridges.with_sessions(tx, ghosts)
        return [user for user in users if user not in hidden]


def _check(tx: Transaction, user: str, device_id: str | None) -> None:
    """Whether the service may act as the user, from the device. Raises M_FORBIDDEN, M_USER_DEACTIVATED, M_UNKNOWN_DEVICE."""
    account = account_table.account(tx, user)
    if account is None:
        raise errors.Forbidden("The application service has not registered this user.")
    if account.deactivated_at is not None:
        raise errors.UserDeactivated
    if device_id is not None and device_table.device(tx, user, device_id) is None:
        raise errors.UnknownDevice


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=32).digest()
