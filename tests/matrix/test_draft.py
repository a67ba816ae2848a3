import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix import canonical_json
from edgeserver.matrix.draft import complete, countersign, depth_after, template
from edgeserver.matrix.errors import BadJson, TooLarge
from edgeserver.matrix.event import Event, event_id_of
from edgeserver.matrix.pdu_checks import check_format, check_hash, check_signatures, open_pdu
from edgeserver.matrix.room_versions import SUPPORTED, V1, V2, V6, V10, V11, V12
from edgeserver.matrix.signatures import SigningKey
from edgeserver.matrix.verdicts import ACCEPTED
from tests.matrix.test_canonical_json import text, values

KEY = SigningKey(bytes(32), "ed25519:1")
KEYS = {("one.example", KEY.key_id): KEY.verify_key}


def proto(rules, **changes):
    fields = {
        "room_id": "!" + "r" * 43 if rules.room_id_is_create_hash else "!r:one.example",
        "sender": "@a:one.example",
        "event_type": "m.room.message",
        "content": {"body": "hello"},
        "prev_events": ["$" + "p" * 43],
        "auth_events": ["$" + "a" * 43],
        "depth": 3,
        "origin_server_ts": 1_700_000_000_000,
    }
    return template(rules, **{**fields, **changes})


def made(rules, **changes):
    return complete(proto(rules, **changes), rules, "one.example", KEY)


@given(st.sampled_from(list(SUPPORTED.values())), st.dictionaries(text, values, max_size=3), st.none() | text)
@settings(max_examples=80, deadline=None)
def test_whatever_is_drafted_passes_every_check_on_receipt_and_travels_unchanged(rules, content, state_key):
    event = made(rules, content=content, state_key=state_key)
    received = open_pdu(canonical_json.decode(canonical_json.encode(event.pdu)), rules)
    assert isinstance(received, Event)
    assert received == event
    assert received.pdu == event.pdu
    assert check_hash(received)
    assert check_signatures(received, KEYS) == ACCEPTED
    assert received.event_id == event_id_of(event.redacted().pdu, rules)
    assert check_signatures(received.redacted(), KEYS) == ACCEPTED


def test_the_create_event_of_a_version_12_room_is_drafted_without_a_room_id():
    create = made(
        V12, room_id=None, event_type="m.room.create", state_key="", content={"room_version": "12"}, prev_events=[]
    )
    assert create.room_id == "!" + create.event_id[1:]
    with pytest.raises(BadJson):
        made(V12, event_type="m.room.create", state_key="")


def test_redacts_goes_where_the_version_keeps_it():
    old, new = (made(rules, event_type="m.room.redaction", content={}, redacts="$x") for rules in (V10, V11))
    assert old.pdu["redacts"] == "$x"
    assert old.content == {}
    assert new.content == {"redacts": "$x"}
    assert "redacts" not in new.pdu
    assert old.redacts == new.redacts == "$x"


def test_unsigned_is_carried_but_changes_nothing_that_is_signed():
    plain, marked = made(V11), made(V11, unsigned={"replaces_state": "$x"})
    assert marked.pdu["unsigned"] == {"replaces_state": "$x"}
    assert marked == plain
    assert marked.pdu["signatures"] == plain.pdu["signatures"]


def test_an_answered_template_is_completed_afresh():
    answered = {**proto(V11), "event_id": "$fake", "hashes": {"sha256": "x"}, "signatures": {"two.example": {}}}
    event = complete(answered, V11, "one.example", KEY)
    assert "event_id" not in event.pdu
    assert event.pdu["signatures"].keys() == {"one.example"}
    assert check_hash(event)


@pytest.mark.parametrize(
    "changes",
    [
        {"content": {"a": 1.5}},
        {"content": {"a": 1.0}},
        {"content": {"a": 2**53}},
        {"content": {"a": "\ud800"}},
        {"sender": "nobody"},
        {"room_id": "!r"},
        {"room_id": None},
        {"prev_events": ["$p:one.example"]},
        {"prev_events": ["$" + "p" * 43] * 21},
        {"depth": -1},
    ],
)
def test_what_is_no_event_is_refused_as_bad_json(changes):
    with pytest.raises(BadJson):
        made(V6, **changes)


@pytest.mark.parametrize("lacking", ["type", "content", "sender", "prev_events", "depth"])
def test_a_template_that_lacks_something_is_refused_as_bad_json(lacking):
    pdu = proto(V11)
    del pdu[lacking]
    with pytest.raises(BadJson):
        complete(pdu, V11, "one.example", KEY)


@pytest.mark.parametrize("wrong", [{"content": "text"}, {"content": None}, {"type": ["x"]}, {"prev_events": 5}])
def test_a_template_of_the_wrong_shape_is_refused_as_bad_json(wrong):
    with pytest.raises(BadJson):
        complete({**proto(V11), **wrong}, V11, "one.example", KEY)


@pytest.mark.parametrize(
    "changes", [{"content": {"body": "x" * 65_500}}, {"event_type": "t" * 256}, {"state_key": "ü" * 128}]
)
def test_what_is_too_large_is_refused_as_such(changes):
    with pytest.raises(TooLarge) as raised:
        made(V11, **changes)
    assert raised.value.status == 413


def test_versions_whose_events_name_themselves_are_not_drafted():
    for rules in (V1, V2):
        with pytest.raises(ValueError, match="versions 1 and 2"):
            proto(rules)


def test_a_countersigned_event_is_the_same_event_with_both_signatures():
    event = made(V11, unsigned={"age": 1})
    ours = SigningKey(bytes(31) + b"1", "ed25519:ours")
    signed = countersign(event, "two.example", ours)
    assert signed == event
    assert signed.pdu["signatures"].keys() == {"one.example", "two.example"}
    assert event.pdu["signatures"].keys() == {"one.example"}
    assert check_format(signed.pdu, V11) == ACCEPTED
    assert check_signatures(signed, KEYS) == ACCEPTED


def test_an_event_is_one_deeper_than_the_deepest_before_it():
    assert depth_after([], V11) == 1
    assert depth_after([3, 9, 4], V11) == 10
    assert depth_after([2**53 - 1], V11) == 2**53 - 1
