"""/v2/users, /v3/users and what goes with one account. Synapse's admin API, "User Admin API".

What this server does not have is told as what it is for everybody: no external ids, no user types, nobody shadow-banned.
`POST /v1/users/{user_id}/login` begins a session on a device of its own, which the user can see in their list of devices: an
administrator who acts as somebody does not do so in secret here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.admin.admission import admin_endpoint, backwards, flag, local_user, one_of, page, user_id
from edgeserver.api.body import needed_switch, needed_text, switch, text
from edgeserver.api.responses import JsonResponse
from edgeserver.matrix import errors, identifiers
from edgeserver.store import account_data, admin_users, rooms
from edgeserver.store.admin_users import WantedUsers
from edgeserver.users.accounts import DeviceWish
from edgeserver.users.profiles import check_value

if TYPE_CHECKING:
    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.store.accounts import Account
    from edgeserver.store.admin_users import ListedUser
    from edgeserver.store.database import Database, Transaction
    from edgeserver.users.accounts import Accounts
    from edgeserver.users.emails import Emails
    from edgeserver.users.profiles import Profiles
    from edgeserver.users.pushers import Pushers

ONE: Final = "/v2/users/{user_id}"
ALSO: Final = "/v1/users/{user_id}"
ADMINS_DEVICE: Final = "Session of an administrator"


class UsersSection:
    """The handlers."""

    def __init__(
        self,
        db: Database,
        server_name: str,
        accounts: Accounts,
        profiles: Profiles,
        pushers: Pushers,
        emails: Emails | None,
    ) -> None:
        self._emails = emails
        self._db = db
        self._server_name = server_name
        self._accounts = accounts
        self._profiles = profiles
        self._pushers = pushers

    # Lists

    async def list_v2(self, call: Call) -> dict[str, Any]:
        """GET /v2/users: deactivated accounts only if they are asked for"""
        return await self._list(call, None if flag(call, "deactivated", False) else False)

    async def list_v3(self, call: Call) -> dict[str, Any]:
        """GET /v3/users"""
        return await self._list(call, flag(call, "deactivated"))

    async def _list(self, call: Call, deactivated: bool | None) -> dict[str, Any]:
        start, limit = page(call)
        guests = None if flag(call, "guests", True) else False
        locked = None if flag(call, "locked", False) else False
        wanted = WantedUsers(call.query.get("user_id"), call.query.get("name"), guests, flag(call, "admins"), deactivated, locked)
        order, turned = one_of(call, "order_by", tuple(admin_users.ORDERS), "name"), backwards(call)
        found, total = await self._db.read(lambda tx: admin_users.page(tx, wanted, order, start, limit, backwards=turned))
        answer: dict[str, Any] = {"users": [_listed(one) for one in found], "total": total}
        if start + limit < total:
            answer["next_token"] = str(start + len(found))
        return answer

    # One account

    async def get(self, call: Call) -> dict[str, Any]:
        """GET /v2/users/{user_id}"""
        return await self._whole(local_user(call, self._server_name))

    async def _whole(self, user_id: str) -> dict[str, Any]:
        found = await self._db.read(lambda tx: admin_users.get(tx, user_id))
        if found is None:
            raise errors.NotFound("User not found")
        addresses = [] if self._emails is None else await self._emails.addresses(user_id)
        return {**_whole(found), "threepids": addresses}

    async def put(self, call: Call) -> Response:
        """PUT /v2/users/{user_id}: 201 if that makes the account"""
        user_id = local_user(call, self._server_name, "This endpoint can only be used with local users")
        body = await call.json()
        self._check(call, user_id, body)
        known = await self._accounts.account(user_id)
        if known is None:
            await self._accounts.create_person(
                identifiers.localpart_of(user_id),
                text(body, "password"),
                admin=bool(switch(body, "admin")),
                displayname=text(body, "displayname"),
            )
        elif known.deactivated_at is None:
            await self._modify(user_id, body)
        elif _asks_for_more(body):
            raise errors.Unknown("The account has been ended for good.", status=400)
        else:
            return JsonResponse(await self._whole(user_id))
        await self._set_profile(user_id, body, is_new=known is None)
        if switch(body, "deactivated"):
            await self._accounts.deactivate(user_id)
        return JsonResponse(await self._whole(user_id), status_code=200 if known is not None else 201)

    def _check(self, call: Call, user_id: str, body: dict[str, Any]) -> None:
        """What can be refused before anything has been done."""
        for name in ("admin", "deactivated", "logout_devices", "locked"):
            switch(body, name)
        for name in ("password", "displayname", "avatar_url"):
            if text(body, name) is not None:
                check_value(name, body[name])
        if user_id == call.user_id and switch(body, "admin") is False:
            raise errors.Unknown("You may not demote yourself.", status=400)
        if user_id == call.user_id and switch(body, "locked"):
            raise errors.Unknown("You may not lock yourself.", status=400)
        if text(body, "password") is not None:
            self._accounts.check_strength(body["password"])
        if body.get("threepids") or body.get("external_ids"):
            raise errors.ThreepidDenied("This server takes no third-party or external ids.")
        if body.get("user_type") is not None:
            raise errors.InvalidParam("Invalid user type")

    async def _modify(self, user_id: str, body: dict[str, Any]) -> None:
        password, admin, locked = text(body, "password"), switch(body, "admin"), switch(body, "locked")
        if admin is not None:
            await self._accounts.set_admin(user_id, admin)
        if locked is not None:
            await self._accounts.set_locked(user_id, locked)
        if password is not None:
            await self._accounts.set_password(user_id, password, log_out=switch(body, "logout_devices") is not False)

    async def _set_profile(self, user_id: str, body: dict[str, Any], *, is_new: bool) -> None:
        for name in ("displayname", "avatar_url"):
            value = text(body, name)
            if value:
                await self._profiles.set_field(user_id, name, value)
            elif value == "" and not is_new:
                await self._profiles.delete_field(user_id, name)

    async def deactivate(self, call: Call) -> dict[str, Any]:
        """POST /v1/deactivate/{user_id}"""
        user_id = local_user(call, self._server_name, "Can only deactivate local users")
        body = await call.json(optional=True)
        erase = bool(switch(body, "erase"))
        await self._must_exist(user_id)
        await self._accounts.deactivate(user_id, erase=erase)
        return {"id_server_unbind_result": "success"}

    async def suspend(self, call: Call) -> dict[str, Any]:
        """PUT /v1/suspend/{user_id}"""
        user_id = local_user(call, self._server_name, "Can only suspend local users")
        on = needed_switch(await call.json(), "suspend")
        if user_id == call.user_id:
            raise errors.Unknown("You may not suspend yourself.", status=400)
        await self._accounts.set_suspended(user_id, on)
        return {f"user_{user_id}_suspended": on}

    async def reset_password(self, call: Call) -> dict[str, Any]:
        """POST /v1/reset_password/{user_id}"""
        user_id = local_user(call, self._server_name, "Can only change the passwords of local users")
        body = await call.json()
        log_out = switch(body, "logout_devices") is not False
        await self._accounts.set_password(user_id, needed_text(body, "new_password"), log_out=log_out)
        return {}

    async def is_admin(self, call: Call) -> dict[str, Any]:
        """GET /v1/users/{user_id}/admin"""
        user_id = local_user(call, self._server_name, "Only local users can be admins of this homeserver")
        return {"admin": (await self._must_exist(user_id)).admin}

    async def set_admin(self, call: Call) -> dict[str, Any]:
        """PUT /v1/users/{user_id}/admin"""
        user_id = local_user(call, self._server_name, "Only local users can be admins of this homeserver")
        admin = needed_switch(await call.json(), "admin")
        if user_id == call.user_id and not admin:
            raise errors.Unknown("You may not demote yourself.", status=400)
        await self._accounts.set_admin(user_id, admin)
        return {}

    async def log_in(self, call: Call) -> dict[str, Any]:
        """POST /v1/users/{user_id}/login"""
        user_id = local_user(call, self._server_name, "Only local users can be logged in as")
        until = (await call.json(optional=True)).get("valid_until_ms")
        if until is not None:
            raise errors.InvalidParam("valid_until_ms is not served here: log the session out instead.")
        if user_id == call.user_id:
            raise errors.Unknown("Cannot use admin API to login as self", status=400)
        if (await self._must_exist(user_id)).locked:  # M_USER_LOCKED would tell the administrator's client that theirs is
            raise errors.Unknown("The account is locked: unlock it first.", status=400)
        session = await self._accounts.log_in(user_id, DeviceWish(None, ADMINS_DEVICE))
        return {"access_token": session.tokens.access_token}

    async def _must_exist(self, user_id: str) -> Account:
        account = await self._accounts.account(user_id)
        if account is None:
            raise errors.NotFound("User not found")
        return account

    # What belongs to it

    async def joined_rooms(self, call: Call) -> dict[str, Any]:
        """GET /v1/users/{user_id}/joined_rooms: of a user of another server, as far as this one knows"""
        found = await self._memberships(call)
        joined = sorted(room_id for room_id, membership in found.items() if membership == "join")
        return {"joined_rooms": joined, "total": len(joined)}

    async def memberships(self, call: Call) -> dict[str, Any]:
        """GET /v1/users/{user_id}/memberships"""
        return {"memberships": await self._memberships(call)}

    async def _memberships(self, call: Call) -> dict[str, str]:
        whose = user_id(call)
        found = await self._db.read(lambda tx: rooms.memberships_of(tx, whose))
        if not found and identifiers.domain_of(whose) == self._server_name:
            await self._must_exist(whose)
        return {one.room_id: one.membership for one in found}

    async def account_data(self, call: Call) -> dict[str, Any]:
        """GET /v1/users/{user_id}/accountdata"""
        whose = local_user(call, self._server_name)
        await self._must_exist(whose)

        def read(tx: Transaction) -> dict[str, Any]:
            told: dict[str, Any] = {"global": {}, "rooms": {}}
            for item in account_data.changed(tx, whose, 0, tx.position):
                where = told["global"] if item.room_id == "" else told["rooms"].setdefault(item.room_id, {})
                where[item.type] = item.content
            return told

        return {"account_data": await self._db.read(read)}

    async def pushers(self, call: Call) -> dict[str, Any]:
        """GET /v1/users/{user_id}/pushers"""
        whose = local_user(call, self._server_name)
        await self._must_exist(whose)
        found = await self._pushers.list(whose)
        return {"pushers": found, "total": len(found)}


def _asks_for_more(body: dict[str, Any]) -> bool:
    """Whether an account that has ended would have to be something else; tools that end it once more are told that it has."""
    wished = any(text(body, name) for name in ("password", "displayname", "avatar_url"))
    return wished or bool(switch(body, "admin") or switch(body, "locked")) or switch(body, "deactivated") is False


def _listed(user: ListedUser) -> dict[str, Any]:
    """One of the users of a list."""
    return {
        "name": user.user_id,
        "is_guest": user.guest,
        "admin": user.admin,
        "user_type": None,
        "deactivated": user.deactivated,
        "erased": user.erased,
        "shadow_banned": False,
        "displayname": user.displayname,
        "avatar_url": user.avatar_url,
        "creation_ts": user.created_at,
        "last_seen_ts": user.last_seen_at,
        "locked": user.locked,
    }


def _whole(user: ListedUser) -> dict[str, Any]:
    """A user by itself, whose `creation_ts` Synapse tells in seconds."""
    return {
        **_listed(user),
        "creation_ts": user.created_at // 1000,
        "appservice_id": user.appservice_id,
        "consent_server_notice_sent": None,
        "consent_version": None,
        "consent_ts": None,
        "external_ids": [],
        "suspended": user.suspended,
    }


def routes(
    db: Database, server_name: str, accounts: Accounts, profiles: Profiles, pushers: Pushers, emails: Emails | None = None
) -> list[Route]:
    """`emails`: where this box keeps email addresses."""
    section = UsersSection(db, server_name, accounts, profiles, pushers, emails)
    return [
        *admin_endpoint("GET", "/v2/users", section.list_v2),
        *admin_endpoint("GET", "/v3/users", section.list_v3),
        *admin_endpoint("GET", ONE, section.get),
        *admin_endpoint("PUT", ONE, section.put),
        *admin_endpoint("POST", "/v1/deactivate/{user_id}", section.deactivate),
        *admin_endpoint("PUT", "/v1/suspend/{user_id}", section.suspend),
        *admin_endpoint("POST", "/v1/reset_password/{user_id}", section.reset_password),
        *admin_endpoint("GET", f"{ALSO}/admin", section.is_admin),
        *admin_endpoint("PUT", f"{ALSO}/admin", section.set_admin),
        *admin_endpoint("POST", f"{ALSO}/login", section.log_in),
        *admin_endpoint("GET", f"{ALSO}/joined_rooms", section.joined_rooms),
        *admin_endpoint("GET", f"{ALSO}/memberships", section.memberships),
        *admin_endpoint("GET", f"{ALSO}/accountdata", section.account_data),
        *admin_endpoint("GET", f"{ALSO}/pushers", section.pushers),
    ]
