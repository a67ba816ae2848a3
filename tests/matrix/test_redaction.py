import pytest

from edgeserver.matrix.redaction import redact, redact_content
from edgeserver.matrix.room_versions import ROOM_VERSIONS

ALL = [str(n) for n in range(1, 13)]
CONTENT = {
    "m.room.member": {
        "membership": "join",
        "join_authorised_via_users_server": "@a:b",
        "displayname": "A",
        "third_party_invite": {"signed": {"token": "t"}, "display_name": "A"},
    },
    "m.room.create": {"creator": "@a:b", "room_version": "9", "m.federate": True},
    "m.room.join_rules": {"join_rule": "restricted", "allow": [], "more": 1},
    "m.room.power_levels": {"ban": 1, "invite": 2, "users": {}, "notifications": {}},
    "m.room.aliases": {"aliases": []},
    "m.room.history_visibility": {"history_visibility": "shared", "more": 1},
    "m.room.redaction": {"redacts": "$e", "reason": "spam"},
    "m.room.message": {"body": "hello"},
}


def kept(event_type, version):
    return set(redact_content(event_type, CONTENT[event_type], ROOM_VERSIONS[version]))


@pytest.mark.parametrize("version", ALL)
def test_the_content_that_survives_is_that_of_the_version(version):
    number = int(version)
    member = {"membership"}
    member |= {"join_authorised_via_users_server"} if number >= 9 else set()
    member |= {"third_party_invite"} if number >= 11 else set()
    assert kept("m.room.member", version) == member
    create = {"creator", "room_version", "m.federate"} if number >= 11 else {"creator"}
    assert kept("m.room.create", version) == create
    assert kept("m.room.join_rules", version) == ({"join_rule", "allow"} if number >= 8 else {"join_rule"})
    assert kept("m.room.power_levels", version) == {"ban", "users"} | ({"invite"} if number >= 11 else set())
    assert kept("m.room.aliases", version) == ({"aliases"} if number <= 5 else set())
    assert kept("m.room.history_visibility", version) == {"history_visibility"}
    assert kept("m.room.redaction", version) == ({"redacts"} if number >= 11 else set())
    assert kept("m.room.message", version) == set()


def test_of_a_third_party_invite_only_what_was_signed_stays():
    rules = ROOM_VERSIONS["11"]

    def left(invite):
        return redact_content("m.room.member", {"third_party_invite": invite}, rules)

    assert left({"signed": {"token": "t"}, "display_name": "A"}) == {"third_party_invite": {"signed": {"token": "t"}}}
    assert left({"display_name": "A"}) == {"third_party_invite": {}}
    assert left("nonsense") == {}


@pytest.mark.parametrize("version", ALL)
def test_the_top_level_keys_that_survive_are_those_of_the_version(version):
    always = "event_id type room_id sender state_key content hashes signatures depth prev_events auth_events"
    old = {"origin", "prev_state", "membership"}
    pdu = dict.fromkeys([*always.split(), "origin_server_ts", *old, "unsigned", "redacts", "more"], "x")
    pdu |= {"type": "m.room.message", "content": {"body": "hello"}}
    left = redact(pdu, ROOM_VERSIONS[version])
    assert set(left) == {*always.split(), "origin_server_ts"} | (old if int(version) < 11 else set())
    assert left["content"] == {}
    assert pdu["content"] == {"body": "hello"}
