"""Account data, tags and push rules: what a person's clients keep on the server for each other.

Spec: client-server API, "Client Config", "Room Tagging", "Push Rules: API". Each change takes a position of the stream
and wakes the person's other clients; a change that changes nothing does neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors, identifiers
from edgeserver.store import account_data as table

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.matrix.push_defaults import Ruleset
    from edgeserver.store.database import Database, Transaction
    from edgeserver.wakeups import Wakeups

MAX_TYPE: Final = 255
MAX_TAGS: Final = 100
TAGS: Final = "m.tag"
SERVER_CONTROLLED: Final = frozenset({"m.fully_read", table.PUSH_RULES})


class AccountData:
    """Reads and writes account data. Room id '' stands for none."""

    def __init__(self, db: Database, wakeups: Wakeups) -> None:
        self._db = db
        self._wakeups = wakeups

    async def get(self, user_id: str, room_id: str, kind: str) -> dict[str, Any]:
        """The content. Raises M_NOT_FOUND, M_INVALID_PARAM for a room id that is none."""
        _check_room(room_id)
        found = await self._db.read(lambda tx: table.get(tx, user_id, room_id, kind))
        if found is None:
            raise errors.NotFound("Account data not found.")
        return found

    async def put(self, user_id: str, room_id: str, kind: str, content: dict[str, Any]) -> None:
        """Sets the content.

        Raises 405 M_BAD_JSON for a type that the server controls, M_INVALID_PARAM for a room id or a type that is none.
        """
        _check_room(room_id)
        if kind in SERVER_CONTROLLED:
            raise errors.MatrixError(405, "M_BAD_JSON", f"Cannot set {kind} through this API.")
        if not identifiers.fits(kind, MAX_TYPE):
            raise errors.InvalidParam(f"A type has at most {MAX_TYPE} bytes.")
        await self._change(user_id, lambda tx: table.put(tx, user_id, room_id, kind, content))

    async def _change(self, user_id: str, work: Callable[[Transaction], bool]) -> None:
        def change(tx: Transaction) -> None:
            if work(tx):
                tx.on_commit(lambda: self._wakeups.notify([user_id]))

        await self._db.write(change)

    async def tags(self, user_id: str, room_id: str) -> dict[str, Any]:
        """Tag → {order?}. Raises M_INVALID_PARAM for a room id that is none."""
        _check_room(room_id)
        return _tags(await self._db.read(lambda tx: table.get(tx, user_id, room_id, TAGS)))

    async def set_tag(self, user_id: str, room_id: str, tag: str, value: dict[str, Any]) -> None:
        """Sets a tag. Raises M_INVALID_PARAM for an order that is no number, a tag too long or too many of them."""
        _check_room(room_id)
        order = value.get("order")
        if order is not None and (isinstance(order, bool) or not isinstance(order, int | float)):
            raise errors.InvalidParam("The order of a tag is a number.")
        if not identifiers.fits(tag, MAX_TYPE):
            raise errors.InvalidParam(f"A tag has at most {MAX_TYPE} bytes.")

        def work(tx: Transaction) -> bool:
            tags = {**_tags(table.get(tx, user_id, room_id, TAGS)), tag: value}
            if len(tags) > MAX_TAGS:
                raise errors.InvalidParam(f"A room has at most {MAX_TAGS} tags.")
            return table.put(tx, user_id, room_id, TAGS, {"tags": tags})

        await self._change(user_id, work)

    async def delete_tag(self, user_id: str, room_id: str, tag: str) -> None:
        """Takes a tag away, if it is there."""
        _check_room(room_id)

        def work(tx: Transaction) -> bool:
            tags = _tags(table.get(tx, user_id, room_id, TAGS))
            if tag not in tags:
                return False
            return table.put(tx, user_id, room_id, TAGS, {"tags": {k: v for k, v in tags.items() if k != tag}})

        await self._change(user_id, work)

    async def ruleset(self, user_id: str) -> Ruleset:
        """The user's push rules."""
        return await self._db.read(lambda tx: table.ruleset(tx, user_id))

    async def change_ruleset(self, user_id: str, change: Callable[[Ruleset], Ruleset]) -> None:
        """Applies one of the functions of `matrix.push_rules` to the user's push rules; what it raises is raised."""
        await self._change(user_id, lambda tx: table.put_ruleset(tx, user_id, change(table.ruleset(tx, user_id))))


def _check_room(room_id: str) -> None:
    if room_id != "" and not identifiers.is_room_id(room_id):
        raise errors.InvalidParam("That is not a room id.")


def _tags(content: dict[str, Any] | None) -> dict[str, Any]:
    tags = (content or {}).get("tags")
    return tags if isinstance(tags, dict) else {}
