"""Push rules at work: what an event means to a user.

Spec: client-server API, "Push Rules" (kinds, actions, conditions) and appendices, "Dot-separated Property Paths". This
runs for each local member of a room for each event, so rules are compiled once for a user, and what is looked up in an
event is kept for the next user.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import glob
from edgeserver.matrix.push_defaults import THREAD_SUBSCRIPTION
from edgeserver.matrix.push_rules import TRIED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.power_levels import PowerLevels
    from edgeserver.matrix.push_defaults import Rule, Ruleset

    Condition = Callable[["PushContext", str | None], bool]

_ABSENT: Final = object()
_COUNT = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,15})")
_PATH_PART = re.compile(r"((?:[^.\\]|\\.?)*)(\.|\Z)", re.DOTALL)
_ESCAPE = re.compile(r"\\([.\\])")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an event does: whether it notifies, whether it is highlighted, the name of a sound, the rule's actions."""

    notify: bool
    highlight: bool
    sound: str | None
    actions: tuple[Any, ...]

    @property
    def tweaks(self) -> dict[str, Any]:
        """The tweaks for the push gateway; a highlight without a value is true."""
        tweaks = {a["set_tweak"]: a.get("value", True) for a in self.actions if isinstance(a, dict)}
        return tweaks if self.notify else {}


NOTHING: Final = Outcome(False, False, None, ())
"""No rule matches, or the one that does has no effect."""


class PushContext:
    """An event with what the conditions ask of its room: the number of joined members and the power levels.

    One context serves all users of a room: what was found out about the event is kept. `subscribed` is about some of them: whether
    they have subscribed to the thread that the event is in; None if it is in none (MSC4306).
    """

    __slots__ = ("_found", "_properties", "event", "member_count", "power", "subscribed")

    def __init__(self, event: Event, member_count: int, power: PowerLevels, subscribed: bool | None = None) -> None:
        self.event = event
        self.subscribed = subscribed
        self.member_count = member_count
        self.power = power
        self._properties: dict[str, Any] = {}
        self._found: dict[tuple[str, str], bool] = {}

    def property(self, key: str) -> Any:
        """The value at a dot-separated path of the event as clients see it; a private marker if there is none."""
        try:
            return self._properties[key]
        except KeyError:
            value = self._properties[key] = self._walk(key)
            return value

    def matches(self, key: str, pattern: str) -> bool:
        """The condition `event_match`."""
        try:
            return self._found[key, pattern]
        except KeyError:
            value = self.property(key)
            match = glob.matches_words if key == "content.body" else glob.matches
            found = self._found[key, pattern] = isinstance(value, str) and match(pattern, value)
            return found

    def _walk(self, key: str) -> Any:
        first, *rest = parse_path(key)
        if first == "event_id":
            value: Any = self.event.event_id
        elif first == "room_id":
            value = self.event.room_id
        else:
            value = self.event.pdu.get(first, _ABSENT)
        for name in rest:
            value = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
        return value


class CompiledRules:
    """A user's enabled rules, ready to be tried. Compile anew whenever the ruleset changes."""

    __slots__ = ("_rules", "user_id")

    def __init__(self, ruleset: Ruleset, user_id: str) -> None:
        self.user_id = user_id
        self._rules: list[tuple[tuple[Condition, ...], Outcome]] = [
            (_conditions_of(kind, rule), _outcome(rule["actions"])) for kind in TRIED for rule in ruleset.get(kind, ()) if rule["enabled"]
        ]

    def actions_for(self, context: PushContext, display_name: str | None) -> Outcome:
        """What an event does to this user: the outcome of the first rule all of whose conditions hold.

        `display_name` is the user's in the room. Nobody is notified of their own events.
        """
        if context.event.sender == self.user_id:
            return NOTHING
        for conditions, outcome in self._rules:
            for condition in conditions:
                if not condition(context, display_name):
                    break
            else:
                return outcome
        return NOTHING


def actions_for(
    ruleset: Ruleset,
    user_id: str,
    event: Event,
    *,
    display_name: str | None,
    member_count: int,
    power: PowerLevels,
) -> Outcome:
    """What one event does to one user. For more than one, keep a PushContext and CompiledRules."""
    return CompiledRules(ruleset, user_id).actions_for(PushContext(event, member_count, power), display_name)


@lru_cache(maxsize=512)
def parse_path(path: str) -> tuple[str, ...]:
    r"""The names in a dot-separated path: `content.m\.relates_to` is `content`, `m.relates_to`."""
    names, position, more = [], 0, True
    while more:
        match = _PATH_PART.match(path, position)
        if match is None:  # cannot be: the expression matches at any position
            break
        names.append(_ESCAPE.sub(r"\1", match[1]))
        position, more = match.end(), bool(match[2])
    return tuple(names)


def _outcome(actions: list[Any]) -> Outcome:
    tweaks = {a["set_tweak"]: a.get("value", True) for a in actions if isinstance(a, dict) and "set_tweak" in a}
    if "notify" not in actions:
        return NOTHING
    sound = tweaks.get("sound")
    return Outcome(True, tweaks.get("highlight") is True, sound if isinstance(sound, str) else None, tuple(actions))


def _conditions_of(kind: str, rule: Rule) -> tuple[Condition, ...]:
    rule_id = rule["rule_id"]
    if kind == "content":
        return (_event_match({"key": "content.body", "pattern": rule.get("pattern")}),)
    if kind == "room":
        return (lambda context, _: context.event.room_id == rule_id,)
    if kind == "sender":
        return (lambda context, _: context.event.sender == rule_id,)
    return tuple(_KINDS.get(condition.get("kind"), _never_of)(condition) for condition in rule.get("conditions", []))


def _never(_context: PushContext, _display_name: str | None) -> bool:
    return False


def _never_of(_condition: Mapping[str, Any]) -> Condition:
    """A condition that is not known, or not sound: no event meets it."""
    return _never


def _event_match(condition: Mapping[str, Any]) -> Condition:
    key, pattern = condition.get("key"), condition.get("pattern")
    if not isinstance(key, str) or not isinstance(pattern, str):
        return _never
    return lambda context, _: context.matches(key, pattern)


def _event_property_is(condition: Mapping[str, Any]) -> Condition:
    key, value = condition.get("key"), condition.get("value", _ABSENT)
    if not isinstance(key, str) or not _is_simple(value):
        return _never
    return lambda context, _: _same(context.property(key), value)


def _event_property_contains(condition: Mapping[str, Any]) -> Condition:
    key, value = condition.get("key"), condition.get("value", _ABSENT)
    if not isinstance(key, str) or not _is_simple(value):
        return _never

    def contains(context: PushContext, _: str | None) -> bool:
        found = context.property(key)
        return isinstance(found, list) and any(_same(entry, value) for entry in found)

    return contains


def _contains_display_name(_condition: Mapping[str, Any]) -> Condition:
    def contains(context: PushContext, display_name: str | None) -> bool:
        body = context.property("content.body")
        return bool(display_name) and isinstance(body, str) and glob.contains_words(display_name or "", body)

    return contains


def _room_member_count(condition: Mapping[str, Any]) -> Condition:
    wanted = condition.get("is")
    match = _COUNT.fullmatch(wanted) if isinstance(wanted, str) else None
    if match is None:
        return _never
    number = int(match[2])
    comparisons: dict[str | None, Condition] = {
        "<": lambda context, _: context.member_count < number,
        ">": lambda context, _: context.member_count > number,
        "<=": lambda context, _: context.member_count <= number,
        ">=": lambda context, _: context.member_count >= number,
    }
    return comparisons.get(match[1], lambda context, _: context.member_count == number)


def _sender_notification_permission(condition: Mapping[str, Any]) -> Condition:
    key = condition.get("key")
    if not isinstance(key, str):
        return _never
    return lambda context, _: context.power.user(context.event.sender) >= context.power.notification(key)


def _thread_subscription(condition: Mapping[str, Any]) -> Condition:
    wanted = condition.get("subscribed")
    return (lambda context, _: context.subscribed is wanted) if isinstance(wanted, bool) else _never


def _is_simple(value: Any) -> bool:
    return value is None or isinstance(value, (str, bool, int))


def _same(found: Any, value: Any) -> bool:
    """Equal and of the same type: to Python, but not to JSON, True equals 1."""
    return type(found) is type(value) and bool(found == value)


_KINDS: Final[Mapping[Any, Callable[[Mapping[str, Any]], Condition]]] = {
    "event_match": _event_match,
    "event_property_is": _event_property_is,
    "event_property_contains": _event_property_contains,
    "contains_display_name": _contains_display_name,
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_notification_permission,
    THREAD_SUBSCRIPTION: _thread_subscription,
}
