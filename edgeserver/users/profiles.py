"""Profiles: ours from the store, those of others by asking their server. Spec: client-server API, "Profiles" (v1.16:
any field).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json, errors, identifiers
from edgeserver.store import accounts as account_table
from edgeserver.store import profiles as table
from edgeserver.store import rooms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from edgeserver.store.database import Database, Transaction

    RemoteProfile = Callable[[str, str | None], Awaitable[dict[str, Any]]]

MAX_PROFILE: Final = 64 * 1024
MAX_FIELD_NAME: Final = 255
MAX_DISPLAYNAME: Final = 256
MAX_TEXT: Final = 1000
IN_MEMBER_EVENTS: Final = frozenset({"displayname", "avatar_url"})

_FIELD = re.compile(r"avatar_url|displayname|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_-]*)+")


class Profiles:
    """Reads and changes profiles.

    `remote_profile(user_id, field or None)` asks another user's server and answers with its JSON object, or raises
    `MatrixError`. `on_change(user_id)` is awaited after a display name or an avatar has changed (rooms carry it in
    member events). `make_user(user_id)` asks whoever may make one of our users who is unknown (application services), and tells
    whether there is one now.
    """

    def __init__(
        self,
        db: Database,
        server_name: str,
        *,
        remote_profile: RemoteProfile | None = None,
        on_change: Callable[[str], Awaitable[None]] | None = None,
        make_user: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._db = db
        self._server_name = server_name
        self._remote_profile = remote_profile
        self._on_change = on_change
        self._make_user = make_user

    def is_local(self, user_id: str) -> bool:
        """Whether this is, or could be, one of our users."""
        return identifiers.domain_of(user_id) == self._server_name

    async def get(self, user_id: str) -> dict[str, Any]:
        """The whole profile. Raises M_NOT_FOUND if there is no such user, M_INVALID_PARAM if that is no user id."""
        if not identifiers.is_user_id(user_id):
            raise errors.InvalidParam("That is not a user id.")
        if not self.is_local(user_id):
            return await self._remote(user_id, None)
        return await self.local(user_id)

    async def local(self, user_id: str) -> dict[str, Any]:
        """The profile of one of our users; what the federation API tells others. Raises M_NOT_FOUND."""

        def work(tx: Transaction) -> tuple[dict[str, Any] | None, bool]:
            account = account_table.account(tx, user_id)
            shown = None if account is None or account.deactivated_at is not None else table.profile(tx, user_id)
            return shown, account is not None

        found, is_known = await self._db.read(work)
        if not is_known and self._make_user is not None and await self._make_user(user_id):
            found, _ = await self._db.read(work)
        if found is None:
            raise errors.NotFound("There is no such user.")
        return found

    async def field(self, user_id: str, field: str) -> dict[str, Any]:
        """`{field: value}`. Raises M_NOT_FOUND if there is no such user or field; a missing name or avatar is no
        error.
        """
        if not identifiers.is_user_id(user_id):
            raise errors.InvalidParam("That is not a user id.")
        remote = not self.is_local(user_id)
        found = await self._remote(user_id, field) if remote else await self.local(user_id)
        if field not in found:
            raise errors.NotFound("The profile has no such field.")
        return {field: found[field]}

    async def _remote(self, user_id: str, field: str | None) -> dict[str, Any]:
        if self._remote_profile is None:
            raise errors.NotFound("Profiles of other servers cannot be asked for.")
        return await self._remote_profile(user_id, field)

    async def set_field(self, user_id: str, field: str, value: Any) -> None:
        """Sets a field of one of our users.

        Raises M_INVALID_PARAM, M_KEY_TOO_LARGE or M_PROFILE_TOO_LARGE (more than 64 KiB in all).
        """
        check_field_name(field)
        check_value(field, value)

        def work(tx: Transaction) -> bool:
            profile = table.profile(tx, user_id)
            if field in profile and profile[field] == value and type(profile[field]) is type(value):
                return False
            if len(canonical_json.encode_loose({**profile, field: value})) > MAX_PROFILE:
                raise errors.ProfileTooLarge
            table.set_field(tx, user_id, field, value)
            return True

        if await self._db.write(work):
            await self._tell(user_id, field)

    async def delete_field(self, user_id: str, field: str) -> None:
        """Removes a field of one of our users, if it is there. Raises M_INVALID_PARAM, M_KEY_TOO_LARGE."""
        check_field_name(field)
        if await self._db.write(lambda tx: table.delete_field(tx, user_id, field)):
            await self._tell(user_id, field)

    async def _tell(self, user_id: str, field: str) -> None:
        if field in IN_MEMBER_EVENTS and self._on_change is not None:
            await self._on_change(user_id)

    async def shares_a_room(self, user_id: str, other: str) -> bool:
        """Whether both are joined to some room."""
        return await self._db.read(lambda tx: rooms.share_a_room(tx, user_id, other))

    async def search(self, user_id: str, term: str, limit: int) -> tuple[list[dict[str, str]], bool]:
        """Our users, and those whom the user may see in rooms, with `term` in their id or display name.

        Returns the results of POST /user_directory/search, names that begin with the term first, and whether there
        were more.
        """
        wanted = term.casefold().lstrip("@")

        def work(tx: Transaction) -> list[dict[str, str]]:
            return _matches(table.local_people(tx), wanted) + _matches(table.people_in_sight(tx, user_id), wanted)

        found = {person["user_id"]: person for person in await self._db.read(work) if person["user_id"] != user_id}
        ranked = sorted(found.values(), key=lambda person: _rank(person, wanted))
        return ranked[:limit], len(ranked) > limit


def check_field_name(field: str) -> None:
    """Raises M_KEY_TOO_LARGE beyond 255 bytes, M_INVALID_PARAM outside the grammar of namespaced identifiers."""
    if not identifiers.fits(field, MAX_FIELD_NAME):
        raise errors.KeyTooLarge
    if _FIELD.fullmatch(field) is None:
        raise errors.InvalidParam("Invalid profile key.")


def check_value(field: str, value: Any) -> None:
    """Raises M_INVALID_PARAM for what the field cannot be."""
    if field not in ("displayname", "avatar_url", "m.tz"):
        return
    if type(value) is not str:
        raise errors.InvalidParam(f"{field} must be a string.")
    if len(value) > (MAX_DISPLAYNAME if field == "displayname" else MAX_TEXT):
        raise errors.InvalidParam(f"{field} is too long.")
    if field == "avatar_url" and value and not value.startswith("mxc://"):
        raise errors.InvalidParam("avatar_url must be an mxc:// URI.")


def _matches(people: Iterable[tuple[str, str | None, str | None]], wanted: str) -> list[dict[str, str]]:
    found = []
    for user_id, name, avatar in people:
        displayname = _text(name)
        if wanted in user_id.casefold() or wanted in displayname.casefold():
            person = {"user_id": user_id, "display_name": displayname, "avatar_url": _text(avatar)}
            found.append({key: value for key, value in person.items() if value})
    return found


def _text(encoded: str | None) -> str:
    value = None if encoded is None else canonical_json.decode_exact(encoded)
    return value if type(value) is str else ""


def _rank(person: dict[str, str], wanted: str) -> tuple[bool, str]:
    starts = person["user_id"][1:].casefold().startswith(wanted)
    return (not (starts or person.get("display_name", "").casefold().startswith(wanted)), person["user_id"])
