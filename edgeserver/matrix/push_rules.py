"""Push rules: reading and changing a user's ruleset.

Spec: client-server API, "Push Rules: API". A ruleset is the value of `global` in `GET /pushrules/`: a list of rules for
each kind, the most important first. Functions here return a new ruleset and leave the one they are given as it is.
`push_evaluation` applies a ruleset to events.

What is worth storing of a ruleset is only where it departs from the defaults: `departures`, undone by
`with_departures`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix.errors import InvalidParam, MissingParam, NotFound, Unknown
from edgeserver.matrix.push_defaults import POSTCONTENT, Rule, Ruleset, default_ruleset

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS: Final = ("override", "content", "room", "sender", "underride")
"""The kinds of rules to which users may add, in the order in which they are tried."""

TRIED: Final = ("override", "content", POSTCONTENT, "room", "sender", "underride")
"""All kinds that a ruleset may have, in that order."""

MAX_RULES: Final = 1000
"""Rules of their own that a user may have."""

MAX_CONDITIONS: Final = 20
MAX_ACTIONS: Final = 20
MAX_TEXT: Final = 1024
"""The length of a rule's id and of a pattern."""

_MASTER = ".m.rule.master"
_HISTORICAL_ACTIONS = ("dont_notify", "coalesce")


def find_rule(ruleset: Ruleset, kind: str, rule_id: str) -> Rule:
    """The rule of this kind and id. Raises InvalidParam for a kind that is none, NotFound for a rule that is none."""
    for rule in _rules_of(ruleset, kind):
        if rule["rule_id"] == rule_id:
            return rule
    raise NotFound("The push rule was not found.")


def put_rule(
    ruleset: Ruleset,
    kind: str,
    rule_id: str,
    body: Mapping[str, Any],
    *,
    before: str | None = None,
    after: str | None = None,
) -> Ruleset:
    """Add one of the user's own rules, or replace it: `PUT /pushrules/global/{kind}/{ruleId}`.

    A new rule is the most important of its kind and enabled. One that exists keeps its place and whether it is enabled.
    With `before` it goes right before that rule, with `after` right after it; `before` counts if both are given.

    Raises InvalidParam or MissingParam for a request that is not valid, Unknown (400) if `before` or `after` is not a
    rule of the user's own.
    """
    rules = _rules_of(ruleset, kind)
    if kind not in KINDS:
        raise InvalidParam("Users cannot add rules of this kind.")
    if not rule_id or len(rule_id) > MAX_TEXT or rule_id.startswith(".") or "/" in rule_id or "\\" in rule_id:
        raise InvalidParam("The rule id is not one that a user may choose.")
    position = next((i for i, rule in enumerate(rules) if rule["rule_id"] == rule_id), None)
    if position is None and sum(not rule["default"] for name in KINDS for rule in ruleset[name]) >= MAX_RULES:
        raise InvalidParam("There are too many push rules.")
    enabled = True if position is None else rules[position]["enabled"]
    rule = {"rule_id": rule_id, "default": False, "enabled": enabled, **_parse_body(kind, body)}
    relative = before if before is not None else after
    if position is not None and relative in (None, rule_id):
        return _replaced(ruleset, kind, rule)
    others = [other for other in rules if other["rule_id"] != rule_id]
    if relative is None:
        place = 1 if others and others[0]["rule_id"] == _MASTER else 0
    else:
        place = _place_of(others, relative) + (0 if before is not None else 1)
    return {**ruleset, kind: [*others[:place], rule, *others[place:]]}


def delete_rule(ruleset: Ruleset, kind: str, rule_id: str) -> Ruleset:
    """Remove one of the user's own rules. Raises NotFound if there is none: a default rule cannot be removed."""
    if find_rule(ruleset, kind, rule_id)["default"]:
        raise NotFound("A default push rule cannot be removed.")
    return {**ruleset, kind: [rule for rule in ruleset[kind] if rule["rule_id"] != rule_id]}


def set_enabled(ruleset: Ruleset, kind: str, rule_id: str, enabled: Any) -> Ruleset:
    """Enable or disable a rule, default or not. Raises NotFound, or InvalidParam if `enabled` is not a boolean."""
    rule = find_rule(ruleset, kind, rule_id)
    if not isinstance(enabled, bool):
        raise InvalidParam("enabled is not a boolean.")
    return _replaced(ruleset, kind, {**rule, "enabled": enabled})


def set_actions(ruleset: Ruleset, kind: str, rule_id: str, actions: Any) -> Ruleset:
    """Set what a rule does, default or not. Raises NotFound, or InvalidParam if `actions` is not a list of actions."""
    rule = find_rule(ruleset, kind, rule_id)
    return _replaced(ruleset, kind, {**rule, "actions": _parse_actions(actions)})


def departures(ruleset: Ruleset, user_id: str) -> dict[str, Any]:
    """What a ruleset changes of the user's default one, as JSON: `rules` of their own by kind, and `defaults`, the
    `enabled` and `actions` of default rules by kind and id."""
    own: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    for kind, rules in default_ruleset(user_id, thread_subscriptions=POSTCONTENT in ruleset).items():
        if mine := [rule for rule in ruleset[kind] if not rule["default"]]:
            own[kind] = mine
        now = {rule["rule_id"]: rule for rule in ruleset[kind]}
        for rule in rules:
            current = now.get(rule["rule_id"], rule)
            if differs := {name: current[name] for name in ("enabled", "actions") if current[name] != rule[name]}:
                changed.setdefault(kind, {})[rule["rule_id"]] = differs
    return {"rules": own, "defaults": changed}


def with_departures(user_id: str, stored: Mapping[str, Any], *, thread_subscriptions: bool = False) -> Ruleset:
    """The ruleset that `departures` was taken of; an empty mapping gives the default one (see there for `thread_subscriptions`)."""
    own, changed = stored.get("rules", {}), stored.get("defaults", {})
    ruleset = {}
    for kind, rules in default_ruleset(user_id, thread_subscriptions=thread_subscriptions).items():
        current = [{**rule, **changed.get(kind, {}).get(rule["rule_id"], {})} for rule in rules]
        first = 1 if current and current[0]["rule_id"] == _MASTER else 0
        ruleset[kind] = [*current[:first], *own.get(kind, []), *current[first:]]
    return ruleset


def _rules_of(ruleset: Ruleset, kind: str) -> list[Rule]:
    if kind not in ruleset:
        raise InvalidParam("There is no such kind of push rule.")
    return ruleset[kind]


def _replaced(ruleset: Ruleset, kind: str, rule: Rule) -> Ruleset:
    return {**ruleset, kind: [rule if old["rule_id"] == rule["rule_id"] else old for old in ruleset[kind]]}


def _place_of(rules: list[Rule], rule_id: str) -> int:
    for place, rule in enumerate(rules):
        if rule["rule_id"] == rule_id and not rule["default"]:
            return place
    raise Unknown(f"before/after rule not found: {rule_id}", status=400)


def _parse_body(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a request that make part of a rule of this kind."""
    if "actions" not in body:
        raise MissingParam("actions is missing.")
    parsed: dict[str, Any] = {"actions": _parse_actions(body["actions"])}
    if kind in ("override", "underride"):
        parsed["conditions"] = _parse_conditions(body.get("conditions", []))
    elif kind == "content":
        pattern = body.get("pattern")
        if pattern is None:
            raise MissingParam("pattern is missing.")
        if not isinstance(pattern, str) or len(pattern) > MAX_TEXT:
            raise InvalidParam("pattern is not a string, or too long.")
        parsed["pattern"] = pattern
    return parsed


def _parse_actions(actions: Any) -> list[Any]:
    if not isinstance(actions, list) or len(actions) > MAX_ACTIONS:
        raise InvalidParam("actions is not a list, or too long.")
    kept = []
    for action in actions:
        if (isinstance(action, dict) and isinstance(action.get("set_tweak"), str)) or action == "notify":
            kept.append(action)
        elif action not in _HISTORICAL_ACTIONS:  # those are dropped without a word
            raise InvalidParam("An action is not known.")
    return kept


def _parse_conditions(conditions: Any) -> list[dict[str, Any]]:
    """Conditions; one of an unknown kind is kept, and never met."""
    if not isinstance(conditions, list) or len(conditions) > MAX_CONDITIONS:
        raise InvalidParam("conditions is not a list, or too long.")
    for condition in conditions:
        if not isinstance(condition, dict) or not isinstance(condition.get("kind"), str):
            raise InvalidParam("A condition is not an object with a kind.")
        if any(isinstance(value, str) and len(value) > MAX_TEXT for value in condition.values()):
            raise InvalidParam("A condition is too long.")
    return conditions
