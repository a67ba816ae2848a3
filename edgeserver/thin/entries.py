"""From an event, as clients see it, to the entry of a screen (pure).

Spec: client-server API, "Instant messaging", "Rich replies", "Event replacements", "Redactions", "Room membership".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgeserver.thin.screen import ENCRYPTED, MAX_ID, MAX_NAME, MAX_TEXT, Entry, Person, is_user_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_LATEST: Final = 1 << 40
"""Seconds; authors may state any time."""
_SAYINGS: Final = {
    "m.text": "text",
    "m.emote": "emote",
    "m.notice": "notice",
    "m.image": "image",
    "m.file": "file",
    "m.audio": "audio",
    "m.video": "video",
    "m.location": "location",
}
_STATES: Final = {"m.room.name": ("name", "name"), "m.room.topic": ("topic", "topic")}


def read(event: Mapping[str, Any], number: int, places: Mapping[str, int], *, knows_own: bool = False) -> Entry | None:
    """What a person reads of the event; None for what is not for reading, or is about an event that is not held.

    `places` has the numbers of what `target` says. `knows_own`: of what the device itself has sent nothing but the number is told.
    """
    content, unsigned = event["content"], event.get("unsigned", {})
    transaction = text_of(unsigned, "transaction_id")[:MAX_ID]
    if transaction and knows_own:
        return Entry(number, transaction=transaction)
    if not is_user_id(event["sender"]):
        return None
    seconds = min(max(0, event["origin_server_ts"] // 1000), _LATEST)
    entry = Entry(number, event["sender"], seconds, transaction=transaction)
    if "state_key" in event:
        return _happening(entry, event, content, unsigned)
    match event["type"]:
        case "m.room.redaction":
            place = places.get(target(event))
            return None if place is None else replace(entry, kind="removal", target=place)
        case "m.room.encrypted":
            return replace(entry, kind=ENCRYPTED, sender="")
        case "m.sticker":
            return _with_text(replace(entry, kind="sticker"), text_of(content, "body"))
        case "m.room.message":
            return _message(entry, event, content, places, is_removed="redacted_because" in unsigned)
    return None


def _message(
    entry: Entry, event: Mapping[str, Any], content: Mapping[str, Any], places: Mapping[str, int], *, is_removed: bool
) -> Entry | None:
    if is_removed:
        return replace(entry, kind="removed")
    edited = target(event)
    if edited:
        place = places.get(edited)
        body = text_of(content["m.new_content"], "body")
        return None if place is None else _with_text(replace(entry, kind="edit", target=place), body)
    relation = content.get("m.relates_to")
    is_reply = isinstance(relation, dict) and isinstance(relation.get("m.in_reply_to"), dict)
    body = text_of(content, "body")
    entry = replace(entry, kind=_SAYINGS.get(text_of(content, "msgtype"), "text"))
    return _with_text(entry, without_quote(body) if is_reply else body)


def target(event: Mapping[str, Any]) -> str:
    """The id of the event that this one edits or removes; empty if it does neither."""
    content = event["content"]
    if event["type"] == "m.room.redaction":
        return text_of(event, "redacts") or text_of(content, "redacts")
    relation = content.get("m.relates_to")
    if event["type"] != "m.room.message" or not isinstance(relation, dict) or not isinstance(content.get("m.new_content"), dict):
        return ""
    return text_of(relation, "event_id") if relation.get("rel_type") == "m.replace" else ""


def _happening(entry: Entry, event: Mapping[str, Any], content: Mapping[str, Any], unsigned: Mapping[str, Any]) -> Entry | None:
    kind = event["type"]
    if kind in _STATES:
        entry_kind, key = _STATES[kind]
        return _with_text(replace(entry, kind=entry_kind), text_of(content, key)[: 2 * MAX_NAME])
    if kind == "m.room.encryption":
        return replace(entry, kind="encryption")
    if kind == "m.room.tombstone":
        return replace(entry, kind="closed")
    if kind != "m.room.member":
        return None
    earlier = unsigned.get("prev_content")
    was = text_of(earlier, "membership") if isinstance(earlier, dict) else ""
    return _membership(entry, text_of(content, "membership"), was, event["state_key"])


def _membership(entry: Entry, membership: str, was: str, whom: str) -> Entry | None:
    if not is_user_id(whom):
        return None
    match membership:
        case "join":
            return None if was == "join" else replace(entry, kind="join")  # else only the name or the picture has changed
        case "leave" if whom == entry.sender:
            return replace(entry, kind="decline" if was == "invite" else "leave")
        case "leave":
            return replace(entry, kind="unban" if was == "ban" else "kick", whom=whom)
        case "invite" | "ban":
            return replace(entry, kind=membership, whom=whom)
        case "knock":
            return replace(entry, kind="knock")
    return None


def _with_text(entry: Entry, text: str) -> Entry:
    return cut(replace(entry, text=text), MAX_TEXT)


def cut(entry: Entry, most: int) -> Entry:
    """With at most so many characters of its text."""
    return entry if len(entry.text) <= most else replace(entry, text=entry.text[:most], is_cut=True)


def people(state: Iterable[Mapping[str, Any]]) -> Iterator[Person]:
    """Who the membership events among these speak of."""
    for event in state:
        is_there = event["type"] == "m.room.member" and event["content"].get("membership") in ("join", "invite")
        if is_there and is_user_id(event["state_key"]):
            yield Person(event["state_key"], text_of(event["content"], "displayname")[:MAX_NAME])


def name_of(hero: Mapping[str, Any]) -> str:
    """What one of those is called who give a room its name."""
    return (text_of(hero, "displayname") or text_of(hero, "user_id"))[:MAX_NAME]


def text_of(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    return value if isinstance(value, str) else ""


def without_quote(body: str) -> str:
    """Without the quotation that older clients put before a reply."""
    if not body.startswith("> "):
        return body
    rest = body.split("\n")
    while rest and rest[0].startswith(">"):
        rest.pop(0)
    return "\n".join(rest).lstrip("\n")
