"""What a push gateway is told: the body of POST /_matrix/push/v1/notify. Pure. Spec: Push Gateway API; MSC4076 (no badge counts)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from edgeserver.matrix.event import Event
    from edgeserver.matrix.push_evaluation import Outcome
    from edgeserver.store.pushers import Pusher

_NO_BADGE: Final = ("disable_badge_count", "org.matrix.msc4076.disable_badge_count")
_URGENT: Final = frozenset({"m.room.encrypted", "m.call.invite"})


@dataclass(frozen=True, slots=True)
class Notice:
    """An event that notifies the user of a pusher. `stream` is where it stands in the user's view; names are those at that moment."""

    stream: int
    event: Event
    outcome: Outcome
    room_name: str | None = None
    room_alias: str | None = None
    sender_name: str | None = None


def of_event(pusher: Pusher, notice: Notice, unread: int) -> dict[str, Any]:
    """The notification of an event; `unread` counts what notifies in all of the user's rooms."""
    event = notice.event
    said: dict[str, Any] = {
        "event_id": event.event_id,
        "room_id": event.room_id,
        "prio": priority(notice),
        "counts": {} if unread == 0 or not wants_badge(pusher) else {"unread": unread},
    }
    if pusher.content["data"].get("format") == "event_id_only":
        return {"notification": {**said, "devices": [_device(pusher)]}}
    said |= {"type": event.type, "sender": event.sender, "content": event.content}
    if event.type == "m.room.member":
        said["user_is_target"] = event.state_key == pusher.key.user_id
    names = {"room_name": notice.room_name, "room_alias": notice.room_alias, "sender_display_name": notice.sender_name}
    said |= {name: value for name, value in names.items() if value is not None}
    return {"notification": {**said, "devices": [{**_device(pusher), "tweaks": notice.outcome.tweaks}]}}


def of_badge(pusher: Pusher, unread: int) -> dict[str, Any]:
    """The count alone. Zero is said here: gateways take a count that is left out for one that has not changed."""
    return {"notification": {"prio": "low", "counts": {"unread": unread}, "devices": [_device(pusher)]}}


def wants_badge(pusher: Pusher) -> bool:
    return not any(pusher.content["data"].get(name) is True for name in _NO_BADGE)


def priority(notice: Notice) -> str:
    """`high` for what makes a sound or is highlighted, and for what may once it is decrypted."""
    urgent = notice.outcome.highlight or notice.outcome.sound is not None or notice.event.type in _URGENT
    return "high" if urgent else "low"


def _device(pusher: Pusher) -> dict[str, Any]:
    return {
        "app_id": pusher.key.app_id,
        "pushkey": pusher.key.pushkey,
        "pushkey_ts": pusher.set_at,
        "data": {name: value for name, value in pusher.content["data"].items() if name != "url"},
    }
