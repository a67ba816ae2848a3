"""Push rules at work."""

from __future__ import annotations

from typing import Any

import pytest

from edgeserver.matrix.event import Event
from edgeserver.matrix.power_levels import PowerLevels
from edgeserver.matrix.push_defaults import default_ruleset
from edgeserver.matrix.push_evaluation import NOTHING, CompiledRules, Outcome, PushContext, actions_for, parse_path
from edgeserver.matrix.push_rules import put_rule, set_enabled
from edgeserver.matrix.room_versions import V11
from tests.matrix.room_builder import ALICE, BOB, CAROL, make_event

DEFAULT = default_ruleset(BOB)


def event(event_type: str = "m.room.message", sender: str = ALICE, state_key: str | None = None, **content: Any) -> Event:
    return make_event(event_type, sender, content, event_id="$e", state_key=state_key, rules=V11)


def levels(**content: Any) -> PowerLevels:
    stated = make_event("m.room.power_levels", ALICE, content, event_id="$l", state_key="", rules=V11)
    return PowerLevels(V11, None, stated)


def evaluate(what: Event, ruleset: Any = DEFAULT, name: str | None = "Bob", members: int = 3, **power: Any) -> Outcome:
    return actions_for(ruleset, BOB, what, display_name=name, member_count=members, power=levels(**power))


def effect(outcome: Outcome) -> tuple[bool, bool, str | None]:
    return outcome.notify, outcome.highlight, outcome.sound


MENTION = {"m.mentions": {"user_ids": [CAROL, BOB]}}
ROOM_MENTION = {"m.mentions": {"room": True}}
EDIT = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}}


@pytest.mark.parametrize(
    ("what", "members", "expected"),
    [
        (event(body="hello"), 3, (True, False, None)),
        (event(body="hello"), 2, (True, False, "default")),
        (event("m.room.encrypted"), 3, (True, False, None)),
        (event("m.room.encrypted"), 2, (True, False, "default")),
        (event("m.call.invite"), 2, (True, False, "ring")),
        (event(body="hello Bob"), 3, (True, False, None)),
        (event(msgtype="m.notice"), 2, (False, False, None)),
        (event("m.room.member", state_key=BOB, membership="invite"), 3, (True, False, "default")),
        (event("m.room.member", state_key=CAROL, membership="invite"), 3, (False, False, None)),
        (event("m.room.member", state_key=ALICE, membership="join"), 2, (False, False, None)),
        (event(**MENTION), 3, (True, True, "default")),
        (event(**MENTION, **EDIT), 3, (True, True, "default")),
        (event(**ROOM_MENTION), 3, (True, False, None)),
        (event("m.room.tombstone", state_key=""), 3, (True, True, None)),
        (event("m.room.tombstone"), 3, (False, False, None)),
        (event("m.reaction"), 2, (False, False, None)),
        (event("m.room.server_acl", state_key=""), 2, (False, False, None)),
        (event(**EDIT), 2, (False, False, None)),
        (event("x.unknown"), 2, (False, False, None)),
        (event(sender=BOB, **MENTION), 2, (False, False, None)),
    ],
)
def test_the_default_rules_do_what_the_spec_says(what: Event, members: int, expected: tuple[Any, ...]) -> None:
    assert effect(evaluate(what, members=members)) == expected


def test_the_room_is_mentioned_by_who_has_the_level() -> None:
    assert effect(evaluate(event(**ROOM_MENTION), users={ALICE: 50})) == (True, True, None)
    assert effect(evaluate(event(**ROOM_MENTION), users={ALICE: 49})) == (True, False, None)
    assert effect(evaluate(event(**ROOM_MENTION), notifications={"room": 0})) == (True, True, None)


def test_the_master_rule_silences_everything() -> None:
    ruleset = put_rule(DEFAULT, "override", "all", {"actions": ["notify"]})
    assert evaluate(event("x.unknown"), ruleset).notify
    assert evaluate(event(**MENTION), set_enabled(ruleset, "override", ".m.rule.master", True)) == NOTHING


def test_kinds_are_tried_in_their_order() -> None:
    def rule(kind: str, rule_id: str, sound: str, ruleset: Any, **more: Any) -> Any:
        return put_rule(ruleset, kind, rule_id, {"actions": ["notify", {"set_tweak": "sound", "value": sound}], **more})

    what = event(body="time for tea")
    ruleset: Any = DEFAULT
    for kind, rule_id, more in (
        ("underride", "u", {}),
        ("sender", ALICE, {}),
        ("room", what.room_id, {}),
        ("content", "c", {"pattern": "tea"}),
        ("override", "o", {}),
    ):
        ruleset = rule(kind, rule_id, kind, ruleset, **more)
        assert evaluate(what, ruleset).sound == kind
    ruleset = rule("content", "c2", "second", ruleset, pattern="time")
    assert evaluate(what, set_enabled(ruleset, "override", "o", False)).sound == "second"


def meets(condition: dict[str, Any], what: Event, **kwargs: Any) -> bool:
    ruleset = put_rule(DEFAULT, "override", "x", {"actions": ["notify", {"set_tweak": "x"}], "conditions": [condition]})
    return "x" in evaluate(what, ruleset, **kwargs).tweaks


@pytest.mark.parametrize(
    ("key", "pattern", "expected"),
    [
        ("type", "M.ROOM.*", True),
        ("sender", "@alice:*", True),
        ("room_id", "!room:one.example", True),
        ("event_id", "$e", True),
        ("content.topic", "lunc?*", True),
        ("content.topic", "plans", False),
        ("content.body", "tea", True),
        ("content.body", "te", False),
        ("content.missing", "*", False),
        ("content.number", "*", False),
        (r"content.m\.x.y", "deep", True),
        ("content.m.x.y", "deep", False),
        ("content.topic.deeper", "*", False),
        ("state_key", "", False),
        ("", "*", False),
    ],
)
def test_event_match_looks_at_strings(key: str, pattern: str, expected: bool) -> None:
    what = event(topic="Lunch plans", body="a cup of tea", number=5, **{"m.x": {"y": "deep"}})
    assert meets({"kind": "event_match", "key": key, "pattern": pattern}, what) is expected


def test_event_property_is_compares_without_casting() -> None:
    what = event(yes=True, one=1, nothing=None, text="1", many=[1], table={})
    for key, value in (("yes", True), ("one", 1), ("nothing", None), ("text", "1")):
        assert meets({"kind": "event_property_is", "key": f"content.{key}", "value": value}, what)
    for key, value in (("yes", 1), ("one", True), ("one", "1"), ("text", 1), ("absent", None), ("many", [1]), ("table", {})):
        assert not meets({"kind": "event_property_is", "key": f"content.{key}", "value": value}, what)


def test_event_property_contains_compares_without_casting() -> None:
    what = event(many=[1, "a", None, {"x": 1}, True], text="abc")
    for value in (1, "a", None, True):
        assert meets({"kind": "event_property_contains", "key": "content.many", "value": value}, what)
    for key, value in (("many", False), ("many", "1"), ("many", {"x": 1}), ("text", "a"), ("absent", None)):
        assert not meets({"kind": "event_property_contains", "key": f"content.{key}", "value": value}, what)


def test_a_display_name_is_looked_for_between_word_boundaries() -> None:
    condition = {"kind": "contains_display_name"}
    assert meets(condition, event(body="ask BOB?"))
    assert not meets(condition, event(body="bobsleigh"))
    assert not meets(condition, event(body=["bob"]))
    assert not meets(condition, event(body="Bob"), name=None)
    assert not meets(condition, event(body="Bob"), name="")
    assert meets(condition, event(body="hi B*b"), name="b*B")


@pytest.mark.parametrize(
    ("wanted", "counts"),
    [("2", {2}), ("==2", {2}), ("<2", {1}), ("<=2", {1, 2}), (">2", {3}), (">=2", {2, 3})]
    + [(wrong, set()) for wrong in ("", "two", "=2", "!=2", "-2", 2, None)],
)
def test_the_member_count_is_compared(wanted: object, counts: set[int]) -> None:
    condition = {"kind": "room_member_count", "is": wanted}
    assert {count for count in (1, 2, 3) if meets(condition, event(), members=count)} == counts


@pytest.mark.parametrize(
    "condition",
    [
        {"kind": "phase_of_the_moon"},
        {"kind": "event_match", "key": "type"},
        {"kind": "event_match", "pattern": "*"},
        {"kind": "event_property_is", "key": "type"},
        {"kind": "event_property_contains", "value": 1},
        {"kind": "sender_notification_permission"},
    ],
)
def test_a_condition_that_is_not_understood_is_never_met(condition: dict[str, Any]) -> None:
    assert not meets(condition, event(body="x"))


def test_tweaks_are_what_the_gateway_is_told() -> None:
    assert evaluate(event(**MENTION)).tweaks == {"sound": "default", "highlight": True}
    quiet = put_rule(DEFAULT, "room", event().room_id, {"actions": [{"set_tweak": "sound", "value": "default"}]})
    assert evaluate(event(), quiet) == NOTHING
    assert NOTHING.tweaks == {}


def test_one_context_serves_every_user() -> None:
    context = PushContext(event(body="Bob and Carol", **MENTION), 3, levels())
    for user, name in ((BOB, "Bob"), (CAROL, "Carol"), ("@dave:x", "Dave")):
        outcome = CompiledRules(default_ruleset(user), user).actions_for(context, name)
        assert outcome.highlight is (user in (BOB, CAROL))


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to", ("content", "m.relates_to")),
        (r"content.m\\foo", ("content", r"m\foo")),
        (r"a\x.b", (r"a\x", "b")),
        ("a\\", ("a\\",)),
        ("", ("",)),
        ("a..b.", ("a", "", "b", "")),
    ],
)
def test_a_path_is_names_between_dots(path: str, names: tuple[str, ...]) -> None:
    assert parse_path(path) == names
