"""GET and PUT /admin/lock/{userId} and /admin/suspend/{userId}; GET /admin/whois/{userId}.

Spec: client-server API, "Server Administration". Who asks is looked at before whom it is about, so that nobody learns who exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.body import needed_switch
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors, identifiers

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.store.accounts import Account
    from edgeserver.users.accounts import Accounts
    from edgeserver.users.devices import Devices


class ModerationSection:
    """The handlers."""

    def __init__(self, accounts: Accounts, devices: Devices, server_name: str) -> None:
        self._accounts = accounts
        self._devices = devices
        self._server_name = server_name

    async def is_locked(self, call: Call) -> dict[str, Any]:
        """GET /admin/lock/{userId}"""
        return {"locked": (await self._moderated(call)).locked}

    async def lock(self, call: Call) -> dict[str, Any]:
        """PUT /admin/lock/{userId}"""
        account = await self._moderated(call)
        locked = needed_switch(await call.json(), "locked")
        await self._accounts.set_locked(account.user_id, locked)
        return {"locked": locked}

    async def is_suspended(self, call: Call) -> dict[str, Any]:
        """GET /admin/suspend/{userId}"""
        return {"suspended": (await self._moderated(call)).suspended}

    async def suspend(self, call: Call) -> dict[str, Any]:
        """PUT /admin/suspend/{userId}"""
        account = await self._moderated(call)
        suspended = needed_switch(await call.json(), "suspended")
        await self._accounts.set_suspended(account.user_id, suspended)
        return {"suspended": suspended}

    async def _moderated(self, call: Call) -> Account:
        """The active account of the path. Raises M_FORBIDDEN (no administrator asks, or it is about one), M_INVALID_PARAM,
        M_NOT_FOUND.
        """
        if not call.requester.is_admin:
            raise errors.Forbidden("Only an administrator may do that.")
        account = await self._account(call.path["userId"])
        if account.deactivated_at is not None:
            raise errors.NotFound("There is no such user.")
        if account.admin:
            raise errors.Forbidden("That user is an administrator.")
        return account

    async def _account(self, user_id: str) -> Account:
        if not identifiers.is_user_id(user_id) or identifiers.domain_of(user_id) != self._server_name:
            raise errors.InvalidParam("That is not a user of this server.")
        account = await self._accounts.account(user_id)
        if account is None:
            raise errors.NotFound("There is no such user.")
        return account

    async def whois(self, call: Call) -> dict[str, Any]:
        """GET /admin/whois/{userId}"""
        user_id = call.path["userId"]
        if user_id != call.user_id:
            if not call.requester.is_admin:
                raise errors.Forbidden("Only an administrator may ask about others.")
            await self._account(user_id)
        devices = await self._devices.list(user_id)
        sessions = {device["device_id"]: {"sessions": [{"connections": [_connection(device)]}]} for device in devices}
        return {"user_id": user_id, "devices": sessions}


def _connection(device: dict[str, Any]) -> dict[str, Any]:
    seen = {"ip": device.get("last_seen_ip"), "last_seen": device.get("last_seen_ts")}
    return {key: value for key, value in seen.items() if value is not None}


def routes(accounts: Accounts, devices: Devices, server_name: str) -> list[Route]:
    handlers = ModerationSection(accounts, devices, server_name)
    base = "/_matrix/client/v1/admin"
    return [
        *endpoint("GET", f"{base}/lock/{{userId}}", handlers.is_locked),
        *endpoint("PUT", f"{base}/lock/{{userId}}", handlers.lock, rate="account", max_body=4096),
        *endpoint("GET", f"{base}/suspend/{{userId}}", handlers.is_suspended),
        *endpoint("PUT", f"{base}/suspend/{{userId}}", handlers.suspend, rate="account", max_body=4096),
        *endpoint("GET", "/_matrix/client/v3/admin/whois/{userId}", handlers.whois),
    ]
