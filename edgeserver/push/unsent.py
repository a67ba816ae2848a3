"""What a pusher has still to tell its gateway: read from the store each time, so that nothing is queued that could be lost or be stale.

The newest events of the user's rooms beyond the pusher's position are held to the push rules; what has been read meanwhile is left
out. Where there is much, or the gateway has been away, the newest of each room stands for the others: a phone that was off for a day
wants to know where something has happened, not to ring five hundred times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json
from edgeserver.matrix.power_levels import PowerLevels
from edgeserver.matrix.push_evaluation import CompiledRules, PushContext
from edgeserver.push.notification import Notice
from edgeserver.store import account_data, events, pushers, room_views, state, unread
from edgeserver.users.notifications import is_read, outcome_for, read_to
from edgeserver.users.push import PushRules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.pushers import Pusher, PusherKey

SCANNED: Final = 500
"""So many events beyond the position are looked at, the newest: what is older has been overtaken."""
AT_ONCE: Final = 10
_FAR: Final = 2**62
_NAME, _ALIAS = ("m.room.name", ""), ("m.room.canonical_alias", "")


@dataclass(frozen=True, slots=True)
class Unsent:
    """`notices` oldest first; `unread` in all of the user's rooms; after them the pusher is at `upto`."""

    pusher: Pusher
    notices: list[Notice]
    unread: int
    upto: int


def unsent(tx: Transaction, key: PusherKey, position: int, *, newest_only: bool) -> Unsent | None:
    """What there is beyond the position. `newest_only`: one of a room. None if there is no such pusher, or it is off."""
    pusher = pushers.get(tx, key)
    if pusher is None or not pusher.enabled:
        return None
    found = sorted([*_events(tx, key.user_id, position), *_invites(tx, key.user_id, position)], key=lambda one: one[0])
    if newest_only or len(found) > AT_ONCE:
        found = _newest_of_rooms(found)
    notices = [_named(tx, *one) for one in found[-AT_ONCE:]]
    return Unsent(pusher, notices, unread.total(tx, key.user_id), max(position, tx.position))


Found = tuple[int, "StoredEvent", Any, "bytes | None"]
"""Stream position, event, outcome, stripped state of an invite."""


def _events(tx: Transaction, user_id: str, position: int) -> Iterator[Found]:
    recent = room_views.recent_events(tx, user_id, _FAR, SCANNED, after=position)
    if not recent:
        return
    rules = PushRules()
    loaded = events.many_by_number(tx, [number for _, number in recent])
    outcomes = ((stream, loaded[number], outcome_for(tx, rules, loaded[number], user_id)) for stream, number in recent)
    found = [(stream, stored, outcome) for stream, stored, outcome in outcomes if outcome is not None]
    read = read_to(tx, user_id, [stored for _, stored, _ in found])
    for stream, stored, outcome in found:
        if not is_read(tx, stored, read[stored.room]):
            yield stream, stored, outcome, None


def _invites(tx: Transaction, user_id: str, position: int) -> Iterator[Found]:
    """Invites: of a room that the user is not in, and that this server may know no more of than what came with the invite."""
    found = room_views.invites(tx, user_id, position)
    if not found:
        return
    rules, ignored = CompiledRules(account_data.ruleset(tx, user_id), user_id), account_data.ignored_users(tx, user_id)
    for stream, number, stripped in found:
        stored = events.by_number(tx, number)
        if stored is None or stored.event.sender in ignored:
            continue
        context = PushContext(stored.event, unread.member_count(tx, stored.room), PowerLevels(stored.event.rules, None, None))
        outcome = rules.actions_for(context, None)
        if outcome.notify:
            yield stream, stored, outcome, stripped


def _newest_of_rooms(found: Iterable[Found]) -> list[Found]:
    newest = {one[1].room: one for one in found}
    return sorted(newest.values(), key=lambda one: one[0])


def _named(tx: Transaction, stream: int, stored: StoredEvent, outcome: Any, stripped: bytes | None) -> Notice:
    sender = ("m.room.member", stored.event.sender)
    contents: dict[tuple[str, str], Any] = {}
    if stored.after is not None:
        known = state.lookup_events(tx, stored.after, [_NAME, _ALIAS, sender])
        contents = {key: one.event.content for key, one in known.items()}
    elif stripped is not None:
        for one in canonical_json.decode_exact(stripped):
            if isinstance(one, dict) and isinstance(one.get("type"), str) and isinstance(one.get("state_key"), str):
                contents[one["type"], one["state_key"]] = one.get("content")
    return Notice(
        stream,
        stored.event,
        outcome,
        room_name=_text(contents.get(_NAME), "name"),
        room_alias=_text(contents.get(_ALIAS), "alias"),
        sender_name=_text(contents.get(sender), "displayname"),
    )


def _text(content: Any, name: str) -> str | None:
    value = content.get(name) if isinstance(content, dict) else None
    return value if isinstance(value, str) and value else None
