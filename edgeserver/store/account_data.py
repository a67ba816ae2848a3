"""Account data and filters: the tables `account_data` and `filters`. Room id '' is account data that is not of one
room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from edgeserver.matrix import canonical_json, push_rules
from edgeserver.matrix.identifiers import is_user_id
from edgeserver.store import thread_subscriptions

if TYPE_CHECKING:
    from edgeserver.matrix.push_defaults import Ruleset
    from edgeserver.store.database import Transaction


class Item(NamedTuple):
    """One piece of account data."""

    room_id: str
    type: str
    content: dict[str, Any]
    stream: int


PUSH_RULES = "m.push_rules"
IGNORED_USERS = "m.ignored_user_list"
INVITE_PERMISSION = "m.invite_permission_config"
OF_INVITES = frozenset({INVITE_PERMISSION, IGNORED_USERS})
"""Account data that says whose invites a user wants to see."""


def get(tx: Transaction, user_id: str, room_id: str, kind: str) -> dict[str, Any] | None:
    """The content, or None if nothing was ever set (push rules are always there)."""
    row = tx.one("SELECT content FROM account_data WHERE user_id = ? AND room_id = ? AND type = ?", (user_id, room_id, kind))
    if room_id == "" and kind == PUSH_RULES:
        return _push_rules(tx, user_id, b"{}" if row is None else row[0])
    return None if row is None else canonical_json.decode_exact(row[0])


def ignored_users(tx: Transaction, user_id: str) -> frozenset[str]:
    """Whose events the user does not want to see. Spec: client-server API, "Ignoring Users"."""
    content: Any = get(tx, user_id, "", IGNORED_USERS)
    ignored = content.get("ignored_users") if content else None
    return frozenset(filter(is_user_id, ignored)) - {user_id} if isinstance(ignored, dict) else frozenset()


def blocks_invites(tx: Transaction, user_id: str) -> bool:
    """Whether the user takes no invites at all. Spec: client-server API, "Invite permission"."""
    content = get(tx, user_id, "", INVITE_PERMISSION)
    return content is not None and content.get("default_action") == "block"


def ruleset(tx: Transaction, user_id: str) -> Ruleset:
    """The user's push rules: what `global` is in m.push_rules."""
    whole = get(tx, user_id, "", PUSH_RULES) or {}
    return cast("Ruleset", whole["global"])


def put_ruleset(tx: Transaction, user_id: str, rules: Ruleset) -> bool:
    """Stores the user's push rules; False if nothing has changed."""
    return put(tx, user_id, "", PUSH_RULES, push_rules.departures(rules, user_id))


def _push_rules(tx: Transaction, user_id: str, departures: bytes) -> dict[str, Any]:
    stored, threads = canonical_json.decode_exact(departures), thread_subscriptions.are_on(tx)
    return {"global": push_rules.with_departures(user_id, stored, thread_subscriptions=threads)}


def put(tx: Transaction, user_id: str, room_id: str, kind: str, content: dict[str, Any]) -> bool:
    """Stores it at a new stream position; False (and nothing written) if it is what is stored already."""
    encoded = canonical_json.encode_loose(content)
    row = tx.one("SELECT content FROM account_data WHERE user_id = ? AND room_id = ? AND type = ?", (user_id, room_id, kind))
    if row is not None and row[0] == encoded:
        return False
    tx.execute(
        "INSERT OR REPLACE INTO account_data (user_id, room_id, type, content, stream) VALUES (?, ?, ?, ?, ?)",
        (user_id, room_id, kind, encoded, tx.stream()),
    )
    return True


def changed(tx: Transaction, user_id: str, after: int, upto: int) -> list[Item]:
    """What changed at positions in (after, upto], in that order. From the beginning (`after` 0) push rules are always
    among it.
    """
    rows = tx.all(
        "SELECT room_id, type, content, stream FROM account_data WHERE user_id = ? AND stream > ? AND stream <= ? ORDER BY stream",
        (user_id, after, upto),
    )
    items = [_item(tx, user_id, *row) for row in rows]
    if after == 0 and not any(item.type == PUSH_RULES and item.room_id == "" for item in items):
        items.insert(0, _item(tx, user_id, "", PUSH_RULES, b"{}", 0))
    return items


def of_room(tx: Transaction, user_id: str, room_id: str) -> list[Item]:
    """All of one room ('' for what is of no room, without push rules that were never changed)."""
    rows = tx.all(
        "SELECT room_id, type, content, stream FROM account_data WHERE user_id = ? AND room_id = ? ORDER BY stream",
        (user_id, room_id),
    )
    return [_item(tx, user_id, *row) for row in rows]


def _item(tx: Transaction, user_id: str, room_id: str, kind: str, content: bytes, stream: int) -> Item:
    whole = _push_rules(tx, user_id, content) if kind == PUSH_RULES and room_id == "" else canonical_json.decode_exact(content)
    return Item(room_id, kind, whole, stream)


def put_filter(tx: Transaction, user_id: str, definition: dict[str, Any], keep: int) -> int:
    """The id of the filter: that of an equal one if the user has it. Beyond `keep` filters the oldest goes."""
    encoded = canonical_json.encode_loose(definition)
    row = tx.one("SELECT filter_id FROM filters WHERE user_id = ? AND filter = ?", (user_id, encoded))
    if row is not None:
        return int(row[0])
    newest = tx.one("SELECT coalesce(max(filter_id), 0) FROM filters WHERE user_id = ?", (user_id,))
    filter_id = int(newest[0] if newest else 0) + 1
    tx.execute("INSERT INTO filters (user_id, filter_id, filter) VALUES (?, ?, ?)", (user_id, filter_id, encoded))
    tx.execute("DELETE FROM filters WHERE user_id = ? AND filter_id <= ?", (user_id, filter_id - keep))
    return filter_id


def get_filter(tx: Transaction, user_id: str, filter_id: int) -> dict[str, Any] | None:
    row = tx.one("SELECT filter FROM filters WHERE user_id = ? AND filter_id = ?", (user_id, filter_id))
    return None if row is None else canonical_json.decode_exact(row[0])
