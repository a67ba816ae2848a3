"""Stretches of a room's timeline, as syncs tell them, and events as they are kept. Sans-io."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from edgeserver.matrix import room_versions
from edgeserver.matrix.redaction import redact_content

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeserver.matrix.room_versions import RoomVersion

CREATE: Final = '["m.room.create",""]'
"""The `state_key` of the event that began the room."""
IGNORED: Final = "m.ignored_user_list"
_OUTDATES: Final = ("m.thread", "m.reference", "m.replace")
"""Relations of which the box tells beside an event that is read later."""
_UNKNOWN_VERSION: Final = "11"

Json = dict[str, Any]


class Unmirrorable(ValueError):
    """An answer that does not go on from what is known; what is known is of no use any more."""


@dataclass
class Stretch:
    """Events that follow each other. `start` is the box's token for what is before the first of them, None where the room begins.
    `is_outdated`: the box would tell them otherwise by now.
    """

    start: str | None
    events: list[Json]
    is_outdated: bool = False


def count(stretches: Iterable[Stretch]) -> int:
    """Of events."""
    return sum(len(stretch.events) for stretch in stretches)


def last(stretches: Sequence[Stretch], limit: int) -> list[Stretch]:
    """The last whole ones that have no more than `limit` events together, and at least one."""
    at, found = len(stretches), 0
    while at and (at == len(stretches) or found + len(stretches[at - 1].events) <= limit):
        at -= 1
        found += len(stretches[at].events)
    return list(stretches[at:])


def without_repeated(stretches: Sequence[Stretch], events: Sequence[Json]) -> list[Stretch]:
    """What is before that which is told once more in `events`, from an earlier point on. It may be that of a stretch only the end is."""
    told, found = {event["event_id"] for event in events}, list(stretches)
    while found:
        before = found[-1].events
        end = len(before)
        while end and before[end - 1]["event_id"] in told:
            end -= 1
        if end == len(before) > 0:
            return found
        last_one = found.pop()
        if end:
            return [*found, replace(last_one, events=before[:end])]
    return found


def changes(stretches: Iterable[Stretch]) -> dict[str, Json]:
    """The last state events, by `state_key`."""
    return {state_key(event): event for stretch in stretches for event in stretch.events if "state_key" in event}


def words(*parts: str) -> str:
    """A key of several strings."""
    return orjson.dumps(parts).decode()


def state_key(event: Json) -> str:
    """Of a state event; empty for others. Raises KeyError for what is no event."""
    return words(event["type"], event["state_key"]) if "state_key" in event else ""


def kept(event: Json) -> Json:
    """The event without what is only true for a moment. Raises KeyError for what is none."""
    event["type"], event["event_id"], event["sender"]
    unsigned = event.get("unsigned")
    if not isinstance(unsigned, dict) or "age" not in unsigned:
        return event
    return event | {"unsigned": {name: value for name, value in unsigned.items() if name != "age"}}


def of_no_device(event: Json) -> Json:
    """The event without what is only told to the device that has sent it."""
    unsigned = event.get("unsigned")
    if not isinstance(unsigned, dict) or "transaction_id" not in unsigned:
        return event
    return event | {"unsigned": {name: value for name, value in unsigned.items() if name != "transaction_id"}}


def receipts_in(content: Json) -> dict[str, tuple[str, Json]]:
    """Of an m.receipt: event id and value, by `words` of kind, user and thread. Raises AttributeError for what is none."""
    return {
        words(kind, user, value.get("thread_id", "")): (event_id, value)
        for event_id, kinds in content.items()
        for kind, users in kinds.items()
        for user, value in users.items()
    }


def receipts(known: dict[str, tuple[str, Json]], ignored: set[str]) -> Json:
    """The content of an m.receipt that tells these, but for those of the people who are ignored."""
    content: Json = {}
    for key, (event_id, value) in known.items():
        kind, user, _ = orjson.loads(key)
        if user not in ignored:
            content.setdefault(event_id, {}).setdefault(kind, {})[user] = value
    return content


def ignored_in(account_data: Json) -> set[str]:
    """Whom the user ignores."""
    people = account_data.get(IGNORED, {}).get("ignored_users", {})
    return set(people) if isinstance(people, dict) else set()


def is_said_by(event: Json, people: set[str]) -> bool:
    """Whether it is not shown to who ignores these people."""
    return event["sender"] in people and "state_key" not in event


def is_invite_by(event: Json, people: set[str]) -> bool:
    """Whether this event of a stripped state invites, and one of these people has sent it."""
    membership = event.get("content", {}).get("membership")
    return event.get("type") == "m.room.member" and membership == "invite" and event.get("sender") in people


def apply_relations(stretches: Sequence[Stretch], state: Iterable[Json], events: Iterable[Json], create: Json) -> None:
    """What new `events` do to those that are kept: they remove some, and change what the box tells beside others."""
    for event in events:
        content = event.get("content", {})
        if event["type"] == "m.room.redaction":
            _redact(stretches, state, event.get("redacts", content.get("redacts")), event, create)
        related = content.get("m.relates_to")
        if isinstance(related, dict) and related.get("rel_type") in _OUTDATES:
            for stretch in stretches:
                if any(one["event_id"] == related.get("event_id") for one in stretch.events):
                    stretch.is_outdated = True


def _redact(stretches: Sequence[Stretch], state: Iterable[Json], target: object, because: Json, create: Json) -> None:
    version = create.get("content", {}).get("room_version", "1") if create else _UNKNOWN_VERSION
    rules = room_versions.SUPPORTED.get(version, room_versions.SUPPORTED[_UNKNOWN_VERSION])
    for event in state:
        _redact_in(event, target, because, rules)
    for stretch in stretches:
        for event in stretch.events:
            if _redact_in(event, target, because, rules):
                stretch.is_outdated = True


def _redact_in(event: Json, target: object, because: Json, rules: RoomVersion) -> bool:
    """The event, or what is told beside it; True for the latter, which the box tells otherwise by now."""
    unsigned = event.get("unsigned")
    if event["event_id"] == target:
        event["content"] = redact_content(event["type"], event["content"], rules)
        event["unsigned"] = {"redacted_because": because}
    elif isinstance(unsigned, dict) and unsigned.get("replaces_state") == target:
        unsigned["prev_content"] = redact_content(event["type"], unsigned.get("prev_content", {}), rules)
    elif isinstance(unsigned, dict) and isinstance(relations := unsigned.get("m.relations"), dict):
        if relations.get("m.replace", {}).get("event_id") == target:
            del relations["m.replace"]
            return True
        latest = relations.get("m.thread", {}).get("latest_event")
        return latest is not None and (_redact_in(latest, target, because, rules) or latest["event_id"] == target)
    return False
