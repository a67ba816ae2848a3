"""What of a person's settings goes with them from a room into the one that replaces it: tags, m.direct, push rules.

Client-server API, "Room Upgrades": "the server should automatically transfer/replicate some of the user's personalized
settings". What the person has set for the new room already stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors, push_rules
from edgeserver.store import account_data as table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeserver.matrix.push_defaults import Rule, Ruleset
    from edgeserver.store.database import Transaction
    from edgeserver.wakeups import Wakeups

TAGS: Final = "m.tag"
DIRECT: Final = "m.direct"
KINDS: Final = ("override", "room", "underride")


def carry_over(tx: Transaction, wakeups: Wakeups, user_id: str, old: str, new: str) -> None:
    """Copies the settings for the room `old` to the room `new`; the person's clients are told."""
    changed = [_tags(tx, user_id, old, new), _direct(tx, user_id, old, new), _push_rules(tx, user_id, old, new)]
    if any(changed):
        tx.on_commit(lambda: wakeups.notify([user_id]))


def _tags(tx: Transaction, user_id: str, old: str, new: str) -> bool:
    tags = table.get(tx, user_id, old, TAGS)
    if tags is None or table.get(tx, user_id, new, TAGS) is not None:
        return False
    return table.put(tx, user_id, new, TAGS, tags)


def _direct(tx: Transaction, user_id: str, old: str, new: str) -> bool:
    """m.direct maps user ids to lists of room ids; it is the clients' own, and may hold anything."""
    content = table.get(tx, user_id, "", DIRECT)
    if content is None:
        return False
    lists = {key: value for key, value in content.items() if isinstance(value, list) and old in value and new not in value}
    return bool(lists) and table.put(tx, user_id, "", DIRECT, content | {key: [*value, new] for key, value in lists.items()})


def _push_rules(tx: Transaction, user_id: str, old: str, new: str) -> bool:
    ruleset = table.ruleset(tx, user_id)
    for kind, rule in list(_rules_about(ruleset, old)):
        try:
            ruleset = _copied(ruleset, kind, rule, old, new)
        except errors.MatrixError:
            continue  # there are as many rules as there may be
    return table.put_ruleset(tx, user_id, ruleset)


def _rules_about(ruleset: Ruleset, room_id: str) -> Iterator[tuple[str, Rule]]:
    """The person's own rules that are named after the room: all rules of the kind `room` are, and clients name overrides so."""
    for kind in KINDS:
        for rule in ruleset[kind]:
            if not rule["default"] and room_id in rule["rule_id"]:
                yield kind, rule


def _copied(ruleset: Ruleset, kind: str, rule: Rule, old: str, new: str) -> Ruleset:
    rule_id = rule["rule_id"].replace(old, new)
    if any(other["rule_id"] == rule_id for other in ruleset[kind]):
        return ruleset
    body: dict[str, Any] = {"actions": rule["actions"]}
    if "conditions" in rule:
        body["conditions"] = [_about(condition, old, new) for condition in rule["conditions"]]
    copied = push_rules.put_rule(ruleset, kind, rule_id, body)
    return push_rules.set_enabled(copied, kind, rule_id, rule["enabled"])


def _about(condition: Any, old: str, new: str) -> Any:
    is_about = isinstance(condition, dict) and condition.get("key") == "room_id" and condition.get("pattern") == old
    return {**condition, "pattern": new} if is_about else condition
