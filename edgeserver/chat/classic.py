"""GET /_matrix/client/v3/sync, for servers without sliding sync: what is asked and what is answered (pure).

Spec: client-server API, "Syncing". It tells of all rooms at once, so the filter asks for little of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from edgeserver.chat import events
from edgeserver.chat.model import RoomUpdate
from edgeserver.chat.sliding import asked, number, objects, readers, table

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH: Final = "/_matrix/client/v3/sync"
_NOTHING: Final = {"not_types": ["*"]}
FILTER: Final = orjson.dumps(
    {
        "presence": _NOTHING,
        "account_data": _NOTHING,
        "room": {
            "account_data": _NOTHING,
            "ephemeral": {"types": ["m.receipt"]},
            "timeline": {"limit": 10, "lazy_load_members": True},
            "state": {"types": ["m.room.name", "m.room.encryption", "m.room.member"], "lazy_load_members": True},
        },
    }
).decode()


def query(since: str | None, timeout_ms: int) -> dict[str, str]:
    asked_for = {"filter": FILTER, "timeout": str(timeout_ms), "set_presence": "offline"}
    return asked_for if since is None else {**asked_for, "since": since}


def position(answer: Mapping[str, Any]) -> str | None:
    return events.text_of(answer, "next_batch") or None


def updates(answer: Mapping[str, Any], me: str, now_ms: int) -> list[RoomUpdate]:
    """The news in an answer. A room's activity is its newest event, whose author may not claim to be of the future."""
    rooms = table(answer, "rooms")
    found = [_joined(room_id, told, now_ms) for room_id, told in table(rooms, "join").items() if isinstance(told, dict)]
    for room_id, told in table(rooms, "invite").items():
        if isinstance(told, dict):
            update = RoomUpdate(room_id, "invite", stamp=now_ms)
            asked(update, objects(table(told, "invite_state"), "events"), me)
            found.append(update)
    found += [RoomUpdate(room_id, "leave") for room_id in table(rooms, "leave")]
    return found


def _joined(room_id: str, told: Mapping[str, Any], now_ms: int) -> RoomUpdate:
    timeline, summary, unread = table(told, "timeline"), table(told, "summary"), table(told, "unread_notifications")
    update = RoomUpdate(
        room_id,
        "join",
        is_whole=timeline.get("limited") is True,
        joined=number(summary, "m.joined_member_count"),
        unread=number(unread, "notification_count"),
        highlights=number(unread, "highlight_count"),
        prev_batch=events.text_of(timeline, "prev_batch") or None,
        events=objects(timeline, "events"),
        state=objects(table(told, "state"), "events"),
    )
    heroes = summary.get("m.heroes")
    if isinstance(heroes, list):
        update.heroes = [one for one in heroes if isinstance(one, str)]
    if update.events:
        update.stamp = min(now_ms, max(number(event, "origin_server_ts") or 0 for event in update.events))
    for event in objects(table(told, "ephemeral"), "events"):
        if event.get("type") == "m.receipt":
            update.receipts += readers(event)
    return update
