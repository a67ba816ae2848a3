"""Pushers: where a person's notifications go. Spec: client-server API, "Push Notifications"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from edgeserver.matrix import canonical_json, errors, identifiers
from edgeserver.store import devices as table

if TYPE_CHECKING:
    from edgeserver.store.database import Database, Transaction

MAX_APP_ID: Final = 64
MAX_PUSHKEY: Final = 512
MAX_TEXT: Final = 256
MAX_DATA: Final = 8 * 1024
MAX_PUSHERS: Final = 50
GATEWAY_PATH: Final = "/_matrix/push/v1/notify"


class Pushers:
    """Keeps pushers; a pusher goes with the device that set it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def list(self, user_id: str) -> list[dict[str, Any]]:
        """The user's pushers, as GET /pushers gives them."""
        return await self._db.read(lambda tx: table.pushers(tx, user_id))

    async def set(self, user_id: str, device_id: str | None, pusher: dict[str, Any], *, append: bool) -> None:
        """Creates or changes the pusher with this app_id and pushkey; unless `append`, other users lose theirs.

        Raises M_MISSING_PARAM, M_INVALID_PARAM.
        """
        checked = _checked(pusher)
        app_id, pushkey = checked["app_id"], checked["pushkey"]

        def work(tx: Transaction) -> None:
            if not append:
                table.delete_pushers_of_others(tx, user_id, app_id, pushkey)
            table.set_pusher(tx, user_id, device_id, checked)
            if table.count_pushers(tx, user_id) > MAX_PUSHERS:
                raise errors.InvalidParam(f"You have {MAX_PUSHERS} pushers already.")

        await self._db.write(work)

    async def delete(self, user_id: str, app_id: Any, pushkey: Any) -> None:
        """Deletes the pusher, if it is there."""
        if type(app_id) is not str or type(pushkey) is not str:
            raise errors.MissingParam("app_id and pushkey are required.")
        await self._db.write(lambda tx: table.delete_pusher(tx, user_id, app_id, pushkey))


def _checked(pusher: dict[str, Any]) -> dict[str, Any]:
    """The keys of a pusher that the spec names, each of the right type and size."""
    checked: dict[str, Any] = {}
    limits = {"app_id": MAX_APP_ID, "pushkey": MAX_PUSHKEY}
    for key in ("app_id", "pushkey", "app_display_name", "device_display_name", "lang", "kind"):
        if key not in pusher:
            raise errors.MissingParam(f"{key} is missing.")
        checked[key] = _text(key, pusher[key], limits.get(key, MAX_TEXT))
    if "profile_tag" in pusher:
        checked["profile_tag"] = _text("profile_tag", pusher["profile_tag"], MAX_TEXT)
    if checked["kind"] != "http":
        raise errors.InvalidParam("Only pushers of kind http are served here.")
    data = pusher.get("data")
    if data is None:
        raise errors.MissingParam("data is missing.")
    if type(data) is not dict or len(canonical_json.encode_loose(data)) > MAX_DATA:
        raise errors.InvalidParam("data is not an object, or too large.")
    _check_url(data.get("url"))
    return {**checked, "data": data}


def _check_url(url: Any) -> None:
    if type(url) is not str:
        raise errors.MissingParam("data.url is missing.")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.path == GATEWAY_PATH
    except ValueError:
        fine = False
    if not fine:
        raise errors.InvalidParam(f"data.url must be a URL with the path {GATEWAY_PATH}")


def _text(key: str, value: Any, limit: int) -> str:
    if type(value) is not str or not identifiers.fits(value, limit):
        raise errors.InvalidParam(f"{key} is not a text of at most {limit} bytes.")
    return value
