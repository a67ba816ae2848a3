"""Pushers: where a person's notifications go. Spec: client-server API, "Push Notifications"; MSC3881 (any device of a user may
switch a pusher off and on). What is to be told and how it gets there is the follower's matter (`edgeserver.push`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from edgeserver.matrix import canonical_json, errors, identifiers
from edgeserver.store import pushers as table
from edgeserver.store.pushers import Pusher, PusherKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.store.database import Database, Transaction

MAX_APP_ID: Final = 64
MAX_PUSHKEY: Final = 512
MAX_TEXT: Final = 256
MAX_DATA: Final = 8 * 1024
MAX_PUSHERS: Final = 50
GATEWAY_PATH: Final = "/_matrix/push/v1/notify"
ENABLED: Final = "org.matrix.msc3881.enabled"
DEVICE_ID: Final = "org.matrix.msc3881.device_id"


class Pushers:
    """Keeps pushers; a pusher goes with the device that set it first.

    `changed(key)` is called after a commit that has set or deleted a pusher.
    """

    def __init__(self, db: Database, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._now_ms = now_ms
        self.changed: Callable[[PusherKey], None] = lambda key: None

    async def list(self, user_id: str) -> list[dict[str, Any]]:
        """The user's pushers, as GET /pushers gives them."""
        found = await self._db.read(lambda tx: table.of_user(tx, user_id))
        return [{**one.content, ENABLED: one.enabled, DEVICE_ID: one.device_id} for one in found]

    async def set(self, user_id: str, device_id: str | None, pusher: dict[str, Any], *, append: bool) -> None:
        """Creates or changes the pusher with this app_id and pushkey; unless `append`, other users lose theirs.

        It is told of what happens from now on: of what happened before, or while it was switched off, it hears nothing.
        Raises M_MISSING_PARAM, M_INVALID_PARAM.
        """
        checked = _checked(pusher)
        enabled = pusher.get(ENABLED, True)
        if type(enabled) is not bool:
            raise errors.InvalidParam(f"{ENABLED} is not a boolean.")
        key = PusherKey(user_id, checked["app_id"], checked["pushkey"])
        now = self._now_ms() // 1000

        def work(tx: Transaction) -> None:
            if not append:
                table.delete_of_others(tx, key)
            held = table.get(tx, key)
            goes_on = held is not None and held.enabled
            position = held.position if held is not None and goes_on else tx.position
            table.put(tx, Pusher(key, device_id if held is None else held.device_id, checked, now, enabled, position))
            if held is None and table.count(tx, user_id) > MAX_PUSHERS:
                raise errors.InvalidParam(f"You have {MAX_PUSHERS} pushers already.")
            tx.on_commit(lambda: self.changed(key))

        await self._db.write(work)

    async def delete(self, user_id: str, app_id: Any, pushkey: Any) -> None:
        """Deletes the pusher, if it is there."""
        if type(app_id) is not str or type(pushkey) is not str:
            raise errors.MissingParam("app_id and pushkey are required.")
        key = PusherKey(user_id, app_id, pushkey)

        def work(tx: Transaction) -> None:
            table.delete(tx, key)
            tx.on_commit(lambda: self.changed(key))

        await self._db.write(work)


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
        fine = fine and url.isascii() and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise errors.InvalidParam(f"data.url must be a URL with the path {GATEWAY_PATH}")


def _text(key: str, value: Any, limit: int) -> str:
    if type(value) is not str or not identifiers.fits(value, limit):
        raise errors.InvalidParam(f"{key} is not a text of at most {limit} bytes.")
    return value
