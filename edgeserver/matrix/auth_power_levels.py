"""The authorization rule for m.room.power_levels: nobody gives or takes more than they have.

Spec: rooms/v12, "Authorisation rules", rule 10; rule 9 of rooms/v6 to v11, rule 10 of rooms/v1 to v5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix.identifiers import is_user_id
from edgeserver.matrix.power_levels import DEFAULTS, creators, parse_level
from edgeserver.matrix.verdicts import ACCEPTED, Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from edgeserver.matrix.auth_state import AuthState
    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.matrix.verdicts import Verdict

Change = tuple[str, int | None, int | None]
"""A key with its level before and after; None where it has none."""


def check_power_levels(event: Event, state: AuthState) -> Verdict:
    """Apply the rule to a power levels event that passed the rules before. Answers Accepted or Rejected."""
    problem = _shape_problem(event)
    if problem is not None:
        return Rejected(problem)
    # Rule 10.4 (v12): users contains a creator
    if event.rules.privileged_creators:
        users = event.content.get("users", {})
        if any(creator in users for creator in creators(state.create)):
            return Rejected("users states a level for a creator, who is above all levels")
    # Rule 10.5: there is no previous power levels event
    current = state.get("m.room.power_levels")
    if current is None:
        return ACCEPTED
    level = state.power.user(event.sender)
    # Rule 10.6: the single levels
    if any(_exceeds(change, level) for change in _changes(event.rules, current.content, event.content, DEFAULTS)):
        return Rejected("a level is changed from or to more than the sender's own")
    # Rules 10.7 and 10.8: events, and since v6 notifications
    for table in ("events", "notifications") if event.rules.notifications_power_level else ("events",):
        if any(_exceeds(change, level) for change in _table_changes(event, current, table)):
            return Rejected(f"an entry of {table} is changed from or to more than the sender's own level")
    for user, before, after in _table_changes(event, current, "users"):
        # Rule 10.9: an entry of somebody else with the sender's level, or more, is changed or removed
        if user != event.sender and before is not None and before >= level:
            return Rejected("the level of a user who is not below the sender is changed")
        # Rule 10.10: a level above the sender's is given
        if after is not None and after > level:
            return Rejected("a user is given more than the sender's own level")
    # Rule 10.11: otherwise, allow
    return ACCEPTED


def _shape_problem(event: Event) -> str | None:
    """What is wrong with the form of the content; None if nothing is.

    Versions before 10 do not say what becomes of a value that is no level in any notation; it is refused there too, so
    that every level in force can be compared.
    """
    rules, content = event.rules, event.content
    # Rule 10.1 (v10): a single level that is not an integer
    for name in DEFAULTS:
        if name in content and parse_level(content[name], rules) is None:
            return f"{name} is not a level"
    # Rule 10.2 (v10): events or notifications is not an object of integers
    for name in ("events", "notifications") if rules.notifications_power_level else ("events",):
        if not _is_table(content.get(name, {}), rules):
            return f"{name} is not an object of levels"
    # Rule 10.3: users is not an object of user ids and levels
    users = content.get("users", {})
    if not _is_table(users, rules) or not all(is_user_id(user) for user in users):
        return "users is not an object of user ids and levels"
    return None


def _is_table(value: Any, rules: RoomVersion) -> bool:
    return isinstance(value, dict) and all(parse_level(level, rules) is not None for level in value.values())


def _table_changes(event: Event, current: Event, table: str) -> Iterator[Change]:
    before, after = current.content.get(table), event.content.get(table)
    before = before if isinstance(before, dict) else {}
    after = after if isinstance(after, dict) else {}
    return _changes(event.rules, before, after, dict.fromkeys((*before, *after)))


def _changes(rules: RoomVersion, before: Mapping[str, Any], after: Mapping[str, Any], keys: Iterable[str]) -> Iterator[Change]:
    """The keys whose level was added, changed or removed. Two notations of one level are no change."""
    for key in keys:
        old, new = parse_level(before.get(key), rules), parse_level(after.get(key), rules)
        if old != new:
            yield key, old, new


def _exceeds(change: Change, level: float) -> bool:
    _, before, after = change
    return (before is not None and before > level) or (after is not None and after > level)
