from dataclasses import FrozenInstanceError

import pytest

from edgeserver.matrix.room_versions import (
    DEFAULT,
    ROOM_VERSIONS,
    SUPPORTED,
    EventFormat,
    RoomIdFormat,
    StateResolution,
)

SINCE = {
    "enforce_key_validity": 5,
    "strict_canonical_json": 6,
    "notifications_power_level": 6,
    "knocking": 7,
    "restricted": 8,
    "knock_restricted": 10,
    "integer_power_levels": 10,
    "implicit_room_creator": 11,
    "redacts_in_content": 11,
    "privileged_creators": 12,
    "auth_events_exclude_create": 12,
    "room_id_is_create_hash": 12,
}
UNTIL = {"redaction_auth_by_event_id": 2, "aliases_auth": 5}


def versions_with(rule):
    return {int(version) for version, rules in ROOM_VERSIONS.items() if getattr(rules, rule)}


def test_all_versions_are_known_and_served():
    assert list(ROOM_VERSIONS) == [str(n) for n in range(1, 13)]
    assert list(SUPPORTED) == [str(n) for n in range(1, 13)]
    assert all(rules.version == version for version, rules in ROOM_VERSIONS.items())
    assert DEFAULT is ROOM_VERSIONS["12"]


@pytest.mark.parametrize(("rule", "first"), SINCE.items())
def test_a_rule_holds_from_the_version_that_brought_it(rule, first):
    assert versions_with(rule) == set(range(first, 13))


@pytest.mark.parametrize(("rule", "last"), UNTIL.items())
def test_a_rule_holds_up_to_the_version_before_it_was_dropped(rule, last):
    assert versions_with(rule) == set(range(1, last + 1))


def test_formats_and_algorithms_change_where_the_specification_says():
    formats = [rules.event_format for rules in ROOM_VERSIONS.values()]
    assert formats == [EventFormat.V1] * 2 + [EventFormat.V3] + [EventFormat.V4] * 9
    algorithms = [rules.state_resolution for rules in ROOM_VERSIONS.values()]
    assert algorithms == [StateResolution.V1] + [StateResolution.V2] * 10 + [StateResolution.V2_1]
    room_ids = [rules.room_id_format for rules in ROOM_VERSIONS.values()]
    assert room_ids == [RoomIdFormat.DOMAIN] * 11 + [RoomIdFormat.CREATE_HASH]


def test_rules_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        DEFAULT.knocking = False
    with pytest.raises(TypeError):
        ROOM_VERSIONS["13"] = DEFAULT
    with pytest.raises(TypeError):
        DEFAULT.redaction.content_keys["m.room.message"] = frozenset()
