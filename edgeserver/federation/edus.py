"""EDUs of other servers: each checked for its shape and its sender, then handed to whom it concerns.

Spec: server-server API, "EDUs" and the sections on typing, presence, receipts, device lists, to-device messages.
Unknown types are ignored, and so is whatever is malformed or speaks for a user of another server than the one that
sent it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from edgeserver.federation import acl
from edgeserver.matrix.identifiers import domain_of, is_user_id
from edgeserver.store import rooms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from typing import TypeGuard

    from edgeserver.store.database import Database, Transaction

log = logging.getLogger(__name__)

MAX_UPDATES: Final = 500
"""Receipts or presence updates that are taken out of one EDU."""
MAX_MESSAGE_ID: Final = 64
MAX_ID: Final = 255


@dataclass(frozen=True, slots=True)
class Receipt:
    """One receipt. `ts` in ms; `thread_id` None: unthreaded."""

    room_id: str
    receipt_type: str
    user_id: str
    event_id: str
    ts: int
    thread_id: str | None


@dataclass(frozen=True, slots=True)
class EduHandlers:
    """Who takes what; None: nobody. All users named belong to the origin, except the targets of `direct_to_device`.

    - `typing(room_id, user_id, typing)`: the user is joined to the room.
    - `receipts(receipts)`: their users are joined to their rooms.
    - `presence(updates)`: contents of `push`, each with a `user_id`.
    - `device_list_update(user_id, content)`, `signing_key_update(user_id, content)`: content as the spec has it,
    only the user id checked.
    - `direct_to_device(origin, sender, type, message_id, messages)`: `messages` is user id → device id (or `*`) →
    content;
      the handler drops what it had under (origin, message_id) already.
    """

    typing: Callable[[str, str, bool], Awaitable[None]] | None = None
    receipts: Callable[[Sequence[Receipt]], Awaitable[None]] | None = None
    presence: Callable[[Sequence[dict[str, Any]]], Awaitable[None]] | None = None
    device_list_update: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None
    signing_key_update: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None
    direct_to_device: Callable[[str, str, str, str, dict[str, dict[str, dict[str, Any]]]], Awaitable[None]] | None = None


class Edus:
    """Dispatches. `take` never raises for what the EDU holds."""

    def __init__(self, db: Database, handlers: EduHandlers) -> None:
        self._db = db
        self._handlers = handlers
        self._by_type: Mapping[str, Callable[[str, dict[str, Any]], Awaitable[None]]] = {
            "m.typing": self._typing,
            "m.receipt": self._receipt,
            "m.presence": self._presence,
            "m.device_list_update": self._device_list_update,
            "m.signing_key_update": self._signing_key_update,
            "m.direct_to_device": self._direct_to_device,
        }

    async def take(self, origin: str, edu: Any) -> None:
        """One EDU of a transaction."""
        edu_type = edu.get("edu_type") if isinstance(edu, dict) else None
        content = edu.get("content") if isinstance(edu, dict) else None
        handler = self._by_type.get(edu_type) if isinstance(edu_type, str) else None
        if handler is not None and isinstance(content, dict):
            await handler(origin, content)

    async def _typing(self, origin: str, content: dict[str, Any]) -> None:
        room_id, user_id, typing = (content.get(name) for name in ("room_id", "user_id", "typing"))
        if self._handlers.typing is None or not isinstance(room_id, str) or not isinstance(typing, bool):
            return
        if is_of(user_id, origin) and await self._joined(origin, [(room_id, user_id)]):
            await self._handlers.typing(room_id, user_id, typing)

    async def _receipt(self, origin: str, content: dict[str, Any]) -> None:
        if self._handlers.receipts is None:
            return
        found = list(islice(_receipts(content, origin), MAX_UPDATES))
        joined = await self._joined(origin, [(one.room_id, one.user_id) for one in found])
        kept = [one for one in found if (one.room_id, one.user_id) in joined]
        if kept:
            await self._handlers.receipts(kept)

    async def _presence(self, origin: str, content: dict[str, Any]) -> None:
        push = content.get("push")
        if self._handlers.presence is None or not isinstance(push, list):
            return
        updates = [one for one in push[:MAX_UPDATES] if isinstance(one, dict) and is_of(one.get("user_id"), origin)]
        if updates:
            await self._handlers.presence(updates)

    async def _device_list_update(self, origin: str, content: dict[str, Any]) -> None:
        user_id = content.get("user_id")
        if self._handlers.device_list_update is not None and is_of(user_id, origin):
            await self._handlers.device_list_update(user_id, content)

    async def _signing_key_update(self, origin: str, content: dict[str, Any]) -> None:
        user_id = content.get("user_id")
        if self._handlers.signing_key_update is not None and is_of(user_id, origin):
            await self._handlers.signing_key_update(user_id, content)

    async def _direct_to_device(self, origin: str, content: dict[str, Any]) -> None:
        sender, kind, message_id = (content.get(name) for name in ("sender", "type", "message_id"))
        if self._handlers.direct_to_device is None or not is_of(sender, origin) or not isinstance(kind, str):
            return
        if not isinstance(message_id, str) or len(message_id) > MAX_MESSAGE_ID:
            return
        messages = _messages(content.get("messages"))
        if messages:
            await self._handlers.direct_to_device(origin, sender, kind, message_id, messages)

    async def _joined(self, origin: str, wanted: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those (room, user) pairs where the user is joined and the room admits the origin."""
        pairs = set(wanted)

        def read(tx: Transaction) -> set[tuple[str, str]]:
            refused = acl.refused_rooms(tx, {room_id for room_id, _ in pairs}, origin)
            found = set()
            for room_id, user_id in pairs:
                membership = None if room_id in refused else rooms.membership_in(tx, user_id, room_id)
                if membership is not None and membership.membership == "join":
                    found.add((room_id, user_id))
            return found

        return await self._db.read(read) if pairs else set()


def is_of(user_id: Any, server_name: str) -> TypeGuard[str]:
    """Whether this is the id of a user of that server."""
    return is_user_id(user_id) and domain_of(user_id) == server_name


def _receipts(content: Mapping[str, Any], origin: str) -> Iterable[Receipt]:
    for room_id, by_type in content.items():
        users = by_type.get("m.read") if isinstance(by_type, dict) else None
        for user_id, receipt in users.items() if isinstance(users, dict) else ():
            event_ids = receipt.get("event_ids") if isinstance(receipt, dict) else None
            if not is_of(user_id, origin) or not isinstance(event_ids, list) or not event_ids:
                continue
            data = receipt.get("data")
            ts = data.get("ts") if isinstance(data, dict) else None
            thread = data.get("thread_id") if isinstance(data, dict) else None
            if _is_short(event_ids[0]) and type(ts) is int and (thread is None or _is_short(thread)):
                yield Receipt(room_id, "m.read", user_id, event_ids[0], ts, thread)


def _is_short(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= MAX_ID


def _messages(value: Any) -> dict[str, dict[str, dict[str, Any]]]:
    if not isinstance(value, dict):
        return {}
    return {
        user_id: {device: message for device, message in devices.items() if isinstance(message, dict)}
        for user_id, devices in value.items()
        if is_user_id(user_id) and isinstance(devices, dict)
    }
