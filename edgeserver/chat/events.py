"""From an event of a timeline to what a person reads of it (pure). Everything in an event is hostile; see `visible`.

Spec: client-server API, "Instant messaging", "Rich replies", "Event replacements", "Redactions".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from edgeserver.chat import visible
from edgeserver.thin.entries import without_quote

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LINES: Final = 60
MAX_TEXT: Final = 8000
MAX_NAME: Final = 40
MAX_ID: Final = 255
"""Bytes of any identifier (spec, "Identifier grammar")."""
REMOVED: Final = ("(removed)",)
FILES: Final = {"m.image": "picture", "m.file": "file", "m.audio": "sound", "m.video": "film", "m.location": "place"}


class Kind(Enum):
    TEXT = "text"
    EMOTE = "emote"
    NOTE = "note"
    """What happened, rather than what was said: it stands without a colon."""


class State(Enum):
    """How far a message is."""

    THERE = "there"
    """It came from the server."""
    QUEUED = "queued"
    """Ours: on disk here, not yet acknowledged."""
    SENT = "sent"
    """Ours: acknowledged, not yet come back."""
    FAILED = "failed"
    """Ours: the server has refused it."""


@dataclass(slots=True)
class Entry:
    """One entry of a timeline. `key` is its event id, or the transaction id of what has none yet; `at` ms since the epoch."""

    key: str
    sender: str
    at: int
    kind: Kind
    text: tuple[str, ...]
    state: State = State.THERE
    why: str = ""


@dataclass(frozen=True, slots=True)
class Edit:
    """The sender's new text for an earlier message."""

    target: str
    sender: str
    text: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    target: str


@dataclass(frozen=True, slots=True)
class Echo:
    """Something that we have said has come back; what it was is known here."""

    key: str


def identifier(value: object) -> str:
    """An identifier as it stands, to be sent back and never shown; empty if it is none."""
    return value if isinstance(value, str) and 1 < len(value) <= MAX_ID else ""


def text_of(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    return value if isinstance(value, str) else ""


def content_of(event: Mapping[str, Any]) -> dict[str, Any]:
    content = event.get("content")
    return content if isinstance(content, dict) else {}


def transaction_of(event: Mapping[str, Any]) -> str:
    """The transaction id, if this very device has sent it."""
    unsigned = event.get("unsigned")
    return text_of(unsigned, "transaction_id") if isinstance(unsigned, dict) else ""


def member_name(event: Mapping[str, Any]) -> str:
    """The display name in a membership event; empty if there is none."""
    return visible.one_line(content_of(event).get("displayname"), MAX_NAME)


def read(event: Mapping[str, Any]) -> Entry | Edit | Removal | None:
    """What the event says; None for what is not for reading."""
    key, sender, kind = identifier(event.get("event_id")), identifier(event.get("sender")), event.get("type")
    if not key or not sender:
        return None
    content = content_of(event)
    at = event.get("origin_server_ts")
    entry = Entry(key, sender, at if isinstance(at, int) else 0, Kind.NOTE, ())
    if kind == "m.room.redaction":
        target = identifier(event.get("redacts")) or identifier(content.get("redacts"))
        return Removal(target) if target else None
    if kind == "m.room.message":
        return _message(entry, content)
    if kind == "m.sticker":
        entry.text = (f"sent a sticker: {visible.one_line(content.get('body'), MAX_NAME)}",)
        return entry
    if "state_key" not in event:
        return None
    entry.text = _happening(event, content)
    return entry if entry.text else None


def _message(entry: Entry, content: Mapping[str, Any]) -> Entry | Edit:
    relation = content.get("m.relates_to")
    related: Mapping[str, Any] = relation if isinstance(relation, dict) else {}
    if related.get("rel_type") == "m.replace" and isinstance(content.get("m.new_content"), dict):
        target = identifier(related.get("event_id"))
        if target:
            return Edit(target, entry.sender, _body(content["m.new_content"]) or REMOVED)
    body = _body(content, is_reply=isinstance(related.get("m.in_reply_to"), dict))
    entry.kind = Kind.EMOTE if content.get("msgtype") == "m.emote" else Kind.TEXT
    entry.text = body or REMOVED
    return entry


def _body(content: Mapping[str, Any], *, is_reply: bool = False) -> tuple[str, ...]:
    body = text_of(content, "body")
    file = FILES.get(text_of(content, "msgtype"))
    if file is not None:
        return (f"[{file}] {visible.one_line(body, 120)}".rstrip(),)
    if is_reply:
        body = without_quote(body)
    return visible.lines(body, MAX_LINES, MAX_TEXT)


_MEMBERSHIPS: Final = {"invite": "invited {}", "ban": "banned {}", "knock": "asks to be let in"}


def _happening(event: Mapping[str, Any], content: Mapping[str, Any]) -> tuple[str, ...]:
    kind = event.get("type")
    if kind == "m.room.name":
        return (f"named the room {visible.one_line(content.get('name'), MAX_NAME)}",)
    if kind == "m.room.topic":
        return (f"set the topic: {visible.one_line(content.get('topic'))}",)
    if kind == "m.room.encryption":
        return ("switched encryption on",)
    if kind == "m.room.tombstone":
        return ("closed this room; another has taken its place",)
    return _membership(event, content) if kind == "m.room.member" else ()


def _membership(event: Mapping[str, Any], content: Mapping[str, Any]) -> tuple[str, ...]:
    before = event.get("unsigned")
    earlier = before.get("prev_content") if isinstance(before, dict) else None
    was = text_of(earlier, "membership") if isinstance(earlier, dict) else ""
    membership, whom = text_of(content, "membership"), visible.one_line(event.get("state_key"), MAX_ID)
    if membership == "join":
        return () if was == "join" else ("joined",)  # else only the name or the picture has changed
    if membership == "leave" and event.get("state_key") != event.get("sender"):
        return (f"removed {whom}",)
    if membership == "leave":
        return ("declined the invite" if was == "invite" else "left",)
    said = _MEMBERSHIPS.get(membership)
    return (said.format(whom),) if said else ()
