import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix.canonical_json import encode
from edgeserver.matrix.draft import complete, countersign
from edgeserver.matrix.event import Event
from edgeserver.matrix.pdu_checks import (
    MAX_KEYS_TRIED,
    RequiredSignature,
    check_format,
    check_hash,
    check_signatures,
    open_pdu,
    required_signatures,
)
from edgeserver.matrix.room_versions import ROOM_VERSIONS, V1, V3, V5, V6, V7, V8, V11, V12
from edgeserver.matrix.signatures import SigningKey
from edgeserver.matrix.verdicts import ACCEPTED, Dropped
from tests.matrix.test_canonical_json import values
from tests.matrix.test_draft import KEY, KEYS, made, proto

OTHER = SigningKey(bytes([7]) * 32, "ed25519:2")
GOOD = made(V11).pdu
GOOD_V1 = {
    **GOOD,
    "event_id": "$e:one.example",
    "prev_events": [["$p:one.example", {"sha256": "x"}]],
    "auth_events": [],
}


def why(pdu, rules=V11):
    verdict = check_format(pdu, rules)
    return verdict.why if isinstance(verdict, Dropped) else None


def test_a_sound_event_passes():
    assert check_format(GOOD, V11) == ACCEPTED
    assert check_format(GOOD_V1, V1) == ACCEPTED


@pytest.mark.parametrize("field", sorted(set(GOOD) - {"unsigned", "state_key"}))
def test_an_event_that_lacks_a_required_field_is_dropped(field):
    pdu = {key: value for key, value in GOOD.items() if key != field}
    assert field in why(pdu)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": 5},
        {"type": "t" * 256},
        {"state_key": None},
        {"state_key": "ü" * 128},
        {"sender": "@a"},
        {"sender": "@" + "a" * 250 + ":one.example"},
        {"room_id": "!r"},
        {"room_id": "!" + "r" * 43},
        {"content": []},
        {"hashes": {}},
        {"hashes": {"sha256": 5}},
        {"signatures": []},
        {"unsigned": 5},
        {"origin_server_ts": "1"},
        {"origin_server_ts": True},
        {"origin_server_ts": 1.0},
        {"depth": 2**53},
        {"depth": -1},
        {"depth": False},
        {"prev_events": ["$" + "a" * 43] * 21},
        {"auth_events": ["$" + "a" * 43] * 11},
        {"prev_events": {"$" + "a" * 43: 1}},
        {"prev_events": ["$" + "+" * 43]},
        {"auth_events": [["$" + "a" * 43, {}]]},
        {"auth_events": [None]},
        {"content": {"a": 1.5}},
        {"content": {"a": 2**53}},
        {"content": {"a": "\ud800"}},
        {"content": {"body": "x" * 65_500}},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_an_event_that_breaks_the_format_is_dropped(changes):
    assert why({**GOOD, **changes}) is not None


@given(values, st.sampled_from(["1", "3", "6", "12"]))
@settings(max_examples=60)
def test_any_json_gets_a_verdict(value, version):
    rules = ROOM_VERSIONS[version]
    assert isinstance(open_pdu(value, rules), Dropped)


@given(st.sampled_from(sorted(GOOD)), values)
@settings(max_examples=100, deadline=None)
def test_a_sound_event_with_any_json_in_one_place_gets_a_verdict_and_what_passes_can_be_checked(field, value):
    opened = open_pdu({**GOOD, field: value}, V11)
    if isinstance(opened, Event):
        check_hash(opened)
        check_signatures(opened, KEYS)
        opened.redacted()


def test_limits_are_met_exactly():
    assert why({**GOOD, "prev_events": ["$" + "a" * 43] * 20, "auth_events": ["$" + "a" * 43] * 10}) is None
    assert why({**GOOD, "depth": 2**53 - 1, "type": "t" * 255, "state_key": "ü" * 127}) is None
    room = 65_536 - len(encode({**GOOD, "content": {"body": ""}}))
    assert why({**GOOD, "content": {"body": "x" * room}}) is None
    assert "65536" in why({**GOOD, "content": {"body": "x" * (room + 1)}})


def test_old_versions_allow_floats_and_great_depths():
    pdu = {**GOOD, "content": {"a": 1.5}, "depth": 2**60}
    assert why(pdu, V5) is None
    assert why(pdu, V6) is not None


def test_references_are_of_the_versions_format():
    standard = {**GOOD, "prev_events": ["$" + "+/" * 21 + "a"], "auth_events": []}
    assert why(standard, V3) is None
    assert why(standard, V11) is not None
    assert why(GOOD, V1) is not None
    for wrong in ([["$p:one.example"]], [["$p:one.example", "x"]], ["$p:one.example"], [[5, {}]]):
        assert why({**GOOD_V1, "prev_events": wrong}, V1) is not None
    assert why({**GOOD_V1, "event_id": "e"}, V1) is not None


def test_a_version_12_create_event_states_no_room_and_every_other_a_hash():
    create = complete(
        proto(V12, room_id=None, event_type="m.room.create", state_key="", prev_events=[]), V12, "one.example", KEY
    ).pdu
    assert why(create, V12) is None
    for room_id in (None, "!" + "r" * 43, "!r:one.example"):
        assert "room_id" in why({**create, "room_id": room_id}, V12)
    assert "room_id" in why(GOOD, V12)
    assert "room_id" in why(create, V11)


def test_unsigned_is_taken_off_on_receipt():
    event = open_pdu({**GOOD, "unsigned": {"age": 5, "membership": "join"}}, V11)
    assert isinstance(event, Event)
    assert "unsigned" not in event.pdu
    assert event == made(V11)


def test_a_changed_content_shows_in_the_hash_and_the_redacted_form_is_still_signed():
    event = open_pdu({**GOOD, "content": {"body": "forged"}}, V11)
    assert isinstance(event, Event)
    assert not check_hash(event)
    assert check_signatures(event, KEYS) == ACCEPTED
    assert event.redacted().content == {}


def test_a_stated_hash_is_read_in_either_alphabet_and_nonsense_is_a_mismatch():
    stated = GOOD["hashes"]["sha256"]
    forms = {stated: True, stated + "=": True, stated.replace("+", "-").replace("/", "_"): True, "*": False}
    for form, matches in forms.items():
        assert check_hash(Event.from_pdu({**GOOD, "hashes": {"sha256": form}}, V11)) is matches


def test_the_senders_server_must_have_signed():
    event = made(V11)
    assert required_signatures(event) == (RequiredSignature("one.example", ("ed25519:1",)),)
    assert check_signatures(event, KEYS) == ACCEPTED
    wrong_key = {("one.example", "ed25519:1"): OTHER.verify_key}
    other_server = {("two.example", "ed25519:1"): KEY.verify_key}
    for keys in ({}, wrong_key, other_server):
        verdict = check_signatures(event, keys)
        assert isinstance(verdict, Dropped)
        assert "one.example" in verdict.why


def test_one_valid_signature_of_a_server_is_enough():
    both = countersign(made(V11), "one.example", OTHER)
    spoilt = {**both.pdu, "signatures": {"one.example": {**both.pdu["signatures"]["one.example"], "ed25519:1": "AAAA"}}}
    event = Event.from_pdu(spoilt, V11)
    assert check_signatures(event, {**KEYS, ("one.example", "ed25519:2"): OTHER.verify_key}) == ACCEPTED
    assert isinstance(check_signatures(event, KEYS), Dropped)


def test_keys_of_another_kind_or_too_many_are_not_looked_at():
    signatures = {f"ed25519:{n}": "x" for n in range(50)} | {"rsa:1": "x", "ed25519:": "x", "ed25519:no": 5}
    event = Event.from_pdu({**GOOD, "signatures": {"one.example": signatures}}, V11)
    (required,) = required_signatures(event)
    assert required.key_ids == tuple(f"ed25519:{n}" for n in range(MAX_KEYS_TRIED))
    unsigned = Event.from_pdu({**GOOD, "signatures": {"one.example": "x"}}, V11)
    assert required_signatures(unsigned) == (RequiredSignature("one.example", ()),)


def member(rules, **content):
    return made(rules, event_type="m.room.member", state_key="@a:one.example", content=content)


def servers(event):
    return [required.server_name for required in required_signatures(event)]


def test_a_restricted_join_needs_the_authorisers_server_too():
    join = {"membership": "join", "join_authorised_via_users_server": "@b:two.example"}
    assert servers(member(V8, **join)) == ["one.example", "two.example"]
    assert servers(member(V7, **join)) == ["one.example"]
    assert servers(member(V8, **{**join, "membership": "leave"})) == ["one.example"]
    assert servers(member(V8, **{**join, "join_authorised_via_users_server": "@b:one.example"})) == ["one.example"]
    event = member(V8, **join)
    assert isinstance(check_signatures(event, KEYS), Dropped)
    signed = countersign(event, "two.example", OTHER)
    assert check_signatures(signed, {**KEYS, ("two.example", OTHER.key_id): OTHER.verify_key}) == ACCEPTED


def test_a_join_authorised_by_nonsense_cannot_be_signed():
    event = member(V11, membership="join", join_authorised_via_users_server=5)
    assert isinstance(check_signatures(event, KEYS), Dropped)


def test_an_invite_from_a_third_party_invite_needs_no_signature_of_the_senders_server():
    assert servers(member(V11, membership="invite", third_party_invite={"signed": {}})) == []
    assert servers(member(V11, membership="invite")) == ["one.example"]
    assert servers(member(V11, membership="join", third_party_invite={"signed": {}})) == ["one.example"]


def test_in_version_1_the_server_that_named_the_event_must_have_signed_too():
    assert servers(Event.from_pdu(GOOD_V1, V1)) == ["one.example"]
    assert servers(Event.from_pdu({**GOOD_V1, "event_id": "$e:two.example"}, V1)) == ["one.example", "two.example"]
