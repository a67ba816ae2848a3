"""Changing push rules."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from edgeserver.matrix.errors import MatrixError
from edgeserver.matrix.push_defaults import Ruleset, default_ruleset
from edgeserver.matrix.push_rules import (
    KINDS,
    MAX_RULES,
    delete_rule,
    departures,
    find_rule,
    put_rule,
    set_actions,
    set_enabled,
    with_departures,
)

USER = "@me:one.example"
NOTIFY: dict[str, Any] = {"actions": ["notify"]}


@pytest.fixture
def ruleset() -> Ruleset:
    return default_ruleset(USER)


def ids(ruleset: Ruleset, kind: str) -> list[str]:
    return [rule["rule_id"] for rule in ruleset[kind] if not rule["default"]]


def refusal(call: Any, *args: Any, **kwargs: Any) -> tuple[int, str]:
    with pytest.raises(MatrixError) as caught:
        call(*args, **kwargs)
    return caught.value.status, caught.value.errcode


def test_the_default_rules_are_those_of_the_spec_in_its_order(ruleset: Ruleset) -> None:
    names = {kind: [rule["rule_id"].removeprefix(".m.rule.") for rule in rules] for kind, rules in ruleset.items()}
    assert names == {
        "override": [
            "master",
            "suppress_notices",
            "invite_for_me",
            "member_event",
            "is_user_mention",
            "is_room_mention",
            "tombstone",
            "reaction",
            "room.server_acl",
            "suppress_edits",
        ],
        "content": [],
        "room": [],
        "sender": [],
        "underride": ["call", "encrypted_room_one_to_one", "room_one_to_one", "message", "encrypted"],
    }
    assert tuple(ruleset) == KINDS
    assert all(rule["default"] for rules in ruleset.values() for rule in rules)
    assert [rule["rule_id"] for rules in ruleset.values() for rule in rules if not rule["enabled"]] == [".m.rule.master"]


def match(key: str, pattern: str) -> dict[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


TWO = {"kind": "room_member_count", "is": "2"}
SOUND: dict[str, Any] = {"set_tweak": "sound", "value": "default"}
HIGHLIGHT = {"set_tweak": "highlight"}


@pytest.mark.parametrize(
    ("kind", "name", "conditions", "actions"),
    [
        ("override", "master", [], []),
        ("override", "suppress_notices", [match("content.msgtype", "m.notice")], []),
        (
            "override",
            "invite_for_me",
            [match("type", "m.room.member"), match("content.membership", "invite"), match("state_key", USER)],
            ["notify", SOUND],
        ),
        ("override", "member_event", [match("type", "m.room.member")], []),
        (
            "override",
            "is_user_mention",
            [{"kind": "event_property_contains", "key": "content.m\\.mentions.user_ids", "value": USER}],
            ["notify", SOUND, HIGHLIGHT],
        ),
        (
            "override",
            "is_room_mention",
            [
                {"kind": "event_property_is", "key": "content.m\\.mentions.room", "value": True},
                {"kind": "sender_notification_permission", "key": "room"},
            ],
            ["notify", HIGHLIGHT],
        ),
        ("override", "tombstone", [match("type", "m.room.tombstone"), match("state_key", "")], ["notify", HIGHLIGHT]),
        ("override", "reaction", [match("type", "m.reaction")], []),
        ("override", "room.server_acl", [match("type", "m.room.server_acl"), match("state_key", "")], []),
        (
            "override",
            "suppress_edits",
            [{"kind": "event_property_is", "key": "content.m\\.relates_to.rel_type", "value": "m.replace"}],
            [],
        ),
        ("underride", "call", [match("type", "m.call.invite")], ["notify", {"set_tweak": "sound", "value": "ring"}]),
        ("underride", "encrypted_room_one_to_one", [TWO, match("type", "m.room.encrypted")], ["notify", SOUND]),
        ("underride", "room_one_to_one", [TWO, match("type", "m.room.message")], ["notify", SOUND]),
        ("underride", "message", [match("type", "m.room.message")], ["notify"]),
        ("underride", "encrypted", [match("type", "m.room.encrypted")], ["notify"]),
    ],
)
def test_each_default_rule_says_what_the_spec_says(
    ruleset: Ruleset, kind: str, name: str, conditions: list[Any], actions: list[Any]
) -> None:
    """Spec v1.19, "Predefined Rules", rule by rule."""
    assert find_rule(ruleset, kind, f".m.rule.{name}") == {
        "rule_id": f".m.rule.{name}",
        "default": True,
        "enabled": name != "master",
        "conditions": conditions,
        "actions": actions,
    }


def test_a_new_rule_is_the_most_important_but_for_the_master_rule(ruleset: Ruleset) -> None:
    untouched = copy.deepcopy(ruleset)
    one = put_rule(ruleset, "override", "one", NOTIFY)
    two = put_rule(one, "override", "two", {**NOTIFY, "conditions": []})
    assert ruleset == untouched
    assert [rule["rule_id"] for rule in two["override"]][:4] == [
        ".m.rule.master",
        "two",
        "one",
        ".m.rule.suppress_notices",
    ]
    assert find_rule(two, "override", "one") == {
        "rule_id": "one",
        "default": False,
        "enabled": True,
        "conditions": [],
        "actions": ["notify"],
    }
    assert ids(put_rule(put_rule(ruleset, "room", "!a", NOTIFY), "room", "!b", NOTIFY), "room") == ["!b", "!a"]


def test_a_rule_goes_before_or_after_another(ruleset: Ruleset) -> None:
    for name in "cba":
        ruleset = put_rule(ruleset, "sender", name, NOTIFY)
    assert ids(put_rule(ruleset, "sender", "x", NOTIFY, before="b"), "sender") == ["a", "x", "b", "c"]
    assert ids(put_rule(ruleset, "sender", "x", NOTIFY, after="b"), "sender") == ["a", "b", "x", "c"]
    assert ids(put_rule(ruleset, "sender", "x", NOTIFY, before="c", after="a"), "sender") == ["a", "b", "x", "c"]
    assert ids(put_rule(ruleset, "sender", "a", NOTIFY, after="c"), "sender") == ["b", "c", "a"]
    assert ids(put_rule(ruleset, "sender", "b", NOTIFY, after="b"), "sender") == ["a", "b", "c"]
    assert refusal(put_rule, ruleset, "sender", "x", NOTIFY, before="y") == (400, "M_UNKNOWN")
    assert refusal(put_rule, ruleset, "underride", "x", NOTIFY, after=".m.rule.call") == (400, "M_UNKNOWN")


def test_a_rule_that_exists_keeps_its_place_and_stays_disabled(ruleset: Ruleset) -> None:
    for name in "ba":
        ruleset = put_rule(ruleset, "content", name, {**NOTIFY, "pattern": name})
    ruleset = set_enabled(ruleset, "content", "b", False)
    ruleset = put_rule(ruleset, "content", "b", {"actions": [], "pattern": "new"})
    assert ids(ruleset, "content") == ["a", "b"]
    rule = find_rule(ruleset, "content", "b")
    assert (rule["pattern"], rule["actions"], rule["enabled"]) == ("new", [], False)


@pytest.mark.parametrize("rule_id", ["", ".mine", "a/b", "a\\b", "x" * 2000])
def test_some_ids_are_not_a_users_to_choose(ruleset: Ruleset, rule_id: str) -> None:
    assert refusal(put_rule, ruleset, "room", rule_id, NOTIFY) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("override", {}, "M_MISSING_PARAM"),
        ("content", NOTIFY, "M_MISSING_PARAM"),
        ("content", {**NOTIFY, "pattern": 1}, "M_INVALID_PARAM"),
        ("content", {**NOTIFY, "pattern": "x" * 2000}, "M_INVALID_PARAM"),
        ("override", {"actions": "notify"}, "M_INVALID_PARAM"),
        ("override", {"actions": ["shout"]}, "M_INVALID_PARAM"),
        ("override", {"actions": [{"sound": "x"}]}, "M_INVALID_PARAM"),
        ("override", {"actions": [1]}, "M_INVALID_PARAM"),
        ("override", {"actions": ["notify"] * 99}, "M_INVALID_PARAM"),
        ("override", {**NOTIFY, "conditions": {}}, "M_INVALID_PARAM"),
        ("override", {**NOTIFY, "conditions": ["x"]}, "M_INVALID_PARAM"),
        ("override", {**NOTIFY, "conditions": [{"key": "x"}]}, "M_INVALID_PARAM"),
        ("override", {**NOTIFY, "conditions": [{"kind": "event_match", "pattern": "*" * 2000}]}, "M_INVALID_PARAM"),
        ("override", {**NOTIFY, "conditions": [{"kind": "x"}] * 99}, "M_INVALID_PARAM"),
        ("nonsense", NOTIFY, "M_INVALID_PARAM"),
    ],
)
def test_a_rule_that_is_not_sound_is_refused(ruleset: Ruleset, kind: str, body: dict[str, Any], code: str) -> None:
    assert refusal(put_rule, ruleset, kind, "rule", body) == (400, code)


def test_historical_actions_are_dropped_and_tweaks_kept(ruleset: Ruleset) -> None:
    tweak = {"set_tweak": "x.flash", "value": 3}
    ruleset = put_rule(ruleset, "room", "!r", {"actions": ["dont_notify", "coalesce", "notify", tweak]})
    assert find_rule(ruleset, "room", "!r")["actions"] == ["notify", tweak]


def test_a_user_has_room_for_so_many_rules(ruleset: Ruleset) -> None:
    rule = {"rule_id": "x", "default": False, "enabled": True, "actions": []}
    ruleset = {**ruleset, "room": [{**rule, "rule_id": f"!{n}"} for n in range(MAX_RULES)]}
    assert refusal(put_rule, ruleset, "sender", "@a:b", NOTIFY) == (400, "M_INVALID_PARAM")
    assert find_rule(put_rule(ruleset, "room", "!5", NOTIFY), "room", "!5")["actions"] == ["notify"]


def test_a_default_rule_can_be_changed_but_not_removed(ruleset: Ruleset) -> None:
    changed = set_enabled(ruleset, "override", ".m.rule.master", True)
    changed = set_actions(changed, "underride", ".m.rule.message", ["dont_notify"])
    assert find_rule(changed, "override", ".m.rule.master")["enabled"] is True
    assert find_rule(changed, "underride", ".m.rule.message")["actions"] == []
    assert refusal(delete_rule, ruleset, "override", ".m.rule.master") == (404, "M_NOT_FOUND")
    assert refusal(set_enabled, ruleset, "override", ".m.rule.master", 1) == (400, "M_INVALID_PARAM")
    assert refusal(set_actions, ruleset, "override", ".m.rule.master", None) == (400, "M_INVALID_PARAM")


def test_a_rule_that_does_not_exist_is_not_found(ruleset: Ruleset) -> None:
    assert delete_rule(put_rule(ruleset, "room", "!r", NOTIFY), "room", "!r") == ruleset
    for call in (
        lambda: find_rule(ruleset, "room", "!r"),
        lambda: delete_rule(ruleset, "room", "!r"),
        lambda: set_enabled(ruleset, "room", "!r", True),
        lambda: set_actions(ruleset, "room", "!r", []),
    ):
        assert refusal(call) == (404, "M_NOT_FOUND")


def test_what_departs_from_the_defaults_gives_the_ruleset_back(ruleset: Ruleset) -> None:
    assert departures(ruleset, USER) == {"rules": {}, "defaults": {}}
    changed = put_rule(ruleset, "override", "mine", NOTIFY)
    changed = put_rule(changed, "content", "tea", {**NOTIFY, "pattern": "tea"})
    changed = set_enabled(changed, "override", ".m.rule.master", True)
    changed = set_actions(changed, "underride", ".m.rule.call", [])
    stored = departures(changed, USER)
    assert stored["defaults"] == {
        "override": {".m.rule.master": {"enabled": True}},
        "underride": {".m.rule.call": {"actions": []}},
    }
    assert with_departures(USER, stored) == changed
    assert with_departures(USER, {}) == ruleset
