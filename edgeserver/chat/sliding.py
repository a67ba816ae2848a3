"""Simplified sliding sync as servers speak it today (MSC4186, org.matrix.simplified_msc3575): what is asked and what is answered (pure).

A person sees one list and one room, so that is what is asked for: of the rooms in the list the newest event and whether they are encrypted;
of the open room some twenty events, its speakers' names and who has read what. No avatars, no presence, no typing, no other state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.chat import events
from edgeserver.chat.model import RoomUpdate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PATH: Final = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
FEATURE: Final = "org.matrix.simplified_msc3575"
"""Its name among the `unstable_features` of /versions."""
OPEN_EVENTS: Final = 20
LIST: Final = "rooms"
_ENCRYPTION: Final = ["m.room.encryption", ""]
_SPEAKERS: Final = ["m.room.member", "$LAZY"]


def body(listed: int, rooms: Collection[str], open_room: str | None, *, all_receipts: bool) -> dict[str, Any]:
    """The request for the first `listed` rooms of the list, and for `rooms` in full; receipts are asked for of `open_room`, or of all in
    the list: where the server does not count what is unread, only our own receipts tell.
    """
    wish = {"timeline_limit": OPEN_EVENTS, "required_state": [_ENCRYPTION, _SPEAKERS]}
    asked: dict[str, Any] = {
        "conn_id": "chat",
        "lists": {
            LIST: {
                "ranges": [[0, max(0, listed - 1)]],
                "timeline_limit": 1,
                "required_state": [_ENCRYPTION],
                "filters": {"not_room_types": ["m.space"]},
            }
        },
    }
    if rooms:
        asked["room_subscriptions"] = dict.fromkeys(sorted(rooms), wish)
    if open_room is not None or all_receipts:
        scope = {"lists": [LIST] if all_receipts else [], "rooms": [] if open_room is None else [open_room]}
        asked["extensions"] = {"receipts": {"enabled": True, **scope}}
    return asked


def position(answer: Mapping[str, Any]) -> str | None:
    return events.text_of(answer, "pos") or None


def count(answer: Mapping[str, Any]) -> int | None:
    """How many rooms the whole list has."""
    return number(table(table(answer, "lists"), LIST), "count")


def updates(answer: Mapping[str, Any], me: str) -> list[RoomUpdate]:
    """The news in an answer. Whatever is not as it should be is passed over."""
    receipts = table(table(table(answer, "extensions"), "receipts"), "rooms")
    found = [_update(room_id, told, me) for room_id, told in table(answer, "rooms").items() if isinstance(told, dict)]
    by_room = {update.room_id: update for update in found}
    for room_id, event in receipts.items():
        update = by_room.get(room_id)
        if update is None:
            update = RoomUpdate(room_id)
            found.append(update)
        update.receipts = readers(event)
    return found


def _update(room_id: str, told: Mapping[str, Any], me: str) -> RoomUpdate:
    update = RoomUpdate(
        room_id,
        is_whole=told.get("initial") is True or told.get("limited") is True or told.get("unstable_expanded_timeline") is True,
        name=told["name"] if isinstance(told.get("name"), str) else None,
        joined=number(told, "joined_count"),
        unread=number(told, "notification_count"),
        highlights=number(told, "highlight_count"),
        stamp=number(told, "bump_stamp"),
        prev_batch=events.text_of(told, "prev_batch") or None,
        events=objects(told, "timeline"),
        state=objects(told, "required_state"),
    )
    heroes = objects(told, "heroes")
    if heroes:
        update.heroes = [events.text_of(one, "displayname") or events.text_of(one, "user_id") for one in heroes]
    stripped = objects(told, "invite_state")
    if stripped:
        asked(update, stripped, me)
    elif told.get("initial") is True and "invite_state" not in told:
        update.membership = "join"
    return update


def asked(update: RoomUpdate, stripped: list[Mapping[str, Any]], me: str) -> None:
    """Reads the stripped state of an invite or a knock, or of the end of one. Spec: "Stripped state"."""
    for event in stripped:
        content = events.content_of(event)
        if event.get("type") == "m.room.member" and event.get("state_key") == me:
            update.membership = events.text_of(content, "membership") or "invite"
            update.inviter = events.text_of(event, "sender")
        elif event.get("type") == "m.room.name":
            update.name = events.text_of(content, "name")
        elif event.get("type") == "m.room.encryption":
            update.encrypted = True


def readers(event: object) -> list[tuple[str, str]]:
    """User and event id of each receipt in an m.receipt event."""
    content = events.content_of(event) if isinstance(event, dict) else {}
    return [
        (user_id, event_id)
        for event_id, kinds in content.items()
        if isinstance(kinds, dict)
        for kind in ("m.read", "m.read.private")
        for user_id in table(kinds, kind)
    ]


def table(answer: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = answer.get(key)
    return value if isinstance(value, dict) else {}


def objects(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = answer.get(key)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def number(answer: Mapping[str, Any], key: str) -> int | None:
    value = answer.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
